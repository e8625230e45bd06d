package broker_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go-micro.dev/v5/broker"
	"go-micro.dev/v5/logger"

	jsbroker "go-micro-jetstream/broker"
	"go-micro-jetstream/internal/natstest"
)

// soon makes failed deliveries come back quickly. BackOff is the AckWait, too, so
// much less would have them come back by themselves on a busy machine.
func soon() broker.Option {
	return jsbroker.WithConsumerConfig(jetstream.ConsumerConfig{BackOff: []time.Duration{500 * time.Millisecond}, MaxDeliver: 100})
}

func TestHandlerReturnDecides(t *testing.T) {
	t.Parallel()
	failure := errors.New("no luck")
	tests := []struct {
		name     string
		handler  broker.Handler
		result   jsbroker.Result
		panicked bool
		min, max time.Duration // of the delay
	}{
		{"nil acks", func(broker.Event) error { return nil }, jsbroker.ResultAck, false, 0, 0},
		{"an error naks with the growing delay", func(broker.Event) error { return failure }, jsbroker.ResultNak, false, time.Second, 1100 * time.Millisecond},
		{"RetryAfter naks with its delay", func(broker.Event) error { return jsbroker.RetryAfter(time.Hour, failure) }, jsbroker.ResultNak, false, time.Hour, time.Hour},
		{"a wrapped RetryAfter does, too", func(broker.Event) error { return fmt.Errorf("x: %w", jsbroker.RetryAfter(time.Hour, nil)) }, jsbroker.ResultNak, false, time.Hour, time.Hour},
		{"Discard terminates", func(broker.Event) error { return jsbroker.Discard(failure) }, jsbroker.ResultTerm, false, 0, 0},
		{"a panic naks", func(broker.Event) error { panic(failure) }, jsbroker.ResultNak, true, time.Second, 1100 * time.Millisecond},
		{"a nil panic naks", func(broker.Event) error { panic(nil) }, jsbroker.ResultNak, true, time.Second, 1100 * time.Millisecond}, //nolint:govet // the nil is what is tested
		{"Goexit naks", func(broker.Event) error { runtime.Goexit(); return nil }, jsbroker.ResultNak, true, time.Second, 1100 * time.Millisecond},
		{"Ack by hand acks", func(e broker.Event) error { return e.Ack() }, jsbroker.ResultAck, false, 0, 0},
		{"Ack by hand counts more than an error", func(e broker.Event) error { _ = e.Ack(); return failure }, jsbroker.ResultAck, false, 0, 0},
	}
	s := startServer(t)
	_, js := natsConn(t, s)
	for i, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			handled, onHandled := hookChan[jsbroker.Handled]()
			b := newBroker(t, s, jsbroker.WithHooks(jsbroker.Hooks{Handled: onHandled}))
			topic := fmt.Sprintf("return%d.x", i)
			publish(t, b, topic, "1")
			subscribe(t, b, topic, tt.handler, broker.Queue("q"))
			e := receive(t, handled)
			if e.Result != tt.result || e.Panicked != tt.panicked || e.SettleErr != nil {
				t.Fatalf("result %s, panicked %v, settle error %v", e.Result, e.Panicked, e.SettleErr)
			}
			if e.Delay < tt.min || e.Delay > tt.max {
				t.Fatalf("delay %v, want %v to %v", e.Delay, tt.min, tt.max)
			}
			left := uint64(0)
			if tt.result == jsbroker.ResultNak {
				left = 1
			}
			eventually(t, "the stream has forgotten what is settled", func() bool {
				return streamInfo(t, js, fmt.Sprintf("RETURN%d", i)).State.Msgs == left
			})
		})
	}
}

func TestPanicsAreReportedWithTheirStackAndTheWorkerLivesOn(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		fail   func()
		goexit bool
	}{
		{"panic", func() { panic("boom") }, false},
		{"Goexit", runtime.Goexit, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			panicked, onPanicked := hookChan[jsbroker.Panicked]()
			b := newBroker(t, startServer(t), soon(), jsbroker.WithHooks(jsbroker.Hooks{Panicked: onPanicked}))
			got := make(chan string, 10)
			subscribe(t, b, "orders", func(e broker.Event) error {
				if string(e.Message().Body) == "bad" && jsbroker.NumDelivered(e) == 1 {
					tt.fail()
				}
				got <- string(e.Message().Body)
				return nil
			}, broker.Queue("q"))
			publish(t, b, "orders", "bad")
			publish(t, b, "orders", "good")
			e := receive(t, panicked)
			if e.Err.Goexit != tt.goexit || !strings.Contains(string(e.Err.Stack), "TestPanicsAreReported") {
				t.Fatalf("Goexit %v, stack %s", e.Err.Goexit, e.Err.Stack)
			}
			if a, b := receive(t, got), receive(t, got); a != "good" || b != "bad" {
				t.Fatalf("got %s, %s: want the others to flow and the failed one to come again", a, b)
			}
		})
	}
}

func TestDelayGrowsWithTheDeliveries(t *testing.T) {
	t.Parallel()
	handled, onHandled := hookChan[jsbroker.Handled]()
	b := newBroker(t, startServer(t), jsbroker.WithHooks(jsbroker.Hooks{Handled: onHandled}))
	subscribe(t, b, "orders", func(broker.Event) error { return errors.New("no") }, broker.Queue("q"))
	publish(t, b, "orders", "poison")
	first, second := receive(t, handled), receive(t, handled)
	if first.Delay < time.Second || first.Delay > 1100*time.Millisecond || second.Delay < 2*time.Second || second.Delay > 2200*time.Millisecond {
		t.Fatalf("delays %v, %v; want 1s and 2s with up to a tenth more", first.Delay, second.Delay)
	}
	if first.NumDelivered != 1 || second.NumDelivered != 2 {
		t.Fatalf("deliveries %d, %d", first.NumDelivered, second.NumDelivered)
	}
}

