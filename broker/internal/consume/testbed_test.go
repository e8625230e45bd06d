package consume_test

import (
	"context"
	"log/slog"
	"os"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"go-micro-jetstream/broker/internal/consume"
	"go-micro-jetstream/broker/internal/consumers"
	"go-micro-jetstream/broker/internal/link"
	"go-micro-jetstream/broker/internal/streams"
	"go-micro-jetstream/internal/natstest"
)

// TestMain also fails the run if a goroutine outlives the tests.
func TestMain(m *testing.M) { os.Exit(natstest.Main(m)) }

// testbed is a real nats-server with JetStream in this process, and a connection to it.
type testbed struct {
	t         *testing.T
	conn      *link.Conn
	consumers *consumers.Consumers
	js        jetstream.JetStream // of another client
}

func newTestbed(t *testing.T) *testbed {
	t.Helper()
	s := natstest.Start(t)
	b := &testbed{t: t}
	_, b.js = natstest.Connect(t, s.ClientURL())
	b.conn = link.New(link.Config{
		Servers: []string{s.ClientURL()},
		Options: []nats.Option{nats.ReconnectWait(time.Millisecond), nats.ReconnectJitter(0, 0)},
	})
	if err := b.conn.Dial(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.conn.Close)
	b.consumers = consumers.New(b.conn, streams.New(b.conn))
	return b
}

// open opens a subscription to orders with the queue q, whose handler acks.
func (b *testbed) open(o *observer, change ...func(*consume.Config)) *consume.Subscription {
	b.t.Helper()
	cfg := consume.Config{
		Conn: b.conn, Consumers: b.consumers, Rules: &streams.Rules{},
		Topic: "orders", Queue: "q", Concurrency: 1, MaxAckExtension: time.Hour,
		Parent: context.Background(), Handle: o.ack, Observer: o, Log: slog.New(slog.DiscardHandler),
	}
	for _, c := range change {
		c(&cfg)
	}
	s, info, err := consume.Open(b.context(), cfg)
	if err != nil {
		b.t.Fatal(err)
	}
	if info.Name != s.Consumer().Name {
		b.t.Errorf("told of consumer %s, bound to %s", info.Name, s.Consumer().Name)
	}
	return s
}

// start opens a subscription and begins it. It is stopped with the test.
func (b *testbed) start(o *observer, change ...func(*consume.Config)) *consume.Subscription {
	b.t.Helper()
	s := b.open(o, change...)
	b.begin(s)
	return s
}

// begin begins a subscription. It is stopped with the test.
func (b *testbed) begin(s *consume.Subscription) {
	s.Begin(s.Context(), 0)
	b.t.Cleanup(func() {
		s.StopWithin(natstest.Patience)
		receive(b.t, s.Done())
	})
}

// publish stores messages with these bodies.
func (b *testbed) publish(bodies ...string) {
	b.t.Helper()
	for _, body := range bodies {
		if _, err := b.js.Publish(b.context(), "orders", []byte(body)); err != nil {
			b.t.Fatal(err)
		}
	}
}

func (b *testbed) context() context.Context {
	return natstest.Context(b.t)
}

// consumer returns what the server knows of a consumer.
func (b *testbed) consumer(name string) *jetstream.ConsumerInfo {
	b.t.Helper()
	return natstest.ConsumerInfo(b.t, b.js, "ORDERS", name)
}

// observer keeps what it is told.
type observer struct {
	handled  chan string // bodies
	fetched  chan int
	failed   chan error
	back     chan struct{}
	learned  chan consume.State
	skipped  chan skipped
	settled  chan settled
	spent    chan error
	crowded  chan consume.Crowd
	heldUp   chan heldUp
	ended    chan struct{}
	onSettle func(settled) // nil: nothing
}

type heldUp struct {
	consume.HeldUp
	over bool
}

type settled struct {
	d        *consume.Delivery
	result   consume.Result
	delay    time.Duration
	returned bool
	err      error
}

type skipped struct {
	*consume.Delivery
	why consume.SkipReason
}

func newObserver() *observer {
	const room = 10000
	return &observer{
		handled: make(chan string, room), fetched: make(chan int, room), failed: make(chan error, room),
		back: make(chan struct{}, room), learned: make(chan consume.State, room), skipped: make(chan skipped, room),
		settled: make(chan settled, room), spent: make(chan error, room), crowded: make(chan consume.Crowd, room), ended: make(chan struct{}, room),
		heldUp: make(chan heldUp, room),
	}
}

// ack is a handler.
func (o *observer) ack(_ int, d *consume.Delivery) {
	o.handled <- string(d.Msg.Data)
	_, _, _ = d.Settle(consume.Ack, 0)
}

func (o *observer) Fetched(messages, _ int, _ uint64)             { o.fetched <- messages }
func (o *observer) FetchFailed(err error, _ int, _ time.Duration) { o.failed <- err }
func (o *observer) Recovered()                                    { o.back <- struct{}{} }
func (o *observer) Learned(s consume.State)                       { o.learned <- s }
func (o *observer) Turned(bool)                                   {}
func (o *observer) HeldUp(h consume.HeldUp, over bool)            { o.heldUp <- heldUp{h, over} }
func (o *observer) Crowded(c consume.Crowd)                       { o.crowded <- c }
func (o *observer) Skipped(d *consume.Delivery, why consume.SkipReason) {
	o.skipped <- skipped{d, why}
}

func (o *observer) Exhausted(_ *consume.Delivery, cause error) { o.spent <- cause }
func (o *observer) Ended()                                     { o.ended <- struct{}{} }

func (o *observer) Settled(d *consume.Delivery, r consume.Result, delay time.Duration, returned bool, err error) {
	s := settled{d, r, delay, returned, err}
	o.settled <- s
	if o.onSettle != nil {
		o.onSettle(s)
	}
}

func receive[T any](t testing.TB, ch <-chan T) T {
	t.Helper()
	return natstest.Receive(t, ch)
}

func eventually(t testing.TB, what string, holds func() bool) {
	t.Helper()
	natstest.Eventually(t, what, holds)
}
