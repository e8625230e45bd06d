package broker_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go-micro.dev/v5/broker"

	jsbroker "go-micro-jetstream/broker"
	"go-micro-jetstream/internal/natstest"
)

// ledger counts messages from publish to handler. Every body is unique:
// "<topic>/<number>", with numbers that grow in the order of publishing.
type ledger struct {
	mu       sync.Mutex
	stored   map[string]bool // acknowledged by a stream
	unknown  int             // publishes whose outcome is unknown
	handled  map[string]int  // by body
	disorder []string        // first deliveries that came after a later one
	dropped  atomic.Int64    // slow-consumer errors of the client
}

func newLedger() *ledger {
	return &ledger{stored: map[string]bool{}, handled: map[string]int{}}
}

// watch has the ledger see what the client throws away, and in which order the
// handlers of one broker start.
func (l *ledger) watch() broker.Option {
	highest := map[string]uint64{}
	ordered := jsbroker.WithHooks(jsbroker.Hooks{HandleStart: func(ctx context.Context, e jsbroker.HandleStart) context.Context {
		l.mu.Lock()
		defer l.mu.Unlock()
		at := e.Consumer + " " + e.Subject
		switch {
		case e.NumDelivered > 1:
		case e.StreamSequence < highest[at]:
			l.disorder = append(l.disorder, fmt.Sprintf("%s: %d after %d", at, e.StreamSequence, highest[at]))
		default:
			highest[at] = e.StreamSequence
		}
		return ctx
	}})
	dropped := jsbroker.WithNATSOptions(nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
		if errors.Is(err, nats.ErrSlowConsumer) {
			l.dropped.Add(1)
		}
	}))
	return func(o *broker.Options) {
		ordered(o)
		dropped(o)
	}
}

// published notes how a publish ended.
func (l *ledger) published(body string, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case err == nil:
		l.stored[body] = true
	case errors.Is(err, jsbroker.ErrPublishUnknown):
		l.unknown++
	}
}

// publish publishes numbers first to last on a topic and fails the test on an
// error.
func (l *ledger) publish(t testing.TB, b broker.Broker, topic string, first, last int) {
	t.Helper()
	for i := first; i <= last; i++ {
		body := fmt.Sprintf("%s/%d", topic, i)
		err := b.Publish(topic, message(body), broker.PublishContext(testContext(t)))
		if l.published(body, err); err != nil {
			t.Fatal(err)
		}
	}
}

// handler counts what it gets.
func (l *ledger) handler(e broker.Event) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.handled[string(e.Message().Body)]++
	return nil
}

func (l *ledger) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.handled)
}

// missing returns what was stored and not handled.
func (l *ledger) missing() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var missing []string
	for body := range l.stored {
		if l.handled[body] == 0 {
			missing = append(missing, body)
		}
	}
	slices.Sort(missing)
	return missing
}

// duplicates is how many times a message was handled again. The caller holds
// l.mu.
func (l *ledger) duplicates() (n int) {
	for _, times := range l.handled {
		n += times - 1
	}
	return n
}

// settle waits until everything that was stored has been handled, and checks
// the rest of the count.
func (l *ledger) settle(t testing.TB) {
	t.Helper()
	l.settleInAnyOrder(t)
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.disorder) > 0 {
		t.Errorf("%d first deliveries out of order: %v", len(l.disorder), l.disorder[:min(len(l.disorder), 20)])
	}
}

