package consumers_test

import (
	"context"
	"log/slog"
	"os"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"go-micro-jetstream/broker/internal/asset"
	"go-micro-jetstream/broker/internal/consumers"
	"go-micro-jetstream/broker/internal/link"
	"go-micro-jetstream/broker/internal/streams"
	"go-micro-jetstream/internal/natstest"
)

// TestMain also fails the run if a goroutine outlives the tests.
func TestMain(m *testing.M) { os.Exit(natstest.Main(m)) }

// bench is a server, the consumers under test, and a client that does what users
// do beside the broker.
type bench struct {
	*consumers.Consumers
	streams *streams.Streams
	js      jetstream.JetStream
	url     string
	log     natstest.LogLines
	ctx     context.Context
}

func newBench(t *testing.T) *bench {
	t.Helper()
	s := natstest.Start(t)
	b := &bench{url: s.ClientURL(), log: make(natstest.LogLines, 100), ctx: natstest.Context(t)}
	_, b.js = natstest.Connect(t, s.ClientURL())
	b.Consumers, b.streams = b.another(t)
	return b
}

// another makes one more connection, as a replica does.
func (b *bench) another(t *testing.T) (*consumers.Consumers, *streams.Streams) {
	t.Helper()
	conn := link.New(link.Config{Servers: []string{b.url}, Log: slog.New(slog.NewTextHandler(b.log, nil))})
	if err := conn.Dial(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	ss := streams.New(conn)
	return consumers.New(conn, ss), ss
}

func (b *bench) makeStream(t *testing.T, name string, subjects ...string) {
	t.Helper()
	natstest.MakeStream(t, b.js, jetstream.StreamConfig{Name: name, Subjects: subjects})
}

func (b *bench) makeConsumer(t *testing.T, stream string, cfg jetstream.ConsumerConfig) {
	t.Helper()
	cfg.AckPolicy = jetstream.AckExplicitPolicy
	natstest.MakeConsumer(t, b.js, stream, cfg)
}

func (b *bench) deleteStream(t *testing.T, name string) {
	t.Helper()
	if err := b.js.DeleteStream(b.ctx, name); err != nil {
		t.Fatal(err)
	}
}

func (b *bench) deleteConsumer(t *testing.T, stream, name string) {
	t.Helper()
	if err := b.js.DeleteConsumer(b.ctx, stream, name); err != nil {
		t.Fatal(err)
	}
}

// consumers returns the names of a stream's consumers, sorted.
func (b *bench) consumers(t *testing.T, stream string) []string {
	t.Helper()
	return natstest.ConsumerNames(t, b.js, stream)
}

// bind is Bind that does not fail.
func (b *bench) bind(t *testing.T, rules *asset.Rules, topic, queue string) *consumers.Consumer {
	t.Helper()
	c, info, err := b.Bind(b.ctx, rules, topic, queue)
	if err != nil {
		t.Fatal(err)
	}
	if info.Name != c.Name || info.Config.FilterSubject != topic {
		t.Fatalf("consumer %+v, and the server tells %+v", c, info)
	}
	return c
}

// mend is Mend that does not fail. Its consumer goes on at 1.
func (b *bench) mend(t *testing.T, c *consumers.Consumer, topic, queue string) consumers.Mended {
	t.Helper()
	m, err := b.Mend(b.ctx, new(asset.Rules), c, topic, queue, func() uint64 { return 1 })
	if err != nil {
		t.Fatal(err)
	}
	return m
}
