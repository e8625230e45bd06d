package broker_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go-micro.dev/v5/broker"
	"go-micro.dev/v5/logger"

	jsbroker "go-micro-jetstream/broker"
	"go-micro-jetstream/internal/natstest"
)

// Bodies of these tests are "key/number".

// byKey is the function of OrderBy.
func byKey(e broker.Event) string {
	key, _, _ := strings.Cut(string(e.Message().Body), "/")
	return key
}

// storeAll stores messages quickly.
func storeAll(t testing.TB, js jetstream.JetStream, topic string, bodies ...string) {
	t.Helper()
	for _, body := range bodies {
		if _, err := js.PublishAsync(topic, []byte(body), jetstream.WithStallWait(patience)); err != nil {
			t.Fatal(err)
		}
	}
	select {
	case <-js.PublishAsyncComplete():
	case <-time.After(patience):
		t.Fatal("not all is stored")
	}
}

// keyLog is what handlers have done, by key.
type keyLog struct {
	mu      sync.Mutex
	running map[string]bool
	ended   map[string][]string // the bodies whose handlers have succeeded, in order
	faults  []string
	done    chan string // the bodies
}

func newKeyLog() *keyLog {
	return &keyLog{running: map[string]bool{}, ended: map[string][]string{}, done: make(chan string, 100_000)}
}

// handler notes what it does around h.
func (l *keyLog) handler(h broker.Handler) broker.Handler {
	return func(e broker.Event) error {
		key := byKey(e)
		l.mu.Lock()
		if l.running[key] {
			l.faults = append(l.faults, key+": two at a time")
		}
		l.running[key] = true
		l.mu.Unlock()
		err := h(e)
		l.mu.Lock()
		defer l.mu.Unlock()
		l.running[key] = false
		if err == nil {
			l.ended[key] = append(l.ended[key], string(e.Message().Body))
			l.done <- string(e.Message().Body)
		}
		return err
	}
}

// check wants that each key had its messages 0 to n-1, in order.
func (l *keyLog) check(t testing.TB, keys, n int) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, f := range l.faults {
		t.Error(f)
	}
	for k := range keys {
		key := fmt.Sprint(k)
		for i, body := range l.ended[key] {
			if want := fmt.Sprintf("%s/%d", key, i); body != want {
				t.Errorf("key %s: number %d is %s", key, i, body)
				break
			}
		}
		if len(l.ended[key]) != n {
			t.Errorf("key %s: %d messages", key, len(l.ended[key]))
		}
	}
}

func keyed(keys, n int) (bodies []string) {
	for i := range n {
		for key := range keys {
			bodies = append(bodies, fmt.Sprintf("%d/%d", key, i))
		}
	}
	return bodies
}

// A tenth of ten thousand messages of a hundred keys fails once, and handlers take
// their time: each key keeps its order exactly.
func TestEachKeyKeepsItsOrderThroughRetries(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	_, js := natsConn(t, s)
	b := newBroker(t, s)
	const keys, n = 100, 100
	publish(t, b, "orders", "0/0") // creates the stream
	storeAll(t, js, "orders", keyed(keys, n)[1:]...)
	l := newKeyLog()
	handler := l.handler(func(e broker.Event) error {
		time.Sleep(rand.N(2 * time.Millisecond))
		if first := jsbroker.NumDelivered(e) == 1; first && rand.N(10) == 0 {
			return jsbroker.RetryAfter(rand.N(50*time.Millisecond), errors.New("not yet"))
		} else if d := jsbroker.NumDelivered(e); d > 2 {
			t.Errorf("delivery %d", d)
		}
		return nil
	})
	subscribe(t, b, "orders", handler, broker.Queue("q"), jsbroker.OrderBy(byKey), jsbroker.Concurrency(10))
	for range keys * n {
		receive(t, l.done)
	}
	l.check(t, keys, n)
	eventually(t, "all is acked", func() bool { return streamInfo(t, js, "ORDERS").State.Msgs == 0 })
}

// ordered are the options of these tests.
func ordered(n int) broker.SubscribeOption {
	return func(o *broker.SubscribeOptions) {
		for _, opt := range []broker.SubscribeOption{broker.Queue("q"), jsbroker.OrderBy(byKey), jsbroker.Concurrency(n)} {
			opt(o)
		}
	}
}

