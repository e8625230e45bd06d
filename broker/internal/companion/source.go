package companion

import (
	"context"
	"fmt"
	"slices"

	"github.com/nats-io/nats.go/jetstream"

	"go-micro-jetstream/broker/internal/asset"
	"go-micro-jetstream/broker/internal/wire"
)

// sourceOf is what a stream has as the source of its companion. The server makes the
// consumer by itself. That acknowledges what the stream has stored, and after a restart it
// begins behind that, under a subject that nobody has heard before. With a consumer that is
// there already, the stream would pass over what that delivers to nobody after a restart
// (startProbeSubscription and trySetupSourceConsumer in server/stream.go).
//
// Without the sequence, a stream that has not sourced anything yet passes over what was
// due before the last message that it stored otherwise.
func sourceOf(stream string) *jetstream.StreamSource {
	return &jetstream.StreamSource{
		Name:              wire.LaterStream(stream),
		OptStartSeq:       1,
		SubjectTransforms: []jetstream.SubjectTransformConfig{{Source: wire.DuePattern(stream), Destination: ">"}},
	}
}

// sourceIn returns where the companion is among the sources of a stream, or -1.
func sourceIn(sc jetstream.StreamConfig) int {
	return slices.IndexFunc(sc.Sources, func(src *jetstream.StreamSource) bool { return src.Name == wire.LaterStream(sc.Name) })
}

// addSource has a stream that is there source its companion.
func (cs *Companions) addSource(ctx context.Context, sc *jetstream.StreamConfig) error {
	now, err := cs.api.Edit(ctx, sc.Name, func(sc *jetstream.StreamConfig) bool {
		missing := sourceIn(*sc) < 0
		if missing {
			sc.Sources = append(slices.Clip(sc.Sources), sourceOf(sc.Name))
		}
		return missing
	})
	if err != nil {
		return err
	}
	*sc = now
	cs.conn.Log().Info(fmt.Sprintf("stream %s sources %s now, where messages wait that are delivered later", sc.Name, wire.LaterStream(sc.Name)), "stream", sc.Name)
	return nil
}

// Relink is for a stream that this process has just changed. If another one made it
// source its companion at the same time, that change is lost, and nobody would bring what
// is due. The companion is made before it is sourced, so whoever was the later one sees it.
func (cs *Companions) Relink(ctx context.Context, s *asset.Stream) {
	sc := s.Config
	if !cs.outlived(ctx, sc) {
		return
	}
	if err := cs.addSource(ctx, &sc); err != nil {
		cs.conn.Log().Warn(fmt.Sprintf("stream %s does not source %s, where messages wait that are delivered later: %v; the next message that is delivered later tries again", s.Name, wire.LaterStream(s.Name), err), "stream", s.Name)
	}
}

// AddSource has a stream that is about to be made source a companion that is there: it
// has outlived an earlier stream of that name, and what waits in it is not lost. What
// cannot be found out is left to the next message that is delivered later.
func (cs *Companions) AddSource(ctx context.Context, sc *jetstream.StreamConfig) {
	if !cs.outlived(ctx, *sc) {
		return
	}
	sc.Sources = append(slices.Clip(sc.Sources), sourceOf(sc.Name))
	// The consumer of the earlier stream is gone with it, and nobody knows what it has delivered.
	name := wire.LaterStream(sc.Name)
	if due, err := cs.api.Has(ctx, name, wire.DuePattern(sc.Name)); err == nil && due {
		cs.conn.Log().Warn(fmt.Sprintf("stream %s is made again and takes over all that is due in stream %s: some of it may have been delivered before, as an earlier stream acknowledges that a second late, and after a kill not at all", sc.Name, name), "stream", sc.Name)
	}
}

// outlived reports whether there is a companion that a stream does not source and could.
func (cs *Companions) outlived(ctx context.Context, sc jetstream.StreamConfig) bool {
	if sourceIn(sc) >= 0 || sc.Mirror != nil || sc.AllowMsgSchedules {
		return false
	}
	names, err := cs.api.Names(ctx, wire.DuePattern(sc.Name))
	if err != nil || !slices.Contains(names, wire.LaterStream(sc.Name)) {
		return false
	}
	companion, err := cs.api.Info(ctx, wire.LaterStream(sc.Name))
	return err == nil && companion.Ours
}