// The server counts a delay from the consumer's BackOff in a way of its own.
func TestDelayIsKeptWithABackOff(t *testing.T) {
	t.Parallel()
	const least, long = 500 * time.Millisecond, 15 * time.Second
	for name, tt := range map[string]struct {
		backOff []time.Duration
		delay   time.Duration
	}{
		"that grows":                             {[]time.Duration{least, long}, least / 2},
		"that grows by just the delay":           {[]time.Duration{least, 2 * least}, least},
		"that shrinks":                           {[]time.Duration{2 * least, least}, least / 2},
		"that has fewer entries than deliveries": {[]time.Duration{long}, least / 2},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			handled, onHandled := hookChan[jsbroker.Handled]()
			b := newBroker(t, startServer(t), jsbroker.WithHooks(jsbroker.Hooks{Handled: onHandled}),
				jsbroker.WithConsumerConfig(jetstream.ConsumerConfig{BackOff: tt.backOff}))
			failed, again := make(chan time.Time, 1), make(chan time.Time, 1)
			subscribe(t, b, "orders", func(e broker.Event) error {
				switch jsbroker.NumDelivered(e) {
				case 1:
					return jsbroker.RetryAfter(0, nil)
				case 2:
					failed <- time.Now()
					return jsbroker.RetryAfter(tt.delay, nil)
				}
				again <- time.Now()
				return nil
			}, broker.Queue("q"))
			publish(t, b, "orders", "1")
			took := -receive(t, failed).Sub(receive(t, again))
			if took < tt.delay || took > long/2 {
				t.Errorf("came again after %v, want %v", took, tt.delay)
			}
			receive(t, handled)
			if e := receive(t, handled); e.Delay != tt.delay {
				t.Errorf("reported %v, want %v", e.Delay, tt.delay)
			}
		})
	}
}

func TestSlowHandlerAndWhatWaitsBehindItAreNotDeliveredTwice(t *testing.T) {
	t.Parallel()
	const slow = 6 * time.Second // half of it must be enough to extend, also on a busy machine
	s := startServer(t)
	_, js := natsConn(t, s)
	skipped, onSkipped := hookChan[jsbroker.Skipped]()
	b := newBroker(t, s, jsbroker.WithHooks(jsbroker.Hooks{Skipped: onSkipped}),
		jsbroker.WithConsumerConfig(jetstream.ConsumerConfig{AckWait: slow / 2}))
	const n = 5
	for i := range n {
		publish(t, b, "orders", fmt.Sprint(i))
	}
	var deliveries atomic.Int64
	done := make(chan struct{}, 100)
	subscribe(t, b, "orders", func(e broker.Event) error {
		deliveries.Add(1)
		if string(e.Message().Body) == "0" {
			// Slower than AckWait, and what is being tested: a handler's time.
			time.Sleep(slow)
		}
		done <- struct{}{}
		return nil
	}, broker.Queue("q"))
	for range n {
		receive(t, done)
	}
	eventually(t, "all are acked", func() bool { return streamInfo(t, js, "ORDERS").State.Msgs == 0 })
	if info := natstest.ConsumerInfo(t, js, "ORDERS", "q"); deliveries.Load() != n || info.Delivered.Consumer != n {
		t.Fatalf("%d handled, %d delivered, want %d", deliveries.Load(), info.Delivered.Consumer, n)
	}
	if len(skipped) > 0 {
		t.Fatalf("%d skipped", len(skipped))
	}
}

// The connection was away for longer than AckWait, and another replica has handled
// what was in hand. What runs goes on; what waits must not pass for fresh again.
func TestWhatExpiredWhileItWaitedIsSkippedAfterAReconnect(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	nc, _ := natsConn(t, s)
	p := natstest.StartProxy(t, s)
	cc := jsbroker.WithConsumerConfig(jetstream.ConsumerConfig{AckWait: 3 * time.Second})
	skipped, onSkipped := hookChan[jsbroker.Skipped]()
	b := newBroker(t, s, broker.Addrs(p.URL()), cc, jsbroker.WithHooks(jsbroker.Hooks{Skipped: onSkipped}),
		jsbroker.WithNATSOptions(nats.ReconnectWait(10*time.Millisecond)))
	started, release := make(chan string, 10), make(chan struct{})
	extensions := func(sequence string) <-chan *nats.Msg {
		ch := make(chan *nats.Msg, 100)
		if _, err := nc.ChanSubscribe("$JS.ACK.ORDERS.q.1."+sequence+".>", ch); err != nil {
			t.Fatal(err)
		}
		if err := nc.Flush(); err != nil {
			t.Fatal(err)
		}
		return ch
	}
	publish(t, b, "orders", "1")
	publish(t, b, "orders", "2")
	waits := extensions("2")
	subscribe(t, b, "orders", func(e broker.Event) error {
		started <- string(e.Message().Body)
		<-release
		return nil
	}, broker.Queue("q"))
	receive(t, started)
	receive(t, waits)
	p.Stall() // so that it cannot come back yet
	p.Cut()
	h, got := collector()
	subscribe(t, newBroker(t, s, cc), "orders", h, broker.Queue("q"))
	receive(t, got)
	receive(t, got)
	runs := extensions("1")
	p.Resume()
	receive(t, runs) // the keeper has seen to all that is in hand
	close(release)
	if e := receive(t, skipped); e.StreamSequence != 2 {
		t.Errorf("skipped %+v, want the second message", e)
	}
	if len(started) > 0 {
		t.Errorf("message %s is handled again", <-started)
	}
}