func TestOrderByIsCheckedBeforeAnythingIsSent(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	_, err := newBroker(t, s).Subscribe("orders", ignore, jsbroker.OrderBy(nil))
	wantError(t, err, jsbroker.ErrInvalidConfig, "OrderBy: the function is nil")
	b := newBroker(t, s, jsbroker.WithMaxAckExtension(0))
	_, err = b.Subscribe("orders", ignore, jsbroker.OrderBy(byKey))
	wantError(t, err, jsbroker.ErrInvalidConfig, "OrderBy", "WithMaxAckExtension(0)")
	_, err = newBroker(t, s).Subscribe("orders", ignore, ordered(0)) // options made of several are taken apart
	wantError(t, err, jsbroker.ErrInvalidConfig, "Concurrency(0)", `queue "q"`)
}

// It works with one handler, but is hardly what was meant.
func TestOrderByWithOneHandlerIsAWarning(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	log := natstest.NewLog()
	b := newBroker(t, s, broker.Logger(log))
	subscribe(t, b, "a", ignore, jsbroker.OrderBy(byKey))
	if lines := log.With("Concurrency(n)"); len(lines) != 1 || lines[0].Level != logger.WarnLevel || lines[0].Fields["topic"] != "a" {
		t.Errorf("%v", lines)
	}
	subscribe(t, b, "b", ignore, jsbroker.OrderBy(byKey), jsbroker.Concurrency(1))
	subscribe(t, b, "c", ignore, jsbroker.OrderBy(byKey), jsbroker.Concurrency(2))
	subscribe(t, newBroker(t, s, broker.Logger(log), jsbroker.WithConcurrency(2)), "d", ignore, jsbroker.OrderBy(byKey))
	if lines := log.With("Concurrency(n)"); len(lines) != 1 {
		t.Errorf("%v", lines)
	}
}

// While one of a key waits for its retry, the server does not deliver anything twice,
// although that takes longer than AckWait.
func TestWhatWaitsBehindARetryIsNotDeliveredTwice(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	_, js := natsConn(t, s)
	handled, onHandled := hookChan[jsbroker.Handled]()
	settled, onSettled := hookChan[jsbroker.Settled]()
	b := newBroker(t, s, jsbroker.WithHooks(jsbroker.Hooks{Handled: onHandled, Settled: onSettled}),
		jsbroker.WithConsumerConfig(jetstream.ConsumerConfig{AckWait: 2 * time.Second}))
	for _, body := range []string{"a/0", "a/1", "b/0", "a/2"} {
		publish(t, b, "orders", body)
	}
	var mu sync.Mutex
	var got []string
	done := make(chan struct{}, 10)
	subscribe(t, b, "orders", func(e broker.Event) error {
		mu.Lock()
		defer mu.Unlock()
		body := e.Message().Body
		got = append(got, fmt.Sprintf("%s, delivery %d", body, jsbroker.NumDelivered(e)))
		if string(body) == "a/0" && jsbroker.NumDelivered(e) < 3 {
			body[0] = 'x' // it is the handler's own
			return jsbroker.RetryAfter(3*time.Second, errors.New("not yet"))
		}
		done <- struct{}{}
		return nil
	}, ordered(3))
	for range 4 {
		receive(t, done)
	}
	want := "a/0, delivery 1; b/0, delivery 1; a/0, delivery 2; a/0, delivery 3; a/1, delivery 1; a/2, delivery 1"
	mu.Lock()
	if all := strings.Join(got, "; "); all != want && all != strings.Replace(want, "a/0, delivery 1; b/0, delivery 1", "b/0, delivery 1; a/0, delivery 1", 1) {
		t.Errorf("handled %s", all)
	}
	mu.Unlock()
	eventually(t, "all are acked", func() bool { return streamInfo(t, js, "ORDERS").State.Msgs == 0 })
	if info := natstest.ConsumerInfo(t, js, "ORDERS", "q"); info.Delivered.Consumer != 4 {
		t.Errorf("%d deliveries", info.Delivered.Consumer)
	}
	naks := 0
	for range 6 {
		if h := receive(t, handled); h.Result == jsbroker.ResultNak {
			if naks++; h.Delay != 3*time.Second || h.Subject != "orders" || h.NumDelivered != uint64(naks) {
				t.Errorf("%+v", h)
			}
		}
	}
	if naks != 2 || len(settled) != 4 {
		t.Errorf("%d naks, %d acknowledgements were sent", naks, len(settled))
	}
}

