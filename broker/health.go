package broker

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go-micro.dev/v5/broker"

	"go-micro-jetstream/broker/internal/fault"
)

// healthTimeout bounds Health where the caller's context does not.
const healthTimeout = 2 * time.Second

// Health returns nil if the broker is connected, its server answers, and every
// subscription fetches. Otherwise the error says what is wrong, and wraps a
// sentinel where one fits. It is for readiness probes, such as go-micro's package
// health:
//
//	health.Register("broker", func(ctx context.Context) error { return jsbroker.Health(ctx, b) })
//
// It is also an error if code of yours holds up fetching and has not returned for 10
// seconds: a hook that fetching waits for, such as Fetched, or the key function of
// [OrderBy]. The error names it, and the log has a warning. A handler is never an error,
// however long it runs, nor is a hook that is called while a message is handled, such as
// HandleStart or Handled.
//
// It makes one round trip to the server, and gives up when the context ends, or after 2
// seconds. It does not notice a Subscribe that failed: use [Hooks.SubscribeFailed] for
// that. For brokers of other kinds it returns [ErrForeign].
func Health(ctx context.Context, b broker.Broker) error {
	own, ok := b.(*jetstreamBroker)
	if !ok || own == nil {
		return fmt.Errorf("jetstream: health: %w: the broker is a %T", ErrForeign, b)
	}
	if err := own.health(ctx); err != nil {
		return fmt.Errorf("jetstream: health: %w", err)
	}
	return nil
}

func (b *jetstreamBroker) health(ctx context.Context) error {
	if err := b.invalid(); err != nil {
		return err
	}
	s := b.life.Session()
	switch {
	case s == nil:
		return fault.ErrNoConnection
	case !s.conn.Up():
		return fmt.Errorf("%w: %w", ErrNotConnected, fault.ErrConnectionLost)
	}
	if ctx == nil {
		ctx = context.Background()
	}
	ctx, cancel := context.WithTimeout(ctx, healthTimeout)
	defer cancel()
	if err := s.conn.NATS().FlushWithContext(ctx); err != nil {
		return fmt.Errorf("the server does not answer: %w", err)
	}
	if err := s.conn.Deaf(); err != nil {
		return err
	}
	var errs []error
	for _, sub := range s.subs.All() {
		if h, held := sub.core.HeldUp(); held {
			stands := "fetches nothing more"
			if h.Beside {
				stands = "gives nothing back that waits behind handlers"
			}
			errs = append(errs, fmt.Errorf("the subscription to %q with queue %q %s: %s", sub.topic, sub.queue, stands, sub.heldUpBy(h)))
		}
		if err := sub.core.Trouble(); err != nil {
			errs = append(errs, fmt.Errorf("the subscription to %q with queue %q does not fetch: %w", sub.topic, sub.queue, err))
		}
	}
	return errors.Join(errs...)
}
