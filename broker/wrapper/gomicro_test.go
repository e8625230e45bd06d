package wrapper_test

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"go-micro.dev/v5"
	"go-micro.dev/v5/broker"
	"go-micro.dev/v5/client"
	grpcclient "go-micro.dev/v5/client/grpc"
	"go-micro.dev/v5/registry"
	"go-micro.dev/v5/server"
	"go-micro.dev/v5/server/grpc"

	jsbroker "go-micro-jetstream/broker"
	"go-micro-jetstream/broker/wrapper"
	"go-micro-jetstream/internal/natstest"
)

// Tests that a service which never touches the broker's interface can use the
// broker's options.

// shop is a go-micro service of one kind: both its server and its client are of
// go-micro's RPC, or both of gRPC.
type shop struct {
	broker broker.Broker
	server server.Server
	client client.Client
}

func eachShop(t *testing.T, test func(t *testing.T, s *shop)) {
	t.Helper()
	for name, kind := range map[string]struct {
		server newServer
		client func(...client.Option) client.Client
	}{"rpc": {server.NewServer, client.NewClient}, "grpc": {grpc.NewServer, grpcclient.NewClient}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := jsbroker.NewBroker(broker.Addrs(natstest.Start(t).ClientURL()), broker.Logger(quiet()))
			reg := registry.NewMemoryRegistry()
			test(t, &shop{
				broker: b,
				server: kind.server(server.Name("shop"), server.Address("127.0.0.1:0"), server.Broker(b), server.Registry(reg),
					server.WithLogger(quiet()), server.WrapSubscriber(wrapper.Subscriber(b))),
				client: wrapper.Client()(kind.client(client.Broker(b), client.Registry(reg), client.ContentType("application/json"))),
			})
		})
	}
}

func (s *shop) start(t *testing.T) {
	t.Helper()
	noErr(t, s.server.Start())
	t.Cleanup(func() {
		noErr(t, s.server.Stop())
		_ = s.broker.Disconnect()
	})
}

// arrival is an order with the time when its handler began.
type arrival struct {
	id string
	at time.Time
}

func TestOptionsOfAPublishThroughGoMicro(t *testing.T) {
	t.Parallel()
	eachShop(t, func(t *testing.T, s *shop) {
		got := make(chan arrival, 100)
		paid := micro.NewEvent("orders.paid", s.client)
		noErr(t, micro.RegisterSubscriber("orders.created", s.server, func(ctx context.Context, o *Order) error {
			got <- arrival{o.ID, time.Now()}
			// go-micro copies the headers of what was delivered into this one.
			return paid.Publish(ctx, o, wrapper.PublishOptions(jsbroker.DeliverAfter(100*time.Millisecond), jsbroker.TTL(time.Hour)))
		}, server.SubscriberQueue("shop")))
		paidFor := make(chan arrival, 100)
		noErr(t, micro.RegisterSubscriber("orders.paid", s.server, func(_ context.Context, o *Order) error {
			paidFor <- arrival{o.ID, time.Now()}
			return nil
		}, server.SubscriberQueue("shop")))
		s.start(t)

		ctx := natstest.Context(t)
		created := micro.NewEvent("orders.created", s.client)
		at := time.Now().Add(3 * time.Second)
		later := wrapper.PublishOptions(jsbroker.DeliverAt(at), jsbroker.MessageID("later"), jsbroker.TTL(time.Hour))
		for range 2 { // the second one is a duplicate
			noErr(t, created.Publish(ctx, &Order{"later"}, later))
		}
		noErr(t, created.Publish(ctx, &Order{"never"}, wrapper.PublishOptions(jsbroker.DeliverAfter(time.Hour), jsbroker.MessageID("never"))))
		noErr(t, jsbroker.CancelDelivery(ctx, s.broker, "orders.created", "never"))
		stored := make(chan error, 1)
		for range 2 {
			noErr(t, s.client.Publish(ctx, s.client.NewMessage("orders.created", &Order{"now"}),
				client.PublishContext(ctx), wrapper.PublishOptions(jsbroker.MessageID("now"), jsbroker.Async(func(err error) { stored <- err }))))
			noErr(t, natstest.Receive(t, stored))
		}
		for _, id := range []string{"now", "later"} {
			if a := natstest.Receive(t, got); a.id != id || id == "later" && a.at.Before(at) {
				t.Errorf("got %q, want %q; early by %v", a.id, id, at.Sub(a.at))
			}
			if a := natstest.Receive(t, paidFor); a.id != id {
				t.Errorf("paid for %q, want %q", a.id, id)
			}
		}
		err := created.Publish(ctx, &Order{"x"}, wrapper.PublishOptions(jsbroker.TTL(time.Millisecond)))
		natstest.WantError(t, err, jsbroker.ErrInvalidConfig, "TTL")
		noErr(t, created.Publish(ctx, &Order{"end"}))
		if a := natstest.Receive(t, got); a.id != "end" {
			t.Errorf("%q is a second delivery", a.id)
		}
	})
}

func TestOptionsOfASubscriberThroughGoMicro(t *testing.T) {
	t.Parallel()
	const keys, each, concurrency = 8, 5, 4
	eachShop(t, func(t *testing.T, s *shop) {
		var mu sync.Mutex
		handled := map[string][]int{}
		running, most := 0, 0
		done := make(chan string, keys*each)
		noErr(t, micro.RegisterSubscriber("orders.>", s.server, func(ctx context.Context, o *Order) error {
			e := wrapper.Event(ctx)
			mu.Lock()
			running++
			most = max(most, running)
			mu.Unlock()
			time.Sleep(5 * time.Millisecond)
			mu.Lock()
			defer mu.Unlock()
			running--
			if o.ID == "1" && jsbroker.NumDelivered(e) == 1 {
				return jsbroker.RetryAfter(200*time.Millisecond, fmt.Errorf("not yet"))
			}
			n, err := strconv.Atoi(o.ID)
			handled[e.Topic()] = append(handled[e.Topic()], n)
			done <- e.Topic()
			return err
		}, server.SubscriberQueue("shop"), wrapper.SubscriberOptions(
			jsbroker.Concurrency(concurrency), jsbroker.OrderBy(func(e broker.Event) string { return e.Topic() }))))
		for n := range each { // all are there before the first is handled

			for key := range keys {
				topic := fmt.Sprintf("orders.%d", key)
				noErr(t, s.client.Publish(natstest.Context(t), s.client.NewMessage(topic, &Order{strconv.Itoa(n)})))
			}
		}
		s.start(t)
		for range keys * each {
			natstest.Receive(t, done)
		}
		mu.Lock()
		defer mu.Unlock()
		for topic, order := range handled {
			if !slices.IsSorted(order) || len(order) != each {
				t.Errorf("%s: %v", topic, order)
			}
		}
		if len(handled) != keys || most > concurrency || most < 2 {
			t.Errorf("%d keys, %d handlers at a time", len(handled), most)
		}
	})
}
