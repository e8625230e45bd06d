package elsewhere

import (
	"context"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"

	"go-micro-jetstream/broker/internal/asset"
	"go-micro-jetstream/broker/internal/fault"
)

// CheckNearby refuses a topic that another JetStream hears, too, which is that of the
// leaf node or of the importing account: it would store each message as well. s is the
// stream that the topic has, or nil. What nobody answers is taken for no.
func (f *Finder) CheckNearby(ctx context.Context, s *asset.Stream, topic string) error {
	if !f.conn.Nearby() {
		return nil
	}
	var second string
	_ = f.conn.AskNearby(ctx, "STREAM.NAMES", func(ctx context.Context, js jetstream.JetStream) error {
		list := js.StreamNames(ctx, jetstream.WithStreamListSubject(topic))
		for name := range list.Name() {
			if s == nil || name != s.Name || !f.same(ctx, js, s) {
				second = name
			}
		}
		return list.Err()
	})
	if second == "" {
		return nil
	}
	return fmt.Errorf("%w: stream %s of the JetStream at %s captures it, beside that of %s: remove the subject from that stream, or delete it (nats stream rm %s, without a domain), or connect to the hub itself",
		fault.ErrStoredTwice, second, f.conn.URL(), f.conn.Domain(), second)
}

// same reports whether a stream is the one of that name in the other JetStream: both are
// the same, then.
func (f *Finder) same(ctx context.Context, js jetstream.JetStream, s *asset.Stream) bool {
	there, err := js.Stream(ctx, s.Name)
	return err == nil && there.CachedInfo().Created.Equal(s.Created)
}
