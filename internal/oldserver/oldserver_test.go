// Package oldserver_test runs the broker on servers that are older than the one in
// go.mod. They are built as programs, as go.mod can name one version only.
package oldserver_test

import (
	"errors"
	"fmt"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"go-micro.dev/v5/broker"

	jsbroker "go-micro-jetstream/broker"
	"go-micro-jetstream/internal/natstest"
)

// connect returns a connected broker that is disconnected with the test.
func connect(t *testing.T, s *server, opts ...broker.Option) broker.Broker {
	t.Helper()
	b := jsbroker.NewBroker(append([]broker.Option{broker.Addrs(s.url), broker.Logger(natstest.Quiet())}, opts...)...)
	if err := b.Connect(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Disconnect() })
	return b
}

func message(body string) *broker.Message { return &broker.Message{Body: []byte(body)} }

func publish(t *testing.T, b broker.Broker, topic, body string, opts ...broker.PublishOption) {
	t.Helper()
	if err := b.Publish(topic, message(body), opts...); err != nil {
		t.Fatal(err)
	}
}

// received is a message with the time when it came.
type received struct {
	body string
	at   time.Time
}

// subscribe returns what comes of a topic. The body "bad" is given up.
func subscribe(t *testing.T, b broker.Broker, topic string) <-chan received {
	t.Helper()
	ch := make(chan received, 20_000)
	_, err := b.Subscribe(topic, func(e broker.Event) error {
		body := string(e.Message().Body)
		ch <- received{body, time.Now()}
		if body == "bad" && e.Topic() != "graves" {
			return jsbroker.Discard(errors.New("no good"))
		}
		return nil
	}, broker.Queue("q"))
	if err != nil {
		t.Fatal(err)
	}
	return ch
}

// What every JetStream can do works on all of them. What one cannot do is an error at
// once, which says what it takes, and nothing is stored.
func TestOnOldServers(t *testing.T) {
	t.Parallel()
	for version, can := range map[string]struct{ ttl, later bool }{v210: {}, v211: {ttl: true}, v212: {ttl: true, later: true}} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			s := start(t, version)
			_, js := natstest.Connect(t, s.url)
			b := connect(t, s, jsbroker.WithDeadLetter("graves"))
			got, graves := subscribe(t, b, "orders.>"), subscribe(t, b, "graves")
			for _, body := range []string{"good", "bad", "better"} {
				publish(t, b, "orders.created", body)
				if r := natstest.Receive(t, got); r.body != body {
					t.Fatalf("got %q, want %q", r.body, body)
				}
			}
			if r := natstest.Receive(t, graves); r.body != "bad" {
				t.Errorf("the dead letter is %q", r.body)
			}
			if err := jsbroker.Health(natstest.Context(t), b); err != nil {
				t.Error(err)
			}
			try := func(can bool, body, needs string, opts ...broker.PublishOption) {
				t.Helper()
				if err := b.Publish("orders.created", message(body), opts...); !can {
					natstest.WantError(t, err, jsbroker.ErrUnsupported, version[1:], needs)
				} else if err != nil {
					t.Error(err)
				} else if r := natstest.Receive(t, got); r.body != body {
					t.Errorf("got %q, want %q", r.body, body)
				}
			}
			try(can.ttl, "with TTL", "2.11", jsbroker.TTL(time.Hour))
			try(can.later, "later", "2.12", jsbroker.DeliverAfter(time.Second))
			try(can.later, "later with TTL", "2.1", jsbroker.DeliverAfter(time.Second), jsbroker.TTL(time.Hour))
			if err := jsbroker.CancelDelivery(natstest.Context(t), b, "orders.created", "x"); !errors.Is(err, jsbroker.ErrNotScheduled) {
				t.Error(err)
			}
			natstest.Eventually(t, "nothing is left", func() bool { return natstest.StreamInfo(t, js, "ORDERS").State.Msgs == 0 })
		})
	}
}

