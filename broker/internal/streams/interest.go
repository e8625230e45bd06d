package streams

import (
	"context"
	"fmt"
	"slices"

	"github.com/nats-io/nats.go/jetstream"

	"go-micro-jetstream/broker/internal/asset"
	"go-micro-jetstream/broker/internal/fault"
	"go-micro-jetstream/broker/internal/wire"
)

// CheckKept reports that a stream would acknowledge a message of the topic and keep
// nothing: it has Interest retention, and no consumer of the topic. The error wraps
// fault.ErrInvalidConfig. It asks only about a stream with that retention.
func (ss *Streams) CheckKept(ctx context.Context, s *asset.Stream, topic string) error {
	if s.Retention != jetstream.InterestPolicy {
		return nil
	}
	stored := s.StoredAs(topic)
	kept := false
	err := ss.conn.Ask(ctx, "CONSUMER.LIST."+s.Name, func(ctx context.Context) error {
		stream, err := ss.conn.JetStream().Stream(ctx, s.Name)
		if err != nil {
			return err
		}
		list := stream.ListConsumers(ctx)
		kept = false
		for info := range list.Info() {
			kept = kept || wants(&info.Config, stored)
		}
		return list.Err()
	})
	switch {
	case err != nil:
		return fmt.Errorf("look up the consumers of stream %s, which has Interest retention: %w", s.Name, err)
	case !kept:
		return fmt.Errorf("%w: stream %s has Interest retention and no consumer of %q, so it would keep nothing: subscribe to that topic first, or let a stream with WorkQueue or Limits retention have it",
			fault.ErrInvalidConfig, s.Name, wire.Shorten(topic))
	}
	return nil
}

// wants reports whether a consumer gets messages of the subject.
func wants(cc *jetstream.ConsumerConfig, subject string) bool {
	if cc.FilterSubject == "" && len(cc.FilterSubjects) == 0 {
		return true
	}
	return cc.FilterSubject != "" && wire.Overlaps(cc.FilterSubject, subject) ||
		slices.ContainsFunc(cc.FilterSubjects, func(filter string) bool { return wire.Overlaps(filter, subject) })
}
