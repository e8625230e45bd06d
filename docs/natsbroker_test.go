package docs_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"
	"go-micro.dev/v5"
	"go-micro.dev/v5/broker"
	natsbroker "go-micro.dev/v5/broker/nats"
	microregistry "go-micro.dev/v5/registry"
	microserver "go-micro.dev/v5/server"
	"google.golang.org/protobuf/types/known/wrapperspb"

	jsbroker "go-micro-jetstream/broker"
	"go-micro-jetstream/internal/natstest"
)

// What migration.md says of go-micro's NATS broker.

func newBroker(t *testing.T, url string) broker.Broker {
	t.Helper()
	return connect(t, jsbroker.NewBroker(broker.Addrs(url)))
}

func oldBroker(t *testing.T, url string) broker.Broker {
	t.Helper()
	return connect(t, natsbroker.NewNatsBroker(broker.Addrs(url)))
}

// subscribed waits until there are so many subscriptions to a subject in the
// account: go-micro's NATS broker returns from Subscribe before the server knows.
func subscribed(t *testing.T, s *server.Server, account, subject string, n int) {
	t.Helper()
	natstest.Eventually(t, fmt.Sprintf("%d subscriptions to %s", n, subject), func() bool {
		subs, err := s.Subsz(&server.SubszOptions{Account: account, Subscriptions: true})
		if err != nil {
			t.Fatal(err)
		}
		found := 0
		for _, sub := range subs.Subs {
			if sub.Subject == subject {
				found++
			}
		}
		return found == n
	})
}

// service runs a go-micro service with one subscriber.
func service(t *testing.T, b broker.Broker, queue string, handler any) {
	t.Helper()
	reg := microregistry.NewMemoryRegistry()
	s := micro.NewService(
		micro.Name(queue), micro.Broker(b), micro.Registry(reg), micro.HandleSignal(false),
		micro.Server(microserver.NewServer(microserver.Name(queue), microserver.Broker(b), microserver.Registry(reg),
			microserver.Address("127.0.0.1:0"), microserver.WithLogger(natstest.Quiet()))),
	)
	if err := micro.RegisterSubscriber("orders.created", s.Server(), handler, microserver.SubscriberQueue(queue)); err != nil {
		t.Fatal(err)
	}
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Stop() })
}

// Order is what the services of the tests handle.
// An old publisher and a new subscriber on one subject: the stream takes the
// JSON envelope for a message, without headers, and a go-micro handler never
// gets it.
func TestOldPublisherNewSubscriber(t *testing.T) {
	s := natstest.Start(t)
	letters := newBroker(t, s.ClientURL())
	got := make(chan *broker.Message, 10)
	if _, err := letters.Subscribe("dead.orders", func(e broker.Event) error { got <- e.Message(); return nil }, broker.Queue("audit")); err != nil {
		t.Fatal(err)
	}
	log := natstest.NewLog()
	b := jsbroker.NewBroker(broker.Addrs(s.ClientURL()), broker.Logger(log), jsbroker.WithDeadLetter("dead.orders"),
		jsbroker.WithConsumerConfig(jetstream.ConsumerConfig{MaxDeliver: 1}))
	t.Cleanup(func() { _ = b.Disconnect() })
	service(t, b, "payments", func(context.Context, *Order) error {
		t.Error("the handler was called")
		return nil
	})

	old := oldBroker(t, s.ClientURL())
	sent := &broker.Message{Header: map[string]string{"Content-Type": "application/json"}, Body: []byte(`{"ID":"1"}`)}
	if err := old.Publish("orders.created", sent); err != nil {
		t.Fatal(err)
	}
	letter := natstest.Receive(t, got)
	var envelope broker.Message
	if err := json.Unmarshal(letter.Body, &envelope); err != nil || string(envelope.Body) != `{"ID":"1"}` || envelope.Header["Content-Type"] != "application/json" {
		t.Fatalf("the dead letter is %s, want the envelope", letter.Body)
	}
	if letter.Header["Content-Type"] != "" {
		t.Error("the envelope has got a Content-Type")
	}
	if len(log.With("no Content-Type header")) == 0 {
		t.Errorf("the log does not say why the handler failed: %v", log.With("handler failed"))
	}
}

// A new publisher and an old subscriber on one subject: the body is taken for
// the envelope. A JSON object gives a message that is empty, and a handler for
// protobuf gets an empty one. What is not JSON is dropped.
func TestNewPublisherOldSubscriber(t *testing.T) {
	s := natstest.Start(t)
	old := oldBroker(t, s.ClientURL())
	got := make(chan *broker.Message, 10)
	if _, err := old.Subscribe("orders.*", func(e broker.Event) error { got <- e.Message(); return nil }); err != nil {
		t.Fatal(err)
	}
	handled := make(chan string, 10)
	for queue, handler := range map[string]any{
		"protobuf": func(_ context.Context, v *wrapperspb.StringValue) error { handled <- v.Value; return nil },
		"JSON":     func(context.Context, *Order) error { t.Error("the handler for JSON was called"); return nil },
	} {
		// The service disconnects it.
		service(t, natsbroker.NewNatsBroker(broker.Addrs(s.ClientURL()), broker.Logger(natstest.Quiet())), queue, handler)
	}
	subscribed(t, s, "$G", "orders.*", 1)
	subscribed(t, s, "$G", "orders.created", 2)

	b := newBroker(t, s.ClientURL())
	for _, body := range []string{"not JSON", `{"id":"1"}`} {
		m := &broker.Message{Header: map[string]string{"Content-Type": "application/json"}, Body: []byte(body)}
		if err := b.Publish("orders.created", m); err != nil {
			t.Fatal(err)
		}
	}
	if m := natstest.Receive(t, got); len(m.Body) != 0 || len(m.Header) != 0 {
		t.Fatalf("got %q with %v, want an empty message", m.Body, m.Header)
	}
	if v := natstest.Receive(t, handled); v != "" {
		t.Fatalf("the handler got %q, want an empty message", v)
	}
	if len(got) > 0 {
		t.Fatalf("also got %q", (<-got).Body)
	}
}

