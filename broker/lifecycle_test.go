package broker_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"
	"go-micro.dev/v5/broker"

	jsbroker "go-micro-jetstream/broker"
	"go-micro-jetstream/internal/natstest"
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
	eventually(t, "the rest is fetched", func() bool { return natstest.ConsumerInfo(t, js, "ORDERS", "q").NumAckPending == n })
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
	shortWait := jsbroker.WithConsumerConfig(jetstream.ConsumerConfig{AckWait: 500 * time.Millisecond})
	b := newBroker(t, s, jsbroker.WithShutdownTimeout(100*time.Millisecond), jsbroker.WithConcurrency(2), shortWait)
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
	subscribe(t, newBroker(t, s, shortWait), "orders", h, broker.Queue("q"))
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
	natstest.Stop(s)
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
	s := natstest.StartRestartable(t)
	states, onConnection := hookChan[jsbroker.ConnectionChanged]()
	failed, onFetchError := hookChan[jsbroker.FetchError]()
	backoffs, onBackoff := hookChan[jsbroker.Backoff]()
	b := newBroker(t, s.Server, jsbroker.WithHooks(jsbroker.Hooks{ConnectionChanged: onConnection, FetchError: onFetchError, Backoff: onBackoff}))
	h, got := collector()
	subscribe(t, b, "orders", h, broker.Queue("q"))
	publish(t, b, "orders", "before")
	receive(t, got)
	if e := receive(t, states); e.State != jsbroker.StateConnected || e.URL == "" || e.BrokerID == "" {
		t.Fatalf("first state %+v", e)
	}
	s.Stop()
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
	s.Start(t)
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
	eventually(t, "our goroutines and the client's are gone", func() bool { return len(natstest.Goroutines()) == 0 })
}

var (
	lifeFor  = flag.Duration("life", 2*time.Second, "how long TestLifeCycleInRandomOrder runs")
	lifeSeed = flag.Uint64("seed", 0, "what TestLifeCycleInRandomOrder begins with, as a failed run has printed it; 0 for another one each time")
)

// A minute of it, and a run once more:
//
//	go test -race -run LifeCycleInRandomOrder ./broker -life 1m
//	go test -race -run LifeCycleInRandomOrder ./broker -seed 42
func TestLifeCycleInRandomOrder(t *testing.T) {
	// Not parallel: it looks at all goroutines of the process.
	seed := *lifeSeed
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("-seed %d", seed)
	s := startServer(t)
	l := &life{t: t, s: s, ledger: newLedger(), end: time.Now().Add(*lifeFor)}
	l.b = jsbroker.NewBroker(broker.Addrs(s.ClientURL()), quiet())
	var goroutines sync.WaitGroup
	for g := range 8 {
		goroutines.Go(func() { l.live(g, rand.New(rand.NewPCG(seed, uint64(g)))) })
	}
	goroutines.Wait()

	// Whatever has happened, the broker works, and nothing is lost.
	l.quiet.Store(true)
	if err := l.b.Disconnect(); err != nil {
		t.Fatal(err)
	}
	if err := l.b.Connect(); err != nil {
		t.Fatal(err)
	}
	subscribe(t, l.b, "shared", l.handler(), broker.Queue("q"))
	for g := range 8 {
		subscribe(t, l.b, fmt.Sprintf("alone.t%d", g), l.handler())
	}
	l.ledger.settleInAnyOrder(t)
	_, js := natsConn(t, s)
	for _, stream := range []string{"SHARED", "ALONE"} {
		eventually(t, "all is acked", func() bool { return streamInfo(t, js, stream).State.Msgs == 0 })
	}
	if err := l.b.Disconnect(); err != nil {
		t.Fatal(err)
	}
	if names := append(natstest.ConsumerNames(t, js, "ALONE"), natstest.ConsumerNames(t, js, "SHARED")...); !slices.Equal(names, []string{"q"}) {
		t.Errorf("consumers are left: %v", names)
	}
	js.Conn().Close()
	eventually(t, "the server has no connections", func() bool { return s.NumClients() == 0 })
	eventually(t, "our goroutines and the client's are gone", func() bool { return len(natstest.Goroutines()) == 0 })
	// A timer, or anything else that knew of a subscription, would keep its handler.
	eventually(t, "the handlers are garbage", func() bool {
		runtime.GC()
		return l.handlers.Load() == 0
	})
	t.Logf("calls: %v", l.calls())
}

