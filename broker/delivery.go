package broker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"go-micro.dev/v5/broker"

	"go-micro-jetstream/broker/internal/deadletter"
)

// delivery is what [EventContext], [NumDelivered], [Nak], [Terminate] and
// [Stopping] want of an event: this package's own, or one of package brokertest.
type delivery interface {
	Context() context.Context
	NumDelivered() uint64
	Nak(d time.Duration) error
	Terminate(reason string) error
	Stopping() <-chan struct{}
}

// deliveryOf returns nil for events of other brokers, and for a nil event.
func deliveryOf(e broker.Event) delivery {
	if own, ok := e.(*event); ok && own == nil {
		return nil
	}
	d, _ := e.(delivery)
	return d
}

// Nak makes the server deliver the event's message again after d, or at once if d is 0
// or less. Use it with broker.DisableAutoAck, as the counterpart of e.Ack. It may be
// called from any goroutine, even after the handler has returned. After the last
// delivery that MaxDeliver permits, a message becomes a dead letter as if its handler
// had failed; see [WithDeadLetter].
//
// It returns [ErrAlreadySettled] if the delivery is settled, and [ErrForeign]
// for events of other brokers. After other errors nothing is settled: it may be
// called again.
func Nak(e broker.Event, d time.Duration) error {
	own := deliveryOf(e)
	if own == nil {
		return foreignEvent("nak", e)
	}
	return own.Nak(max(d, 0))
}

// Terminate gives up the event's message: it is never delivered again. Use it with
// broker.DisableAutoAck, where other handlers return [Discard]. It may be called from
// any goroutine, even after the handler has returned. With [WithDeadLetter] the message
// is published there first, which takes up to 5 seconds. The reason may be empty. It is
// written to the dead letter, and to the advisory that the server publishes.
//
// It returns [ErrAlreadySettled] if the delivery is settled, and [ErrForeign]
// for events of other brokers. After other errors nothing is settled: it may be
// called again.
func Terminate(e broker.Event, reason string) error {
	own := deliveryOf(e)
	if own == nil {
		return foreignEvent("terminate", e)
	}
	return own.Terminate(reason)
}

// Stopping returns a channel that is closed when the event's subscription begins to
// stop, by Unsubscribe or Disconnect. A long-running handler can then save its work, or
// return [Snooze](0). [EventContext] is cancelled much later, when Disconnect stops
// waiting for the handler. For events of other brokers it is nil, which is never
// closed.
func Stopping(e broker.Event) <-chan struct{} {
	if d := deliveryOf(e); d != nil {
		return d.Stopping()
	}
	return nil
}

func foreignEvent(operation string, e broker.Event) error {
	return fmt.Errorf("jetstream: %s: %w: the event is a %T", operation, ErrForeign, e)
}

// Context is for [EventContext].
func (e *event) Context() context.Context { return e.d.Context }

// NumDelivered is for the function of that name.
func (e *event) NumDelivered() uint64 { return e.d.Meta.NumDelivered }

// Stopping is for the function of that name.
func (e *event) Stopping() <-chan struct{} { return e.d.Stopping() }

// errNakked is why a message is given up that Nak wants again.
var errNakked = errors.New("nakked on the last delivery that MaxDeliver permits")

// Nak is for the function of that name.
func (e *event) Nak(d time.Duration) error {
	e.sub.core.LearnLimit()
	exhausted, byServer := e.d.Exhausted()
	if exhausted && e.sub.deadLetters(e.d) {
		return e.giveUp("nak", errNakked)
	}
	if err := e.d.Nak(d); err != nil {
		return fmt.Errorf("jetstream: nak %s: %w", e.Topic(), err)
	}
	if exhausted && byServer {
		observer{e.sub}.Exhausted(e.d, errNakked)
	}
	return nil
}

// Terminate is for the function of that name.
func (e *event) Terminate(reason string) error {
	if reason == "" {
		return e.giveUp("terminate", errors.New("terminated"))
	}
	return e.giveUp("terminate", errors.New(reason))
}

var errNoDeadLetter = errors.New("the dead letter could not be stored, so the message is kept; the log has the cause")

// errLies is about a message whose dead letter lacks the body: see letLie.
var errLies = errors.New("the message stays in its stream")

// giveUp terminates the message, as a dead letter if there are any.
func (e *event) giveUp(operation string, cause error) error {
	letter := &event{d: e.d, sub: e.sub, body: e.body}
	if e.sub.opts.AutoAck { // the worker may need its array for the next message
		letter.body = bytes.Clone(e.d.Msg.Data)
	}
	var b burial
	bury := func() error {
		switch b = e.sub.publishDeadLetter(letter, cause, false); b {
		case burialFailed:
			return errNoDeadLetter
		case burialUnfit, referred:
			return errLies
		default:
		}
		return nil
	}
	if !e.sub.deadLetters(e.d) {
		bury = nil
	}
	err := e.d.Term(deadletter.Text(cause.Error(), maxLoggedReason), bury)
	if errors.Is(err, errLies) {
		_, _, err = e.sub.letLie(e.d, b, cause)
	}
	if err != nil {
		return fmt.Errorf("jetstream: %s %s: %w", operation, e.Topic(), err)
	}
	return nil
}
