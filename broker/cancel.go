package broker

import (
	"context"
	"fmt"

	"go-micro.dev/v5/broker"

	"go-micro-jetstream/broker/internal/fault"
	"go-micro-jetstream/broker/internal/produce"
	"go-micro-jetstream/broker/internal/wire"
)

// CancelDelivery cancels a message that waits because of [DeliverAt] or [DeliverAfter].
// Pass the topic that it was published to and the id of its [MessageID]. Without that
// option, the id is in the hook event [Published]. Use it for a reminder that nobody
// needs any more.
//
// When it returns nil, the message is not delivered, not even if the topic's stream was
// deleted in the meantime and is made again. It returns [ErrNotScheduled] if
// the message does not wait any more: it was delivered, falls due just now, was
// cancelled, or never published. The context bounds the call; without a deadline it
// takes 5 seconds at most per request.
//
// The server decides by its clock what is due, so the clock here need not agree. Only if
// the topic's stream is gone the clock here counts.
//
// To publish the message again within the stream's duplicates window (2 minutes by
// default), use another id: with the same one it is dropped as a duplicate.
//
// Other errors: [ErrNotConnected], [ErrInvalidTopic], [ErrPermission], and
// [ErrForeign] for a broker of another kind. It is safe for concurrent use.
func CancelDelivery(ctx context.Context, b broker.Broker, topic, id string) error {
	own, ok := b.(*jetstreamBroker)
	if !ok || own == nil {
		return fmt.Errorf("jetstream: cancel delivery: %w: the broker is a %T, not one of NewBroker", ErrForeign, b)
	}
	if ctx == nil {
		ctx = context.Background()
	}
	if err := own.cancelDelivery(ctx, topic, id); err != nil {
		return fmt.Errorf("jetstream: cancel the delivery of %q to %q: %w", wire.Shorten(id), wire.Shorten(topic), err)
	}
	return nil
}

func (b *jetstreamBroker) cancelDelivery(ctx context.Context, topic, id string) error {
	if err := wire.CheckPublishTopic(topic); err != nil {
		return err
	}
	s, cfg := b.life.Session(), b.cfg.Load()
	if s == nil || cfg == nil {
		return fault.ErrNoConnection
	}
	ctx, cancel := context.WithTimeout(ctx, 2*produce.PublishTimeout)
	defer cancel()
	return s.streams.Cancel(ctx, &cfg.rules, topic, id)
}