// life is a broker in the hands of many.
type life struct {
	t        *testing.T
	s        *server.Server
	b        broker.Broker
	ledger   *ledger
	end      time.Time
	quiet    atomic.Bool  // handlers just count
	handlers atomic.Int64 // that are not garbage
	counts   [9]atomic.Int64
}

func (l *life) calls() string {
	var all []string
	for i, name := range []string{"Connect", "Disconnect", "Subscribe", "Subscribe alone", "Unsubscribe", "cancel", "Init", "Publish", "Async"} {
		all = append(all, fmt.Sprintf("%s %d", name, l.counts[i].Load()))
	}
	return strings.Join(all, ", ")
}

// handler counts messages; some of them it answers with calls of its own.
func (l *life) handler() broker.Handler {
	l.handlers.Add(1)
	witness := new([16]byte)
	runtime.AddCleanup(witness, func(*life) { l.handlers.Add(-1) }, nil)
	return func(e broker.Event) error {
		runtime.KeepAlive(witness)
		n := 0
		_, _ = fmt.Sscanf(string(e.Message().Body), "%d", &n)
		if !l.quiet.Load() && jsbroker.NumDelivered(e) == 1 {
			switch n % 100 {
			case 10:
				return jsbroker.RetryAfter(0, errors.New("once more"))
			case 20:
				panic("on purpose")
			case 30:
				runtime.Goexit()
			case 40:
				_ = l.b.Publish("shared", message("from inside"), broker.PublishContext(jsbroker.EventContext(e)))
			case 50:
				_ = l.b.Disconnect()
			}
		}
		return l.ledger.handler(e)
	}
}

// live calls the broker at random until the end.
func (l *life) live(g int, rnd *rand.Rand) {
	alone := fmt.Sprintf("alone.t%d", g)
	var ctx context.Context
	var cancel context.CancelFunc
	renew := func() { ctx, cancel = context.WithCancel(context.Background()) } //nolint:fatcontext // each begins anew, none is within another
	renew()
	defer func() { cancel() }()
	var subs []broker.Subscriber
	subscribe := func(topic string, opts ...broker.SubscribeOption) {
		sub, err := l.b.Subscribe(topic, l.handler(), append(opts, broker.SubscribeContext(ctx), jsbroker.Concurrency(1+rnd.IntN(3)))...)
		switch {
		case err == nil:
			subs = append(subs, sub)
		case errors.Is(err, jsbroker.ErrNotConnected):
		case errors.Is(err, jsbroker.ErrWorkQueueConflict) && topic == alone: // one of ours is there
		default:
			l.t.Errorf("Subscribe: %v", err)
		}
	}
	for i := 0; time.Now().Before(l.end); i++ {
		call := rnd.IntN(len(l.counts))
		l.counts[call].Add(1)
		switch call {
		case 0:
			if err := l.b.Connect(); err != nil {
				l.t.Errorf("Connect: %v", err)
			}
		case 1:
			if rnd.IntN(4) > 0 {
				break // or it would be disconnected most of the time
			}
			if err := l.b.Disconnect(); err != nil {
				l.t.Errorf("Disconnect: %v", err)
			}
		case 2:
			subscribe("shared", broker.Queue("q"))
		case 3:
			subscribe(alone)
		case 4:
			if len(subs) > 0 {
				_ = subs[rnd.IntN(len(subs))].Unsubscribe()
			}
		case 5:
			cancel()
			renew()
		case 6:
			if err := l.b.Init(broker.Addrs(l.s.ClientURL()), jsbroker.WithBatchSize(1+rnd.IntN(20))); err != nil {
				l.t.Errorf("Init: %v", err)
			}
		case 7, 8:
			topic := "shared"
			if rnd.IntN(2) == 0 {
				topic = alone
			}
			l.publish(topic, fmt.Sprintf("%d by %d", i, g), call == 8)
		}
		_, _ = l.b.Address(), l.b.Options()
	}
}

func (l *life) publish(topic, body string, async bool) {
	done := func(err error) {
		if l.ledger.published(body, err); err != nil && !errors.Is(err, jsbroker.ErrNotConnected) {
			l.t.Errorf("Publish: %v", err)
		}
	}
	if !async {
		done(l.b.Publish(topic, message(body)))
	} else if err := l.b.Publish(topic, message(body), jsbroker.Async(done)); err != nil {
		done(err)
	}
}
