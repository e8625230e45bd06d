package docs_test

import (
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go-micro.dev/v5/broker"
	"go-micro.dev/v5/events"
	"go-micro.dev/v5/events/natsjs"

	jsbroker "go-micro-jetstream/broker"
	"go-micro-jetstream/internal/natstest"
)

// The functions of migration.md, for those who come from events/natsjs.

func publishEvent(stream events.Stream, order Order) error {
	return stream.Publish("orders", order)
}

func consumeEvents(stream events.Stream, bill func(Order) error) error {
	orders, err := stream.Consume("orders", events.WithGroup("payments"))
	if err != nil {
		return err
	}
	go func() {
		for event := range orders {
			var order Order
			if event.Unmarshal(&order) == nil {
				_ = bill(order) // it was acknowledged before
			}
		}
	}()
	return nil
}

func publishOrder(b broker.Broker, order Order) error {
	body, err := json.Marshal(order)
	if err != nil {
		return err
	}
	return b.Publish("order.created", &broker.Message{Body: body}, jsbroker.MessageID("order-created-"+order.ID))
}

func subscribeOrders(b broker.Broker, bill func(Order) error) (broker.Subscriber, error) {
	return b.Subscribe("order.created", func(e broker.Event) error {
		var order Order
		if err := json.Unmarshal(e.Message().Body, &order); err != nil {
			return jsbroker.Discard(err) // it will never be an order
		}
		return bill(order) // after an error the order comes back
	}, broker.Queue("payments"))
}

// carryOver publishes the events that natsjs stores, from a sequence of its stream on,
// to a topic of this broker.
func carryOver(b broker.Broker, from string, seq uint64, to string) (broker.Subscriber, error) {
	return b.Subscribe(from, func(e broker.Event) error {
		var event events.Event
		if err := json.Unmarshal(e.Message().Body, &event); err != nil {
			return jsbroker.Discard(err)
		}
		return b.Publish(to, &broker.Message{Header: event.Metadata, Body: event.Payload}, jsbroker.MessageID(event.ID))
	}, broker.Queue("carry-over"), jsbroker.ConsumerConfig(jetstream.ConsumerConfig{
		DeliverPolicy: jetstream.DeliverByStartSequencePolicy,
		OptStartSeq:   seq,
	}))
}

// And for those who come from watermill.

func publishBody(b broker.Broker, id string, body []byte) error {
	header := map[string]string{"_watermill_message_uuid": id} // for subscribers that still use watermill
	return b.Publish("orders", &broker.Message{Header: header, Body: body}, jsbroker.MessageID(id))
}

func subscribeFrom(b broker.Broker, seq uint64, bill func([]byte) error) (broker.Subscriber, error) {
	return b.Subscribe("orders", func(e broker.Event) error {
		return bill(e.Message().Body)
	}, broker.Queue("billing"), jsbroker.ConsumerConfig(jetstream.ConsumerConfig{
		DeliverPolicy: jetstream.DeliverByStartSequencePolicy, // not on a WorkQueue stream
		OptStartSeq:   seq,
	}))
}

// TestTheMigrationsAreTested: the Go code of each section of the page is in a test.
func TestTheMigrationsAreTested(t *testing.T) {
	page, err := os.ReadFile("migration.md")
	must(t, err)
	source := ""
	for _, file := range []string{"migration_test.go", "natsbroker_test.go"} {
		text, err := os.ReadFile(file)
		must(t, err)
		source += string(text)
	}
	for _, heading := range []string{"From go-micro's NATS broker", "From go-micro's events/natsjs", "From watermill"} {
		_, section, ok := strings.Cut(string(page), "\n## "+heading+"\n")
		section, _, _ = strings.Cut(section, "\n## ")
		code := goBlock.FindAllStringSubmatch(section, -1)
		if !ok || len(code) == 0 {
			t.Errorf("%q has no Go code", heading)
		}
		for _, c := range code {
			if !strings.Contains(source, c[1]) {
				t.Errorf("%s: no test has this code of the page:\n%s", heading, c[1])
			}
		}
	}
}