// settleInAnyOrder is settle for tests with several handlers at a time.
func (l *ledger) settleInAnyOrder(t testing.TB) {
	t.Helper()
	deadline := time.Now().Add(2 * patience)
	for len(l.missing()) > 0 {
		if time.Now().After(deadline) {
			missing := l.missing()
			t.Fatalf("%d of %d stored messages were not handled: %v", len(missing), len(l.stored), missing[:min(len(missing), 20)])
		}
		time.Sleep(5 * time.Millisecond)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if n := l.dropped.Load(); n > 0 {
		t.Errorf("the client dropped messages %d times", n)
	}
	t.Logf("stored %d, unknown %d, handled %d, duplicates %d", len(l.stored), l.unknown, len(l.handled), l.duplicates())
}

// limits is a stream on which every subscriber without a queue gets everything.
var limits = jsbroker.WithStreamConfig(jetstream.StreamConfig{Retention: jetstream.LimitsPolicy, Storage: jetstream.MemoryStorage})

func TestQueuelessSubscriberMissesNothingOfAStreamMadeAgain(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	_, js := natsConn(t, s)
	l := newLedger()
	b := newBroker(t, s, limits, l.watch())
	subscribe(t, b, "orders", l.handler)
	l.publish(t, b, "orders", 1, 5)
	eventually(t, "they are handled", func() bool { return len(l.missing()) == 0 })
	if err := js.DeleteStream(testContext(t), "ORDERS"); err != nil {
		t.Fatal(err)
	}
	l.publish(t, b, "orders", 6, 10)
	l.settleInAnyOrder(t) // the sequence begins anew
}

// It goes on in the new stream as it did in the former one.
func TestQueuelessSubscriberRepeatsNothingOfAStreamMadeAgain(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	_, js := natsConn(t, s)
	b := newBroker(t, s, limits)
	h, got := collector()
	subscribe(t, b, "orders", h)
	expect := func(body string) {
		t.Helper()
		publish(t, b, "orders", body)
		if g := receive(t, got); g != body {
			t.Fatalf("got %s, want %s", g, body)
		}
	}
	expect("1")
	if err := js.DeleteStream(testContext(t), "ORDERS"); err != nil {
		t.Fatal(err)
	}
	const n = 5
	for i := range n {
		expect(fmt.Sprint("of the new stream ", i))
	}
	for _, name := range natstest.ConsumerNames(t, js, "ORDERS") {
		eventually(t, "all are acked", func() bool { return natstest.ConsumerInfo(t, js, "ORDERS", name).AckFloor.Stream == n })
		if err := js.DeleteConsumer(testContext(t), "ORDERS", name); err != nil {
			t.Fatal(err)
		}
	}
	expect("last")
}

// The same for a queue whose stream and consumer another replica has made again.
func TestQueueRepeatsNothingOfAStreamThatAnotherReplicaHasMadeAgain(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	_, js := natsConn(t, s)
	b := newBroker(t, s, limits, forNew)
	h, got := collector()
	subscribe(t, b, "orders", h, broker.Queue("q"))
	expect := func(body string) {
		t.Helper()
		publish(t, b, "orders", body)
		if g := receive(t, got); g != body {
			t.Fatalf("got %s, want %s", g, body)
		}
	}
	for i := range 5 {
		expect(fmt.Sprint(i))
	}
	sc, cc := streamInfo(t, js, "ORDERS").Config, natstest.ConsumerInfo(t, js, "ORDERS", "q").Config
	if err := js.DeleteStream(testContext(t), "ORDERS"); err != nil {
		t.Fatal(err)
	}
	natstest.MakeStream(t, js, sc)
	natstest.MakeConsumer(t, js, "ORDERS", cc)
	for i := range 3 {
		expect(fmt.Sprint("of the new stream ", i))
	}
	eventually(t, "all are acked", func() bool { return natstest.ConsumerInfo(t, js, "ORDERS", "q").AckFloor.Stream == 3 })
	if err := js.DeleteConsumer(testContext(t), "ORDERS", "q"); err != nil {
		t.Fatal(err)
	}
	expect("last")
}

func TestQueuelessSubscriberMissesNothingWhileItsConsumerIsGone(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	_, js := natsConn(t, s)
	l := newLedger()
	b := newBroker(t, s, limits, l.watch())
	publish(t, b, "orders", "orders/0") // before the subscription, so not for it
	subscribe(t, b, "orders", l.handler)
	for _, name := range natstest.ConsumerNames(t, js, "ORDERS") {
		if err := js.DeleteConsumer(testContext(t), "ORDERS", name); err != nil {
			t.Fatal(err)
		}
	}
	l.publish(t, b, "orders", 1, 5)
	l.settle(t)
	if n := len(l.handled); n != 5 {
		t.Fatalf("%d handled, want 5: %v", n, l.handled)
	}
}

// Such a consumer, as it was, would begin with what is the last by then.
func TestSubscriberFromTheLastMissesNothingWhileItsConsumerIsGone(t *testing.T) {
	t.Parallel()
	for _, policy := range []jetstream.DeliverPolicy{jetstream.DeliverLastPolicy, jetstream.DeliverLastPerSubjectPolicy} {
		for _, queue := range []string{"", "q"} {
			t.Run(fmt.Sprintf("%v, queue %s", policy, queue), func(t *testing.T) {
				t.Parallel()
				s := startServer(t)
				_, js := natsConn(t, s)
				b := newBroker(t, s, limits, jsbroker.WithConsumerConfig(jetstream.ConsumerConfig{DeliverPolicy: policy}))
				publish(t, b, "orders", "0") // not the last
				publish(t, b, "orders", "1")
				h, got := collector()
				subscribe(t, b, "orders", h, broker.Queue(queue))
				expect := func(from, to int) {
					t.Helper()
					for i := from; i <= to; i++ {
						if g := receive(t, got); g != fmt.Sprint(i) {
							t.Fatalf("got %s, want %d", g, i)
						}
					}
				}
				expect(1, 1)
				for _, name := range natstest.ConsumerNames(t, js, "ORDERS") {
					if err := js.DeleteConsumer(testContext(t), "ORDERS", name); err != nil {
						t.Fatal(err)
					}
				}
				for i := 2; i <= 5; i++ {
					publish(t, b, "orders", fmt.Sprint(i))
				}
				expect(2, 5)
			})
		}
	}
}

// What was running, and fails, and what waits for its retry come again from the new
// consumer; what was acked after them does not.
func TestQueuelessSubscriberRetriesWhatFailedWhenItsConsumerWasLost(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	_, js := natsConn(t, s)
	b := newBroker(t, s, limits)
	started, release := make(chan string, 100), make(chan struct{})
	failed := map[string]bool{}
	subscribe(t, b, "orders", func(e broker.Event) error {
		body := string(e.Message().Body)
		started <- body
		if body == "runs" {
			<-release
		}
		if body != "ok" && !failed[body] {
			failed[body] = true
			return jsbroker.RetryAfter(time.Hour, nil) // which only the lost consumer knows of
		}
		return nil
	})
	want := []string{"waits", "ok", "runs"}
	for _, body := range want {
		publish(t, b, "orders", body)
		if got := receive(t, started); got != body {
			t.Fatalf("got %s, want %s", got, body)
		}
	}
	for _, name := range natstest.ConsumerNames(t, js, "ORDERS") {
		if err := js.DeleteConsumer(testContext(t), "ORDERS", name); err != nil {
			t.Fatal(err)
		}
	}
	close(release)
	publish(t, b, "orders", "new")
	for _, body := range []string{"waits", "runs", "new"} {
		if got := receive(t, started); got != body {
			t.Fatalf("got %s, want %s", got, body)
		}
	}
}

// forNew is a template for consumers of what is published from now on.
var forNew = jsbroker.WithConsumerConfig(jetstream.ConsumerConfig{DeliverPolicy: jetstream.DeliverNewPolicy})

func TestDurableForNewMessagesRetriesWhatFailedWhenItWasLost(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	_, js := natsConn(t, s)
	b := newBroker(t, s, limits, forNew)
	publish(t, b, "orders", "old")
	started := make(chan string, 100)
	failed := false
	subscribe(t, b, "orders", func(e broker.Event) error {
		body := string(e.Message().Body)
		started <- body
		if body == "waits" && !failed {
			failed = true
			return jsbroker.RetryAfter(time.Hour, nil) // which only the lost consumer knows of
		}
		return nil
	}, broker.Queue("q"))
	expect := func(body string) {
		t.Helper()
		if got := receive(t, started); got != body {
			t.Fatalf("got %s, want %s", got, body)
		}
	}
	for _, body := range []string{"waits", "ok"} {
		publish(t, b, "orders", body)
		expect(body)
	}
	if err := js.DeleteConsumer(testContext(t), "ORDERS", "q"); err != nil {
		t.Fatal(err)
	}
	publish(t, b, "orders", "new")
	expect("waits")
	expect("new")
}

// A replica that makes a shared consumer again knows what has become of the others'
// messages as far as the server has told it.
func TestDurableForNewMessagesGoesOnWhereAllReplicasAre(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	nc, js := natsConn(t, s)
	b := newBroker(t, s, limits, forNew, jsbroker.WithBatchSize(1), jsbroker.WithFetchWait(time.Second))
	started, release := make(chan string, 100), make(chan struct{})
	subscribe(t, b, "orders", func(e broker.Event) error {
		started <- string(e.Message().Body)
		<-release
		return nil
	}, broker.Queue("q"))
	expect := func(body string) {
		t.Helper()
		if got := receive(t, started); got != body {
			t.Fatalf("got %s, want %s", got, body)
		}
	}
	publish(t, b, "orders", "1")
	expect("1")
	replica, err := js.Consumer(testContext(t), "ORDERS", "q")
	if err != nil {
		t.Fatal(err)
	}
	for _, body := range []string{"2", "3", "4", "5"} {
		publish(t, b, "orders", body)
		m, err := replica.Next(jetstream.FetchMaxWait(patience))
		if err != nil {
			t.Fatal(err)
		}
		if body == "4" {
			continue // it is still being handled
		}
		if err := m.DoubleAck(testContext(t)); err != nil {
			t.Fatal(err)
		}
	}
	close(release)
	eventually(t, "all before 4 are settled", func() bool { return natstest.ConsumerInfo(t, js, "ORDERS", "q").AckFloor.Stream == 3 })
	looks := natstest.CountRequests(t, nc, "$JS.API.CONSUMER.INFO.ORDERS.q")
	eventually(t, "the subscription has looked", func() bool { return looks.Seen(t) > 0 })
	if err := js.DeleteConsumer(testContext(t), "ORDERS", "q"); err != nil {
		t.Fatal(err)
	}
	publish(t, b, "orders", "new")
	for _, body := range []string{"4", "5", "new"} { // 5 is repeated
		expect(body)
	}
}

// A stream is lost, and its consumers are first made again by a replica that starts
// and subscribes in another order: each name is now that of the other topic.
func TestConsumersMadeAgainByAReplicaInAnotherOrder(t *testing.T) {
	t.Parallel()
	for name, retention := range map[string]jetstream.RetentionPolicy{"WorkQueue": jetstream.WorkQueuePolicy, "Limits": jetstream.LimitsPolicy} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := startServer(t)
			_, js := natsConn(t, s)
			template := jsbroker.WithStreamConfig(jetstream.StreamConfig{Retention: retention})
			backoffs, onBackoff := hookChan[jsbroker.Backoff]()
			handled, onHandled := hookChan[jsbroker.Handled]()
			b := newBroker(t, s, template, jsbroker.WithFetchWait(100*time.Millisecond),
				jsbroker.WithHooks(jsbroker.Hooks{Backoff: onBackoff, Handled: onHandled}))
			topics := []string{"orders.a", "orders.b"}
			for _, topic := range topics {
				subscribe(t, b, topic, ignore, broker.Queue("q"))
			}
			if err := js.DeleteStream(testContext(t), "ORDERS"); err != nil {
				t.Fatal(err)
			}
			replica := newBroker(t, s, template) // before the first has looked, a second later
			for _, topic := range slices.Backward(topics) {
				subscribe(t, replica, topic, ignore, broker.Queue("q"))
			}
			for healthy := map[string]bool{}; len(healthy) < len(topics); {
				if e := receive(t, backoffs); e.Delay == 0 {
					healthy[e.Topic] = true
				}
			}
			if err := replica.Disconnect(); err != nil {
				t.Fatal(err)
			}
			if names := natstest.ConsumerNames(t, js, "ORDERS"); len(names) != len(topics) {
				t.Errorf("consumers %v for %v", names, topics)
			}
			for _, topic := range topics {
				publish(t, b, topic, "")
				e := receive(t, handled)
				if e.Subject != topic {
					t.Errorf("got a message of %s, want one of %s", e.Subject, topic)
				}
				if filter := natstest.ConsumerInfo(t, js, "ORDERS", e.Consumer).Config.FilterSubject; filter != topic {
					t.Errorf("the event of %s names consumer %s, which is for %s", topic, e.Consumer, filter)
				}
			}
		})
	}
}