// One key is stuck. The others go on, until the messages of the stuck one are as many as
// may be in hand. That is said, and ends with it.
func TestStuckKeyIsBounded(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	_, js := natsConn(t, s)
	held, onHeld := hookChan[jsbroker.Held]()
	log := natstest.NewLog()
	b := newBroker(t, s, broker.Logger(log), jsbroker.WithHooks(jsbroker.Hooks{Held: onHeld}))
	publish(t, b, "orders", "other/0") // creates the stream
	const stuck, n = 1000, 2000
	body := strings.Repeat("x", 10_000)
	var bodies []string
	for i := range n {
		bodies = append(bodies, fmt.Sprintf("stuck/%d/%s", i, body), fmt.Sprintf("other/%d", i+1))
	}
	storeAll(t, js, "orders", bodies...)
	release := make(chan struct{})
	var others, handled atomic.Int64
	subscribe(t, b, "orders", func(e broker.Event) error {
		if byKey(e) == "stuck" {
			select {
			case <-release:
			default:
				return jsbroker.RetryAfter(10*time.Millisecond, errors.New("stuck"))
			}
		} else {
			others.Add(1)
		}
		handled.Add(1)
		return nil
	}, ordered(10))
	e := receive(t, held)
	if !e.Full || e.Keys != 1 || e.Messages < 700 || e.Messages > stuck || e.Queue != "q" {
		t.Errorf("%+v", e)
	}
	if got := others.Load(); got < 700 || got > stuck {
		t.Errorf("%d of other keys were handled", got)
	}
	eventually(t, "all that is delivered is in hand or acked", func() bool {
		info := natstest.ConsumerInfo(t, js, "ORDERS", "q")
		return info.NumAckPending <= stuck && info.NumPending > 0
	})
	close(release)
	if e := receive(t, held); e.Full || e.Messages > stuck/2 {
		t.Errorf("%+v", e)
	}
	eventually(t, "all are handled", func() bool { return handled.Load() == 2*n+1 })
	if lines := log.With("no more is fetched"); len(lines) != 1 || lines[0].Level != logger.WarnLevel {
		t.Errorf("logged %v", lines)
	}
}

// A function that panics, or ends its goroutine, is a handler that does.
func TestKeyFunctionThatPanics(t *testing.T) {
	t.Parallel()
	for _, fails := range []struct {
		how  string
		fail func()
	}{
		{"handler panicked: no key", func() { panic("no key") }},
		{"handler called runtime.Goexit", runtime.Goexit},
	} {
		t.Run(fails.how, func(t *testing.T) {
			t.Parallel()
			s := startServer(t)
			_, js := natsConn(t, s)
			panicked, onPanicked := hookChan[jsbroker.Panicked]()
			buried, onBuried := hookChan[jsbroker.DeadLettered]()
			b := newBroker(t, s, soon(), jsbroker.WithDeadLetter("graves"), jsbroker.WithHooks(jsbroker.Hooks{Panicked: onPanicked, DeadLettered: onBuried}))
			var asked atomic.Int64
			h, got := collector()
			subscribe(t, b, "orders", h, broker.Queue("q"), jsbroker.Concurrency(3), jsbroker.ConsumerConfig(jetstream.ConsumerConfig{BackOff: []time.Duration{time.Second}, MaxDeliver: 3}), // which is its AckWait, too
				jsbroker.OrderBy(func(e broker.Event) string {
					switch string(e.Message().Body) {
					case "once":
						if asked.Add(1) == 1 {
							fails.fail()
						}
					case "always":
						fails.fail()
					}
					return e.Topic()
				}))
			for _, body := range []string{"always", "1", "once", "2"} {
				publish(t, b, "orders", body)
			}
			want := map[string]bool{"1": true, "2": true, "once": true}
			for range len(want) {
				delete(want, receive(t, got))
			}
			if len(want) > 0 {
				t.Errorf("not handled: %v", want)
			}
			if e := receive(t, panicked); e.Err.Error() != fails.how || len(e.Err.Stack) == 0 {
				t.Errorf("%+v", e.Err)
			}
			if e := receive(t, buried); e.NumDelivered != 3 || e.Cause.Error() != fails.how || e.Err != nil {
				t.Errorf("%+v", e)
			}
			eventually(t, "nothing is left", func() bool { return streamInfo(t, js, "ORDERS").State.Msgs == 0 })
		})
	}
}

