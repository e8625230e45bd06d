package broker_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"
	"go-micro.dev/v5/broker"

	jsbroker "go-micro-jetstream/broker"
)

func TestUnsubscribeGivesBackAtOnceAndDoesNotWait(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	_, js := natsConn(t, s)
	returned, onSettled := hookChan[jsbroker.Settled]()
	b := newBroker(t, s, jsbroker.WithHooks(jsbroker.Hooks{Settled: onSettled}))
	const n = 5
	for i := range n {
		publish(t, b, "orders", fmt.Sprint(i))
	}
	started, release := make(chan struct{}, n), make(chan struct{})
	sub := subscribe(t, b, "orders", func(broker.Event) error {
		started <- struct{}{}
		<-release
		return nil
	}, broker.Queue("q"))
	receive(t, started)
	eventually(t, "the rest is fetched", func() bool { return consumerInfo(t, js, "ORDERS", "q").NumAckPending == n })
	if err := sub.Unsubscribe(); err != nil { // would hang here if it waited
		t.Fatal(err)
	}
	for range n - 1 {
		if e := receive(t, returned); !e.Returned || e.Result != jsbroker.ResultNak || e.Delay != 0 {
			t.Fatalf("settled %+v, want given back at once", e)
		}
	}
	// Another replica gets them long before AckWait, which is 30s.
	h, got := collector()
	subscribe(t, newBroker(t, s), "orders", h, broker.Queue("q"))
	for range n - 1 { // in the order of the server's redelivery
		receive(t, got)
	}
	// The running handler still settles its message.
	close(release)
	if e := receive(t, returned); e.Result != jsbroker.ResultAck {
		t.Fatalf("settled %+v, want ack", e)
	}
	eventually(t, "all are acked", func() bool { return streamInfo(t, js, "ORDERS").State.Msgs == 0 })
	if err := sub.Unsubscribe(); err != nil {
		t.Fatal(err)
	}
}

func TestCancelledSubscribeContextUnsubscribes(t *testing.T) {
	t.Parallel()
	ended, onEnd := hookChan[jsbroker.SubscriptionEnd]()
	b := newBroker(t, startServer(t), jsbroker.WithHooks(jsbroker.Hooks{SubscriptionEnd: onEnd}))
	ctx, cancel := context.WithCancel(context.Background())
	started, release, result := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	subscribe(t, b, "orders", func(e broker.Event) error {
		close(started)
		<-release
		result <- jsbroker.EventContext(e).Err()
		return nil
	}, broker.SubscribeContext(ctx), broker.Queue("q"))
	publish(t, b, "orders", "1")
	receive(t, started)
	cancel()
	close(release)
	if err := receive(t, result); err != nil {
		t.Fatalf("the running handler's context ended with the subscription: %v", err)
	}
	receive(t, ended)
	if _, err := b.Subscribe("orders", func(broker.Event) error { return nil }, broker.SubscribeContext(ctx)); !errors.Is(err, context.Canceled) {
		t.Fatalf("Subscribe with a cancelled context: %v", err)
	}
}

func TestDisconnectWaitsForHandlersAndTheirPublishes(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	_, js := natsConn(t, s)
	b := newBroker(t, s)
	started, release, done := make(chan struct{}), make(chan struct{}), make(chan error, 2)
	subscribe(t, b, "orders", func(e broker.Event) error {
		close(started)
		<-release
		return b.Publish("payments", message("from the handler"), broker.PublishContext(jsbroker.EventContext(e)))
	}, broker.Queue("q"))
	publish(t, b, "payments", "first")
	publish(t, b, "orders", "1")
	receive(t, started)
	for range 2 { // the second waits for the first
		go func() { done <- b.Disconnect() }()
	}
	eventually(t, "no new subscriptions", func() bool {
		_, err := b.Subscribe("orders", func(broker.Event) error { return nil }, broker.Queue("q"))
		return errors.Is(err, jsbroker.ErrNotConnected)
	})
	select {
	case err := <-done:
		t.Fatalf("Disconnect returned while a handler ran: %v", err)
	default:
	}
	close(release)
	for range 2 {
		if err := receive(t, done); err != nil {
			t.Fatal(err)
		}
	}
	if n := streamInfo(t, js, "PAYMENTS").State.Msgs; n != 2 {
		t.Fatalf("%d payments, want 2", n)
	}
	eventually(t, "the ack was flushed", func() bool { return streamInfo(t, js, "ORDERS").State.Msgs == 0 })
	if err := b.Publish("orders", message("late")); !errors.Is(err, jsbroker.ErrNotConnected) {
		t.Fatalf("Publish after Disconnect: %v", err)
	}
}

