package broker_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go-micro.dev/v5/broker"

	jsbroker "go-micro-jetstream/broker"
)

// A handler that publishes passes its context on: the trace goes on, and the
// publish ends when the handler has to.
func ExampleEventContext() {
	b, done := connect()
	defer done()

	invoices := make(chan string)
	_, err := b.Subscribe("invoices.due", func(e broker.Event) error {
		invoices <- string(e.Message().Body)
		return nil
	}, broker.Queue("billing"))
	must(err)
	_, err = b.Subscribe("orders.created", func(e broker.Event) error {
		return b.Publish("invoices.due", e.Message(), broker.PublishContext(jsbroker.EventContext(e)))
	}, broker.Queue("payments"))
	must(err)

	must(b.Publish("orders.created", message("4711")))
	fmt.Println("invoice for", <-invoices)
	// Output: invoice for 4711
}

// From the second delivery on, a handler looks for what the first has left.
func ExampleNumDelivered() {
	b, done := connect()
	defer done()

	deliveries := make(chan uint64)
	_, err := b.Subscribe("orders.created", func(e broker.Event) error {
		n := jsbroker.NumDelivered(e)
		deliveries <- n
		if n == 1 {
			return jsbroker.RetryAfter(0, errors.New("card service timed out"))
		}
		return nil
	}, broker.Queue("payments"))
	must(err)
	must(b.Publish("orders.created", message("4711")))
	fmt.Println(<-deliveries, <-deliveries)
	// Output: 1 2
}

// A service that says when it is worth trying again is taken at its word.
func ExampleRetryAfter() {
	handled := make(chan jsbroker.Handled, 2)
	b, done := connect(jsbroker.WithHooks(jsbroker.Hooks{
		Handled: func(_ context.Context, e jsbroker.Handled) { handled <- e },
	}))
	defer done()

	_, err := b.Subscribe("orders.created", func(e broker.Event) error {
		if jsbroker.NumDelivered(e) == 1 {
			return jsbroker.RetryAfter(100*time.Millisecond, errors.New("too many requests"))
		}
		return nil
	}, broker.Queue("payments"))
	must(err)
	must(b.Publish("orders.created", message("4711")))
	for range 2 {
		e := <-handled
		fmt.Println(e.Result, e.Delay, e.Err)
	}
	// Output:
	// nak 100ms too many requests
	// ack 0s <nil>
}

// A message that no repetition can make good is not delivered again.
func ExampleDiscard() {
	handled := make(chan jsbroker.Handled, 1)
	b, done := connect(jsbroker.WithHooks(jsbroker.Hooks{
		Handled: func(_ context.Context, e jsbroker.Handled) { handled <- e },
	}))
	defer done()

	_, err := b.Subscribe("orders.created", func(e broker.Event) error {
		if len(e.Message().Body) == 0 {
			return jsbroker.Discard(errors.New("no order"))
		}
		return nil
	}, broker.Queue("payments"))
	must(err)
	must(b.Publish("orders.created", message("")))
	e := <-handled
	fmt.Println(e.Result, e.Err)
	// Output: term no order
}

// Whoever counts the calls of a handler sees a snooze as one, and no error.
func ExampleSnooze() {
	handled := make(chan jsbroker.Handled, 2)
	b, done := connect(jsbroker.WithHooks(jsbroker.Hooks{
		Handled: func(_ context.Context, e jsbroker.Handled) { handled <- e },
	}))
	defer done()

	open := false
	_, err := b.Subscribe("orders.created", func(broker.Event) error {
		if !open {
			open = true
			return jsbroker.Snooze(100 * time.Millisecond)
		}
		return nil
	}, broker.Queue("shop"))
	must(err)
	must(b.Publish("orders.created", message("4711")))
	for range 2 {
		e := <-handled
		fmt.Println(e.Result, e.Delay, e.Err)
	}
	// Output:
	// nak 100ms <nil>
	// ack 0s <nil>
}

// The policy of a handler is tested without a broker.
func ExampleRetryDelay() {
	charge := func(balance int) error {
		if balance == 0 {
			return jsbroker.RetryAfter(time.Hour, errors.New("no money"))
		}
		return nil
	}
	fmt.Println(jsbroker.RetryDelay(charge(0)))
	fmt.Println(jsbroker.RetryDelay(charge(100)))
	// Output:
	// 1h0m0s true
	// 0s false
}

// Middleware that wakes somebody up leaves out what is settled, and what is just
// too early.
func ExampleIsDiscard() {
	alert := func(err error) bool { return err != nil && !jsbroker.IsDiscard(err) && !jsbroker.IsSnooze(err) }
	fmt.Println(alert(jsbroker.Discard(errors.New("no such customer"))))
	fmt.Println(alert(errors.New("card service timed out")))
	// Output:
	// false
	// true
}

// A handler with a retry loop of its own does not repeat what only has to wait.
func ExampleIsSnooze() {
	err := fmt.Errorf("the shop is closed: %w", jsbroker.Snooze(time.Hour))
	fmt.Println(jsbroker.IsSnooze(err))
	// Output: true
}