func TestSlowKeyFunctionIsLogged(t *testing.T) {
	t.Parallel()
	log := natstest.NewLog()
	b := newBroker(t, startServer(t), broker.Logger(log))
	h, got := collector()
	subscribe(t, b, "orders", h, broker.Queue("q"), jsbroker.OrderBy(func(broker.Event) string {
		time.Sleep(1100 * time.Millisecond) // what is tested
		return ""
	}))
	publish(t, b, "orders", "1")
	receive(t, got)
	if lines := log.With("the key function of OrderBy took 1."); len(lines) != 1 {
		t.Errorf("logged %v", log.Lines())
	}
}

// The function may look at the message, but not settle it.
func TestKeyFunctionSeesTheMessage(t *testing.T) {
	t.Parallel()
	b := newBroker(t, startServer(t))
	seen := make(chan string, 10)
	h, got := collector()
	subscribe(t, b, "orders.*", h, broker.Queue("q"), jsbroker.OrderBy(func(e broker.Event) string {
		m := e.Message()
		seen <- fmt.Sprintf("%s %s %s %v %v", e.Topic(), m.Body, m.Header["Account"], e.Error(), errors.Is(e.Ack(), jsbroker.ErrInvalidHandler))
		return m.Header["Account"]
	}))
	if err := b.Publish("orders.new", &broker.Message{Header: map[string]string{"Account": "7"}, Body: []byte("x")}); err != nil {
		t.Fatal(err)
	}
	if s := receive(t, seen); s != "orders.new x 7 <nil> true" {
		t.Error(s)
	}
	receive(t, got)
}

// What waits for a retry when the subscription ends goes to the next one at once, before
// the others of its key.
func TestNextSubscriptionGoesOnInOrder(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	settled, onSettled := hookChan[jsbroker.Settled]()
	handled, onHandled := hookChan[jsbroker.Handled]()
	b := newBroker(t, s, jsbroker.WithHooks(jsbroker.Hooks{Settled: onSettled, Handled: onHandled}))
	const keys, n = 10, 20
	for _, body := range keyed(keys, n) {
		publish(t, b, "orders", body)
	}
	failed := make(chan string, keys*n)
	sub := subscribe(t, b, "orders", func(e broker.Event) error {
		failed <- string(e.Message().Body)
		return jsbroker.RetryAfter(time.Hour, errors.New("not here"))
	}, ordered(5))
	for range keys {
		if body := receive(t, failed); !strings.HasSuffix(body, "/0") {
			t.Errorf("%s was handled", body)
		}
		receive(t, handled) // the promise is for subscriptions whose handlers have returned
	}
	if err := sub.Unsubscribe(); err != nil {
		t.Fatal(err)
	}
	for len(settled) > 0 {
		if e := <-settled; e.Delay != 0 {
			t.Errorf("settled %+v", e)
		}
	}
	l := newKeyLog()
	subscribe(t, newBroker(t, s), "orders", l.handler(ignore), ordered(1))
	for range keys * n {
		receive(t, l.done)
	}
	l.check(t, keys, n)
}

// A handler fails while its subscription ends: its message is not delayed either.
func TestFailureAfterTheEndIsNotDelayed(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	settled, onSettled := hookChan[jsbroker.Settled]()
	b := newBroker(t, s, jsbroker.WithHooks(jsbroker.Hooks{Settled: onSettled}))
	started, release := make(chan struct{}, 1), make(chan struct{})
	sub := subscribe(t, b, "orders", func(broker.Event) error {
		started <- struct{}{}
		<-release
		return jsbroker.RetryAfter(time.Hour, nil)
	}, ordered(1))
	publish(t, b, "orders", "a/0")
	receive(t, started)
	_ = sub.Unsubscribe()
	close(release)
	if e := receive(t, settled); e.Result != jsbroker.ResultNak || e.Delay != 0 || e.Returned {
		t.Errorf("%+v", e)
	}
	h, got := collector()
	subscribe(t, b, "orders", h, ordered(1))
	receive(t, got)
}