// Each delivery has the BackOff's entry of its own for a deadline, not the shortest.
func TestLaterDeliveryMayWaitAsLongAsItsBackOffSays(t *testing.T) {
	t.Parallel()
	const short = 3 * time.Second // enough to handle the first deliveries, also on a busy machine
	fetched, onFetched := hookChan[jsbroker.Fetched]()
	skipped, onSkipped := hookChan[jsbroker.Skipped]()
	b := newBroker(t, startServer(t), jsbroker.WithMaxAckExtension(0),
		jsbroker.WithHooks(jsbroker.Hooks{Fetched: onFetched, Skipped: onSkipped}),
		jsbroker.WithConsumerConfig(jetstream.ConsumerConfig{BackOff: []time.Duration{short, time.Hour}}))
	publish(t, b, "orders", "1")
	publish(t, b, "orders", "2")
	again, release := make(chan string, 10), make(chan struct{})
	subscribe(t, b, "orders", func(e broker.Event) error {
		if jsbroker.NumDelivered(e) == 1 {
			return jsbroker.RetryAfter(0, nil)
		}
		again <- string(e.Message().Body)
		<-release
		return nil
	}, broker.Queue("q"))
	for n := 0; n < 4; { // two deliveries of each
		n += receive(t, fetched).Messages
	}
	timer := time.NewTimer(2 * short) // the other one waits meanwhile
	<-timer.C
	close(release)
	for range 2 {
		receive(t, again)
	}
	if len(skipped) > 0 {
		t.Errorf("skipped %+v", <-skipped)
	}
}

func TestAckExtensionIsBounded(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	shortWait := jsbroker.WithConsumerConfig(jetstream.ConsumerConfig{AckWait: 300 * time.Millisecond})
	hang := newBroker(t, s, jsbroker.WithShutdownTimeout(0), jsbroker.WithMaxAckExtension(100*time.Millisecond), shortWait)
	started, release := make(chan string, 10), make(chan struct{})
	t.Cleanup(func() { close(release) })
	subscribe(t, hang, "orders", func(e broker.Event) error {
		started <- "hangs"
		<-release
		return nil
	}, broker.Queue("q"))
	publish(t, hang, "orders", "1")
	receive(t, started)
	healthy := newBroker(t, s, shortWait)
	h, got := collector()
	subscribe(t, healthy, "orders", h, broker.Queue("q"))
	receive(t, got)
}

func TestLastDeliveryIsHandledAlsoAfterItsDeadline(t *testing.T) {
	t.Parallel()
	const ackWait = 300 * time.Millisecond
	s := startServer(t)
	nc, js := natsConn(t, s)
	given := natstest.Listen(t, nc, "$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.ORDERS.q")
	b := newBroker(t, s, jsbroker.WithMaxAckExtension(0),
		jsbroker.WithConsumerConfig(jetstream.ConsumerConfig{AckWait: ackWait, MaxDeliver: 1}))
	publish(t, b, "orders", "slow")
	publish(t, b, "orders", "waits")
	release, got := make(chan struct{}), make(chan string, 10)
	subscribe(t, b, "orders", func(e broker.Event) error {
		<-release
		got <- string(e.Message().Body)
		return nil
	}, broker.Queue("q"))
	for range 2 {
		receive(t, given) // the server gives it up
	}
	timer := time.NewTimer(ackWait) // by our clock, too
	<-timer.C
	close(release)
	if a, b := receive(t, got), receive(t, got); a != "slow" || b != "waits" {
		t.Errorf("got %s, %s", a, b)
	}
	eventually(t, "late acks are heeded", func() bool { return streamInfo(t, js, "ORDERS").State.Msgs == 0 })
}

func TestPoisonEndsAsOneDeadLetter(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	_, js := natsConn(t, s)
	events, onDeadLettered := hookChan[jsbroker.DeadLettered]()
	b := newBroker(t, s, jsbroker.WithDeadLetter("graveyard.orders"),
		jsbroker.WithHooks(jsbroker.Hooks{DeadLettered: onDeadLettered}),
		jsbroker.WithConsumerConfig(jetstream.ConsumerConfig{MaxDeliver: 3}))
	var deliveries atomic.Int64
	subscribe(t, b, "orders.created", func(e broker.Event) error {
		deliveries.Add(1)
		if string(e.Message().Body) == "malformed" {
			return jsbroker.Discard(errors.New("cannot parse"))
		}
		return jsbroker.RetryAfter(0, errors.New("first line\r\nNats-Rollup: all"))
	}, broker.Queue("workers"))
	if err := b.Publish("orders.created", &broker.Message{Header: map[string]string{"Tenant": "acme"}, Body: []byte("poison")}); err != nil {
		t.Fatal(err)
	}
	publish(t, b, "orders.created", "malformed")

	dead := make(chan *broker.Message, 10)
	subscribe(t, b, "graveyard.orders", func(e broker.Event) error {
		dead <- e.Message()
		return nil
	}, broker.Queue("undertaker"))
	letters := map[string]map[string]string{}
	for range 2 {
		m := receive(t, dead)
		letters[string(m.Body)] = m.Header
	}
	want := map[string]string{
		"Tenant": "acme", "Micro-Dead-Letter-Reason": "first line  Nats-Rollup: all", "Micro-Dead-Letter-Topic": "orders.created",
		"Micro-Dead-Letter-Stream": "ORDERS", "Micro-Dead-Letter-Queue": "workers", "Micro-Dead-Letter-Deliveries": "3",
	}
	for k, v := range want {
		if letters["poison"][k] != v {
			t.Errorf("%s is %q, want %q", k, letters["poison"][k], v)
		}
	}
	if h := letters["malformed"]; h["Micro-Dead-Letter-Deliveries"] != "1" || h["Micro-Dead-Letter-Reason"] != "cannot parse" {
		t.Errorf("the discarded one has %v", h)
	}
	eventually(t, "the originals are gone", func() bool { return streamInfo(t, js, "ORDERS").State.Msgs == 0 })
	if deliveries.Load() != 4 {
		t.Errorf("%d deliveries, want 3 and 1", deliveries.Load())
	}
	for range 2 {
		if e := receive(t, events); e.Err != nil || e.DeadLetterTopic != "graveyard.orders" {
			t.Errorf("event %+v", e)
		}
	}
}

