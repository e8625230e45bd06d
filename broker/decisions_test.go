package broker_test

import (
	"errors"
	"fmt"
	"io"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"go-micro.dev/v5/broker"
	"go-micro.dev/v5/logger"

	jsbroker "go-micro-jetstream/broker"
	"go-micro-jetstream/internal/natstest"
)

func TestWhatAHandlersErrorAsksFor(t *testing.T) {
	t.Parallel()
	cause := io.ErrUnexpectedEOF
	for name, test := range map[string]struct {
		err             error
		discard, snooze bool
		delay           time.Duration // below 0: none
	}{
		"nothing":             {nil, false, false, -1},
		"another error":       {cause, false, false, -1},
		"retry":               {jsbroker.RetryAfter(time.Minute, cause), false, false, time.Minute},
		"retry at once":       {jsbroker.RetryAfter(-time.Minute, nil), false, false, 0},
		"snooze":              {jsbroker.Snooze(time.Hour), false, true, time.Hour},
		"snooze in no time":   {jsbroker.Snooze(-1), false, true, 0},
		"discard":             {jsbroker.Discard(cause), true, false, -1},
		"wrapped":             {fmt.Errorf("shop: %w", jsbroker.Snooze(time.Hour)), false, true, time.Hour},
		"joined":              {errors.Join(cause, jsbroker.RetryAfter(time.Minute, nil), jsbroker.Snooze(time.Hour)), false, true, time.Hour},
		"discard and snooze":  {errors.Join(jsbroker.Snooze(time.Hour), jsbroker.Discard(nil)), true, false, time.Hour},
		"panic with a snooze": {&jsbroker.PanicError{Value: jsbroker.Snooze(time.Hour)}, false, false, time.Hour},
	} {
		if got := jsbroker.IsDiscard(test.err); got != test.discard {
			t.Errorf("%s: IsDiscard is %v", name, got)
		}
		if got := jsbroker.IsSnooze(test.err); got != test.snooze {
			t.Errorf("%s: IsSnooze is %v", name, got)
		}
		if delay, ok := jsbroker.RetryDelay(test.err); ok != (test.delay >= 0) || ok && delay != test.delay {
			t.Errorf("%s: RetryDelay is %v, %v", name, delay, ok)
		}
	}
}

func TestLookingIntoAHandlersErrorDoesNotAllocate(t *testing.T) {
	for name, err := range map[string]error{
		"nothing": nil, "an error": io.ErrUnexpectedEOF, "snooze": jsbroker.Snooze(time.Hour),
		"wrapped": fmt.Errorf("shop: %w", jsbroker.RetryAfter(time.Minute, nil)),
	} {
		if n := testing.AllocsPerRun(100, func() {
			jsbroker.IsSnooze(err)
			jsbroker.RetryDelay(err)
		}); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}

func TestSnoozeIsNoFailure(t *testing.T) {
	t.Parallel()
	log := natstest.NewLog()
	handled, onHandled := hookChan[jsbroker.Handled]()
	settled, onSettled := hookChan[jsbroker.Settled]()
	b := newBroker(t, startServer(t), broker.Logger(log),
		broker.ErrorHandler(func(e broker.Event) error {
			t.Errorf("ErrorHandler got %v", e.Error())
			return nil
		}),
		jsbroker.WithHooks(jsbroker.Hooks{Handled: onHandled, Settled: onSettled}))
	const delay = 300 * time.Millisecond
	began := make(chan time.Time, 10)
	subscribe(t, b, "orders", func(e broker.Event) error {
		began <- time.Now()
		if jsbroker.NumDelivered(e) == 1 {
			return fmt.Errorf("the shop is closed: %w", jsbroker.Snooze(delay))
		}
		return nil
	}, broker.Queue("q"))
	publish(t, b, "orders", "1")
	first, second := receive(t, began), receive(t, began)
	if second.Sub(first) < delay {
		t.Errorf("came back after %v, want %v", second.Sub(first), delay)
	}
	if h := receive(t, handled); h.Result != jsbroker.ResultNak || h.Delay != delay || !h.Snoozed || h.Err != nil || h.Panicked || h.SettleErr != nil {
		t.Errorf("snoozed: %+v", h)
	}
	if h := receive(t, handled); h.Result != jsbroker.ResultAck || h.Snoozed || h.Err != nil {
		t.Errorf("then: %+v", h)
	}
	if s := receive(t, settled); s.Result != jsbroker.ResultNak || s.Delay != delay {
		t.Errorf("settled: %+v", s)
	}
	if lines := log.AtLeast(logger.WarnLevel); len(lines) > 0 {
		t.Errorf("logged %v", lines)
	}
}

// A handler that has acked has nothing to snooze, and one that panics has failed,
// with whatever value.
func TestSnoozeThatIsNone(t *testing.T) {
	t.Parallel()
	handled, onHandled := hookChan[jsbroker.Handled]()
	b := newBroker(t, startServer(t), jsbroker.WithHooks(jsbroker.Hooks{Handled: onHandled}))
	subscribe(t, b, "orders", func(e broker.Event) error {
		if string(e.Message().Body) == "acks" {
			if err := e.Ack(); err != nil {
				t.Error(err)
			}
			return jsbroker.Snooze(time.Hour)
		}
		panic(jsbroker.Snooze(time.Hour))
	}, broker.Queue("q"))
	publish(t, b, "orders", "acks")
	publish(t, b, "orders", "panics")
	if h := receive(t, handled); h.Result != jsbroker.ResultAck || h.Snoozed || h.Err != nil {
		t.Errorf("acked: %+v", h)
	}
	if h := receive(t, handled); h.Result != jsbroker.ResultNak || h.Snoozed || !h.Panicked || h.Err == nil {
		t.Errorf("panicked: %+v", h)
	}
}

// The server counts, and just stops delivering: the hooks say so.
func TestSnoozeOnTheLastDeliveryThatTheServerMakes(t *testing.T) {
	t.Parallel()
	handled, onHandled := hookChan[jsbroker.Handled]()
	exhausted, onExhausted := hookChan[jsbroker.Exhausted]()
	b := newBroker(t, startServer(t), jsbroker.WithConsumerConfig(jetstream.ConsumerConfig{MaxDeliver: 2}),
		jsbroker.WithHooks(jsbroker.Hooks{Handled: onHandled, Exhausted: onExhausted}))
	subscribe(t, b, "orders", func(broker.Event) error { return jsbroker.Snooze(0) }, broker.Queue("q"))
	publish(t, b, "orders", "1")
	for range 2 {
		if h := receive(t, handled); !h.Snoozed || h.Result != jsbroker.ResultNak {
			t.Errorf("%+v", h)
		}
	}
	if e := receive(t, exhausted); e.NumDelivered != 2 || e.Cause == nil {
		t.Errorf("%+v", e)
	}
}
