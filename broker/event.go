package broker

import (
	"context"
	"fmt"

	"go-micro.dev/v5/broker"

	"go-micro-jetstream/broker/internal/consume"
)

var _ broker.Event = (*event)(nil)

// event is one delivery of one message, as the handler sees it.
type event struct {
	d        *consume.Delivery
	sub      *subscription
	message  broker.Message
	body     []byte // as it was received; see keepBody
	outcome  outcome
	failures *failures // nil unless the event can be found; see EventFinder
}

// Topic returns the concrete subject, also for a wildcard subscription.
func (e *event) Topic() string { return e.d.Msg.Subject }

// Message returns the message. Its header is this delivery's own.
func (e *event) Message() *broker.Message { return &e.message }

// Ack acknowledges the message. With broker.DisableAutoAck, it is how the handler says
// that it is done, even after it has returned. A second call, and a call after the
// broker has settled the message, returns [ErrAlreadySettled].
func (e *event) Ack() error {
	if err := e.d.Ack(); err != nil {
		return fmt.Errorf("jetstream: ack %s: %w", e.Topic(), err)
	}
	return nil
}

// Error returns what the handler failed with, for broker.ErrorHandler.
func (e *event) Error() error { return e.outcome.err }

// EventContext returns the context of a handler's event. It carries what hooks have put
// there, such as the consumer span. It is cancelled when Disconnect stops waiting for
// the handler. Pass it on with broker.PublishContext. For events of other brokers it is
// context.Background().
func EventContext(e broker.Event) context.Context {
	if d := deliveryOf(e); d != nil {
		return d.Context()
	}
	return context.Background()
}

// NumDelivered returns how many times the event's message has been delivered,
// this time included: 1 on the first delivery. For events of other brokers it
// is 0.
func NumDelivered(e broker.Event) uint64 {
	if d := deliveryOf(e); d != nil {
		return d.NumDelivered()
	}
	return 0
}
