package companion

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/nats-io/nats.go/jetstream"

	"go-micro-jetstream/broker/internal/asked"
	"go-micro-jetstream/broker/internal/asset"
	"go-micro-jetstream/broker/internal/wire"
)

// companionSettings are what of a companion follows its stream.
var companionSettings = asked.Kind[jetstream.StreamConfig]{
	Fields: []string{"Replicas"},
	Fixed:  func(string, *jetstream.StreamConfig, *jetstream.StreamConfig) bool { return false },
	Fill:   asset.Settings.Fill,
}

// Follow has the companion of a stream follow what was changed of that.
func (cs *Companions) Follow(ctx context.Context, s *asset.Stream, changes []asked.Change) {
	of := func(c asked.Change) bool { return slices.Contains(companionSettings.Fields, c.Field) }
	if sourceIn(s.Config) < 0 || !slices.ContainsFunc(changes, of) {
		return
	}
	// If nobody answers, the next message that is delivered later has it follow.
	if companion, err := cs.api.Info(ctx, wire.LaterStream(s.Name)); err == nil {
		cs.followStream(ctx, s.Config, companion)
	}
}

// followStream has a companion of this module be as safe as its stream, unless somebody
// has chosen otherwise for it. It never fails: if the server
// refuses the change, it returns the companion as it was.
func (cs *Companions) followStream(ctx context.Context, sc jetstream.StreamConfig, companion *asset.Stream) *asset.Stream {
	if !companion.Ours {
		return companion
	}
	plan := companionSettings.Compare(asked.Parse(companion.Config.Metadata[asset.AskedKey]), sc, companion.Config)
	if len(plan.Apply) == 0 {
		return companion
	}
	plan.Config.Metadata = maps.Clone(companion.Config.Metadata)
	plan.Config.Metadata[asset.AskedKey] = plan.Record.String()
	now, err := cs.api.Update(ctx, plan.Config)
	if err == nil {
		cs.conn.Log().Info(fmt.Sprintf("stream %s follows stream %s: %s", companion.Name, sc.Name, asked.Were(plan.Apply)), "stream", companion.Name)
		return now
	}
	if cs.behind[companion.Name] != sc.Replicas { // it is tried again, without another line
		cs.behind[companion.Name] = sc.Replicas
		cs.conn.Log().Warn(fmt.Sprintf("stream %s cannot follow stream %s and is used as it is: %s: %v", companion.Name, sc.Name, asked.AreNot(plan.Apply), err), "stream", companion.Name)
	}
	return companion
}