func TestFailedDeadLetterKeepsTheOriginal(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	_, js := natsConn(t, s)
	full, err := js.CreateStream(testContext(t), jetstream.StreamConfig{Name: "GRAVES", Subjects: []string{"graves"}, MaxMsgs: 1, Discard: jetstream.DiscardNew})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := js.Publish(testContext(t), "graves", []byte("occupied")); err != nil {
		t.Fatal(err)
	}
	events, onDeadLettered := hookChan[jsbroker.DeadLettered]()
	b := newBroker(t, s, jsbroker.WithDeadLetter("graves"), jsbroker.WithHooks(jsbroker.Hooks{DeadLettered: onDeadLettered}),
		jsbroker.WithConsumerConfig(jetstream.ConsumerConfig{MaxDeliver: 1}))
	subscribe(t, b, "orders", func(broker.Event) error { return errors.New("no") }, broker.Queue("q"))
	publish(t, b, "orders", "poison")
	if e := receive(t, events); !errors.Is(e.Err, jsbroker.ErrStreamFull) {
		t.Fatalf("got %v, want ErrStreamFull", e.Err)
	}
	if n := streamInfo(t, js, "ORDERS").State.Msgs; n != 1 {
		t.Fatalf("%d originals left, want 1", n)
	}
	if err := full.Purge(testContext(t)); err != nil {
		t.Fatal(err)
	}
	for {
		if e := receive(t, events); e.Err == nil {
			break
		}
	}
	eventually(t, "the original is gone once it is stored as a dead letter", func() bool {
		return streamInfo(t, js, "ORDERS").State.Msgs == 0 && streamInfo(t, js, "GRAVES").State.Msgs == 1
	})
}

func TestExhaustedMessageIsReportedAndKept(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	_, js := natsConn(t, s)
	exhausted, onExhausted := hookChan[jsbroker.Exhausted]()
	log := natstest.NewLog()
	b := newBroker(t, s, broker.Logger(log), jsbroker.WithHooks(jsbroker.Hooks{Exhausted: onExhausted}),
		jsbroker.WithConsumerConfig(jetstream.ConsumerConfig{MaxDeliver: 2}))
	subscribe(t, b, "orders", func(broker.Event) error { return jsbroker.RetryAfter(0, errors.New("no")) }, broker.Queue("q"))
	publish(t, b, "orders", "poison")
	if e := receive(t, exhausted); e.NumDelivered != 2 || e.Cause.Error() != "no" {
		t.Fatalf("event %+v", e)
	}
	if n := streamInfo(t, js, "ORDERS").State.Msgs; n != 1 {
		t.Fatalf("%d messages left, want 1", n)
	}
	if !slices.ContainsFunc(log.Lines(), func(l natstest.Line) bool {
		return l.Level == logger.ErrorLevel && strings.Contains(l.Text, "is not delivered again")
	}) {
		t.Fatalf("not logged: %v", log.Lines())
	}
}

func TestManualAck(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	_, js := natsConn(t, s)
	handled, onHandled := hookChan[jsbroker.Handled]()
	settled, onSettled := hookChan[jsbroker.Settled]()
	b := newBroker(t, s, soon(), jsbroker.WithHooks(jsbroker.Hooks{Handled: onHandled, Settled: onSettled}))
	events := make(chan broker.Event, 10)
	subscribe(t, b, "orders", func(e broker.Event) error {
		if string(e.Message().Body) == "fails" && jsbroker.NumDelivered(e) == 1 {
			return errors.New("no")
		}
		events <- e
		return nil
	}, broker.Queue("q"), broker.DisableAutoAck())
	publish(t, b, "orders", "1")
	e := receive(t, events)
	if h := receive(t, handled); h.Result != jsbroker.ResultNone {
		t.Fatalf("result %s, want none", h.Result)
	}
	if n := streamInfo(t, js, "ORDERS").State.Msgs; n != 1 {
		t.Fatalf("%d messages left before the ack", n)
	}
	if err := e.Ack(); err != nil { // later, from another goroutine than the handler's
		t.Fatal(err)
	}
	if st := receive(t, settled); st.Result != jsbroker.ResultAck {
		t.Fatalf("settled %+v", st)
	}
	if err := e.Ack(); !errors.Is(err, jsbroker.ErrAlreadySettled) {
		t.Fatalf("second Ack: %v, want ErrAlreadySettled", err)
	}
	eventually(t, "the ack arrives", func() bool { return streamInfo(t, js, "ORDERS").State.Msgs == 0 })

	publish(t, b, "orders", "fails")
	if h := receive(t, handled); h.Result != jsbroker.ResultNak {
		t.Fatalf("result %s after an error, want nak", h.Result)
	}
	if err := receive(t, events).Ack(); err != nil {
		t.Fatal(err)
	}
}

func TestManualAckLeftOutComesBackAfterAckWait(t *testing.T) {
	t.Parallel()
	b := newBroker(t, startServer(t), jsbroker.WithConsumerConfig(jetstream.ConsumerConfig{AckWait: 300 * time.Millisecond}))
	deliveries := make(chan uint64, 10)
	subscribe(t, b, "orders", func(e broker.Event) error {
		deliveries <- jsbroker.NumDelivered(e)
		if jsbroker.NumDelivered(e) > 1 {
			return e.Ack()
		}
		return nil
	}, broker.Queue("q"), broker.DisableAutoAck())
	publish(t, b, "orders", "1")
	if a, b := receive(t, deliveries), receive(t, deliveries); a != 1 || b != 2 {
		t.Fatalf("deliveries %d, %d", a, b)
	}
}

