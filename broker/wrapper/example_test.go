package wrapper_test

import (
	"context"
	"errors"
	"fmt"

	"go-micro.dev/v5"
	"go-micro.dev/v5/broker"
	"go-micro.dev/v5/client"
	"go-micro.dev/v5/registry"
	"go-micro.dev/v5/server"

	jsbroker "go-micro-jetstream/broker"
	"go-micro-jetstream/broker/wrapper"
	"go-micro-jetstream/examples/natsserver"
)

// start is micro.NewService and Start of a service with both wrappers and one
// subscriber, with a nats-server for this example alone. What it returns second
// ends both.
func start(handler any, hooks ...jsbroker.Hooks) (service micro.Service, done func()) {
	return startWith(handler, nil, hooks...)
}

// startWith is start with options of the subscriber.
func startWith(handler any, opts []server.SubscriberOption, hooks ...jsbroker.Hooks) (service micro.Service, done func()) {
	nats, err := natsserver.Start()
	must(err)
	b := jsbroker.NewBroker(broker.Addrs(nats.URL()), broker.Logger(quiet()), jsbroker.WithHooks(hooks...))
	reg := registry.NewMemoryRegistry()
	service = micro.NewService(
		micro.Name("payments"),
		micro.Server(server.NewServer(server.Broker(b), server.Registry(reg), server.Address("127.0.0.1:0"), server.WithLogger(quiet()))),
		micro.Client(client.NewClient(client.Broker(b), client.Registry(reg), client.ContentType("application/json"))),
		micro.Registry(reg),
		micro.HandleSignal(false),
		micro.Broker(b),
		micro.WrapSubscriber(wrapper.Subscriber(b)), // the first of several
		micro.WrapClient(wrapper.Client()),          // the last of several
		micro.AfterStop(b.Disconnect),
	)
	must(micro.RegisterSubscriber("orders.created", service.Server(), handler, append(opts, server.SubscriberQueue("payments"))...))
	must(service.Start())
	return service, func() {
		must(service.Stop())
		nats.Stop()
	}
}

// must is for what does not fail here. Programs have something better to do.
func must(err error) {
	if err != nil {
		panic(err)
	}
}

// In a handler of a go-micro service, Discard and RetryAfter mean what they mean
// in a handler of the broker. Without the wrapper they are errors like others.
func ExampleSubscriber() {
	handled := make(chan jsbroker.Handled, 1)
	service, done := start(func(context.Context, *Order) error {
		return jsbroker.Discard(errors.New("no such customer"))
	}, jsbroker.Hooks{
		Handled: func(_ context.Context, e jsbroker.Handled) { handled <- e },
	})
	defer done()

	must(micro.NewEvent("orders.created", service.Client()).Publish(context.Background(), &Order{ID: "4711"}))
	e := <-handled
	fmt.Println(e.Result, e.Err)
	// Output: term no such customer
}

// What go-micro does not tell a handler stands in the broker's event.
func ExampleEvent() {
	seen := make(chan string)
	service, done := start(func(ctx context.Context, o *Order) error {
		e := wrapper.Event(ctx)
		seen <- fmt.Sprintf("%s from %s, delivery %d", o.ID, e.Topic(), jsbroker.NumDelivered(e))
		return nil
	})
	defer done()

	must(micro.NewEvent("orders.created", service.Client()).Publish(context.Background(), &Order{ID: "4711"}))
	fmt.Println(<-seen)
	// Output: 4711 from orders.created, delivery 1
}

// The context of a publish reaches the broker: its deadline, its cancellation and
// its span. Without the wrapper go-micro passes on the metadata alone.
func ExampleClient() {
	service, done := start(func(context.Context, *Order) error { return nil })
	defer done()

	cancelled, cancel := context.WithCancel(context.Background())
	cancel()
	err := micro.NewEvent("orders.created", service.Client()).Publish(cancelled, &Order{ID: "4711"})
	fmt.Println(errors.Is(err, context.Canceled))
	// Output: true
}

// What the broker can do reaches it through go-micro's client, too: the second
// publish of an order is no second order.
func ExamplePublishOptions() {
	seen := make(chan string, 2)
	service, done := start(func(_ context.Context, o *Order) error {
		seen <- o.ID
		return nil
	})
	defer done()

	event := micro.NewEvent("orders.created", service.Client())
	for _, id := range []string{"4711", "4711", "4712"} {
		must(event.Publish(context.Background(), &Order{ID: id}, wrapper.PublishOptions(jsbroker.MessageID("orders.created "+id))))
	}
	fmt.Println(<-seen, <-seen)
	// Output: 4711 4712
}

// Two handlers of one subscriber at a time.
func ExampleSubscriberOptions() {
	began, release := make(chan struct{}), make(chan struct{})
	service, done := startWith(func(context.Context, *Order) error {
		began <- struct{}{}
		<-release
		return nil
	}, []server.SubscriberOption{wrapper.SubscriberOptions(jsbroker.Concurrency(2))})
	defer done()

	event := micro.NewEvent("orders.created", service.Client())
	must(event.Publish(context.Background(), &Order{ID: "4711"}))
	must(event.Publish(context.Background(), &Order{ID: "4712"}))
	<-began
	<-began
	close(release)
	fmt.Println("two at a time")
	// Output: two at a time
}
