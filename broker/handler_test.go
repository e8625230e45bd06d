package broker_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go-micro.dev/v5/broker"

	jsbroker "go-micro-jetstream/broker"
	"go-micro-jetstream/internal/natstest"
)

// Handlers that do what handlers should not. See worker_test.go for those that
// fail, panic or are slow, and lifecycle_test.go for those that hang, or that
// call Disconnect.

// treacherous is an error and a Stringer whose methods panic, as those of a nil
// pointer often do.
type treacherous struct{ text string }

func (e *treacherous) Error() string  { return e.text }
func (e *treacherous) String() string { return e.text }
func (e *treacherous) Unwrap() error  { return errors.New(e.text) }

func TestErrorsAndPanicValuesThatPanicThemselvesEndAsDeadLetters(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	_, js := natsConn(t, s)
	var none *treacherous
	var handled atomic.Int64 // starts less ends
	b := newBroker(t, s, jsbroker.WithDeadLetter("graves"), jsbroker.WithConsumerConfig(jetstream.ConsumerConfig{MaxDeliver: 1}),
		broker.ErrorHandler(func(e broker.Event) error { panic(none) }),
		jsbroker.WithHooks(jsbroker.Hooks{
			HandleStart: func(ctx context.Context, _ jsbroker.HandleStart) context.Context {
				handled.Add(1)
				return ctx
			},
			Handled: func(context.Context, jsbroker.Handled) { handled.Add(-1) },
		}))
	fail := map[string]func() error{
		"returned":           func() error { return none },
		"wrapped":            func() error { return fmt.Errorf("wrapped: %w", none) },
		"discarded":          func() error { return jsbroker.Discard(none) },
		"again":              func() error { return jsbroker.RetryAfter(0, none) },
		"panic":              func() error { panic(none) },
		"panic with a value": func() error { panic([]any{none, 1, "x"}) },
		"panic with nil":     func() error { panic(nil) }, //nolint:govet // what a handler from hell does
		"panic with a func":  func() error { panic(func() {}) },
	}
	subscribe(t, b, "orders", func(e broker.Event) error { return fail[string(e.Message().Body)]() }, broker.Queue("q"))
	for body := range fail {
		publish(t, b, "orders", body)
	}
	letters := make(chan *broker.Message, 100)
	subscribe(t, b, "graves", func(e broker.Event) error {
		letters <- e.Message()
		return nil
	}, broker.Queue("q"))
	got := map[string]bool{}
	for range fail {
		m := receive(t, letters)
		if m.Header["Micro-Dead-Letter-Reason"] == "" {
			t.Errorf("%s: no reason: %v", m.Body, m.Header)
		}
		got[string(m.Body)] = true
	}
	if len(got) != len(fail) {
		t.Errorf("dead letters of %v only", got)
	}
	eventually(t, "the originals are gone", func() bool { return streamInfo(t, js, "ORDERS").State.Msgs == 0 })
	eventually(t, "each start has its end", func() bool { return handled.Load() == 0 })
}

func TestHandlerThatAcksTwiceSettlesOnce(t *testing.T) {
	t.Parallel()
	settled, onSettled := hookChan[jsbroker.Settled]()
	handled, onHandled := hookChan[jsbroker.Handled]()
	b := newBroker(t, startServer(t), jsbroker.WithHooks(jsbroker.Hooks{Settled: onSettled, Handled: onHandled}))
	acks := make(chan error, 10)
	h := func(e broker.Event) error {
		acks <- e.Ack()
		acks <- e.Ack()
		return nil
	}
	subscribe(t, b, "auto", h, broker.Queue("q"))
	subscribe(t, b, "manual", h, broker.Queue("q"), broker.DisableAutoAck())
	for _, topic := range []string{"auto", "manual"} {
		publish(t, b, topic, "x")
		if err := receive(t, acks); err != nil {
			t.Errorf("%s: the first: %v", topic, err)
		}
		wantError(t, receive(t, acks), jsbroker.ErrAlreadySettled)
		if e := receive(t, handled); e.Result != jsbroker.ResultAck {
			t.Errorf("%s: %+v", topic, e)
		}
	}
	if n := len(settled); n != 2 {
		t.Errorf("%d acks were sent for 2 messages", n)
	}
}

