package broker_test

import (
	"strings"
	"testing"

	"github.com/nats-io/nats.go/jetstream"
	"go-micro.dev/v5/broker"

	jsbroker "go-micro-jetstream/broker"
	"go-micro-jetstream/internal/natstest"
)

// Tests of topics that no stream captures, and whose messages are in one all the same. A
// second stream beside it would stay empty, and nobody would say so.

// noSecond fails the test if there are other streams than these.
func noSecond(t *testing.T, js jetstream.JetStream, want ...string) {
	t.Helper()
	names := map[string]bool{}
	list := js.StreamNames(testContext(t))
	for name := range list.Name() {
		names[name] = true
	}
	for _, name := range want {
		delete(names, name)
	}
	if err := list.Err(); err != nil || len(names) > 0 {
		t.Errorf("there are also %v, %v", names, err)
	}
}

// A subject mapping of the account leads to another stream.
func TestSubjectMapping(t *testing.T) {
	t.Parallel()
	s := natstest.StartConfigured(t, `mappings: {"orders.*": "stored.$1"}`)
	_, js := natsConn(t, s)
	natstest.MakeStream(t, js, jetstream.StreamConfig{Name: "STORED", Subjects: []string{"stored.>"}})
	log := natstest.NewLog()
	b := newBroker(t, s, broker.Logger(log))
	_, err := b.Subscribe("orders.created", ignore, broker.Queue("workers"))
	wantError(t, err, jsbroker.ErrStreamMismatch, "STORED", "stored.>", "mapping", "subscribe to that subject")
	publish(t, b, "orders.created", "one")
	publish(t, b, "orders.created", "two")
	publish(t, b, "orders.paid", "three")
	_, err = b.Subscribe("orders.created", ignore, broker.Queue("workers"))
	wantError(t, err, jsbroker.ErrStreamMismatch, "STORED")
	handler, got := collector()
	subscribe(t, b, "stored.>", handler, broker.Queue("workers"))
	for _, want := range []string{"one", "two", "three"} {
		if body := receive(t, got); body != want {
			t.Errorf("got %q, want %q", body, want)
		}
	}
	noSecond(t, js, "STORED")
	if n := len(log.With("a subject mapping of the account leads there")); n != 2 { // for each topic
		t.Errorf("%d warnings:\n%s", n, log.Text())
	}
}

// A subject mapping leads away from the stream that captures the topic.
func TestSubjectMappingBesideTheTopicsStream(t *testing.T) {
	t.Parallel()
	s := natstest.StartConfigured(t, `mappings: {"orders.*": "stored.$1"}`)
	_, js := natsConn(t, s)
	natstest.MakeStream(t, js, jetstream.StreamConfig{Name: "STORED", Subjects: []string{"stored.>"}})
	natstest.MakeStream(t, js, jetstream.StreamConfig{Name: "ORDERS", Subjects: []string{"orders.>"}})
	log := natstest.NewLog()
	b := newBroker(t, s, broker.Logger(log))
	publish(t, b, "orders.created", "x")
	lines := log.With("subject mapping")
	if len(lines) != 1 || !strings.Contains(lines[0].Text, "by stream STORED, and not by stream ORDERS") || lines[0].Fields["topic"] != "orders.created" {
		t.Errorf("logged:\n%s", log.Text())
	}
}

// A stream without subjects of its own has the messages.
func TestStreamWithSourcesOnly(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	nc, js := natsConn(t, s)
	natstest.MakeStream(t, js, jetstream.StreamConfig{Name: "RAW", Subjects: []string{"raw.>"}})
	natstest.MakeStream(t, js, jetstream.StreamConfig{Name: "SUM", Sources: []*jetstream.StreamSource{
		{Name: "RAW", SubjectTransforms: []jetstream.SubjectTransformConfig{{Source: "raw.>", Destination: "orders.>"}}},
	}})
	b := newBroker(t, s)
	handler, got := collector()
	subscribe(t, b, "orders.created", handler, broker.Queue("workers"))
	if err := nc.Publish("raw.created", []byte("one")); err != nil {
		t.Fatal(err)
	}
	if body := receive(t, got); body != "one" {
		t.Errorf("got %q", body)
	}
	wantError(t, b.Publish("orders.created", message("two")), jsbroker.ErrStreamMismatch, "SUM", "fed by RAW")
	noSecond(t, js, "RAW", "SUM")
}

// The consumer of a mirror that is deleted is made again there.
func TestMirror(t *testing.T) {
	t.Parallel()
	hub := natstest.StartHub(t)
	leaf := natstest.StartLeaf(t, hub, natstest.LeafAddress(hub), withJetStream("leaf"))
	atHub := newBroker(t, hub.Server)
	publish(t, atHub, "orders.created", "one")
	_, js := natsConn(t, leaf.Server)
	natstest.MakeStream(t, js, jetstream.StreamConfig{Name: "COPY", Mirror: &jetstream.StreamSource{Name: "ORDERS", External: &jetstream.ExternalStream{APIPrefix: "$JS.hub.API"}}})
	eventually(t, "the mirror has the message", func() bool { return streamInfo(t, js, "COPY").State.Msgs == 1 })
	b := newBroker(t, leaf.Server, jsbroker.WithStreamName(func(string) string { return "COPY" }))
	handler, got := collector()
	for _, b := range []broker.Broker{b, newBroker(t, leaf.Server)} { // named, and found
		subscribe(t, b, "orders.created", handler, broker.Queue("workers"))
	}
	if body := receive(t, got); body != "one" {
		t.Errorf("got %q", body)
	}
	if err := js.DeleteConsumer(testContext(t), "COPY", "workers"); err != nil {
		t.Fatal(err)
	}
	publish(t, atHub, "orders.created", "two")
	for receive(t, got) != "two" { // a mirror keeps "one", which may come again
	}
	noSecond(t, js, "COPY")
}

// The stream of the hub hears what is published at the leaf node. With a stream of its own
// there, each message would be stored in both.
func TestStreamOfTheHub(t *testing.T) {
	t.Parallel()
	hub := natstest.StartHub(t)
	leaf := natstest.StartLeaf(t, hub, natstest.LeafAddress(hub), withJetStream("leaf"))
	publish(t, newBroker(t, hub.Server), "orders.created", "one")
	b := newBroker(t, leaf.Server)
	wantError(t, b.Publish("orders.created", message("two")), jsbroker.ErrStreamMismatch, "ORDERS", "WithDomain", "hub")
	_, err := b.Subscribe("orders.>", ignore, broker.Queue("workers"))
	wantError(t, err, jsbroker.ErrStreamMismatch, "ORDERS", "WithDomain")
	_, js := natsConn(t, leaf.Server)
	noSecond(t, js)
	publish(t, b, "invoices.made", "three")
	noSecond(t, js, "INVOICES")
}

// A mirror that may have anything does not keep others from their streams.
func TestMirrorThatHasNothingOfTheTopic(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	_, js := natsConn(t, s)
	natstest.MakeStream(t, js, jetstream.StreamConfig{Name: "RAW", Subjects: []string{"raw.>"}})
	natstest.MakeStream(t, js, jetstream.StreamConfig{Name: "COPY", Mirror: &jetstream.StreamSource{Name: "RAW"}})
	log := natstest.NewLog()
	b := newBroker(t, s, broker.Logger(log))
	handler, got := collector()
	subscribe(t, b, "orders.created", handler, broker.Queue("workers"))
	publish(t, b, "orders.created", "one")
	receive(t, got)
	if len(log.With("COPY (a mirror of RAW)")) != 1 {
		t.Errorf("no line:\n%s", log.Text())
	}
}
