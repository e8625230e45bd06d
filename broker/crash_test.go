package broker_test

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go-micro.dev/v5/broker"

	jsbroker "go-micro-jetstream/broker"
	"go-micro-jetstream/internal/natstest"
)

// Tests of what a crash means. The processes are real, and kill -9 ends them.

// doomed is what a process is to do that is going to be killed.
type doomed struct {
	URL        string
	Consumer   jetstream.ConsumerConfig
	DeadLetter string
	Hang       bool // in the handler; else it returns nil
	Handlers   int  // with these and OrderBy it is a replica of SingleActive; 0: it is not
}

const doomedVariable = "JSBROKER_DOOMED"

// runAsDoomed turns this process into a subscriber of the topic orders and the
// queue q if a test has started it as one. It says what happens, until it is
// killed.
func runAsDoomed() bool {
	text := os.Getenv(doomedVariable)
	if text == "" {
		return false
	}
	var d doomed
	if err := json.Unmarshal([]byte(text), &d); err != nil {
		panic(err)
	}
	opts := []broker.Option{broker.Addrs(d.URL), quiet(), jsbroker.WithConsumerConfig(d.Consumer), jsbroker.WithHooks(jsbroker.Hooks{
		Handled: func(context.Context, jsbroker.Handled) { fmt.Println("handled") },
	})}
	if d.DeadLetter != "" {
		opts = append(opts, jsbroker.WithDeadLetter(d.DeadLetter))
	}
	b := jsbroker.NewBroker(opts...)
	if err := b.Connect(); err != nil {
		panic(err)
	}
	subscribeOpts := []broker.SubscribeOption{broker.Queue("q")}
	if d.Handlers > 0 {
		subscribeOpts = append(subscribeOpts, jsbroker.SingleActive(), jsbroker.OrderBy(byKey), jsbroker.Concurrency(d.Handlers))
	}
	_, err := b.Subscribe("orders", func(e broker.Event) error {
		fmt.Printf("started %s\n", e.Message().Body)
		switch {
		case d.Hang:
			select {}
		case d.Handlers > 0:
			time.Sleep(rand.N(5 * time.Millisecond))
			fmt.Printf("done %s\n", e.Message().Body)
		}
		return nil
	}, subscribeOpts...)
	if err != nil {
		panic(err)
	}
	select {}
}

func startDoomed(t *testing.T, d doomed) *process {
	t.Helper()
	text, err := json.Marshal(d)
	if err != nil {
		t.Fatal(err)
	}
	return startProcess(t, doomedVariable+"="+string(text))
}

// ackWait is how long a killed process keeps its messages. Before it is killed it
// must extend them in time, also on a busy machine.
const ackWait = 3 * time.Second

// deliveries is a handler that tells of each message and of its deliveries.
func deliveries() (broker.Handler, <-chan string) {
	ch := make(chan string, 100)
	return func(e broker.Event) error {
		ch <- fmt.Sprintf("%s, delivery %d", e.Message().Body, jsbroker.NumDelivered(e))
		return nil
	}, ch
}

func TestSubscriberKilledInItsHandlerLosesNothing(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	_, js := natsConn(t, s)
	cc := jetstream.ConsumerConfig{AckWait: ackWait}
	b := newBroker(t, s, jsbroker.WithConsumerConfig(cc))
	const n = 5 // one in the handler, the others fetched and not started
	for i := range n {
		publish(t, b, "orders", fmt.Sprint(i))
	}
	victim := startDoomed(t, doomed{URL: s.ClientURL(), Hang: true, Consumer: cc})
	victim.await(t, "started 0")
	eventually(t, "the others are fetched", func() bool { return natstest.ConsumerInfo(t, js, "ORDERS", "q").NumAckPending == n })
	victim.kill()
	h, got := deliveries()
	subscribe(t, b, "orders", h, broker.Queue("q"))
	again := map[string]bool{}
	for range n {
		again[receive(t, got)] = true
	}
	for i := range n {
		// More than 2 where the killed process was slow to extend.
		if !again[fmt.Sprintf("%d, delivery 2", i)] && !again[fmt.Sprintf("%d, delivery 3", i)] {
			t.Errorf("message %d is not among %v", i, again)
		}
	}
	eventually(t, "all is acked", func() bool { return streamInfo(t, js, "ORDERS").State.Msgs == 0 })
}

func TestSubscriberKilledBeforeItsAckIsOutHandlesTwice(t *testing.T) {
	t.Parallel()
	// What refuses the ack holds it back until the process is dead.
	s := startServer(t, natstest.Limited(natstest.NoPublish("$JS.ACK.>")))
	_, js := natsConn(t, s, nats.UserInfo("admin", "admin"))
	cc := jetstream.ConsumerConfig{AckWait: ackWait}
	b := newBroker(t, s, as("admin:admin", s), jsbroker.WithConsumerConfig(cc))
	publish(t, b, "orders", "x")
	victim := startDoomed(t, doomed{URL: strings.Replace(s.ClientURL(), "nats://", "nats://limited:pw@", 1), Consumer: cc})
	victim.await(t, "handled")
	victim.kill()
	h, got := deliveries()
	subscribe(t, b, "orders", h, broker.Queue("q"))
	if again := receive(t, got); again != "x, delivery 2" {
		t.Errorf("got %q", again)
	}
	eventually(t, "it is acked", func() bool { return streamInfo(t, js, "ORDERS").State.Msgs == 0 })
}