func TestManualAckLeftOutOfTheLastDeliveryIsHeededLater(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	nc, js := natsConn(t, s)
	given := natstest.Listen(t, nc, "$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.ORDERS.q")
	exhausted, onExhausted := hookChan[jsbroker.Exhausted]()
	b := newBroker(t, s, jsbroker.WithHooks(jsbroker.Hooks{Exhausted: onExhausted}),
		jsbroker.WithConsumerConfig(jetstream.ConsumerConfig{AckWait: 300 * time.Millisecond, MaxDeliver: 1}))
	events := make(chan broker.Event, 10)
	subscribe(t, b, "orders", func(e broker.Event) error {
		events <- e
		return nil
	}, broker.Queue("q"), broker.DisableAutoAck())
	publish(t, b, "orders", "1")
	e := receive(t, events)
	receive(t, given) // the server gives it up
	if n := streamInfo(t, js, "ORDERS").State.Msgs; n != 1 || len(exhausted) > 0 {
		t.Errorf("%d messages, %d events; docs/delivery.md says that it stays, without an event", n, len(exhausted))
	}
	noErr(t, e.Ack())
	eventually(t, "the late ack arrives", func() bool { return streamInfo(t, js, "ORDERS").State.Msgs == 0 })
}

func TestErrorHandlerSeesFailures(t *testing.T) {
	t.Parallel()
	failures := make(chan error, 10)
	b := newBroker(t, startServer(t), soon(), broker.ErrorHandler(func(e broker.Event) error {
		failures <- e.Error()
		panic("the error handler's own")
	}))
	h, got := collector()
	subscribe(t, b, "orders", func(e broker.Event) error {
		switch jsbroker.NumDelivered(e) {
		case 1:
			return errors.New("an error")
		case 2:
			panic("a panic")
		}
		return h(e)
	}, broker.Queue("q"))
	publish(t, b, "orders", "1")
	if err := receive(t, failures); err.Error() != "an error" {
		t.Fatal(err)
	}
	var p *jsbroker.PanicError
	if err := receive(t, failures); !errors.As(err, &p) || p.Value != "a panic" {
		t.Fatal(err)
	}
	receive(t, got)
}

func TestErrorHandlerThatEndsItsGoroutine(t *testing.T) {
	t.Parallel()
	handled, onHandled := hookChan[jsbroker.Handled]()
	settled, onSettled := hookChan[jsbroker.Settled]()
	b := newBroker(t, startServer(t), jsbroker.WithHooks(jsbroker.Hooks{Handled: onHandled, Settled: onSettled}),
		broker.ErrorHandler(func(broker.Event) error {
			runtime.Goexit()
			return nil
		}))
	h, got := collector()
	subscribe(t, b, "orders", func(e broker.Event) error {
		if jsbroker.NumDelivered(e) == 1 {
			return jsbroker.RetryAfter(0, errors.New("no luck"))
		}
		return h(e)
	}, broker.Queue("q"))
	publish(t, b, "orders", "1")
	for _, result := range []jsbroker.Result{jsbroker.ResultNak, jsbroker.ResultAck} {
		if e := receive(t, settled); e.Result != result {
			t.Errorf("settled with %s, want %s", e.Result, result)
		}
		if e := receive(t, handled); e.Result != result {
			t.Errorf("handled with %s, want %s", e.Result, result)
		}
	}
	receive(t, got)
}

func TestConcurrencyRunsThatManyHandlers(t *testing.T) {
	t.Parallel()
	b := newBroker(t, startServer(t))
	const n = 4
	started, release := make(chan struct{}, 100), make(chan struct{})
	var running, most atomic.Int64
	subscribe(t, b, "orders", func(broker.Event) error {
		if now := running.Add(1); now > most.Load() {
			most.Store(now)
		}
		started <- struct{}{}
		<-release
		running.Add(-1)
		return nil
	}, jsbroker.Concurrency(n), broker.SubscribeContext(context.Background()), broker.Queue("q"))
	for i := range 3 * n {
		publish(t, b, "orders", fmt.Sprint(i))
	}
	for range n {
		receive(t, started)
	}
	select {
	case <-started:
		t.Fatalf("more than %d handlers run", n)
	case <-time.After(50 * time.Millisecond): // absence has no event
	}
	close(release)
	for range 2 * n {
		receive(t, started)
	}
	if most.Load() != n {
		t.Fatalf("at most %d at a time, want %d", most.Load(), n)
	}
}

func TestDefaultIsStrictlyOrdered(t *testing.T) {
	t.Parallel()
	b := newBroker(t, startServer(t))
	h, got := collector()
	subscribe(t, b, "orders.>", h, broker.Queue("q"))
	const n = 500
	for i := range n {
		publish(t, b, fmt.Sprintf("orders.%d", i%7), fmt.Sprint(i))
	}
	for i := range n {
		if body := receive(t, got); body != fmt.Sprint(i) {
			t.Fatalf("got %s, want %d", body, i)
		}
	}
}

