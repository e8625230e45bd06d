package companion

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"go-micro-jetstream/broker/internal/fault"
	"go-micro-jetstream/broker/internal/wire"
)

// sourcingKey is what the server writes into the metadata of a consumer that it makes for
// a source: the name of the stream that has it.
const sourcingKey = "_nats.src.stream"

// watchTime bounds watch, as a message waits for it to be sent. A cluster waits four
// seconds for the answer of a consumer that has no leader.
const watchTime = 500 * time.Millisecond

// movement is how far a stream has taken over what is due.
type movement struct {
	floor uint64    // the sequence in the companion up to which it has
	since time.Time // when that was seen first
	told  bool
}

// consumersOf returns the consumers of a stream's companion.
func (cs *Companions) consumersOf(ctx context.Context, stream string) (infos []*jetstream.ConsumerInfo, err error) {
	name := wire.LaterStream(stream)
	err = cs.conn.Ask(ctx, "CONSUMER.LIST."+name, func(ctx context.Context) error {
		s, err := cs.conn.JetStream().Stream(ctx, name)
		if err != nil {
			return err
		}
		infos = nil
		list := s.ListConsumers(ctx)
		for info := range list.Info() {
			infos = append(infos, info)
		}
		return list.Err()
	})
	if err != nil {
		err = fmt.Errorf("look up the consumers of stream %s: %w", name, err)
	}
	return infos, err
}

// watch warns, once, if a stream does not take over what is due. Publishing tells nobody,
// because messages are stored where they wait. What the server says of the source is no
// help: it counts a message that the stream refuses as taken over. What cannot be found
// out is left to the next look.
func (cs *Companions) watch(ctx context.Context, stream string, src *jetstream.StreamSource) {
	if cs.blind[stream] {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, watchTime)
	defer cancel()
	consumers, err := cs.consumersOf(ctx, stream)
	if err != nil {
		cs.blind[stream] = errors.Is(err, fault.ErrPermission) // each refusal is a line in two logs
		return
	}
	at := slices.IndexFunc(consumers, func(info *jetstream.ConsumerInfo) bool {
		if src.Consumer != nil {
			return info.Name == src.Consumer.Name
		}
		return info.Config.Metadata[sourcingKey] == stream
	})
	if at >= 0 {
		info := consumers[at]
		cs.note(stream, info.AckFloor.Stream, info.NumPending > 0 || info.NumAckPending > 0)
		return
	}
	// The server has not made the consumer yet, or cannot.
	if due, err := cs.api.Has(ctx, src.Name, wire.DuePattern(stream)); err == nil {
		cs.note(stream, 0, due)
	}
}

// note is how far a stream has taken over what is due, and whether anything is.
func (cs *Companions) note(stream string, floor uint64, due bool) {
	last, ok := cs.moves[stream]
	if !ok || !due || floor != last.floor {
		cs.moves[stream] = movement{floor: floor, since: time.Now()}
		return
	}
	stood := time.Since(last.since)
	if last.told || stood < cs.patience {
		return
	}
	last.told = true
	cs.moves[stream] = last
	name := wire.LaterStream(stream)
	cs.conn.Log().Warn(fmt.Sprintf("messages that are due have stood still in stream %s for %v: stream %s is full, or refuses the first of them, which holds up the others (is it larger than MaxMsgSize?); the log of its server says why",
		name, stood.Round(time.Second), stream), "stream", name)
}