// The server counts MaxDeliver. Retries that were made here count as well: the handler
// gets the message no more often, and the server stops delivering it.
func TestServersLimitHoldsForRetriesMadeHere(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	nc, js := natsConn(t, s)
	given := natstest.Listen(t, nc, "$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.ORDERS.q")
	exhausted, onExhausted := hookChan[jsbroker.Exhausted]()
	b := newBroker(t, s, jsbroker.WithHooks(jsbroker.Hooks{Exhausted: onExhausted}), jsbroker.WithConsumerConfig(jetstream.ConsumerConfig{MaxDeliver: 4}))
	deliveries, good := make(chan uint64, 100), make(chan string, 10)
	subscribe(t, b, "orders", func(e broker.Event) error {
		if string(e.Message().Body) == "a/poison" {
			deliveries <- jsbroker.NumDelivered(e)
			return jsbroker.RetryAfter(time.Millisecond, errors.New("no"))
		}
		good <- string(e.Message().Body)
		return nil
	}, ordered(2))
	publish(t, b, "orders", "a/poison")
	publish(t, b, "orders", "a/good")
	receive(t, good)
	receive(t, given)
	for want := uint64(1); want <= 4; want++ {
		if n := receive(t, deliveries); n != want {
			t.Errorf("delivery %d, want %d", n, want)
		}
	}
	if e := receive(t, exhausted); e.NumDelivered != 4 {
		t.Errorf("%+v", e)
	}
	if len(deliveries) > 0 || len(exhausted) > 0 || streamInfo(t, js, "ORDERS").State.Msgs != 1 {
		t.Errorf("%d more deliveries, %d more events, %d messages in the stream", len(deliveries), len(exhausted), streamInfo(t, js, "ORDERS").State.Msgs)
	}
}

// The broker counts. Snoozes do not count.
func TestDeadLetterOfAnOrder(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	_, js := natsConn(t, s)
	b := newBroker(t, s, jsbroker.WithDeadLetter("graves"), jsbroker.WithConsumerConfig(jetstream.ConsumerConfig{MaxDeliver: 3}))
	tries, good := make(chan uint64, 100), make(chan string, 10)
	subscribe(t, b, "orders", func(e broker.Event) error {
		switch body := e.Message().Body; string(body) {
		case "a/poison":
			n := jsbroker.NumDelivered(e)
			tries <- n
			clear(body)
			if n <= 2 {
				return jsbroker.Snooze(time.Millisecond)
			}
			return jsbroker.RetryAfter(time.Millisecond, errors.New("no"))
		default:
			good <- string(body)
		}
		return nil
	}, ordered(2))
	publish(t, b, "orders", "a/poison")
	publish(t, b, "orders", "a/good")
	receive(t, good)
	if n := len(tries); n != 5 {
		t.Errorf("%d tries, want two snoozes and three", n)
	}
	if m := natstest.LastMessage(t, js, "GRAVES", "graves"); string(m.Data) != "a/poison" || m.Header.Get("Micro-Dead-Letter-Deliveries") != "5" {
		t.Errorf("%s %v", m.Data, m.Header)
	}
	eventually(t, "nothing is left", func() bool { return streamInfo(t, js, "ORDERS").State.Msgs == 0 })
}

// With manual acknowledgement a key waits for the message that its handler has left.
func TestKeyWaitsForAManualAck(t *testing.T) {
	t.Parallel()
	b := newBroker(t, startServer(t), jsbroker.WithConsumerConfig(jetstream.ConsumerConfig{AckWait: time.Second}))
	events := make(chan broker.Event, 100)
	subscribe(t, b, "orders", func(e broker.Event) error {
		events <- e
		return nil
	}, ordered(5), broker.DisableAutoAck())
	for _, body := range []string{"a/0", "a/1", "a/2", "a/3"} {
		publish(t, b, "orders", body)
	}
	next := func(want string) broker.Event {
		t.Helper()
		e := receive(t, events)
		if got := fmt.Sprintf("%s, %d", e.Message().Body, jsbroker.NumDelivered(e)); got != want {
			t.Fatalf("handles %s, want %s", got, want)
		}
		return e
	}
	e := next("a/0, 1")
	again := next("a/0, 2") // after AckWait
	if err := e.Ack(); err != nil {
		t.Error(err)
	}
	if err := again.Ack(); err != nil {
		t.Error(err)
	}
	e = next("a/1, 1")
	if err := jsbroker.Nak(e, time.Millisecond); err != nil {
		t.Error(err)
	}
	if err := e.Ack(); !errors.Is(err, jsbroker.ErrAlreadySettled) {
		t.Error(err)
	}
	if err := next("a/1, 2").Ack(); err != nil {
		t.Error(err)
	}
	if err := jsbroker.Terminate(next("a/2, 1"), "no use"); err != nil {
		t.Error(err)
	}
	if err := next("a/3, 1").Ack(); err != nil {
		t.Error(err)
	}
}