func TestLargeMessagesPassTheByteBound(t *testing.T) {
	t.Parallel()
	fetched, onFetched := hookChan[jsbroker.Fetched]()
	b := newBroker(t, startServer(t), jsbroker.WithFetchBytes(10_000), jsbroker.WithBatchSize(100), jsbroker.WithHooks(jsbroker.Hooks{Fetched: onFetched}))
	bodies := []int{100, 200, 500_000, 300, 4_000, 4_000, 4_000, 900_000, 900_000, 1}
	for _, n := range bodies {
		publish(t, b, "orders", strings.Repeat("x", n))
	}
	h, got := collector()
	subscribe(t, b, "orders", h, broker.Queue("q"))
	for _, n := range bodies {
		if body := receive(t, got); len(body) != n {
			t.Fatalf("got %d bytes, want %d", len(body), n)
		}
	}
	if e := receive(t, fetched); e.Bytes > 10_000 || e.Messages > 2 {
		t.Fatalf("the first fetch brought %d messages, %d bytes", e.Messages, e.Bytes)
	}
}

func TestFetchedTellsWhatIsLeft(t *testing.T) {
	t.Parallel()
	fetched, onFetched := hookChan[jsbroker.Fetched]()
	b := newBroker(t, startServer(t), jsbroker.WithBatchSize(10), jsbroker.WithHooks(jsbroker.Hooks{Fetched: onFetched}))
	const n = 35
	for i := range n {
		publish(t, b, "orders", fmt.Sprint(i))
	}
	subscribe(t, b, "orders", ignore, broker.Queue("q"))
	for left := n; left > 0; {
		e := receive(t, fetched)
		if left -= e.Messages; e.NumPending != uint64(left) {
			t.Errorf("%d messages are left, and the event says %d", left, e.NumPending)
		}
	}
}

func TestStatusHeaderOfAnotherClientDoesNotBlockTheQueue(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	b := newBroker(t, s)
	publish(t, b, "orders", "before")
	_, js := natsConn(t, s)
	for _, status := range []string{"100", "404", "408", "409", "503"} {
		m := nats.NewMsg("orders")
		m.Header.Set("Status", status)
		if _, err := js.PublishMsg(testContext(t), m); err != nil {
			t.Fatal(err)
		}
	}
	publish(t, b, "orders", "after")
	h, got := collector()
	subscribe(t, b, "orders", h, broker.Queue("q"))
	for _, want := range []string{"before", "", "", "", "", "", "after"} {
		if body := receive(t, got); body != want {
			t.Fatalf("got %q, want %q", body, want)
		}
	}
}

func TestDeletedConsumerIsMadeAgainWithAHandfulOfErrors(t *testing.T) {
	t.Parallel()
	for _, queue := range []string{"q", ""} {
		t.Run("queue "+queue, func(t *testing.T) {
			s := startServer(t)
			_, js := natsConn(t, s)
			failed, onFetchError := hookChan[jsbroker.FetchError]()
			backoffs, onBackoff := hookChan[jsbroker.Backoff]()
			var name atomic.Value
			b := newBroker(t, s, jsbroker.WithHooks(jsbroker.Hooks{FetchError: onFetchError, Backoff: onBackoff,
				SubscriptionStart: func(ctx context.Context, e jsbroker.SubscriptionStart) context.Context {
					name.Store(e.Consumer)
					return ctx
				}}))
			h, got := collector()
			subscribe(t, b, "orders", h, broker.Queue(queue))
			publish(t, b, "orders", "1")
			receive(t, got)
			eventually(t, "the ack arrives", func() bool { return streamInfo(t, js, "ORDERS").State.Msgs == 0 })
			if err := js.DeleteConsumer(testContext(t), "ORDERS", name.Load().(string)); err != nil {
				t.Fatal(err)
			}
			if e := receive(t, failed); e.Reason != "consumer_deleted" {
				t.Fatalf("reason %q of %v", e.Reason, e.Err)
			}
			publish(t, b, "orders", "2")
			if body := receive(t, got); body != "2" {
				t.Fatalf("got %q", body)
			}
			if e := receive(t, backoffs); e.Delay != time.Second || e.Attempt != 1 {
				t.Fatalf("backoff %+v, want 1s", e)
			}
			if e := receive(t, backoffs); e.Delay != 0 {
				t.Fatalf("then %+v, want healthy", e)
			}
			if len(failed) > 3 {
				t.Fatalf("%d more errors", len(failed))
			}
		})
	}
}

// What was fetched from a consumer that is gone is handled, and its ack goes nowhere:
// where the stream has kept it, it comes again.
func TestWhatIsAckedToADeletedConsumerIsNotHandledTwice(t *testing.T) {
	t.Parallel()
	for _, retention := range []jetstream.RetentionPolicy{jetstream.WorkQueuePolicy, jetstream.InterestPolicy} {
		t.Run(retention.String(), func(t *testing.T) {
			t.Parallel()
			s := startServer(t)
			_, js := natsConn(t, s)
			natstest.MakeStream(t, js, jetstream.StreamConfig{Name: "ORDERS", Subjects: []string{"orders"}, Retention: retention})
			if retention == jetstream.InterestPolicy { // somebody else has still to handle them
				natstest.MakeConsumer(t, js, "ORDERS", jetstream.ConsumerConfig{Durable: "other", FilterSubject: "orders", AckPolicy: jetstream.AckExplicitPolicy})
			}
			skipped, onSkip := hookChan[jsbroker.Skipped]()
			b := newBroker(t, s, jsbroker.WithHooks(jsbroker.Hooks{Skipped: onSkip}))
			started, release := make(chan string, 100), make(chan struct{})
			failed := false
			subscribe(t, b, "orders", func(e broker.Event) error {
				body := string(e.Message().Body)
				started <- body
				<-release
				if body == "4" && !failed {
					failed = true
					return jsbroker.RetryAfter(time.Hour, nil) // which only the lost consumer knows of
				}
				return nil
			}, broker.Queue("q"))
			const n = 9
			for i := range n {
				publish(t, b, "orders", fmt.Sprint(i))
			}
			eventually(t, "all are fetched", func() bool { return natstest.ConsumerInfo(t, js, "ORDERS", "q").NumAckPending == n })
			if err := js.DeleteConsumer(testContext(t), "ORDERS", "q"); err != nil {
				t.Fatal(err)
			}
			close(release)
			want := []string{"0", "1", "2", "3", "4", "5", "6", "7", "8", "4"}
			for i, body := range want {
				if got := receive(t, started); got != body {
					t.Fatalf("handled %s after %v, want %s", got, want[:i], body)
				}
			}
			for range n - 1 {
				receive(t, skipped)
			}
			eventually(t, "all are acked to the new consumer", func() bool {
				info := natstest.ConsumerInfo(t, js, "ORDERS", "q")
				return info.NumAckPending == 0 && info.NumPending == 0
			})
			if len(started) > 0 {
				t.Errorf("%d were handled again", len(started))
			}
		})
	}
}

