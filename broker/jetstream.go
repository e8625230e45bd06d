package broker

import (
	"context"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"
	"go-micro.dev/v5/broker"

	"go-micro-jetstream/broker/internal/fault"
)

// JetStream runs your own request on the connection of b. Use it for what this package
// has no function for, such as the state of a stream, without a second connection and
// without a second set of credentials:
//
//	err := jsbroker.JetStream(ctx, b, "STREAM.INFO.ORDERS", func(ctx context.Context, js jetstream.JetStream) error {
//		stream, err := js.Stream(ctx, "ORDERS")
//		…
//	})
//
// api is what follows $JS.API. in the request's subject, or the beginning of that up to
// a full token. With it, the broker recognises that the server refused the request for
// lack of permission. Such a request is never answered, so without api the server would
// only seem slow. The request must not keep js: another client may take the place of
// this one at any time.
//
// It waits for a connection that is down, and takes 5 seconds at most, or as long as
// the context permits. It is safe for concurrent use.
//
// Errors: [ErrForeign] for brokers of other kinds, [ErrNotConnected], [ErrPermission],
// [ErrJetStreamUnavailable], or the request's own.
func JetStream(ctx context.Context, b broker.Broker, api string, request func(ctx context.Context, js jetstream.JetStream) error) error {
	own, ok := b.(*jetstreamBroker)
	if !ok || own == nil {
		return fmt.Errorf("jetstream: %s: %w: the broker is a %T, not one of NewBroker", api, ErrForeign, b)
	}
	if ctx == nil {
		ctx = context.Background()
	}
	s := own.life.Session()
	if s == nil {
		return fmt.Errorf("jetstream: %s: %w", api, fault.ErrNoConnection)
	}
	err := s.conn.Do(ctx, api, func(ctx context.Context) error { return request(ctx, s.conn.JetStream()) })
	switch {
	case err == nil:
		return nil
	case errors.Is(err, jetstream.ErrConsumerNotFound):
		err = fmt.Errorf("%w: the consumer of a queue exists from its first Subscribe on (nats consumer ls lists consumers)", err)
	case errors.Is(err, jetstream.ErrStreamNotFound):
		err = fmt.Errorf("%w: the stream of a topic exists from its first Publish or Subscribe on (nats stream ls lists streams)", err)
	}
	return fmt.Errorf("jetstream: %s: %w", api, err)
}

// DeadLetterTopic returns the topic of [WithDeadLetter], "" without one and for brokers
// of other kinds. Use it to show or watch the dead letters.
func DeadLetterTopic(b broker.Broker) string {
	own, ok := b.(*jetstreamBroker)
	if !ok || own == nil {
		return ""
	}
	if cfg := own.cfg.Load(); cfg != nil {
		return cfg.rules.DeadLetter
	}
	return ""
}
