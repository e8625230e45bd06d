package streams_test

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"strings"
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
	log log
	ctx context.Context
}

func newBench(t *testing.T) *bench {
	t.Helper()
	s := natstest.Start(t)
	b := &bench{url: s.ClientURL(), log: make(log, 100), ctx: natstest.Context(t)}
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

// logged returns the lines of the log with the part, and empties the log.
func (b *bench) logged(part string) (found []string) {
	for {
		select {
		case line := <-b.log:
			if strings.Contains(line, part) {
				found = append(found, line)
			}
		default:
			return found
		}
	}
}

type log chan string

func (l log) Write(p []byte) (int, error) {
	l <- string(p)
	return len(p), nil
}

func wantError(t *testing.T, err, sentinel error, parts ...string) {
	t.Helper()
	if !errors.Is(err, sentinel) {
		t.Fatalf("got error %v, want %v", err, sentinel)
	}
	for _, part := range parts {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("the error does not name %q: %v", part, err)
		}
	}
}
