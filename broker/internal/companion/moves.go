package companion

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"go-micro-jetstream/broker/internal/fault"
	"go-micro-jetstream/broker/internal/wire"
)

// movement is how far a stream has taken over what is due.
type movement struct {
	floor uint64    // the sequence in the companion up to which it has
	since time.Time // when that was seen first
	told  bool
}

// sourceConsumer makes the consumer of the companion that the stream sources from, unless
// it is there. It asks the consumer first, since whether one can be made is up to the
// leader of the cluster, which may be away.
func (cs *Companions) sourceConsumer(ctx context.Context, stream string, sourced bool) error {
	if !sourced || cs.blind[stream] {
		return cs.makeSourceConsumer(ctx, stream)
	}
	name := wire.LaterStream(stream)
	var info *jetstream.ConsumerInfo
	err := cs.conn.Ask(ctx, "CONSUMER.INFO."+name+"."+stream, func(ctx context.Context) error {
		c, err := cs.conn.JetStream().PushConsumer(ctx, name, stream)
		if err == nil {
			info = c.CachedInfo()
		}
		return err
	})
	switch {
	case err == nil:
		cs.watch(stream, info)
		return nil
	case errors.Is(err, fault.ErrPermission):
		cs.blind[stream] = true
	case isSilence(err):
		return fmt.Errorf("look up consumer %s of stream %s: %w", stream, name, err)
	}
	return cs.makeSourceConsumer(ctx, stream)
}

// watch warns, once, if a stream does not take over what is due. Publishing tells nobody,
// because messages are stored where they wait.
func (cs *Companions) watch(stream string, info *jetstream.ConsumerInfo) {
	due := info.NumPending + uint64(max(info.NumAckPending, 0))
	last, ok := cs.moves[stream]
	if !ok || due == 0 || info.AckFloor.Stream != last.floor {
		cs.moves[stream] = movement{floor: info.AckFloor.Stream, since: time.Now()}
		return
	}
	stood := time.Since(last.since)
	if last.told || stood < cs.patience {
		return
	}
	last.told = true
	cs.moves[stream] = last
	cs.conn.Log().Warn(fmt.Sprintf("%d messages that are due have stood still in stream %s for %v: stream %s is full, or refuses the first of them, which holds up the others (is it larger than MaxMsgSize?); the log of its server says why",
		due, info.Stream, stood.Round(time.Second), stream), "stream", info.Stream)
}
