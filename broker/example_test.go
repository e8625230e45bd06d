package broker_test

import (
	"context"
	"errors"
	"fmt"

	"go-micro.dev/v5/broker"

	jsbroker "go-micro-jetstream/broker"
	"go-micro-jetstream/examples/natsserver"
)

// connect is NewBroker and Connect, with a nats-server for this example alone.
// What it returns second ends both.
func connect(opts ...broker.Option) (b broker.Broker, done func()) {
	nats, err := natsserver.Start()
	must(err)
	b = jsbroker.NewBroker(append([]broker.Option{broker.Addrs(nats.URL()), quiet()}, opts...)...)
	must(b.Connect())
	return b, func() {
		must(b.Disconnect()) // waits for what is under way
		nats.Stop()
	}
}

// must is for what does not fail here. Programs have something better to do.
func must(err error) {
	if err != nil {
		panic(err)
	}
}

// Publish returns when the stream has stored the message, and the handler's nil
// says that it is done with.
func Example() {
	b, done := connect()
	defer done()

	orders := make(chan string)
	_, err := b.Subscribe("orders.created", func(e broker.Event) error {
		orders <- string(e.Message().Body)
		return nil
	}, broker.Queue("payments"))
	must(err)

	must(b.Publish("orders.created", &broker.Message{Body: []byte("4711")}))
	fmt.Println("charging order", <-orders)
	// Output: charging order 4711
}

// A broker for several servers of one cluster. NewBroker does not connect; wrong
// options are an error of Connect.
func ExampleNewBroker() {
	b := jsbroker.NewBroker(
		broker.Addrs("nats-1.example.com:4222", "nats-2.example.com:4222"),
		jsbroker.WithBatchSize(-1),
	)
	err := b.Connect()
	fmt.Println(b.String(), errors.Is(err, jsbroker.ErrInvalidConfig))
	fmt.Println(err)
	// Output:
	// jetstream true
	// jetstream: invalid configuration: WithBatchSize(-1): want at least 1
}

// A hook is a struct of functions; set those that you need. This one keeps an
// account of what became of each delivery.
func ExampleHooks() {
	account := make(chan string, 1)
	b, done := connect(jsbroker.WithHooks(jsbroker.Hooks{
		Handled: func(_ context.Context, e jsbroker.Handled) {
			account <- fmt.Sprintf("%s: %s for %s, delivery %d", e.Result, e.Subject, e.Queue, e.NumDelivered)
		},
	}))
	defer done()

	_, err := b.Subscribe("orders.*", ignore, broker.Queue("payments"))
	must(err)
	must(b.Publish("orders.created", message("4711")))
	fmt.Println(<-account)
	// Output: ack: orders.created for payments, delivery 1
}
