package broker_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"go-micro.dev/v5/broker"

	jsbroker "go-micro-jetstream/broker"
)

// A publisher that may be started again after it has stored a message uses an id
// that means something: the second message is not stored.
func ExampleMessageID() {
	b, done := connect(jsbroker.WithHooks(jsbroker.Hooks{
		Published: func(_ context.Context, e jsbroker.Published) {
			fmt.Println(e.MessageID, "duplicate:", e.Duplicate)
		},
	}))
	defer done()

	for range 2 {
		must(b.Publish("orders.created", message("4711"), jsbroker.MessageID("order-4711-created")))
	}
	// Output:
	// order-4711-created duplicate: false
	// order-4711-created duplicate: true
}

// Many messages at hand are sent without a wait for each answer.
func ExampleAsync() {
	b, done := connect()
	defer done()

	var answers sync.WaitGroup
	for i := range 1000 {
		answers.Add(1)
		err := b.Publish("readings.taken", message(fmt.Sprint(i)), jsbroker.Async(func(err error) {
			defer answers.Done()
			must(err) // the message is not stored, or not known to be
		}))
		must(err) // not sent; the function is not called
	}
	answers.Wait()
	fmt.Println("all stored")
	// Output: all stored
}

// A publisher with little memory has fewer messages under way: Publish waits for
// room.
func ExampleWithAsyncWindow() {
	b, done := connect(jsbroker.WithAsyncWindow(2))
	defer done()

	var answers sync.WaitGroup
	for range 10 {
		answers.Add(1)
		must(b.Publish("frames.taken", &broker.Message{Body: make([]byte, 100<<10)}, jsbroker.Async(func(err error) {
			defer answers.Done()
			must(err)
		})))
	}
	answers.Wait()
	fmt.Println("all stored")
	// Output: all stored
}

// The error has the id that makes it safe to try again: whatever became of the
// first try, the message is stored once.
func ExamplePublishError() {
	b, done := connect()
	defer done()

	cancelled, cancel := context.WithCancel(context.Background())
	cancel()
	err := b.Publish("orders.created", message("4711"), broker.PublishContext(cancelled))
	if failed, ok := errors.AsType[*jsbroker.PublishError](err); ok {
		fmt.Println(failed.Topic, failed.Err)
		err = b.Publish(failed.Topic, message("4711"), jsbroker.MessageID(failed.MessageID))
	}
	fmt.Println(err)
	// Output:
	// orders.created not sent: context canceled
	// <nil>
}

// A label for metrics, from a closed set, however the error came about.
func ExampleReason() {
	b := jsbroker.NewBroker()
	fmt.Println(jsbroker.Reason(b.Publish("orders.created", message("4711"))))
	fmt.Println(jsbroker.Reason(b.Publish("orders.*", message("4711"))))
	fmt.Println(jsbroker.Reason(errors.New("something else")))
	// Output:
	// not_connected
	// invalid_topic
	// other
}

// A reminder that is sent tomorrow, unless the order is paid before.
func ExampleDeliverAt() {
	b, done := connect(jsbroker.WithHooks(jsbroker.Hooks{
		Published: func(_ context.Context, e jsbroker.Published) {
			fmt.Println(e.MessageID, "waits in", e.Stream)
		},
	}))
	defer done()

	tomorrow := time.Now().Add(24 * time.Hour)
	must(b.Publish("orders.unpaid", message("4711"), jsbroker.DeliverAt(tomorrow), jsbroker.MessageID("remind-4711")))
	// The order is paid:
	must(jsbroker.CancelDelivery(context.Background(), b, "orders.unpaid", "remind-4711"))
	fmt.Println("taken back")
	// Output:
	// remind-4711 waits in ORDERS-later
	// taken back
}

// A message that comes a moment later.
func ExampleDeliverAfter() {
	b, done := connect()
	defer done()

	got := make(chan time.Time, 1)
	_, err := b.Subscribe("orders.unpaid", func(broker.Event) error {
		got <- time.Now()
		return nil
	})
	must(err)
	begin := time.Now()
	must(b.Publish("orders.unpaid", message("4711"), jsbroker.DeliverAfter(time.Second)))
	fmt.Println("a second has passed:", (<-got).Sub(begin) >= time.Second)
	// Output: a second has passed: true
}

// It is too late to take back what was never there.
func ExampleCancelDelivery() {
	b, done := connect()
	defer done()

	err := jsbroker.CancelDelivery(context.Background(), b, "orders.unpaid", "remind-4711")
	fmt.Println(errors.Is(err, jsbroker.ErrNotScheduled))
	// Output: true
}

// A code that is of no use after five minutes.
func ExampleTTL() {
	b, done := connect()
	defer done()

	fmt.Println(b.Publish("codes.sent", message("123456"), jsbroker.TTL(5*time.Minute)))
	// Output: <nil>
}