func TestReconnectsLeaveNoRoomForTheClientToDropMessages(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	_, js := natsConn(t, s)
	p := natstest.StartProxy(t, s)
	l := newLedger()
	states, onChange := hookChan[jsbroker.ConnectionChanged]()
	const batch = 100
	b := newBroker(t, s, broker.Addrs(p.URL()), jsbroker.WithBatchSize(batch), l.watch(),
		jsbroker.WithNATSOptions(nats.ReconnectWait(time.Millisecond), nats.ReconnectJitter(0, 0)),
		jsbroker.WithHooks(jsbroker.Hooks{ConnectionChanged: onChange}))
	release := make(chan struct{})
	subscribe(t, b, "orders", func(e broker.Event) error {
		<-release
		return l.handler(e)
	}, broker.Queue("q"))
	eventually(t, "a request waits", func() bool { return natstest.ConsumerInfo(t, js, "ORDERS", "q").NumWaiting > 0 })
	for range 3 {
		p.Cut()
		for receive(t, states).State != jsbroker.StateReconnected {
		}
	}
	eventually(t, "a request waits", func() bool { return natstest.ConsumerInfo(t, js, "ORDERS", "q").NumWaiting > 0 })
	for i := range 9 * batch {
		body := fmt.Sprintf("orders/%d", i+1)
		if _, err := js.PublishAsync("orders", []byte(body)); err != nil {
			t.Fatal(err)
		}
		l.published(body, nil)
	}
	receive(t, js.PublishAsyncComplete())
	close(release)
	l.settle(t)
}