// Whoever deletes the consumer of a stream that keeps everything has all of it handled
// again: that a message was acked before counts no more, not for its retries either.
func TestRetriesOfWhatADeletedConsumerHadAcked(t *testing.T) {
	t.Parallel()
	for _, replicas := range []int{1, 2} {
		t.Run(fmt.Sprintf("%d replicas", replicas), func(t *testing.T) {
			t.Parallel()
			s := startServer(t)
			_, js := natsConn(t, s)
			var replay atomic.Bool
			var mu sync.Mutex
			failed := map[int]bool{} // by replica
			first, handled := make(chan struct{}, 10), make(chan struct{}, 10)
			for i := range replicas {
				b := newBroker(t, s, limits)
				subscribe(t, b, "orders", func(broker.Event) error {
					if !replay.Load() {
						first <- struct{}{}
						return nil
					}
					mu.Lock()
					defer mu.Unlock()
					if len(failed) < replicas {
						failed[i] = true
						return jsbroker.RetryAfter(10*time.Millisecond, errors.New("database is down"))
					}
					handled <- struct{}{}
					return nil
				}, broker.Queue("q"))
				if i == 0 {
					publish(t, b, "orders", "1")
				}
			}
			receive(t, first)
			eventually(t, "it is acked", func() bool { return natstest.ConsumerInfo(t, js, "ORDERS", "q").AckFloor.Stream == 1 })
			replay.Store(true)
			if err := js.DeleteConsumer(testContext(t), "ORDERS", "q"); err != nil {
				t.Fatal(err)
			}
			receive(t, handled)
		})
	}
}

// The same where the subscription has not seen that the consumer is another one: no
// request was under way.
func TestRetryOfWhatAConsumerThatWasReplacedHadAcked(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	_, js := natsConn(t, s)
	failed, onFetchError := hookChan[jsbroker.FetchError]()
	b := newBroker(t, s, limits, jsbroker.WithBatchSize(1), jsbroker.WithHooks(jsbroker.Hooks{FetchError: onFetchError}))
	started, release := make(chan string, 10), make(chan error, 10)
	subscribe(t, b, "orders", func(e broker.Event) error {
		started <- string(e.Message().Body)
		return <-release
	}, broker.Queue("q"))
	expect := func(body string) {
		t.Helper()
		if got := receive(t, started); got != body {
			t.Fatalf("got %s, want %s", got, body)
		}
	}
	publish(t, b, "orders", "1")
	publish(t, b, "orders", "2")
	expect("1")
	release <- nil
	expect("2")
	cc := natstest.ConsumerInfo(t, js, "ORDERS", "q").Config
	if err := js.DeleteConsumer(testContext(t), "ORDERS", "q"); err != nil {
		t.Fatal(err)
	}
	natstest.MakeConsumer(t, js, "ORDERS", cc)
	release <- nil
	expect("1")
	release <- jsbroker.RetryAfter(0, errors.New("database is down"))
	close(release)
	for receive(t, started) != "1" {
	}
	atMost(t, 0, failed)
}

func TestDeletedStreamIsMadeAgain(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	_, js := natsConn(t, s)
	failed, onFetchError := hookChan[jsbroker.FetchError]()
	b := newBroker(t, s, jsbroker.WithHooks(jsbroker.Hooks{FetchError: onFetchError}))
	h, got := collector()
	subscribe(t, b, "orders", h, broker.Queue("q"))
	if err := js.DeleteStream(testContext(t), "ORDERS"); err != nil {
		t.Fatal(err)
	}
	receive(t, failed)
	publish(t, b, "orders", "1")
	receive(t, got)
	atMost(t, 5, failed)
}

func TestForeignConsumerIsNotMadeAgain(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	_, js := natsConn(t, s)
	failed, onFetchError := hookChan[jsbroker.FetchError]()
	b := newBroker(t, s, jsbroker.WithHooks(jsbroker.Hooks{FetchError: onFetchError}))
	publish(t, b, "orders", "1")
	theirs := jetstream.ConsumerConfig{Durable: "theirs", FilterSubject: "orders", AckPolicy: jetstream.AckExplicitPolicy}
	if _, err := js.CreateConsumer(testContext(t), "ORDERS", theirs); err != nil {
		t.Fatal(err)
	}
	h, got := collector()
	subscribe(t, b, "orders", h, broker.Queue("theirs"))
	receive(t, got)
	if err := js.DeleteConsumer(testContext(t), "ORDERS", "theirs"); err != nil {
		t.Fatal(err)
	}
	receive(t, failed)
	if e := receive(t, failed); !strings.Contains(e.Err.Error(), "not made by this broker") {
		t.Fatal(e.Err)
	}
	if _, err := js.Consumer(testContext(t), "ORDERS", "theirs"); !errors.Is(err, jetstream.ErrConsumerNotFound) {
		t.Fatalf("the consumer is back: %v", err)
	}
	// Its owner brings it back: the subscription goes on.
	if _, err := js.CreateConsumer(testContext(t), "ORDERS", theirs); err != nil {
		t.Fatal(err)
	}
	publish(t, b, "orders", "2")
	receive(t, got)
}

