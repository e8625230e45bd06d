// Package companion keeps messages that are delivered later: in a companion of their
// stream, which it makes and links, or in the stream itself.
package companion

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/nats-io/nats.go/jetstream"

	"go-micro-jetstream/broker/internal/asset"
	"go-micro-jetstream/broker/internal/fault"
	"go-micro-jetstream/broker/internal/wire"
)

// companion returns the companion of a stream. If may, it makes what is missing.
func (cs *Companions) companion(ctx context.Context, s *asset.Stream, sc jetstream.StreamConfig, may bool) (*asset.Stream, error) {
	name := wire.LaterStream(s.Name)
	lc, err := cs.api.Config(ctx, name)
	missing := errors.Is(err, jetstream.ErrStreamNotFound)
	if err != nil && !missing {
		return nil, err
	}
	at := sourceIn(sc)
	sourced := at >= 0
	ready := !missing && isCompanionOf(s.Name, lc)
	if !may && (!ready || !sourced) {
		return nil, fmt.Errorf("%w: stream %s lacks allow_msg_schedules with the subject %s, and the broker does not change it: "+
			"have its owner add both (not with Interest retention), or make a stream %s with them and %s, which %s sources from sequence 1 with the transform %s to >",
			fault.ErrUnsupported, s.Name, wire.LaterPattern(s.Name), name, wire.DuePattern(s.Name), s.Name, wire.DuePattern(s.Name))
	}
	if !ready {
		if err := cs.readyCompanion(ctx, s, sc, lc, missing); err != nil {
			return nil, err
		}
	}
	if may && !sourced {
		if err := cs.addSource(ctx, &sc); err != nil {
			return nil, err
		}
	}
	companion, err := cs.api.Info(ctx, name)
	if err != nil || !may {
		return companion, err
	}
	companion = cs.followStream(ctx, sc, companion)
	if sourced {
		cs.watch(ctx, sc.Name, sc.Sources[at])
	}
	return companion, nil
}

// isCompanionOf reports whether a stream has all that the companion of this one needs.
func isCompanionOf(stream string, lc jetstream.StreamConfig) bool {
	return lc.AllowMsgSchedules && lc.AllowMsgTTL &&
		wire.CoversAny(lc.Subjects, wire.LaterPattern(stream)) && wire.CoversAny(lc.Subjects, wire.DuePattern(stream))
}

// readyCompanion makes the companion of a stream, or adds to one that is there, lc, what
// it lacks. The rest of that stays as it is: an operator may have tuned it.
func (cs *Companions) readyCompanion(ctx context.Context, s *asset.Stream, sc, lc jetstream.StreamConfig, missing bool) (err error) {
	if missing {
		lc, err = cs.makeCompanion(ctx, s, sc)
	} else {
		lc, err = cs.mendCompanion(ctx, s, lc)
	}
	if err == nil && !lc.AllowMsgSchedules {
		err = unknownSchedules(lc.Name, minorCompanion)
	}
	return err
}

// makeCompanion makes the companion of a stream, on the same servers and as safe.
func (cs *Companions) makeCompanion(ctx context.Context, s *asset.Stream, sc jetstream.StreamConfig) (jetstream.StreamConfig, error) {
	lc := jetstream.StreamConfig{
		Name:              wire.LaterStream(s.Name),
		Description:       "messages of stream " + s.Name + " that are delivered later",
		Subjects:          []string{wire.LaterPattern(s.Name), wire.DuePattern(s.Name)},
		Retention:         jetstream.WorkQueuePolicy,
		Storage:           sc.Storage,
		Replicas:          sc.Replicas,
		Placement:         sc.Placement,
		Compression:       sc.Compression,
		Duplicates:        sc.Duplicates,
		AllowRollup:       true,
		AllowMsgTTL:       true,
		AllowMsgSchedules: true,
		Metadata:          asset.Owned(nil),
	}
	lc.Metadata[asset.AskedKey] = companionSettings.RecordOf(lc).String()
	info, err := cs.api.Create(ctx, lc)
	if err != nil {
		return lc, cmp.Or(cs.api.LimitError(ctx, lc, err), fmt.Errorf("create stream %s: %w", lc.Name, err))
	}
	cs.conn.Log().Info(fmt.Sprintf("created stream %s, where messages of stream %s wait that are delivered later", lc.Name, s.Name), "stream", lc.Name)
	return info.Config, nil
}

// mendCompanion adds to the companion of a stream what it lacks.
func (cs *Companions) mendCompanion(ctx context.Context, s *asset.Stream, lc jetstream.StreamConfig) (jetstream.StreamConfig, error) {
	wanted := []string{wire.LaterPattern(s.Name), wire.DuePattern(s.Name)}
	if _, ours := lc.Metadata[asset.OwnerKey]; !ours {
		return lc, fmt.Errorf("%w: stream %s is not of this broker and lacks allow_msg_schedules, allow_msg_ttl or the subjects %s and %s",
			fault.ErrUnsupported, lc.Name, wanted[0], wanted[1])
	}
	lc.AllowRollup, lc.AllowMsgTTL, lc.AllowMsgSchedules = true, true, true
	for _, subject := range wanted {
		if !wire.CoversAny(lc.Subjects, subject) {
			lc.Subjects = append(slices.Clip(lc.Subjects), subject)
		}
	}
	return cs.api.Raise(ctx, lc)
}