func TestUnsubscribeStormStrandsNothing(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	l := newLedger()
	b := newBroker(t, s, l.watch(), jsbroker.WithConsumerConfig(jetstream.ConsumerConfig{AckWait: time.Hour}))
	stop := make(chan struct{})
	var publishing sync.WaitGroup
	publishing.Go(func() {
		for i := 1; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			body := fmt.Sprintf("orders/%d", i)
			l.published(body, b.Publish("orders", message(body)))
		}
	})
	for i := range 100 {
		handled := l.count()
		sub := subscribe(t, b, "orders", l.handler, broker.Queue("q"), jsbroker.Concurrency(1+i%3))
		if i%2 == 0 {
			eventually(t, "one is handled", func() bool { return l.count() > handled })
		}
		if err := sub.Unsubscribe(); err != nil {
			t.Fatal(err)
		}
	}
	close(stop)
	publishing.Wait()
	subscribe(t, b, "orders", l.handler, broker.Queue("q"))
	l.settleInAnyOrder(t)
}

// What is unsubscribed in an outage is not subscribed to again on the server when the
// connection is back: nobody would handle what it is sent.
func TestUnsubscribeInAnOutageStrandsNothing(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	p := natstest.StartProxy(t, s)
	states, onState := hookChan[jsbroker.ConnectionChanged]()
	a := newBroker(t, s, broker.Addrs(p.URL()), jsbroker.WithClientName("a"), jsbroker.WithHooks(jsbroker.Hooks{ConnectionChanged: onState}),
		jsbroker.WithConsumerConfig(jetstream.ConsumerConfig{AckWait: time.Hour}), jsbroker.WithFetchWait(time.Minute),
		jsbroker.WithNATSOptions(nats.ReconnectWait(time.Second), nats.ReconnectJitter(0, 0)))
	state := func(want jsbroker.ConnectionState) {
		t.Helper()
		if e := receive(t, states); e.State != want {
			t.Fatalf("told of %s, want %s", e.State, want)
		}
	}
	state(jsbroker.StateConnected)
	h, got := collector()
	sub := subscribe(t, a, "orders", h, broker.Queue("q"))
	other := newBroker(t, s)
	publish(t, other, "orders", "0")
	receive(t, got)
	p.Cut()
	state(jsbroker.StateDisconnected)
	if err := sub.Unsubscribe(); err != nil {
		t.Fatal(err)
	}
	state(jsbroker.StateReconnected)
	publish(t, a, "others", "the client has subscribed again before it publishes")
	h, got = collector()
	for i := range 5 {
		publish(t, other, "orders", fmt.Sprint(i))
	}
	subscribe(t, other, "orders", h, broker.Queue("q"))
	for range 5 {
		receive(t, got)
	}
}