// An outage longer than AckWait: everything in hand is delivered again. What was handled
// meanwhile is not handled twice, and keys keep their order.
func TestOrderSurvivesAnOutage(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	p := natstest.StartProxy(t, s)
	const ackWait = time.Second
	b := newBroker(t, s, broker.Addrs(p.URL()), jsbroker.WithConsumerConfig(jetstream.ConsumerConfig{AckWait: ackWait}),
		jsbroker.WithNATSOptions(nats.ReconnectWait(10*time.Millisecond)))
	const keys, n = 10, 30
	for _, body := range keyed(keys, n) {
		publish(t, b, "orders", body)
	}
	l := newKeyLog()
	release := make(chan struct{})
	started := make(chan struct{}, 100*keys*n)
	subscribe(t, b, "orders", l.handler(func(e broker.Event) error {
		started <- struct{}{}
		<-release
		if rand.N(5) == 0 {
			return jsbroker.RetryAfter(time.Millisecond, errors.New("no"))
		}
		return nil
	}), ordered(3))
	for range 3 {
		receive(t, started)
	}
	p.Stall()
	p.Cut()
	timer := time.NewTimer(2 * ackWait)
	<-timer.C
	p.Resume()
	close(release)
	seen := map[string]bool{}
	for len(seen) < keys*n {
		seen[receive(t, l.done)] = true
	}
	l.mu.Lock()
	for key, bodies := range l.ended { // one whose ack was lost may end twice, but never early
		for i := range bodies {
			if i > 0 && number(bodies[i]) > number(bodies[i-1])+1 {
				t.Errorf("key %s: %s after %s", key, bodies[i], bodies[i-1])
			}
		}
	}
	l.mu.Unlock()
}

func number(body string) (n int) {
	_, text, _ := strings.Cut(body, "/")
	_, _ = fmt.Sscan(text, &n)
	return n
}

// A handler that hangs loses its message after WithMaxAckExtension. Its key goes on with
// the second delivery.
func TestKeyOfAHandlerThatHangs(t *testing.T) {
	t.Parallel()
	b := newBroker(t, startServer(t), jsbroker.WithShutdownTimeout(0), jsbroker.WithMaxAckExtension(500*time.Millisecond),
		jsbroker.WithConsumerConfig(jetstream.ConsumerConfig{AckWait: time.Second}))
	release, got := make(chan struct{}), make(chan string, 10)
	t.Cleanup(func() { close(release) })
	subscribe(t, b, "orders", func(e broker.Event) error {
		if body := string(e.Message().Body); body == "a/0" && jsbroker.NumDelivered(e) == 1 {
			<-release
		} else {
			got <- body
		}
		return nil
	}, ordered(2))
	for _, body := range []string{"a/0", "a/1", "a/2"} {
		publish(t, b, "orders", body)
	}
	for _, want := range []string{"a/0", "a/1", "a/2"} {
		if body := receive(t, got); body != want {
			t.Errorf("handles %s, want %s", body, want)
		}
	}
}

// The consumer is deleted while messages wait in hand: they come once more, and keys keep
// their order.
func TestOrderSurvivesTheLossOfItsConsumer(t *testing.T) {
	t.Parallel()
	for _, queue := range []string{"q", ""} {
		t.Run("queue="+queue, func(t *testing.T) {
			t.Parallel()
			s := startServer(t)
			_, js := natsConn(t, s)
			b := newBroker(t, s, jsbroker.WithStreamConfig(jetstream.StreamConfig{Retention: jetstream.InterestPolicy}))
			l := newKeyLog()
			release := make(chan struct{})
			started := make(chan struct{}, 1000)
			subscribe(t, b, "orders", l.handler(func(broker.Event) error {
				started <- struct{}{}
				<-release
				if rand.N(5) == 0 {
					return jsbroker.RetryAfter(time.Millisecond, errors.New("no"))
				}
				return nil
			}), broker.Queue(queue), jsbroker.OrderBy(byKey), jsbroker.Concurrency(3))
			// A stream with interest keeps what nobody has acked, as long as anybody is there.
			natstest.MakeConsumer(t, js, "ORDERS", jetstream.ConsumerConfig{Durable: "witness"})
			const keys, n = 10, 30
			for _, body := range keyed(keys, n) {
				publish(t, b, "orders", body)
			}
			for range 3 {
				receive(t, started)
			}
			for _, name := range natstest.ConsumerNames(t, js, "ORDERS") {
				if name != "witness" {
					if err := js.DeleteConsumer(testContext(t), "ORDERS", name); err != nil {
						t.Fatal(err)
					}
				}
			}
			close(release)
			seen := map[string]bool{}
			for len(seen) < keys*n {
				seen[receive(t, l.done)] = true
			}
			l.check(t, keys, n)
		})
	}
}
