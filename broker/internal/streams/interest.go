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
// nothing. Either it has Interest retention, and no consumer of the topic: then the error
// wraps fault.ErrInvalidConfig. Or the message, of size bytes, is larger than all that the
// stream may hold: then it wraps fault.ErrMessageTooLarge. It asks the server only about a
// stream where one of these may be so.
func (ss *Streams) CheckKept(ctx context.Context, s *asset.Stream, topic string, size int) error {
	if err := ss.checkRoom(ctx, s, size); err != nil {
		return err
	}
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

// record is what a store adds to a message, in bytes (fileStoreMsgSizeRaw in
// nats-server's server/filestore.go, without the length of a header).
const record = 22 + 4 + 8

// checkRoom compares a message with the MaxBytes of a stream. With DiscardOld, the server
// removes a larger one as soon as it is stored. With DiscardNew, the stream is never empty
// enough.
func (ss *Streams) checkRoom(ctx context.Context, s *asset.Stream, size int) error {
	if s.Config.MaxBytes <= 0 || int64(size+record) <= s.Config.MaxBytes {
		return nil
	}
	now, err := ss.Info(ctx, s.Name) // the limit may have been raised
	if err != nil {
		return fmt.Errorf("look up the MaxBytes of stream %s: %w", s.Name, err)
	}
	if most := now.Config.MaxBytes; most > 0 && int64(size+record) > most {
		return fmt.Errorf("%w: it has %d bytes, and the MaxBytes of stream %s are %d, so it could not stay there: raise that", fault.ErrMessageTooLarge, size, s.Name, most)
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