func TestDisconnectOfManySubscriptionsIsBoundedOnAStalledServer(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	p := natstest.StartProxy(t, s)
	b := newBroker(t, s, broker.Addrs(p.URL()), jsbroker.WithShutdownTimeout(time.Second))
	const n = 40 // a second for each, one after the other, would be longer than patience
	for i := range n {
		subscribe(t, b, fmt.Sprintf("orders.t%d", i), ignore, broker.Queue("q"))
	}
	p.Stall()
	begin := time.Now()
	_ = b.Disconnect()
	if took := time.Since(begin); took > patience {
		t.Errorf("Disconnect took %v", took)
	}
	p.Resume()
}

func TestRequestLostWhileAllWorkersAreBusyIsMadeAgain(t *testing.T) {
	t.Parallel()
	s := natstest.StartRestartable(t)
	p := natstest.StartProxy(t, s.Server)
	l := newLedger()
	states, onChange := hookChan[jsbroker.ConnectionChanged]()
	failed, onFetchError := hookChan[jsbroker.FetchError]()
	b := newBroker(t, s.Server, broker.Addrs(p.URL()), l.watch(),
		jsbroker.WithNATSOptions(nats.ReconnectWait(10*time.Millisecond)),
		jsbroker.WithHooks(jsbroker.Hooks{ConnectionChanged: onChange, FetchError: onFetchError}))
	const n = 1000 // enough for the batches to grow, so that the last request is open
	l.publish(t, b, "orders", 1, n)
	blocked, release := make(chan struct{}), make(chan struct{})
	subscribe(t, b, "orders", func(e broker.Event) error {
		if string(e.Message().Body) == fmt.Sprintf("orders/%d", n) {
			close(blocked)
			<-release
		}
		return l.handler(e)
	}, broker.Queue("q"))
	receive(t, blocked)
	p.Stall() // a server that crashes says no goodbye
	s.Stop()
	p.Cut()
	p.Resume()
	s.Start(t)
	for receive(t, states).State != jsbroker.StateReconnected {
	}
	close(release)
	l.publish(t, b, "orders", n+1, n+10)
	l.settle(t)
	for len(failed) > 0 {
		if e := <-failed; e.Reason == "no_heartbeat" {
			t.Errorf("the worker waited for a request that was lost long ago: %v", e.Err)
		}
	}
}