// One subscriber at a time needs nats-server 2.11.
func TestSingleActiveOnOldServers(t *testing.T) {
	t.Parallel()
	for version, can := range map[string]bool{v210: false, v211: true, v212: true} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			s := start(t, version)
			b := connect(t, s)
			var subs [2]broker.Subscriber
			var got [2]chan string
			for i := range subs {
				got[i] = make(chan string, 100)
				sub, err := connect(t, s).Subscribe("orders", func(e broker.Event) error {
					got[i] <- string(e.Message().Body)
					return nil
				}, broker.Queue("q"), jsbroker.SingleActive())
				if !can {
					natstest.WantError(t, err, jsbroker.ErrUnsupported, "2.11", version[1:])
					return
				}
				if err != nil {
					t.Fatal(err)
				}
				subs[i] = sub
			}
			const n = 20
			for i := range n {
				publish(t, b, "orders", strconv.Itoa(i))
			}
			natstest.Eventually(t, "all are handled", func() bool { return len(got[0])+len(got[1]) == n })
			active := 0
			if len(got[1]) > 0 {
				active = 1
			}
			if len(got[active]) != n {
				t.Errorf("both are active: %d and %d messages", len(got[0]), len(got[1]))
			}
			if err := subs[active].Unsubscribe(); err != nil {
				t.Fatal(err)
			}
			publish(t, b, "orders", "next")
			if body := natstest.Receive(t, got[1-active]); body != "next" {
				t.Errorf("the other one got %q", body)
			}
		})
	}
}

// What counts is the server that has the stream, not the leaf node that the client is
// connected to.
func TestSingleActiveOnALeafOfAnOldHub(t *testing.T) {
	t.Parallel()
	links := natstest.Port(t)
	hub := startConfigured(t, v210, fmt.Sprintf("server_name: hub\njetstream { domain: hub, store_dir: %q }\nleafnodes { listen: \"127.0.0.1:%d\" }", t.TempDir(), links))
	leaf := natstest.StartLeaf(t, nil, fmt.Sprintf("127.0.0.1:%d", links))
	b := connect(t, hub, broker.Addrs(leaf.ClientURL()), jsbroker.WithDomain("hub"))
	_, err := b.Subscribe("orders", func(broker.Event) error { return nil }, broker.Queue("q"), jsbroker.SingleActive())
	natstest.WantError(t, err, jsbroker.ErrUnsupported, "2.11", "stream ORDERS is 2.10")
}

// nats-server 2.12 keeps what waits in the topic's own stream. A kill -9 while
// messages wait loses none, and doubles none.
func TestWhatWaitsSurvivesAKilledServer(t *testing.T) {
	t.Parallel()
	s := start(t, v212)
	b := connect(t, s)
	got := subscribe(t, b, "orders.>")
	const n = 1000
	var answers sync.WaitGroup
	due := make(map[string]time.Time, n)
	begin := time.Now()
	for i := range n {
		body := strconv.Itoa(i)
		due[body] = begin.Add(4*time.Second + time.Duration(i%100)*20*time.Millisecond)
		answers.Add(1)
		publish(t, b, "orders.created", body, jsbroker.DeliverAt(due[body]), jsbroker.Async(func(err error) {
			defer answers.Done()
			if err != nil {
				t.Error(err)
			}
		}))
	}
	answers.Wait()
	s.kill(t)
	s.start(t)
	var late time.Duration
	for range n {
		r := natstest.Receive(t, got)
		at, ok := due[r.body]
		if !ok || r.at.Before(at) {
			t.Fatalf("%q is a second delivery, or early by %v", r.body, at.Sub(r.at))
		}
		delete(due, r.body)
		late = max(late, r.at.Sub(at))
	}
	t.Logf("late by %v at most", late)
	publish(t, b, "orders.created", "end")
	if r := natstest.Receive(t, got); r.body != "end" {
		t.Errorf("%q is a second delivery", r.body)
	}
}

// A stream that cannot hold what waits says why.
func TestStreamsThatCannotWaitOn212(t *testing.T) {
	t.Parallel()
	s := start(t, v212)
	for what, cfg := range map[string]jetstream.StreamConfig{
		"Interest":   {Retention: jetstream.InterestPolicy},
		"DiscardNew": {Discard: jetstream.DiscardNew, MaxMsgs: 100},
		"limits":     {MaxAge: time.Hour},
		"DenyPurge":  {DenyPurge: true},
	} {
		t.Run(what, func(t *testing.T) {
			b := connect(t, s, jsbroker.WithStreamConfig(cfg))
			err := b.Publish(what+".created", message("x"), jsbroker.DeliverAfter(time.Second))
			natstest.WantError(t, err, jsbroker.ErrUnsupported, what, v212[1:], "2.14")
			publish(t, b, what+".created", "x")
		})
	}
}