func TestDisconnectIsBounded(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	b := newBroker(t, s, jsbroker.WithShutdownTimeout(100*time.Millisecond), jsbroker.WithConcurrency(2),
		jsbroker.WithConsumerConfig(jetstream.ConsumerConfig{AckWait: 500 * time.Millisecond}))
	gaveUp, started := make(chan error, 2), make(chan struct{}, 2)
	hang := make(chan struct{})
	t.Cleanup(func() { close(hang) })
	subscribe(t, b, "orders", func(e broker.Event) error {
		started <- struct{}{}
		<-jsbroker.EventContext(e).Done()
		gaveUp <- jsbroker.EventContext(e).Err()
		<-hang
		return nil
	}, broker.Queue("q"))
	for range 2 {
		publish(t, b, "orders", "x")
		receive(t, started)
	}
	err := b.Disconnect()
	if !errors.Is(err, jsbroker.ErrShutdownTimeout) || !strings.Contains(err.Error(), "2 handlers") {
		t.Fatalf("got %v, want ErrShutdownTimeout with 2 handlers", err)
	}
	for range 2 {
		if err := receive(t, gaveUp); !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
	}
	// Delivered again elsewhere, though the handlers never return.
	h, got := collector()
	subscribe(t, newBroker(t, s), "orders", h, broker.Queue("q"))
	receive(t, got)
	receive(t, got)
}

func TestDisconnectFromInsideAHandler(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	_, js := natsConn(t, s)
	for _, concurrency := range []int{1, 3} {
		closed, onConnection := hookChan[jsbroker.ConnectionChanged]()
		b := newBroker(t, s, jsbroker.WithConcurrency(concurrency), jsbroker.WithHooks(jsbroker.Hooks{ConnectionChanged: onConnection}))
		inside := make(chan error, 1)
		var sub broker.Subscriber
		ready := make(chan struct{})
		sub = subscribe(t, b, "orders", func(broker.Event) error {
			<-ready
			_ = sub.Unsubscribe()
			inside <- b.Disconnect()
			return nil
		}, broker.Queue("q"))
		close(ready)
		publish(t, b, "orders", "1")
		if err := receive(t, inside); err != nil {
			t.Fatal(err)
		}
		if err := b.Disconnect(); err != nil { // waits for the one from inside
			t.Fatal(err)
		}
		for receive(t, closed).State != jsbroker.StateClosed {
		}
		eventually(t, "the handler's message is acked", func() bool { return streamInfo(t, js, "ORDERS").State.Msgs == 0 })
	}
}

func TestDisconnectWithTheServerDown(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	b := newBroker(t, s)
	h, got := collector()
	subscribe(t, b, "orders", h, broker.Queue("q"))
	subscribe(t, b, "orders.ephemeral", h)
	publish(t, b, "orders", "1")
	receive(t, got)
	stopServer(s)
	done := make(chan error, 1)
	go func() { done <- b.Disconnect() }()
	if err := receive(t, done); err != nil {
		t.Fatal(err)
	}
}