func TestFilterChangedUnderASubscriberIsAFailureAndNothingIsLost(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	_, js := natsConn(t, s)
	l := newLedger()
	failed, onFetchError := hookChan[jsbroker.FetchError]()
	b := newBroker(t, s, l.watch(), jsbroker.WithHooks(jsbroker.Hooks{FetchError: onFetchError}))
	subscribe(t, b, "orders.a", l.handler, broker.Queue("q"))
	setFilter := func(topic string) {
		t.Helper()
		cc := natstest.ConsumerInfo(t, js, "ORDERS", "q").Config
		cc.FilterSubject = topic
		if _, err := js.UpdateConsumer(testContext(t), "ORDERS", cc); err != nil {
			t.Fatal(err)
		}
	}
	setFilter("orders.b")
	publish(t, b, "orders.b", "orders.b/1")
	wantError(t, receive(t, failed).Err, jsbroker.ErrConsumerConflict, "orders.b")
	setFilter("orders.a")
	l.publish(t, b, "orders.a", 1, 5)
	l.settle(t)
	if n := l.handled["orders.b/1"]; n > 0 {
		t.Error("the handler got what it had not subscribed to")
	}
	if info := streamInfo(t, js, "ORDERS"); info.State.Msgs == 0 {
		t.Error("the other topic's message is gone")
	}
	atMost(t, 5, failed)
}

