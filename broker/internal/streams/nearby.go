package streams

import (
	"context"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"

	"go-micro-jetstream/broker/internal/fault"
)

// checkNearby refuses a topic that another JetStream hears, too, which is that of the
// leaf node or of the importing account: it would store each message as well. s is the
// stream that the topic has, or nil. What nobody answers is taken for no.
func (ss *Streams) checkNearby(ctx context.Context, s *Stream, topic string) error {
	if !ss.conn.Nearby() {
		return nil
	}
	var second string
	_ = ss.conn.AskNearby(ctx, "STREAM.NAMES", func(ctx context.Context, js jetstream.JetStream) error {
		list := js.StreamNames(ctx, jetstream.WithStreamListSubject(topic))
		for name := range list.Name() {
			if s == nil || name != s.Name || !ss.same(ctx, js, s) {
				second = name
			}
		}
		return list.Err()
	})
	if second == "" {
		return nil
	}
	return fmt.Errorf("%w: stream %s of the JetStream at %s captures it, beside that of %s: remove the subject from that stream, or delete it (nats stream rm %s, without a domain), or connect to the hub itself",
		fault.ErrStoredTwice, second, ss.conn.URL(), ss.conn.Domain(), second)
}

// same reports whether a stream is the one of that name in the other JetStream: both are
// the same, then.
func (ss *Streams) same(ctx context.Context, js jetstream.JetStream, s *Stream) bool {
	there, err := js.Stream(ctx, s.Name)
	return err == nil && there.CachedInfo().Created.Equal(s.Created)
}