func TestReconnectAfterDisconnect(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	b := newBroker(t, s)
	h, got := collector()
	for i := range 3 {
		if err := b.Connect(); err != nil {
			t.Fatal(err)
		}
		if err := b.Connect(); err != nil { // idempotent
			t.Fatal(err)
		}
		subscribe(t, b, "orders", h, broker.Queue("q"))
		publish(t, b, "orders", fmt.Sprint(i))
		if body := receive(t, got); body != fmt.Sprint(i) {
			t.Fatalf("got %s, want %d", body, i)
		}
		if err := b.Disconnect(); err != nil {
			t.Fatal(err)
		}
		if err := b.Disconnect(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestServerRestartIsRiddenThrough(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	o := &server.Options{Host: "127.0.0.1", Port: -1, JetStream: true, StoreDir: dir, NoSigs: true}
	s := runServer(t, o)
	states, onConnection := hookChan[jsbroker.ConnectionChanged]()
	failed, onFetchError := hookChan[jsbroker.FetchError]()
	backoffs, onBackoff := hookChan[jsbroker.Backoff]()
	b := newBroker(t, s, jsbroker.WithHooks(jsbroker.Hooks{ConnectionChanged: onConnection, FetchError: onFetchError, Backoff: onBackoff}))
	h, got := collector()
	subscribe(t, b, "orders", h, broker.Queue("q"))
	publish(t, b, "orders", "before")
	receive(t, got)
	if e := receive(t, states); e.State != jsbroker.StateConnected || e.URL == "" || e.BrokerID == "" {
		t.Fatalf("first state %+v", e)
	}
	o.Port = s.Addr().(*net.TCPAddr).Port
	stopServer(s)
	if e := receive(t, states); e.State != jsbroker.StateDisconnected {
		t.Fatalf("then %+v", e)
	}
	if e := receive(t, failed); e.Reason != "disconnected" && e.Reason != "server_shutdown" {
		t.Fatalf("fetch error %+v", e)
	}
	if e := receive(t, backoffs); e.Delay != time.Second {
		t.Fatalf("backoff %+v", e)
	}
	// A publish that starts during the outage waits for its end.
	published := make(chan error, 1)
	go func() {
		published <- b.Publish("orders", message("during"), broker.PublishContext(testContext(t)))
	}()
	runServer(t, o)
	if e := receive(t, states); e.State != jsbroker.StateReconnected {
		t.Fatalf("then %+v", e)
	}
	if err := receive(t, published); err != nil {
		t.Fatal(err)
	}
	if body := receive(t, got); body != "during" {
		t.Fatalf("got %s", body)
	}
	for receive(t, backoffs).Delay != 0 { // healthy again
	}
}

func TestNothingIsLeftBehind(t *testing.T) {
	// Not parallel: it looks at all goroutines of the process.
	s := startServer(t)
	b := jsbroker.NewBroker(broker.Addrs(s.ClientURL()), quiet(), jsbroker.WithHooks(jsbroker.Hooks{ConsumerState: func(context.Context, jsbroker.ConsumerState) {}}))
	for range 3 {
		if err := b.Connect(); err != nil {
			t.Fatal(err)
		}
		h, got := collector()
		ctx, cancel := context.WithCancel(context.Background())
		subscribe(t, b, "orders", h, broker.Queue("q"), broker.SubscribeContext(ctx))
		subscribe(t, b, "queueless", h)
		subscribe(t, b, "parallel", h, jsbroker.Concurrency(5))
		publish(t, b, "orders", "1")
		receive(t, got)
		if _, err := b.Subscribe("orders", h, broker.Queue("other")); !errors.Is(err, jsbroker.ErrWorkQueueConflict) {
			t.Fatal(err)
		}
		if err := b.Disconnect(); err != nil {
			t.Fatal(err)
		}
		cancel()
	}
	eventually(t, "the server has no connections", func() bool { return s.NumClients() == 0 })
	eventually(t, "our goroutines and the client's are gone", func() bool { return len(ourGoroutines()) == 0 })
}

func TestLifeCycleInRandomOrder(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	b := jsbroker.NewBroker(broker.Addrs(s.ClientURL()), quiet(), jsbroker.WithShutdownTimeout(5*time.Second))
	var published, handled atomic.Int64
	h := func(broker.Event) error { handled.Add(1); return nil }
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(seed, uint64(g)))
			var subs []broker.Subscriber
			for range 40 {
				switch rnd.IntN(7) {
				case 0, 1:
					if err := b.Connect(); err != nil {
						t.Errorf("Connect: %v", err)
					}
				case 2:
					if err := b.Disconnect(); err != nil {
						t.Errorf("Disconnect: %v", err)
					}
				case 3:
					if sub, err := b.Subscribe("orders", h, broker.Queue("q")); err == nil {
						subs = append(subs, sub)
					} else if !errors.Is(err, jsbroker.ErrNotConnected) {
						t.Errorf("Subscribe: %v", err)
					}
				case 4:
					if len(subs) > 0 {
						_ = subs[rnd.IntN(len(subs))].Unsubscribe()
					}
				case 5:
					if err := b.Init(broker.Addrs(s.ClientURL())); err != nil {
						t.Errorf("Init: %v", err)
					}
				case 6:
					if err := b.Publish("orders", message("x")); err == nil {
						published.Add(1)
					} else if !errors.Is(err, jsbroker.ErrNotConnected) {
						t.Errorf("Publish: %v", err)
					}
				}
				_, _ = b.Address(), b.Options()
			}
		})
	}
	wg.Wait()
	if err := b.Connect(); err != nil {
		t.Fatal(err)
	}
	subscribe(t, b, "orders", h, broker.Queue("q"))
	eventually(t, "every published message is handled", func() bool { return handled.Load() >= published.Load() })
	if err := b.Disconnect(); err != nil {
		t.Fatal(err)
	}
}