func TestHandlerMayUnsubscribeSubscribeAndPublishFromInside(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	_, js := natsConn(t, s)
	l := newLedger()
	b := newBroker(t, s, l.watch())
	l.publish(t, b, "orders", 1, 30)
	var h broker.Handler
	subs := make(chan broker.Subscriber, 40)
	h = func(e broker.Event) error { // each handles one message and hands over
		if err := (<-subs).Unsubscribe(); err != nil {
			t.Error(err)
		}
		sub, err := b.Subscribe("orders", h, broker.Queue("q"))
		if err != nil {
			t.Error(err)
		}
		subs <- sub
		if err := b.Publish("copies", e.Message(), broker.PublishContext(jsbroker.EventContext(e))); err != nil {
			t.Error(err)
		}
		return l.handler(e)
	}
	subs <- subscribe(t, b, "orders", h, broker.Queue("q"))
	l.settleInAnyOrder(t)
	eventually(t, "all is acked", func() bool { return streamInfo(t, js, "ORDERS").State.Msgs == 0 })
	l.mu.Lock()
	defer l.mu.Unlock()
	if n := streamInfo(t, js, "COPIES").State.Msgs; n != uint64(len(l.handled)+l.duplicates()) {
		t.Errorf("%d copies of %d messages handled, %d of them again", n, len(l.handled), l.duplicates())
	}
}

func TestHandlerMayKeepAndSpoilItsMessage(t *testing.T) {
	t.Parallel()
	b := newBroker(t, startServer(t))
	kept := make(chan broker.Event, 200)
	subscribe(t, b, "orders", func(e broker.Event) error {
		if jsbroker.NumDelivered(e) == 1 {
			clear(e.Message().Body)
			clear(e.Message().Header)
			return jsbroker.RetryAfter(0, errors.New("spoilt"))
		}
		kept <- e
		return nil
	}, broker.Queue("q"))
	const n = 100
	for i := range n {
		if err := b.Publish("orders", &broker.Message{Header: map[string]string{"N": fmt.Sprint(i)}, Body: fmt.Appendf(nil, "body %d", i)}); err != nil {
			t.Fatal(err)
		}
	}
	seen := map[string]bool{}
	for range n {
		e := receive(t, kept)
		m := e.Message()
		if want := "body " + m.Header["N"]; string(m.Body) != want || e.Topic() != "orders" || jsbroker.EventContext(e).Err() != nil {
			t.Errorf("kept %q with %v, want %q", m.Body, m.Header, want)
		}
		seen[m.Header["N"]] = true
	}
	if len(seen) != n {
		t.Errorf("%d different ones, want %d", len(seen), n)
	}
}

// Handlers that decrypt in place, say.
func TestDeadLetterHasTheBodyThatWasReceived(t *testing.T) {
	t.Parallel()
	b := newBroker(t, startServer(t), jsbroker.WithDeadLetter("graves"), jsbroker.WithConcurrency(2),
		jsbroker.WithConsumerConfig(jetstream.ConsumerConfig{MaxDeliver: 2}))
	h, got := collector()
	subscribe(t, b, "graves", h, broker.Queue("undertaker"))
	subscribe(t, b, "orders", func(e broker.Event) error {
		body := e.Message().Body
		kind := body[0]
		clear(body)
		switch kind {
		case 'd':
			return jsbroker.Discard(errors.New("malformed"))
		case 'p':
			return jsbroker.RetryAfter(0, errors.New("no luck"))
		}
		return nil
	}, broker.Queue("q"))
	want := map[string]bool{}
	for i := range 40 {
		for _, kind := range []string{"discarded", "poison", "good"} {
			body := fmt.Sprint(kind, i, strings.Repeat("x", i*5000)) // many are too large for what a worker keeps
			publish(t, b, "orders", body)
			want[body] = kind != "good"
		}
	}
	for range 80 {
		body := receive(t, got)
		if !want[body] {
			t.Fatalf("a dead letter has a body of %d bytes that begins with %.20q", len(body), body)
		}
		delete(want, body)
	}
}