// Restarts give back what was fetched, which counts as a delivery on the
// server. They must not use up the handler's chances.
func TestRestartsDoNotUseUpTheDeliveries(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	_, js := natsConn(t, s)
	const limit = 3
	options := []broker.Option{jsbroker.WithDeadLetter("graves"), jsbroker.WithConsumerConfig(jetstream.ConsumerConfig{MaxDeliver: limit})}
	b := newBroker(t, s, options...)
	publish(t, b, "orders", "first")
	publish(t, b, "orders", "second")
	for range limit + 1 {
		started, release := make(chan struct{}, 2), make(chan struct{})
		returned, onSettled := hookChan[jsbroker.Settled]()
		replica := newBroker(t, s, append(options, jsbroker.WithHooks(jsbroker.Hooks{Settled: onSettled}))...)
		sub := subscribe(t, replica, "orders", func(broker.Event) error {
			started <- struct{}{}
			<-release
			return jsbroker.RetryAfter(0, errors.New("restarting"))
		}, broker.Queue("q"))
		receive(t, started)
		eventually(t, "both are fetched", func() bool { return natstest.ConsumerInfo(t, js, "ORDERS", "q").NumAckPending == 2 })
		_ = sub.Unsubscribe()
		if e := receive(t, returned); !e.Returned {
			t.Fatalf("settled %+v", e)
		}
		close(release)
		if err := replica.Disconnect(); err != nil {
			t.Fatal(err)
		}
		if streamInfo(t, js, "ORDERS").State.Msgs < 2 {
			break // the one that was handled has failed often enough
		}
	}
	handled := make(chan uint64, 10)
	subscribe(t, b, "orders", func(e broker.Event) error {
		handled <- jsbroker.NumDelivered(e)
		return nil
	}, broker.Queue("q"))
	if n := receive(t, handled); n < limit {
		t.Fatalf("delivery %d, want one past the limit", n)
	}
	eventually(t, "nothing is stuck", func() bool { return streamInfo(t, js, "ORDERS").State.Msgs == 0 })
}

func TestMessageThatNobodySettlesBecomesADeadLetter(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	_, js := natsConn(t, s)
	options := []broker.Option{jsbroker.WithDeadLetter("graves"), jsbroker.WithConsumerConfig(jetstream.ConsumerConfig{MaxDeliver: 1})}
	b := newBroker(t, s, options...)
	sub := subscribe(t, b, "orders", func(broker.Event) error { return nil }, broker.Queue("q"))
	_ = sub.Unsubscribe()
	publish(t, b, "orders", "kills the process")
	cons, err := js.Consumer(testContext(t), "ORDERS", "q")
	if err != nil {
		t.Fatal(err)
	}
	for range 11 { // processes that die, as far as the server can tell
		m, err := cons.Next(jetstream.FetchMaxWait(patience))
		if err != nil {
			t.Fatal(err)
		}
		if err := m.Nak(); err != nil {
			t.Fatal(err)
		}
	}
	subscribe(t, b, "orders", func(broker.Event) error {
		t.Error("handled once more")
		return nil
	}, broker.Queue("q"))
	dead := make(chan *broker.Message, 1)
	subscribe(t, b, "graves", func(e broker.Event) error {
		dead <- e.Message()
		return nil
	}, broker.Queue("undertaker"))
	if h := receive(t, dead).Header; h["Micro-Dead-Letter-Deliveries"] != "12" {
		t.Fatalf("dead letter %v", h)
	}
}

func TestForbiddenFetchSaysSo(t *testing.T) {
	t.Parallel()
	s := startServer(t, natstest.Limited(natstest.NoPublish("$JS.API.CONSUMER.MSG.NEXT.>")))
	failed, onFetchError := hookChan[jsbroker.FetchError]()
	b := newBroker(t, s, jsbroker.WithNATSOptions(nats.UserInfo("limited", "pw")), jsbroker.WithHooks(jsbroker.Hooks{FetchError: onFetchError}))
	subscribe(t, b, "orders", func(broker.Event) error { return nil }, broker.Queue("q"))
	if e := receive(t, failed); e.Reason != "permission" || !strings.Contains(e.Err.Error(), "MSG.NEXT.ORDERS.q") {
		t.Fatalf("reason %q, error %v", e.Reason, e.Err)
	}
}

// The names are those that the broker gives the consumers of one queue: workers, and
// workers-orders_paid-...
func TestForbiddenFetchIsNoFailureOfAQueueWhoseNameItBeginsWith(t *testing.T) {
	t.Parallel()
	s := startServer(t, natstest.Limited(server.Permissions{Publish: &server.SubjectPermission{Allow: []string{
		"$JS.API.INFO", "$JS.API.STREAM.>", "$JS.API.CONSUMER.INFO.>", "$JS.API.CONSUMER.CREATE.>", "$JS.API.CONSUMER.MSG.NEXT.ORDERS.workers",
	}}}))
	failed, onFetchError := hookChan[jsbroker.FetchError]()
	b := newBroker(t, s, as("limited:pw", s), jsbroker.WithHooks(jsbroker.Hooks{FetchError: onFetchError}))
	subscribe(t, b, "orders.created", ignore, broker.Queue("workers"))
	subscribe(t, b, "orders.paid", ignore, broker.Queue("workers"))
	for range 2 {
		if e := receive(t, failed); e.Consumer == "workers" || e.Reason != "permission" {
			t.Errorf("consumer %s failed with %v", e.Consumer, e.Err)
		}
	}
}
