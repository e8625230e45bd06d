package streams

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"go-micro-jetstream/broker/internal/asset"
	"go-micro-jetstream/broker/internal/fault"
)

// freshness is how long a subscriber trusts what is known of a stream without
// asking again. A service makes many subscriptions at a time.
const freshness = time.Second

// Doubt forgets a stream that a publication to the topic got no answer from, so
// that the next one looks it up again. It does not wait for a look-up under way,
// and keeps what somebody else has looked up meanwhile.
func (ss *Streams) Doubt(s *asset.Stream, topic string) {
	if !ss.ensuring.tryAcquire() {
		return
	}
	defer ss.ensuring.release()
	if ss.Known(topic) == s {
		ss.cache.remove(s)
	}
}

// Forget makes the next look for the stream ask the server again.
func (ss *Streams) Forget(ctx context.Context, s *asset.Stream) error {
	if err := ss.ensuring.acquire(ctx); err != nil {
		return err
	}
	defer ss.ensuring.release()
	ss.cache.remove(s)
	return nil
}

// replace takes over what has changed of a stream, unless somebody else has looked
// it up meanwhile.
func (ss *Streams) replace(ctx context.Context, known, now *asset.Stream, topic string) error {
	if err := ss.ensuring.acquire(ctx); err != nil {
		return err
	}
	defer ss.ensuring.release()
	if ss.Known(topic) == known {
		ss.cache.add(now)
	}
	return nil
}

// verify forgets the topic's stream if it is not what is known of it any more.
// The server also makes a consumer for a topic that its stream does not capture:
// nothing would ever arrive, and nobody would say so.
func (ss *Streams) verify(ctx context.Context, topic string) error {
	known := ss.Known(topic)
	if known == nil || time.Since(time.Unix(0, known.Seen.Load())) < freshness {
		return nil
	}
	s, err := ss.Info(ctx, known.Name)
	switch {
	case err == nil && known.Same(s, topic) && reflect.DeepEqual(known.Config, s.Config):
		known.Seen.Store(s.Seen.Load())
		return nil
	case err == nil && known.Same(s, topic):
		return ss.replace(ctx, known, s, topic)
	case err == nil, errors.Is(err, jetstream.ErrStreamNotFound):
		return ss.Forget(ctx, known)
	}
	return err
}

// checkLost reports a stream of others that is gone, if its owner could not make
// it again next to a stream with these subjects. The caller holds ss.ensuring.
func (ss *Streams) checkLost(ctx context.Context, subjects []string) error {
	for _, lost := range ss.cache.lost(subjects) {
		s, err := ss.Info(ctx, lost.Name)
		if errors.Is(err, jetstream.ErrStreamNotFound) {
			return fmt.Errorf("%w: stream %s is gone and was not made by this broker: create it again", fault.ErrStreamNotFound, lost.Name)
		}
		if err != nil {
			return err
		}
		ss.cache.add(s) // it exists, with other subjects
	}
	return nil
}