// A service that works on many messages at a time settles them when it is done
// with them.
func ExampleNak() {
	b, done := connect()
	defer done()

	events := make(chan broker.Event)
	_, err := b.Subscribe("orders.created", func(e broker.Event) error {
		events <- e
		return nil
	}, broker.Queue("payments"), broker.DisableAutoAck())
	must(err)
	must(b.Publish("orders.created", message("4711")))
	e := <-events
	must(jsbroker.Nak(e, 10*time.Millisecond))
	e = <-events
	fmt.Println("delivery", jsbroker.NumDelivered(e), e.Ack())
	// Output: delivery 2 <nil>
}

// What nobody can work on is given up, with a reason.
func ExampleTerminate() {
	b, done := connect(jsbroker.WithDeadLetter("dead-letters.payments"))
	defer done()

	events, letters := make(chan broker.Event), make(chan string)
	_, err := b.Subscribe("orders.created", func(e broker.Event) error {
		events <- e
		return nil
	}, broker.Queue("payments"), broker.DisableAutoAck())
	must(err)
	_, err = b.Subscribe("dead-letters.payments", func(e broker.Event) error {
		letters <- e.Message().Header["Micro-Dead-Letter-Reason"]
		return nil
	}, broker.Queue("undertaker"))
	must(err)
	must(b.Publish("orders.created", message("4711")))
	must(jsbroker.Terminate(<-events, "no such customer"))
	fmt.Println(<-letters)
	// Output: no such customer
}

// A handler that takes long lets go of its message when the service stops.
func ExampleStopping() {
	b, done := connect()
	defer done()

	began, ended := make(chan struct{}), make(chan string, 1)
	sub, err := b.Subscribe("orders.created", func(e broker.Event) error {
		close(began)
		select {
		case <-jsbroker.Stopping(e):
			ended <- "stopping"
			return jsbroker.Snooze(0)
		case <-time.After(time.Hour):
			return nil
		}
	}, broker.Queue("payments"))
	must(err)
	must(b.Publish("orders.created", message("4711")))
	<-began
	must(sub.Unsubscribe())
	fmt.Println(<-ended)
	// Output: stopping
}

// A handler's panic is an error like others, with the stack.
func ExamplePanicError() {
	panicked := make(chan *jsbroker.PanicError, 1)
	b, done := connect(jsbroker.WithHooks(jsbroker.Hooks{
		Panicked: func(_ context.Context, e jsbroker.Panicked) { panicked <- e.Err },
	}))
	defer done()

	_, err := b.Subscribe("orders.created", func(e broker.Event) error {
		if jsbroker.NumDelivered(e) == 1 {
			panic("no such currency")
		}
		return nil
	}, broker.Queue("payments"))
	must(err)
	must(b.Publish("orders.created", message("4711")))
	p := <-panicked
	fmt.Println(p, len(p.Stack) > 0)
	// Output: handler panicked: no such currency true
}

// Something between the broker and a handler that passes on nothing but the
// header, as go-micro's server does. For that server there is package wrapper.
func ExampleEventFinder() {
	b, done := connect()
	defer done()

	find := jsbroker.EventFinder(b)
	deliveries := make(chan uint64)
	handle := func(header map[string]string) {
		deliveries <- jsbroker.NumDelivered(find(header))
	}
	_, err := b.Subscribe("orders.created", func(e broker.Event) error {
		handle(e.Message().Header)
		return nil
	}, broker.Queue("payments"))
	must(err)
	must(b.Publish("orders.created", message("4711")))
	fmt.Println("delivery", <-deliveries)
	// Output: delivery 1
}

// Something between the broker and a handler that makes a text of the handler's
// error: the broker hears what the error was all the same.
func ExampleSetHandlerError() {
	handled := make(chan jsbroker.Handled, 1)
	b, done := connect(jsbroker.WithHooks(jsbroker.Hooks{
		Handled: func(_ context.Context, e jsbroker.Handled) { handled <- e },
	}))
	defer done()

	find := jsbroker.EventFinder(b)
	handle := func(header map[string]string) error {
		err := jsbroker.Discard(errors.New("no such customer"))
		jsbroker.SetHandlerError(find(header), err)
		return err
	}
	_, err := b.Subscribe("orders.created", func(e broker.Event) error {
		if err := handle(e.Message().Header); err != nil {
			return errors.New(err.Error())
		}
		return nil
	}, broker.Queue("payments"))
	must(err)
	must(b.Publish("orders.created", message("4711")))
	e := <-handled
	fmt.Println(e.Result, e.Err)
	// Output: term no such customer
}

// A readiness probe.
func ExampleHealth() {
	b, done := connect()
	fmt.Println(jsbroker.Health(context.Background(), b))
	done()
	fmt.Println(errors.Is(jsbroker.Health(context.Background(), b), jsbroker.ErrNotConnected))
	// Output:
	// <nil>
	// true
}
