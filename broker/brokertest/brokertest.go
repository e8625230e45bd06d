// Package brokertest tests handlers without a server. An [Event] is a delivery that
// exists only in the test, and [Handle] does with it what the broker does:
//
//	e := brokertest.NewEvent("orders.created", &broker.Message{Body: []byte("4711")})
//	s := brokertest.Handle(charge, e)
//	if s.Result != jsbroker.ResultAck {
//		t.Errorf("settled as %+v", s)
//	}
//
// The functions of package broker work on it: EventContext, NumDelivered, Nak,
// Terminate and Stopping.
package brokertest

import (
	"context"
	"fmt"
	"runtime/debug"
	"sync"
	"time"

	"go-micro.dev/v5/broker"

	jsbroker "go-micro-jetstream/broker"
)

var _ broker.Event = (*Event)(nil)

// Settlement is how an event was settled.
type Settlement struct {
	Result jsbroker.Result // jsbroker.ResultNone: it was not
	// Delay is that of Nak, RetryAfter or Snooze. It is 0 for other errors, whose
	// delay the broker chooses.
	Delay   time.Duration
	Reason  string // that of Terminate
	Err     error  // what the handler returned, or a *jsbroker.PanicError; nil for a snooze
	Snoozed bool   // the handler has returned jsbroker.Snooze
}

// Event is a delivery of a message. It is safe for concurrent use, once it is made.
type Event struct {
	topic      string
	message    *broker.Message
	deliveries uint64
	ctx        context.Context
	stopping   chan struct{}
	stop       sync.Once

	mu      sync.Mutex
	settled Settlement
}

// Option changes what [NewEvent] returns. A nil Option is skipped.
type Option func(*Event)

// Deliveries sets how many times the message has been delivered, this time included.
// The default is 1.
func Deliveries(n uint64) Option { return func(e *Event) { e.deliveries = n } }

// Context sets what jsbroker.EventContext returns. The default, and what nil means, is
// context.Background().
func Context(ctx context.Context) Option {
	return func(e *Event) {
		e.ctx = ctx
		if ctx == nil {
			e.ctx = context.Background()
		}
	}
}

// NewEvent returns an event of a message, which nobody has settled yet. As in the
// broker, the message has a header. A nil message is an empty one.
func NewEvent(topic string, m *broker.Message, opts ...Option) *Event {
	e := &Event{topic: topic, message: &broker.Message{}, deliveries: 1, ctx: context.Background(), stopping: make(chan struct{})}
	if m != nil {
		*e.message = *m
	}
	if e.message.Header == nil {
		e.message.Header = map[string]string{}
	}
	e.settled.Result = jsbroker.ResultNone
	for _, opt := range opts {
		if opt != nil {
			opt(e)
		}
	}
	return e
}

// Topic returns the topic.
func (e *Event) Topic() string { return e.topic }

// Message returns the message.
func (e *Event) Message() *broker.Message { return e.message }

// Ack acknowledges the message.
func (e *Event) Ack() error { return e.settle("ack", Settlement{Result: jsbroker.ResultAck}) }

// Error returns what the handler failed with.
func (e *Event) Error() error { return e.Settlement().Err }

// Context is for jsbroker.EventContext.
func (e *Event) Context() context.Context { return e.ctx }

// NumDelivered is for jsbroker.NumDelivered.
func (e *Event) NumDelivered() uint64 { return e.deliveries }

// Nak is for jsbroker.Nak.
func (e *Event) Nak(d time.Duration) error {
	return e.settle("nak", Settlement{Result: jsbroker.ResultNak, Delay: d})
}

// Terminate is for jsbroker.Terminate.
func (e *Event) Terminate(reason string) error {
	return e.settle("terminate", Settlement{Result: jsbroker.ResultTerm, Reason: reason})
}

// Stopping is for jsbroker.Stopping.
func (e *Event) Stopping() <-chan struct{} { return e.stopping }

// Stop begins to stop the subscription of the event: it closes the channel of
// jsbroker.Stopping.
func (e *Event) Stop() { e.stop.Do(func() { close(e.stopping) }) }

// Settlement returns how the event was settled so far.
func (e *Event) Settlement() Settlement {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.settled
}

// settle returns jsbroker.ErrAlreadySettled if the event is settled.
func (e *Event) settle(operation string, s Settlement) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.settled.Result != jsbroker.ResultNone {
		return fmt.Errorf("brokertest: %s %s: %w", operation, e.topic, jsbroker.ErrAlreadySettled)
	}
	e.settled = s
	return nil
}

// Handle runs a handler on an event and settles it as the broker does: by what the
// handler returns, unless the handler has settled it. It recovers a panic. For a
// subscriber with broker.DisableAutoAck call the handler itself, and then
// [Event.Settlement].
//
// It knows no MaxDeliver and no dead letters: what fails is nakked, and what is
// discarded is terminated.
func Handle(h broker.Handler, e *Event) Settlement {
	s := decide(call(h, e))
	_ = e.settle("handle", s) // unless the handler has
	e.mu.Lock()
	defer e.mu.Unlock()
	e.settled.Err = s.Err
	return e.settled
}

// decide is what the broker makes of a handler's return.
func decide(err error) Settlement {
	if err == nil {
		return Settlement{Result: jsbroker.ResultAck}
	}
	if jsbroker.IsDiscard(err) {
		return Settlement{Result: jsbroker.ResultTerm, Err: err}
	}
	delay, _ := jsbroker.RetryDelay(err)
	if jsbroker.IsSnooze(err) {
		return Settlement{Result: jsbroker.ResultNak, Delay: delay, Snoozed: true}
	}
	return Settlement{Result: jsbroker.ResultNak, Delay: delay, Err: err}
}

// call returns a panic as an error.
func call(h broker.Handler, e *Event) (err error) {
	defer func() {
		if value := recover(); value != nil {
			err = &jsbroker.PanicError{Value: value, Stack: debug.Stack()}
		}
	}()
	return h(e)
}
