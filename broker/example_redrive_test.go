package broker_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"

	"github.com/nats-io/nats.go/jetstream"
	"go-micro.dev/v5/broker"

	jsbroker "go-micro-jetstream/broker"
)

// A deploy has mended the handler: its dead letters go back to where they came from.
func ExampleRedrive() {
	dead := make(chan struct{}, 10)
	b, done := connect(
		jsbroker.WithDeadLetter("dead-letters.orders"),
		jsbroker.WithConsumerConfig(jetstream.ConsumerConfig{MaxDeliver: 1}),
		jsbroker.WithHooks(jsbroker.Hooks{DeadLettered: func(context.Context, jsbroker.DeadLettered) { dead <- struct{}{} }}),
	)
	defer done()
	var mended atomic.Bool
	handled := make(chan string, 1)
	_, err := b.Subscribe("orders.created", func(e broker.Event) error {
		if !mended.Load() {
			return errors.New("the price list is missing")
		}
		handled <- string(e.Message().Body)
		return nil
	}, broker.Queue("payments"))
	must(err)
	must(b.Publish("orders.created", message("4711")))
	<-dead
	mended.Store(true)

	// One letter at most, and only those of one cause.
	options := []jsbroker.RedriveOption{
		jsbroker.RedriveLimit(1),
		jsbroker.RedriveFilter(func(l jsbroker.DeadLetter) bool { return strings.Contains(l.Reason, "price list") }),
	}
	n, err := jsbroker.Redrive(context.Background(), b, "dead-letters.orders", append(options, jsbroker.RedriveDryRun())...)
	fmt.Println("would redrive", n, err)
	n, err = jsbroker.Redrive(context.Background(), b, "dead-letters.orders", options...)
	fmt.Println("redriven", n, err)
	fmt.Println("handled", <-handled)
	// Output:
	// would redrive 1 <nil>
	// redriven 1 <nil>
	// handled 4711
}

// graveyard is a broker with two dead letters on dead-letters.orders: of the orders 1
// and 2.
func graveyard() (b broker.Broker, done func()) {
	dead := make(chan struct{}, 10)
	b, done = connect(jsbroker.WithDeadLetter("dead-letters.orders"),
		jsbroker.WithHooks(jsbroker.Hooks{DeadLettered: func(context.Context, jsbroker.DeadLettered) { dead <- struct{}{} }}))
	sub, err := b.Subscribe("orders.created", func(e broker.Event) error {
		return jsbroker.Discard(fmt.Errorf("no price for order %s", e.Message().Body))
	}, broker.Queue("payments"))
	must(err)
	must(b.Publish("orders.created", message("1")))
	must(b.Publish("orders.created", message("2")))
	<-dead
	<-dead
	must(sub.Unsubscribe())
	return b, done
}

// Look first.
func ExampleRedriveDryRun() {
	b, done := graveyard()
	defer done()

	n, err := jsbroker.Redrive(context.Background(), b, "dead-letters.orders", jsbroker.RedriveDryRun())
	fmt.Println(n, err)
	// Output: 2 <nil>
}

// Only the letters of one cause are worth another try.
func ExampleRedriveFilter() {
	b, done := graveyard()
	defer done()

	n, err := jsbroker.Redrive(context.Background(), b, "dead-letters.orders", jsbroker.RedriveFilter(func(l jsbroker.DeadLetter) bool {
		fmt.Println(l.Topic, l.Reason)
		return string(l.Body) == "2"
	}))
	fmt.Println(n, err)
	// Output:
	// orders.created no price for order 1
	// orders.created no price for order 2
	// 1 <nil>
}

// One letter as a test, before all the others.
func ExampleRedriveLimit() {
	b, done := graveyard()
	defer done()

	n, err := jsbroker.Redrive(context.Background(), b, "dead-letters.orders", jsbroker.RedriveLimit(1))
	fmt.Println(n, err)
	// Output: 1 <nil>
}
