package broker_test

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"
	"go-micro.dev/v5"
	"go-micro.dev/v5/broker"
	"go-micro.dev/v5/client"
	"go-micro.dev/v5/metadata"
	microserver "go-micro.dev/v5/server"
	"google.golang.org/protobuf/types/known/wrapperspb"

	jsbroker "go-micro-jetstream/broker"
	"go-micro-jetstream/internal/natstest"
)

// noErr fails the test on an error.
func noErr(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// startService starts a service whose end waits for its broker, as
// docs/operations.md recommends.
func startService(t *testing.T, name string, b broker.Broker, register func(microserver.Server) error) micro.Service {
	t.Helper()
	service := newService(t, name, b, micro.AfterStop(b.Disconnect))
	noErr(t, register(service.Server()))
	noErr(t, service.Start())
	return service
}

// unconnected returns a broker as a go-micro service is given one.
func unconnected(s *server.Server, opts ...broker.Option) broker.Broker {
	return jsbroker.NewBroker(append([]broker.Option{broker.Addrs(s.ClientURL()), quiet()}, opts...)...)
}

// Desk is a subscriber with methods. go-micro runs each of them for each
// message.
type Desk struct{ got chan<- string }

// Print is one handler.
func (d *Desk) Print(_ context.Context, o *Order) error {
	d.got <- "print " + o.ID
	return nil
}

// Archive is another one.
func (d *Desk) Archive(_ context.Context, o *Order) error {
	d.got <- "archive " + o.ID
	return nil
}

func TestSubscribersOfAService(t *testing.T) {
	t.Parallel()
	kinds := map[string]struct {
		subscriber  func(got chan<- string) any
		contentType string
		payload     any
		want        []string
	}{
		"function, JSON": {
			func(got chan<- string) any {
				return func(_ context.Context, o *Order) error { got <- o.ID; return nil }
			}, "application/json", &Order{ID: "7"}, []string{"7"},
		},
		"function, JSON, by value": {
			func(got chan<- string) any {
				return func(_ context.Context, o Order) error { got <- o.ID; return nil }
			}, "application/json", Order{ID: "7"}, []string{"7"},
		},
		"struct, JSON": {
			func(got chan<- string) any { return &Desk{got} },
			"application/json", &Order{ID: "7"}, []string{"archive 7", "print 7"},
		},
		"function, protobuf": {
			func(got chan<- string) any {
				return func(_ context.Context, v *wrapperspb.StringValue) error { got <- v.Value; return nil }
			}, "application/protobuf", wrapperspb.String("7"), []string{"7"},
		},
		"function, protobuf as gRPC": {
			func(got chan<- string) any {
				return func(_ context.Context, v *wrapperspb.StringValue) error { got <- v.Value; return nil }
			}, "application/grpc+proto", wrapperspb.String("7"), []string{"7"},
		},
	}
	queues := map[string][]microserver.SubscriberOption{
		"queue":    {microserver.SubscriberQueue("workers")},
		"no queue": nil,
	}
	for name, k := range kinds {
		for queue, opts := range queues {
			t.Run(name+", "+queue, func(t *testing.T) {
				t.Parallel()
				s := startServer(t)
				_, js := natsConn(t, s)
				got := make(chan string, 100)
				// The second round is a restart: what the first has left on the
				// server must not be in its way.
				for range 2 {
					service := startService(t, "desk", unconnected(s), func(srv microserver.Server) error {
						return micro.RegisterSubscriber("orders.created", srv, k.subscriber(got), opts...)
					})
					c := service.Client()
					msg := c.NewMessage("orders.created", k.payload, client.WithMessageContentType(k.contentType))
					noErr(t, c.Publish(context.Background(), msg))
					var all []string
					for range k.want {
						all = append(all, receive(t, got))
					}
					slices.Sort(all)
					if !slices.Equal(all, k.want) {
						t.Fatalf("handled %q, want %q", all, k.want)
					}
					eventually(t, "the message is acked", func() bool { return streamInfo(t, js, "ORDERS").State.Msgs == 0 })
					noErr(t, service.Stop())
				}
				if len(got) > 0 {
					t.Fatalf("also handled %s", <-got)
				}
			})
		}
	}
}

// Whatever published a message, and whatever handles it.
func TestEveryWayToPublishReachesEverySubscriber(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	interest := jsbroker.WithStreamConfig(jetstream.StreamConfig{Retention: jetstream.InterestPolicy})
	got := make(chan string, 100)
	b := unconnected(s, interest)
	service := startService(t, "shop", b, func(srv microserver.Server) error {
		return micro.RegisterSubscriber("orders", srv, func(_ context.Context, o *Order) error {
			got <- "server " + o.ID
			return nil
		}, microserver.SubscriberQueue("server"))
	})
	defer func() { noErr(t, service.Stop()) }()
	subscribe(t, b, "orders", func(e broker.Event) error {
		got <- "direct " + strings.TrimSpace(string(e.Message().Body)) // the codec ends it with a new line
		return nil
	}, broker.Queue("direct"))

	c, ctx := service.Client(), context.Background()
	ways := []func(o *Order) error{
		func(o *Order) error { return micro.NewEvent("orders", c).Publish(ctx, o) },
		func(o *Order) error { return c.Publish(ctx, c.NewMessage("orders", o)) },
		func(o *Order) error {
			return b.Publish("orders", &broker.Message{
				Header: map[string]string{"Content-Type": "application/json"}, Body: fmt.Appendf(nil, `{"ID":%q}`, o.ID),
			})
		},
	}
	for i, way := range ways {
		id := strconv.Itoa(i)
		noErr(t, way(&Order{ID: id}))
		both := []string{receive(t, got), receive(t, got)}
		slices.Sort(both)
		if want := []string{`direct {"ID":"` + id + `"}`, "server " + id}; !slices.Equal(both, want) {
			t.Errorf("way %d: handled %q, want %q", i, both, want)
		}
	}
}

// Not parallel: the default broker is the process's.
func TestDefaultBroker(t *testing.T) {
	s := startServer(t)
	old := broker.DefaultBroker
	defer func() { broker.DefaultBroker = old }()
	broker.DefaultBroker = unconnected(s)
	noErr(t, broker.Init())
	noErr(t, broker.Connect())
	defer func() { noErr(t, broker.Disconnect()) }()
	h, got := collector()
	_, err := broker.Subscribe("orders", h, broker.Queue("q"))
	noErr(t, err)
	noErr(t, broker.Publish("orders", message("hello")))
	if body := receive(t, got); body != "hello" || broker.String() != "jetstream" {
		t.Fatalf("%s brought %q", broker.String(), body)
	}
}

// A handler's context holds the headers of its message, so the client sends
// them again with what the handler publishes. None of them may get in the way.
func TestPublishFromInsideASubscriberWithItsContext(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	// One stream for all topics: there a copied message id would be a duplicate.
	_, js := natsConn(t, s)
	_, err := js.CreateStream(testContext(t), jetstream.StreamConfig{Name: "ALL", Subjects: []string{"orders.>"}})
	noErr(t, err)
	type result struct{ id, tenant, topic string }
	got := make(chan result, 10)
	service := newService(t, "chain", unconnected(s))
	step := func(from, to string) {
		noErr(t, micro.RegisterSubscriber(from, service.Server(), func(ctx context.Context, o *Order) error {
			if to != "" {
				return micro.NewEvent(to, service.Client()).Publish(ctx, &Order{ID: o.ID + "+"})
			}
			md, _ := metadata.FromContext(ctx)
			got <- result{o.ID, md["Tenant"], md["Micro-Topic"]}
			return nil
		}, microserver.SubscriberQueue("chain")))
	}
	step("orders.created", "orders.paid")
	step("orders.paid", "orders.sent")
	step("orders.sent", "")
	noErr(t, service.Start())
	defer func() {
		noErr(t, service.Stop())
		noErr(t, service.Options().Broker.Disconnect())
	}()
	o := broker.PublishOptions{Context: context.Background()}
	jsbroker.MessageID("order-1")(&o)
	ctx := metadata.NewContext(context.Background(), metadata.Metadata{"Tenant": "a"})
	noErr(t, micro.NewEvent("orders.created", service.Client()).Publish(ctx, &Order{ID: "1"}, client.PublishContext(o.Context)))
	if r, want := receive(t, got), (result{"1++", "a", "orders.sent"}); r != want {
		t.Fatalf("got %+v, want %+v", r, want)
	}
}

// What is published before anybody has started waits in the stream.
func TestPublishBeforeTheServiceHasStarted(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	got := make(chan string, 10)
	b := unconnected(s)
	service := newService(t, "late", b, micro.AfterStop(b.Disconnect))
	noErr(t, micro.RegisterSubscriber("orders", service.Server(), func(_ context.Context, o *Order) error {
		got <- o.ID
		return nil
	}, microserver.SubscriberQueue("late")))
	orders := micro.NewEvent("orders", service.Client())
	for i := range 3 {
		noErr(t, orders.Publish(context.Background(), &Order{ID: strconv.Itoa(i)}))
	}
	noErr(t, service.Start())
	for i := range 3 {
		if id := receive(t, got); id != strconv.Itoa(i) {
			t.Fatalf("got order %s, want %d", id, i)
		}
	}
	noErr(t, service.Stop())
}

// Two brokers on two servers, and one more on the first: each service hears its
// own, and one that stops takes nothing of the others with it.
func TestSeveralBrokersInOneProcess(t *testing.T) {
	t.Parallel()
	one, two := startServer(t), startServer(t)
	got := make(chan string, 10)
	open := func(name string, s *server.Server, topic string) micro.Service {
		return startService(t, name, unconnected(s), func(srv microserver.Server) error {
			return micro.RegisterSubscriber(topic, srv, func(_ context.Context, o *Order) error {
				got <- name + " " + o.ID
				return nil
			}, microserver.SubscriberQueue("q"))
		})
	}
	a, b, c := open("a", one, "orders"), open("b", two, "orders"), open("c", one, "bills")
	say := func(from micro.Service, topic, id, want string) {
		t.Helper()
		noErr(t, micro.NewEvent(topic, from.Client()).Publish(context.Background(), &Order{ID: id}))
		if s := receive(t, got); s != want {
			t.Fatalf("handled by %q, want %q", s, want)
		}
	}
	say(a, "orders", "1", "a 1")
	say(b, "orders", "2", "b 2")
	say(a, "bills", "3", "c 3")
	noErr(t, a.Stop())
	say(b, "orders", "4", "b 4")
	say(c, "bills", "5", "c 5")
	noErr(t, b.Stop())
	noErr(t, c.Stop())
}

func TestTheServerRestartsWhileAServiceLives(t *testing.T) {
	t.Parallel()
	s := natstest.StartRestartable(t)
	got := make(chan string, 10)
	states, onChange := hookChan[jsbroker.ConnectionChanged]()
	b := unconnected(s.Server, jsbroker.WithHooks(jsbroker.Hooks{ConnectionChanged: onChange}))
	service := startService(t, "patient", b, func(srv microserver.Server) error {
		return micro.RegisterSubscriber("orders", srv, func(_ context.Context, o *Order) error {
			got <- o.ID
			return nil
		}, microserver.SubscriberQueue("patient"))
	})
	orders := micro.NewEvent("orders", service.Client())
	for _, id := range []string{"1", "2", "3"} {
		noErr(t, orders.Publish(context.Background(), &Order{ID: id}))
		if r := receive(t, got); r != id {
			t.Fatalf("got order %s, want %s", r, id)
		}
		if id == "3" {
			break
		}
		s.Stop()
		for receive(t, states).State != jsbroker.StateDisconnected {
			continue
		}
		s.Start(t) // the next publish waits for the connection
	}
	noErr(t, service.Stop())
}

// A service that stops finishes what it has begun and gives back the rest: all
// is handled, and nothing twice. With AfterStop(b.Disconnect) Stop returns only
// when that is done.
func TestStoppingAServiceWithMessagesInFlight(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	_, js := natsConn(t, s)
	const n = 20
	handled := make(chan string, 10*n)
	began, release := make(chan struct{}, 10*n), make(chan struct{})
	open := func(opts ...broker.Option) micro.Service {
		return startService(t, "workers", unconnected(s, opts...), func(srv microserver.Server) error {
			return micro.RegisterSubscriber("orders", srv, func(_ context.Context, o *Order) error {
				began <- struct{}{}
				<-release
				handled <- o.ID
				return nil
			}, microserver.SubscriberQueue("workers"))
		})
	}
	settled, onSettled := hookChan[jsbroker.Settled]()
	first := open(jsbroker.WithHooks(jsbroker.Hooks{Settled: onSettled}))
	orders := micro.NewEvent("orders", first.Client())
	for i := range n {
		noErr(t, orders.Publish(context.Background(), &Order{ID: strconv.Itoa(i)}))
	}
	receive(t, began)
	eventually(t, "more has been fetched than runs", func() bool { return natstest.ConsumerInfo(t, js, "ORDERS", "workers").NumAckPending > 1 })
	stopped := make(chan error, 1)
	go func() { stopped <- first.Stop() }()
	if e := receive(t, settled); !e.Returned { // so it has stopped taking messages
		t.Fatalf("settled %+v, want given back", e)
	}
	close(release)
	noErr(t, receive(t, stopped))
	if len(handled) != 1 || len(began) != 0 {
		t.Fatalf("Stop returned with %d handled and %d more begun, want the one that ran", len(handled), len(began))
	}
	eventually(t, "what ran is acked", func() bool { return streamInfo(t, js, "ORDERS").State.Msgs == n-1 })

	second := open()
	all := map[string]int{}
	for range n {
		all[receive(t, handled)]++
	}
	eventually(t, "all is acked", func() bool { return streamInfo(t, js, "ORDERS").State.Msgs == 0 })
	noErr(t, second.Stop())
	if len(all) != n || len(handled) != 0 {
		t.Fatalf("handled %v, want each of %d once; %d more", all, n, len(handled))
	}
}
