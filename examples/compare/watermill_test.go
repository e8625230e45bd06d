package main

import (
	"context"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	wmnats "github.com/ThreeDotsLabs/watermill-nats/v2/pkg/nats"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/nats-io/nats.go"
	"go-micro.dev/v5/broker"

	jsbroker "go-micro-jetstream/broker"
	"go-micro-jetstream/examples/natsserver"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestWatermill: watermill and this broker understand each other's messages, on one
// topic, as docs/migration.md says.
func TestWatermill(t *testing.T) {
	s, err := natsserver.Start()
	must(t, err)
	defer s.Stop()
	js := wmnats.JetStreamConfig{
		AutoProvision:    true,
		DurablePrefix:    "workers",
		SubscribeOptions: []nats.SubOpt{nats.DeliverAll(), nats.AckExplicit()},
	}
	pub, err := wmnats.NewPublisher(wmnats.PublisherConfig{URL: s.URL(), JetStream: js}, watermill.NopLogger{})
	must(t, err)
	defer func() { _ = pub.Close() }()
	sub, err := wmnats.NewSubscriber(wmnats.SubscriberConfig{URL: s.URL(), JetStream: js, QueueGroupPrefix: "workers"}, watermill.NopLogger{})
	must(t, err)
	defer func() { _ = sub.Close() }()
	theirs, err := sub.Subscribe(context.Background(), "orders") // creates the stream
	must(t, err)

	b := jsbroker.NewBroker(broker.Addrs(s.URL()))
	must(t, b.Connect())
	defer func() { _ = b.Disconnect() }()
	ours := make(chan *broker.Message, 10)
	if _, err := b.Subscribe("orders", func(e broker.Event) error {
		ours <- e.Message()
		return nil
	}, broker.Queue("billing")); err != nil {
		t.Fatal(err)
	}

	m := message.NewMessage("4711", []byte("from watermill"))
	m.Metadata.Set("customer", "7")
	must(t, pub.Publish("orders", m))
	got := receive(t, ours)
	if string(got.Body) != "from watermill" || got.Header["customer"] != "7" || got.Header["_watermill_message_uuid"] != "4711" {
		t.Errorf("got %v %q", got.Header, got.Body)
	}
	first := receive(t, theirs)
	first.Ack()

	header := map[string]string{"_watermill_message_uuid": "4712", "customer": "8"}
	if err := b.Publish("orders", &broker.Message{Header: header, Body: []byte("from here")}, jsbroker.MessageID("4712")); err != nil {
		t.Fatal(err)
	}
	second := receive(t, theirs)
	second.Ack()
	if second.UUID != "4712" || string(second.Payload) != "from here" || second.Metadata.Get("customer") != "8" {
		t.Errorf("watermill gets %q %v %q", second.UUID, second.Metadata, second.Payload)
	}
}

func receive[T any](t *testing.T, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(patience):
		t.Fatal("nothing has come")
	}
	var none T
	return none
}