func TestSubscriberKilledInItsLastDelivery(t *testing.T) {
	t.Parallel()
	t.Run("with a dead-letter topic it is delivered again", func(t *testing.T) {
		t.Parallel()
		s := startServer(t)
		_, js := natsConn(t, s)
		cc := jetstream.ConsumerConfig{AckWait: ackWait, MaxDeliver: 1}
		b := newBroker(t, s, jsbroker.WithDeadLetter("graves"), jsbroker.WithConsumerConfig(cc))
		publish(t, b, "orders", "x")
		victim := startDoomed(t, doomed{URL: s.ClientURL(), Hang: true, DeadLetter: "graves", Consumer: cc})
		victim.await(t, "started x")
		victim.kill()
		h, got := deliveries()
		subscribe(t, b, "orders", h, broker.Queue("q"))
		if again := receive(t, got); again != "x, delivery 2" {
			t.Errorf("got %q", again)
		}
		eventually(t, "it is acked", func() bool { return streamInfo(t, js, "ORDERS").State.Msgs == 0 })
	})
	t.Run("without one it stays in the stream", func(t *testing.T) {
		t.Parallel()
		s := startServer(t)
		nc, js := natsConn(t, s)
		given := make(chan *nats.Msg, 10)
		if _, err := nc.ChanSubscribe("$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.ORDERS.q", given); err != nil {
			t.Fatal(err)
		}
		exhausted, onExhausted := hookChan[jsbroker.Exhausted]()
		cc := jetstream.ConsumerConfig{AckWait: ackWait, MaxDeliver: 1}
		b := newBroker(t, s, jsbroker.WithConsumerConfig(cc), jsbroker.WithHooks(jsbroker.Hooks{Exhausted: onExhausted}))
		publish(t, b, "orders", "x")
		victim := startDoomed(t, doomed{URL: s.ClientURL(), Hang: true, Consumer: cc})
		victim.await(t, "started x")
		victim.kill()
		h, got := deliveries()
		subscribe(t, b, "orders", h, broker.Queue("q"))
		receive(t, given) // the server gives it up, and says so
		publish(t, b, "orders", "y")
		if next := receive(t, got); next != "y, delivery 1" {
			t.Errorf("got %q", next)
		}
		eventually(t, "the other is acked", func() bool { return streamInfo(t, js, "ORDERS").State.Msgs == 1 })
		if len(exhausted) > 0 {
			t.Error("there is an event; docs/delivery.md says that there is none")
		}
	})
}

func TestKilledServerHasWhatItAcked(t *testing.T) {
	t.Parallel()
	dir, l := t.TempDir(), newLedger()
	connect := func() (*serverProcess, broker.Broker) {
		t.Helper()
		p := startServerProcess(t, dir)
		b := jsbroker.NewBroker(broker.Addrs(p.ClientURL()), quiet(), l.watch())
		if err := b.Connect(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = b.Disconnect() })
		return p, b
	}
	p, b := connect()
	l.publish(t, b, "orders", 1, 200)
	p.kill()
	_, b = connect()
	subscribe(t, b, "orders", l.handler, broker.Queue("q"))
	l.settle(t)
}

// A server that starts learns the ids from the messages that it has. What was handled is
// not among them, except in a stream with Limits retention.
func TestIDsAfterARestartOfTheServer(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		retention jetstream.RetentionPolicy
		handled   bool // before the restart
		again     bool // it is stored a second time
	}{
		"WorkQueue, handled":     {jetstream.WorkQueuePolicy, true, true},
		"WorkQueue, not handled": {jetstream.WorkQueuePolicy, false, false},
		"Interest, handled":      {jetstream.InterestPolicy, true, true},
		"Interest, not handled":  {jetstream.InterestPolicy, false, false},
		"Limits, handled":        {jetstream.LimitsPolicy, true, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := natstest.StartRestartable(t)
			_, js := natsConn(t, s.Server)
			published, onEnd := hookChan[jsbroker.Published]()
			b := newBroker(t, s, jsbroker.WithStreamConfig(jetstream.StreamConfig{Retention: tt.retention}),
				jsbroker.WithNATSOptions(nats.ReconnectWait(10*time.Millisecond)), jsbroker.WithHooks(jsbroker.Hooks{Published: onEnd}))
			h, got := collector()
			sub := subscribe(t, b, "orders", h, broker.Queue("q"))
			if !tt.handled {
				noErr(t, sub.Unsubscribe())
			}
			one := func() jsbroker.Published {
				t.Helper()
				publish(t, b, "orders", "x", jsbroker.MessageID("one"), broker.PublishContext(testContext(t)))
				return receive(t, published)
			}
			if first, second := one(), one(); first.Duplicate || !second.Duplicate {
				t.Errorf("before: %+v, %+v", first, second)
			}
			if tt.handled {
				receive(t, got)
				eventually(t, "it is acked", func() bool { return natstest.ConsumerInfo(t, js, "ORDERS", "q").AckFloor.Stream == 1 })
			}
			s.Stop()
			s.Start(t)
			// A try whose answer is lost with a connection makes a duplicate of the next one.
			if e := one(); (e.Sequence == 2) != tt.again {
				t.Errorf("after: %+v", e)
			}
			if tt.again {
				receive(t, got)
			}
		})
	}
}
