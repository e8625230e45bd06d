package produce_test

import (
	"context"
	"errors"
	"os"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"go-micro-jetstream/broker/internal/asset"
	"go-micro-jetstream/broker/internal/link"
	"go-micro-jetstream/broker/internal/produce"
	"go-micro-jetstream/broker/internal/streams"
	"go-micro-jetstream/broker/internal/wire"
	"go-micro-jetstream/internal/natstest"
)

// TestMain also fails the run if a goroutine outlives the tests.
func TestMain(m *testing.M) { os.Exit(natstest.Main(m)) }

func startServer(t testing.TB, change ...func(*server.Options)) *server.Server {
	t.Helper()
	return natstest.Start(t, change...)
}

// bench is a publisher with all that it needs, and a client of its own for what others
// do beside it.
type bench struct {
	*produce.Publisher
	t    testing.TB
	conn *link.Conn
	nc   *nats.Conn
	js   jetstream.JetStream
	ctx  context.Context
}

// newBench connects a publisher. Events of the connection reach it as they should.
func newBench(t testing.TB, s *server.Server, window int, opts ...nats.Option) *bench {
	t.Helper()
	b := &bench{t: t, ctx: natstest.Context(t)}
	b.conn = link.New(link.Config{
		Servers: []string{s.ClientURL()},
		Options: append([]nats.Option{nats.ReconnectWait(5 * time.Millisecond), nats.ReconnectJitter(0, 0)}, opts...),
		Events:  link.Events{Lost: func() { b.Interrupt() }, Refused: func(err error) { b.Refuse(err) }},
	})
	b.Publisher = produce.New(b.conn, streams.New(b.conn), window)
	noErr(t, b.conn.Dial())
	t.Cleanup(func() {
		b.conn.Close()
		b.Close()
		receive(t, b.Shutdown())
	})
	noErr(t, b.Open())
	b.nc, b.js = natstest.Connect(t, s.ClientURL(), nats.UserInfo("admin", "admin"))
	return b
}

// message is one with an id of its own.
func message(topic, body string) produce.Message {
	return produce.Message{Topic: topic, Body: []byte(body), ID: nats.NewInbox(), OwnID: true, Rules: &asset.Rules{}}
}

// store publishes and fails the test on an error.
func (b *bench) store(topic, body string) wire.PubAck {
	b.t.Helper()
	ack, err := b.Publish(b.ctx, message(topic, body))
	noErr(b.t, err)
	return ack
}

// silence makes a stream that the publisher knows, and that answers nothing any more.
// The function that is returned makes it answer again.
func (b *bench) silence(duplicates time.Duration) (speak func()) {
	b.t.Helper()
	cfg := jetstream.StreamConfig{Name: "ORDERS", Subjects: []string{"orders.>"}, Duplicates: duplicates}
	natstest.MakeStream(b.t, b.js, cfg)
	b.store("orders.created", "first")
	set := func(silent bool) {
		cfg.NoAck = silent
		natstest.UpdateStream(b.t, b.js, cfg)
	}
	set(true)
	return func() { set(false) }
}

// stored returns how many messages the stream ORDERS has.
func (b *bench) stored() uint64 {
	b.t.Helper()
	return natstest.StreamInfo(b.t, b.js, "ORDERS").State.Msgs
}

// listen returns what is published to a subject from now on.
func (b *bench) listen(subject string) <-chan *nats.Msg {
	b.t.Helper()
	return natstest.Listen(b.t, b.nc, subject)
}

// told is a Done that passes on what it is told.
type told chan result

type result struct {
	ack wire.PubAck
	err error
}

func (t told) Stored(ack wire.PubAck, err error) { t <- result{ack, err} }

// doneFunc is a Done.
type doneFunc func(wire.PubAck, error)

func (f doneFunc) Stored(ack wire.PubAck, err error) { f(ack, err) }

// publishing publishes on a goroutine of its own.
func (b *bench) publishing(ctx context.Context, m produce.Message) <-chan result {
	ch := make(chan result, 1)
	go func() {
		ack, err := b.Publish(ctx, m)
		ch <- result{ack, err}
	}()
	return ch
}

func receive[T any](t testing.TB, ch <-chan T) T {
	t.Helper()
	return natstest.Receive(t, ch)
}

func eventually(t testing.TB, what string, holds func() bool) {
	t.Helper()
	natstest.Eventually(t, what, holds)
}

func noErr(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// wantError checks that an error is all of these.
func wantError(t testing.TB, err error, all ...error) {
	t.Helper()
	for _, want := range all {
		if !errors.Is(err, want) {
			t.Fatalf("got error %v, want %v", err, want)
		}
	}
}

// wantNot checks that an error is none of these.
func wantNot(t testing.TB, err error, all ...error) {
	t.Helper()
	for _, not := range all {
		if errors.Is(err, not) {
			t.Errorf("got error %v, which is also %v", err, not)
		}
	}
}
