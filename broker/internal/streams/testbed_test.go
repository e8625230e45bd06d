package streams_test

import (
	"context"
	"log/slog"
	"os"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"go-micro-jetstream/broker/internal/link"
	"go-micro-jetstream/broker/internal/streams"
	"go-micro-jetstream/internal/natstest"
)

// TestMain also fails the run if a goroutine outlives the tests.
func TestMain(m *testing.M) { os.Exit(natstest.Main(m)) }

// bench is a server, the streams under test, and a client that does what users
// do beside the broker.
type bench struct {
	*streams.Streams
	js  jetstream.JetStream
	url string
	log natstest.LogLines
	ctx context.Context
}

func newBench(t *testing.T) *bench {
	t.Helper()
	s := natstest.Start(t)
	b := &bench{url: s.ClientURL(), log: make(natstest.LogLines, 100), ctx: natstest.Context(t)}
	_, b.js = natstest.Connect(t, s.ClientURL())
	b.Streams = b.another(t)
	return b
}

// another makes one more connection, as a replica does.
func (b *bench) another(t *testing.T) *streams.Streams {
	t.Helper()
	conn := link.New(link.Config{Servers: []string{b.url}, Log: slog.New(slog.NewTextHandler(b.log, nil))})
	if err := conn.Dial(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	return streams.New(conn)
}

func (b *bench) makeStream(t *testing.T, name string, subjects ...string) {
	t.Helper()
	natstest.MakeStream(t, b.js, jetstream.StreamConfig{Name: name, Subjects: subjects})
}

func (b *bench) deleteStream(t *testing.T, name string) {
	t.Helper()
	if err := b.js.DeleteStream(b.ctx, name); err != nil {
		t.Fatal(err)
	}
}