// handled returns the stream sequence up to which a consumer of another library has
// acknowledged everything, as nats consumer info shows it.
func handled(t *testing.T, url, stream, consumer string) uint64 {
	t.Helper()
	nc, _ := natstest.Connect(t, url)
	js, err := nc.JetStream()
	must(t, err)
	info, err := js.ConsumerInfo(stream, consumer)
	must(t, err)
	return info.AckFloor.Stream
}

func want(t *testing.T, got <-chan string, wanted ...string) {
	t.Helper()
	for _, w := range wanted {
		if g := natstest.Receive(t, got); g != w {
			t.Fatalf("got %q, want %q", g, w)
		}
	}
}

// It goes through the steps of the page, with events/natsjs itself.
func TestMigrationFromNatsjs(t *testing.T) {
	with := begin(t)
	open := func() events.Stream {
		stream, err := natsjs.NewStream(natsjs.Address(with.url), natsjs.SynchronousPublish(true))
		must(t, err)
		return stream
	}
	got := make(chan string, 100)
	by := func(who string) func(Order) error {
		return func(order Order) error {
			got <- who + " " + order.ID
			return nil
		}
	}
	publisher, subscriber := open(), open()
	defer func() { _ = publisher.(interface{ Close() error }).Close() }()
	must(t, consumeEvents(subscriber, by("old")))
	must(t, publishEvent(publisher, Order{ID: "1"}))
	must(t, publishEvent(publisher, Order{ID: "2"}))
	want(t, got, "old 1", "old 2")

	// The new subscribers start, and the old ones stop. Their last acknowledgement is out
	// before the next event is stored.
	_, err := subscribeOrders(with.b, by("new"))
	must(t, err)
	natstest.Eventually(t, "the old subscriber has acknowledged", func() bool { return handled(t, with.url, "orders", "payments") == 2 })
	must(t, subscriber.(interface{ Close() error }).Close())
	must(t, publishEvent(publisher, Order{ID: "3"}))

	carrying, err := carryOver(with.b, "orders", handled(t, with.url, "orders", "payments")+1, "order.created")
	must(t, err)
	want(t, got, "new 3")
	must(t, publishEvent(publisher, Order{ID: "4"}))
	want(t, got, "new 4")

	// A new publisher beside the old one.
	must(t, publishOrder(with.b, Order{ID: "5"}))
	want(t, got, "new 5")
	must(t, carrying.Unsubscribe())
	must(t, with.js.DeleteStream(with.ctx, "orders"))
	must(t, publishOrder(with.b, Order{ID: "6"}))
	want(t, got, "new 6")
}

// It goes through the steps of the page, with messages as watermill-nats sends them:
// on a stream that is named as the topic.
func TestMigrationFromWatermill(t *testing.T) {
	with := begin(t)
	nc, _ := natstest.Connect(t, with.url)
	js, err := nc.JetStream()
	must(t, err)
	natstest.MakeStream(t, with.js, jetstream.StreamConfig{Name: "orders", Subjects: []string{"orders"}})
	publish := func(id string) {
		t.Helper()
		m := nats.NewMsg("orders")
		m.Header.Set("_watermill_message_uuid", id)
		m.Data = []byte(id)
		_, err := js.PublishMsg(m)
		must(t, err)
	}
	old, err := js.PullSubscribe("orders", "workers")
	must(t, err)
	publish("1")
	msgs, err := old.Fetch(1)
	must(t, err)
	must(t, msgs[0].AckSync())
	publish("2")

	got := make(chan string, 100)
	_, err = subscribeFrom(with.b, handled(t, with.url, "orders", "workers")+1, func(body []byte) error {
		got <- string(body)
		return nil
	})
	must(t, err)
	want(t, got, "2")
	publish("3")
	must(t, publishBody(with.b, "4", []byte("4")))
	want(t, got, "3", "4")

	// watermill can read what this broker publishes.
	msgs, err = old.Fetch(3)
	must(t, err)
	if last := msgs[2]; last.Header.Get("_watermill_message_uuid") != "4" || string(last.Data) != "4" {
		t.Errorf("watermill would get %v %q", last.Header, last.Data)
	}
	must(t, js.DeleteConsumer("orders", "workers"))
}
