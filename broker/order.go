package broker

import (
	"fmt"
	"runtime/debug"

	"go-micro.dev/v5/broker"

	"go-micro-jetstream/broker/internal/consume"
	"go-micro-jetstream/broker/internal/wire"
)

var _ broker.Event = (*keyEvent)(nil)

// errKeyOnly is the error of an Ack in the function of OrderBy.
var errKeyOnly = fmt.Errorf("jetstream: ack: %w: the function of OrderBy only says the key", ErrInvalidHandler)

// keyEvent is what the function of [OrderBy] sees of a delivery. Most functions need
// only a part of the message, so the rest is not made.
type keyEvent struct {
	d       *consume.Delivery
	message *broker.Message // nil: nobody has asked for it
}

// Topic returns the concrete subject, also for a wildcard subscription.
func (e *keyEvent) Topic() string { return e.d.Msg.Subject }

// Message returns the message. The handler gets a header of its own.
func (e *keyEvent) Message() *broker.Message {
	if e.message == nil {
		header, _ := wire.IncomingHeader(e.d.Msg.Header)
		e.message = &broker.Message{Header: header, Body: e.d.Msg.Data}
	}
	return e.message
}

// Ack returns [ErrInvalidHandler]: the message has not reached its handler yet.
func (e *keyEvent) Ack() error { return errKeyOnly }

// Error returns nil.
func (e *keyEvent) Error() error { return nil }

// keyFunc returns the function of package consume for that of [OrderBy], or nil.
func keyFunc(key func(broker.Event) string) func(*consume.Delivery) string {
	if key == nil {
		return nil
	}
	return func(d *consume.Delivery) (k string) {
		returned := false
		defer func() {
			if !returned {
				value := recover()
				d.Unkey(&PanicError{Value: value, Stack: debug.Stack(), Goexit: value == nil})
			}
		}()
		k = key(&keyEvent{d: d})
		returned = true
		return k
	}
}