// The ack deadlines of messages that come with a failure, or in the pause after it,
// do not wait for the pause to end. It lasts all the same: they are no reason to try
// again.
func TestMessagesAreHandledWhileFetchingFails(t *testing.T) {
	t.Parallel()
	for _, concurrency := range []int{1, 3} {
		t.Run(fmt.Sprintf("concurrency %d", concurrency), func(t *testing.T) {
			t.Parallel()
			s := startServer(t)
			_, js := natsConn(t, s)
			failed, onFetchError := hookChan[jsbroker.FetchError]()
			backoffs, onBackoff := hookChan[jsbroker.Backoff]()
			b := newBroker(t, s, jsbroker.WithHooks(jsbroker.Hooks{FetchError: onFetchError, Backoff: onBackoff}))
			got, release := make(chan string, 100), make(chan struct{})
			subscribe(t, b, "orders.a", func(e broker.Event) error {
				got <- string(e.Message().Body)
				<-release
				return nil
			}, broker.Queue("q"), jsbroker.Concurrency(concurrency))
			publish(t, b, "orders.a", "first")
			receive(t, got)
			cc := natstest.ConsumerInfo(t, js, "ORDERS", "q").Config
			cc.FilterSubject = "orders.*"
			if _, err := js.UpdateConsumer(testContext(t), "ORDERS", cc); err != nil {
				t.Fatal(err)
			}
			publish(t, b, "orders.b", "stray")
			publish(t, b, "orders.a", "came with it")
			eventually(t, "all are delivered", func() bool { return natstest.ConsumerInfo(t, js, "ORDERS", "q").Delivered.Consumer == 3 })
			close(release)
			if body := receive(t, got); body != "came with it" {
				t.Fatalf("got %s", body)
			}
			receive(t, failed)
			for i := range 6 { // of the ten that were asked for
				body := fmt.Sprint("came in the pause ", i)
				publish(t, b, "orders.a", body)
				if next := receive(t, got); next != body {
					t.Fatalf("got %s, want %s", next, body)
				}
			}
			atMost(t, 3, failed)
			for n := 1; len(backoffs) > 0; n++ {
				if e := <-backoffs; e.Attempt != n {
					t.Errorf("attempt %d, want %d: no fetch has succeeded", e.Attempt, n)
				}
			}
		})
	}
}

// A consumer that Subscribe would refuse is not taken either when its owner has made
// it again like that: with AckAll an ack would settle what has failed before it.
func TestConsumerMadeAgainUnusableIsAFailureAndNothingIsLost(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	_, js := natsConn(t, s)
	natstest.MakeStream(t, js, jetstream.StreamConfig{Name: "ORDERS", Subjects: []string{"orders"}})
	theirs := jetstream.ConsumerConfig{Durable: "q", FilterSubject: "orders", AckPolicy: jetstream.AckExplicitPolicy}
	natstest.MakeConsumer(t, js, "ORDERS", theirs)
	failed, onFetchError := hookChan[jsbroker.FetchError]()
	b := newBroker(t, s, jsbroker.WithHooks(jsbroker.Hooks{FetchError: onFetchError}))
	started := make(chan string, 100)
	hasFailed := false
	subscribe(t, b, "orders", func(e broker.Event) error {
		body := string(e.Message().Body)
		started <- body
		if body == "fails once" && !hasFailed {
			hasFailed = true
			return jsbroker.RetryAfter(100*time.Millisecond, nil)
		}
		return nil
	}, broker.Queue("q"))
	replace := func(policy jetstream.AckPolicy) {
		t.Helper()
		if err := js.DeleteConsumer(testContext(t), "ORDERS", "q"); err != nil {
			t.Fatal(err)
		}
		theirs.AckPolicy = policy
		natstest.MakeConsumer(t, js, "ORDERS", theirs)
	}
	eventually(t, "a request waits", func() bool { return natstest.ConsumerInfo(t, js, "ORDERS", "q").NumWaiting > 0 })
	replace(jetstream.AckAllPolicy)
	publish(t, b, "orders", "fails once")
	publish(t, b, "orders", "good")
	if e := receive(t, failed); e.Reason != "consumer_deleted" {
		t.Fatalf("reason %q of %v", e.Reason, e.Err)
	}
	wantError(t, receive(t, failed).Err, jsbroker.ErrConsumerConflict, "consumer q", "ORDERS", "ack policy")
	replace(jetstream.AckExplicitPolicy)
	for _, body := range []string{"fails once", "good", "fails once"} {
		if got := receive(t, started); got != body {
			t.Fatalf("got %s, want %s", got, body)
		}
	}
}