// bridge joins the queue on one side, and publishes what it gets to the other side.
func bridge(from, to broker.Broker, topic, queue string) (broker.Subscriber, error) {
	return from.Subscribe(topic, func(e broker.Event) error {
		return to.Publish(e.Topic(), e.Message())
	}, broker.Queue(queue))
}

// The migration of a topic in the order of docs/migration.md, and the way back. At each
// step what old and new publishers send is handled once.
func TestMigration(t *testing.T) {
	page, err := os.ReadFile("migration.md")
	must(t, err)
	_, conf, ok := strings.Cut(string(page), "\n```text\naccounts:")
	conf, _, _ = strings.Cut(conf, "\n```")
	if !ok {
		t.Fatal("the page has no accounts")
	}
	s := configured(t, "accounts:"+conf)
	url := func(user string) string { return strings.Replace(s.ClientURL(), "://", "://"+user+":secret@", 1) }
	old, newer := oldBroker(t, url("old")), newBroker(t, url("new"))

	handled := make(chan string, 100)
	handler := func(by string) broker.Handler {
		return func(e broker.Event) error {
			if e.Message().Header["Tenant"] != "a" {
				t.Error("a header is missing")
			}
			handled <- by + " handles " + string(e.Message().Body)
			return nil
		}
	}
	started := func(sub broker.Subscriber, err error) broker.Subscriber {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return sub
	}
	subscribe := func(b broker.Broker, by string) broker.Subscriber {
		t.Helper()
		return started(b.Subscribe("orders.created", handler(by), broker.Queue("payments")))
	}
	publish := func(b broker.Broker, body string) {
		t.Helper()
		if err := b.Publish("orders.created", &broker.Message{Header: map[string]string{"Tenant": "a"}, Body: []byte(body)}); err != nil {
			t.Fatal(err)
		}
	}
	// step publishes on the sides, and wants each message handled once, by one
	// of these.
	step := func(name string, from []broker.Broker, by ...string) {
		t.Helper()
		const n = 20
		want := map[string]bool{}
		for i := range n {
			for j, b := range from {
				body := fmt.Sprintf("%s %d %d", name, i, j)
				publish(b, body)
				want[body] = true
			}
		}
		for range n * len(from) {
			who, body, _ := strings.Cut(natstest.Receive(t, handled), " handles ")
			if !want[body] || !strings.Contains(strings.Join(by, " "), who) {
				t.Fatalf("%s: %s handles %q, want each once, by %v", name, who, body, by)
			}
			delete(want, body)
		}
	}
	stop := func(subs ...broker.Subscriber) {
		t.Helper()
		for _, sub := range subs {
			if err := sub.Unsubscribe(); err != nil {
				t.Fatal(err)
			}
		}
	}

	oldSub := subscribe(old, "old")
	subscribed(t, s, "OLD", "orders.created", 1)
	step("before", []broker.Broker{old}, "old")
	back := started(bridge(newer, old, "orders.created", "payments"))
	step("a publisher has moved", []broker.Broker{old, newer}, "old")

	newSub := subscribe(newer, "new")
	stop(back)
	forth := started(bridge(old, newer, "orders.created", "payments"))
	subscribed(t, s, "OLD", "orders.created", 2)
	step("both subscribers", []broker.Broker{old, newer}, "old", "new")
	stop(oldSub)
	subscribed(t, s, "OLD", "orders.created", 1)
	step("the subscriber has moved", []broker.Broker{old, newer}, "new")
	stop(forth)
	subscribed(t, s, "OLD", "orders.created", 0)
	step("after", []broker.Broker{newer}, "new")

	// And back, with messages in the stream that nobody has handled.
	stop(newSub)
	for i := range 3 {
		publish(newer, fmt.Sprint("waits ", i))
	}
	oldSub = subscribe(old, "old")
	subscribed(t, s, "OLD", "orders.created", 1)
	back = started(bridge(newer, old, "orders.created", "payments"))
	for range 3 {
		if who := natstest.Receive(t, handled); !strings.HasPrefix(who, "old handles waits ") {
			t.Fatal(who)
		}
	}
	step("back", []broker.Broker{old, newer}, "old")
	stop(back, oldSub)
	if len(handled) > 0 {
		t.Fatalf("also %s", <-handled)
	}
}
