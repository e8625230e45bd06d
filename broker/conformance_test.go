package broker_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"go-micro.dev/v5"
	"go-micro.dev/v5/broker"
	"go-micro.dev/v5/client"
	"go-micro.dev/v5/registry"
	"go-micro.dev/v5/server"

	jsbroker "go-micro-jetstream/broker"
	"go-micro-jetstream/internal/natstest"
)

// The calls that a go-micro v5 service makes over its life, in its order, as
// recorded from go-micro v5.30.0.
func TestConformanceToTheLifeOfAService(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	b := jsbroker.NewBroker() // as cmd does: no options
	if b.String() != "jetstream" {
		t.Fatalf("String is %q", b.String())
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(b.Init(quiet()))
	must(b.Init(broker.Registry(registry.NewMemoryRegistry())))
	must(b.Init(broker.Addrs(s.ClientURL())))
	if err := b.Publish("orders", message("early")); !errors.Is(err, jsbroker.ErrNotConnected) {
		t.Fatalf("Publish before Connect: %v", err)
	}
	h, got := collector()
	if _, err := b.Subscribe("orders", h); !errors.Is(err, jsbroker.ErrNotConnected) {
		t.Fatalf("Subscribe before Connect: %v", err)
	}
	must(b.Disconnect()) // nothing to do
	for range 2 {
		must(b.Connect()) // the server
		must(b.Connect()) // the client
		if b.Address() != s.ClientURL() {
			t.Fatalf("Address is %q, want %q", b.Address(), s.ClientURL())
		}
		first := subscribe(t, b, "orders", h, broker.Queue("service"))
		second := subscribe(t, b, "orders.created", h, broker.Queue("service"))
		publish(t, b, "orders", "1")
		publish(t, b, "orders.created", "2")
		bodies := receive(t, got) + receive(t, got)
		if bodies != "12" && bodies != "21" {
			t.Fatalf("got %s", bodies)
		}
		if first.Topic() != "orders" || first.Options().Queue != "service" {
			t.Fatalf("subscriber %s %+v", first.Topic(), first.Options())
		}
		must(first.Unsubscribe())
		must(second.Unsubscribe())
		_ = b.Address()
		must(b.Disconnect())
		if b.Address() == "" {
			t.Fatal("no address when disconnected")
		}
	}
}

// Order is exported because go-micro wants the types of handlers so.
type Order struct{ ID string }

// newService returns a go-micro service that needs nothing but the broker.
func newService(t *testing.T, name string, b broker.Broker, more ...micro.Option) micro.Service {
	t.Helper()
	reg := registry.NewMemoryRegistry()
	service := micro.NewService(append([]micro.Option{
		micro.Name(name), micro.Broker(b), micro.Registry(reg),
		micro.Address("127.0.0.1:0"), micro.HandleSignal(false),
		micro.Client(client.NewClient(client.Broker(b), client.Registry(reg))),
		micro.Server(server.NewServer(server.Name(name), server.Broker(b), server.Registry(reg), server.Address("127.0.0.1:0"))),
	}, more...)...)
	return service
}

func TestGoMicroServicesPublishAndSubscribe(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	_, js := natsConn(t, s)
	paid := make(chan string, 10)
	orders := newService(t, "orders", jsbroker.NewBroker(broker.Addrs(s.ClientURL()), quiet()))
	payments := newService(t, "payments", jsbroker.NewBroker(broker.Addrs(s.ClientURL()), quiet(), soon()))
	failures := 0
	err := micro.RegisterSubscriber("orders.created", payments.Server(), func(_ context.Context, o *Order) error {
		switch failures++; failures {
		case 1:
			return errors.New("not yet")
		case 2:
			panic("go-micro recovers this one")
		}
		// What service.Name() does: it locks the server's mutex.
		_ = payments.Server().Options()
		paid <- o.ID
		return nil
	}, server.SubscriberQueue("payments"))
	if err != nil {
		t.Fatal(err)
	}
	if err := payments.Server().Start(); err != nil {
		t.Fatal(err)
	}
	// The client connects by itself on the first publish.
	if err := micro.NewEvent("orders.created", orders.Client()).Publish(context.Background(), &Order{ID: "42"}); err != nil {
		t.Fatal(err)
	}
	if id := receive(t, paid); id != "42" {
		t.Fatalf("got order %s", id)
	}
	eventually(t, "the order is acked", func() bool { return streamInfo(t, js, "ORDERS").State.Msgs == 0 })
	if name := natstest.ConsumerInfo(t, js, "ORDERS", "payments").Name; name != "payments" {
		t.Fatal(name)
	}
	stopped := make(chan error, 1)
	go func() { stopped <- payments.Server().Stop() }()
	noErr(t, receive(t, stopped))
	// Stop returns before it disconnects; a second Disconnect waits for it.
	if err := payments.Options().Broker.Disconnect(); err != nil {
		t.Fatal(err)
	}
	if err := orders.Options().Broker.Disconnect(); err != nil {
		t.Fatal(err)
	}
}

// A handler that needs the server's mutex, while Unsubscribe is called with
// that mutex held.
func TestStoppingAServiceWhoseHandlerRunsDoesNotDeadlock(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	_, js := natsConn(t, s)
	b := jsbroker.NewBroker(broker.Addrs(s.ClientURL()), quiet())
	service := newService(t, "slow", b)
	started, release := make(chan struct{}), make(chan struct{})
	err := micro.RegisterSubscriber("orders", service.Server(), func(context.Context, *Order) error {
		close(started)
		<-release
		_ = service.Server().Options()
		return nil
	}, server.SubscriberQueue("slow"))
	if err != nil {
		t.Fatal(err)
	}
	if err := service.Server().Start(); err != nil {
		t.Fatal(err)
	}
	if err := micro.NewEvent("orders", service.Client()).Publish(context.Background(), &Order{ID: "1"}); err != nil {
		t.Fatal(err)
	}
	receive(t, started)
	stopped := make(chan error, 1)
	go func() { stopped <- service.Server().Stop() }()
	eventually(t, "the subscription no longer pulls", func() bool { return natstest.ConsumerInfo(t, js, "ORDERS", "slow").NumWaiting == 0 })
	close(release)
	if err := receive(t, stopped); err != nil {
		t.Fatal(err)
	}
	if err := b.Disconnect(); err != nil {
		t.Fatal(err)
	}
	if n := streamInfo(t, js, "ORDERS").State.Msgs; n != 0 {
		t.Fatalf("the running handler's message was not acked: %d left", n)
	}
}

// go-micro registers the handler after Subscribe has returned. What is fetched
// before that is acknowledged without being handled, so a backlog must wait.
func TestServerRegistersItsHandlerBeforeTheFirstFetch(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	publisher := newBroker(t, s)
	if err := micro.NewEvent("orders", client.NewClient(client.Broker(publisher))).Publish(context.Background(), &Order{ID: "1"}); err != nil {
		t.Fatal(err)
	}
	fetched, onFetched := hookChan[jsbroker.Fetched]()
	begun, onStart := hookChan[time.Time]()
	b := jsbroker.NewBroker(broker.Addrs(s.ClientURL()), quiet(), jsbroker.WithHooks(jsbroker.Hooks{
		SubscriptionStart: func(ctx context.Context, _ jsbroker.SubscriptionStart) context.Context {
			onStart(ctx, time.Now())
			return ctx
		},
		Fetched: onFetched,
	}))
	service := newService(t, "orders", b)
	handled := make(chan time.Time, 1)
	if err := micro.RegisterSubscriber("orders", service.Server(), func(context.Context, *Order) error {
		handled <- time.Now()
		return nil
	}, server.SubscriberQueue("orders")); err != nil {
		t.Fatal(err)
	}
	if err := service.Server().Start(); err != nil {
		t.Fatal(err)
	}
	receive(t, fetched)
	if waited := receive(t, handled).Sub(receive(t, begun)); waited < 100*time.Millisecond {
		t.Fatalf("fetched after %v", waited)
	}
	if err := service.Server().Stop(); err != nil {
		t.Fatal(err)
	}
	if err := b.Disconnect(); err != nil {
		t.Fatal(err)
	}
}