func TestDeadLetterHasAllValuesOfAHeader(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	nc, js := natsConn(t, s)
	natstest.MakeStream(t, js, jetstream.StreamConfig{Name: "GRAVES", Subjects: []string{"graves"}})
	b := newBroker(t, s, jsbroker.WithDeadLetter("graves"))
	subscribe(t, b, "orders", func(broker.Event) error { return jsbroker.Discard(nil) }, broker.Queue("q"))
	m := nats.NewMsg("orders")
	m.Header = nats.Header{
		"Via":         {"a", "b", "c"},
		"One":         {"1"},
		"traceparent": {"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "another"},
		"Nats-Msg-Id": {"x", "y"},
	}
	if err := nc.PublishMsg(m); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it is stored", func() bool { return streamInfo(t, js, "GRAVES").State.Msgs == 1 })
	h := natstest.LastMessage(t, js, "GRAVES", "graves").Header
	for key, want := range map[string][]string{"Via": {"a", "b", "c"}, "One": {"1"}, "traceparent": m.Header["traceparent"][:1], "Micro-Dead-Letter-Topic": {"orders"}} {
		if !slices.Equal(h[key], want) {
			t.Errorf("%s is %q, want %q", key, h[key], want)
		}
	}
	if id := h["Nats-Msg-Id"]; len(id) != 1 || id[0] == "x" {
		t.Errorf("message ids %q", id)
	}
}

func TestHandlerThatTimedOutBecomesADeadLetter(t *testing.T) {
	t.Parallel()
	type key struct{}
	b := newBroker(t, startServer(t), jsbroker.WithDeadLetter("graves"),
		jsbroker.WithConsumerConfig(jetstream.ConsumerConfig{MaxDeliver: 1}),
		jsbroker.WithHooks(jsbroker.Hooks{
			HandleStart: func(ctx context.Context, e jsbroker.HandleStart) context.Context {
				if e.Topic != "orders" {
					return ctx
				}
				ctx, cancel := context.WithDeadline(context.WithValue(ctx, key{}, "the handler's"), time.Now())
				cancel()
				return ctx
			},
			PublishStart: func(ctx context.Context, e jsbroker.PublishStart) context.Context {
				if of := ctx.Value(key{}); e.Topic == "graves" && of != "the handler's" {
					t.Errorf("the context of the dead letter is %v", of)
				}
				return ctx
			},
		}))
	subscribe(t, b, "orders", func(e broker.Event) error { return jsbroker.EventContext(e).Err() }, broker.Queue("q"))
	h, got := headerCollector()
	subscribe(t, b, "graves", h, broker.Queue("undertaker"))
	publish(t, b, "orders", "x")
	want := context.DeadlineExceeded.Error()
	if m := receive(t, got); m.header["Micro-Dead-Letter-Reason"] != want || m.header["Micro-Dead-Letter-Deliveries"] != "1" {
		t.Errorf("dead letter %v", m.header)
	}
}

func TestDeadLetterWhoseOriginalIsNotTerminatedIsStoredOnce(t *testing.T) {
	t.Parallel()
	malformed := errors.New("malformed")
	for name, failure := range map[string]error{"discarded": jsbroker.Discard(malformed), "exhausted": malformed} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			// What refuses the term of a first delivery, and the end of the subscription,
			// stand for a crash at that moment.
			s := startServer(t, natstest.Limited(natstest.NoPublish("$JS.ACK.ORDERS.q.1.>")))
			_, js := natsConn(t, s, nats.UserInfo("admin", "admin"))
			deliveries := make(chan uint64, 10)
			b := newBroker(t, s, as("limited:pw", s), jsbroker.WithDeadLetter("graves"),
				jsbroker.WithConsumerConfig(jetstream.ConsumerConfig{AckWait: time.Second, MaxDeliver: 1}))
			crashed := make(chan broker.Subscriber, 1)
			h := func(e broker.Event) error {
				if jsbroker.NumDelivered(e) == 1 {
					_ = (<-crashed).Unsubscribe()
				}
				deliveries <- jsbroker.NumDelivered(e)
				return failure
			}
			crashed <- subscribe(t, b, "orders", h, broker.Queue("q"))
			publish(t, b, "orders", "x")
			for _, want := range []uint64{1, 2} {
				if n := receive(t, deliveries); n != want {
					t.Fatalf("delivery %d, want %d", n, want)
				}
				subscribe(t, b, "orders", h, broker.Queue("q")) // after a restart
			}
			eventually(t, "the original is gone", func() bool { return streamInfo(t, js, "ORDERS").State.Msgs == 0 })
			if n := streamInfo(t, js, "GRAVES").State.LastSeq; n != 1 {
				t.Errorf("%d dead letters, want 1", n)
			}
			if h := natstest.LastMessage(t, js, "GRAVES", "graves").Header; !strings.Contains(h.Get("Micro-Dead-Letter-Reason"), "malformed") {
				t.Errorf("dead letter %v", h)
			}
		})
	}
}
