package broker_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go-micro.dev/v5/broker"

	jsbroker "go-micro-jetstream/broker"
	"go-micro-jetstream/internal/natstest"
)

// Tests of what operators do to streams and consumers in use. Each counts every
// message, and the errors: a handful, and nothing that does not end.

// changeConsumer changes the consumer q of the stream ORDERS as an operator does.
func changeConsumer(t *testing.T, js jetstream.JetStream, change func(*jetstream.ConsumerConfig)) {
	t.Helper()
	cc := natstest.ConsumerInfo(t, js, "ORDERS", "q").Config
	change(&cc)
	if _, err := js.UpdateConsumer(testContext(t), "ORDERS", cc); err != nil {
		t.Fatal(err)
	}
}

// atMost checks how many failures there were.
func atMost(t *testing.T, n int, failed <-chan jsbroker.FetchError) {
	t.Helper()
	count := len(failed)
	if count > n {
		t.Errorf("%d failed fetches, want at most %d; the first: %v", count, n, (<-failed).Err)
	}
	t.Logf("failed fetches: %d", count)
}

func TestPurgeTakesOnlyWhatWasStoredBefore(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	_, js := natsConn(t, s)
	purged, l := newLedger(), newLedger()
	failed, onFetchError := hookChan[jsbroker.FetchError]()
	b := newBroker(t, s, l.watch(), jsbroker.WithHooks(jsbroker.Hooks{FetchError: onFetchError}))
	started, release := make(chan struct{}, 1), make(chan struct{})
	subscribe(t, b, "orders", func(e broker.Event) error {
		select {
		case started <- struct{}{}:
		default:
		}
		<-release
		return l.handler(e)
	}, broker.Queue("q"))
	purged.publish(t, b, "orders", 1, 50)
	receive(t, started)
	st, err := js.Stream(testContext(t), "ORDERS")
	if err != nil {
		t.Fatal(err)
	}
	if err := st.Purge(testContext(t)); err != nil {
		t.Fatal(err)
	}
	l.publish(t, b, "orders", 51, 100)
	close(release)
	l.settle(t)
	eventually(t, "all is settled", func() bool {
		return streamInfo(t, js, "ORDERS").State.Msgs == 0 && natstest.ConsumerInfo(t, js, "ORDERS", "q").NumAckPending == 0
	})
	if n := l.duplicates(); n > 0 {
		t.Errorf("%d duplicates", n)
	}
	t.Logf("%d of 50 were in hand when the stream was purged, and were handled", len(l.handled)-50)
	atMost(t, 0, failed)
}

func TestSubjectsOfTheStreamChangedUnderPublisherAndSubscriber(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	_, js := natsConn(t, s)
	l := newLedger()
	failed, onFetchError := hookChan[jsbroker.FetchError]()
	b := newBroker(t, s, l.watch(), jsbroker.WithHooks(jsbroker.Hooks{FetchError: onFetchError}))
	for _, topic := range []string{"orders.a", "orders.b"} {
		subscribe(t, b, topic, l.handler, broker.Queue("q"))
	}
	setSubjects := func(subjects ...string) {
		t.Helper()
		cfg := streamInfo(t, js, "ORDERS").Config
		cfg.Subjects = subjects
		natstest.UpdateStream(t, js, cfg)
	}
	l.publish(t, b, "orders.a", 1, 20)
	l.publish(t, b, "orders.b", 1, 20)
	setSubjects("orders.a")
	l.publish(t, b, "orders.a", 21, 40)
	wantError(t, b.Publish("orders.b", message("orders.b/21")), jsbroker.ErrStreamMismatch, "orders.b", "ORDERS", "orders.a")
	setSubjects("orders.a", "orders.b", "orders.c")
	l.publish(t, b, "orders.a", 41, 60)
	l.publish(t, b, "orders.b", 22, 40)
	subscribe(t, b, "orders.c", l.handler, broker.Queue("q"))
	l.publish(t, b, "orders.c", 1, 20)
	l.settle(t)
	if n := l.handled["orders.b/21"]; n > 0 {
		t.Error("a message that was not stored was handled")
	}
	atMost(t, 0, failed)
}

func TestMaxAckPendingChangedUnderSubscribers(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	_, js := natsConn(t, s)
	l := newLedger()
	failed, onFetchError := hookChan[jsbroker.FetchError]()
	b := newBroker(t, s, jsbroker.WithHooks(jsbroker.Hooks{FetchError: onFetchError}))
	subscribe(t, b, "orders", l.handler, broker.Queue("q"), jsbroker.Concurrency(4))
	end := publishSteadily(t, b, l, "orders")
	for _, n := range []int{1, 7, 1000, 2} {
		changeConsumer(t, js, func(cc *jetstream.ConsumerConfig) { cc.MaxAckPending = n })
		handled := l.count()
		eventually(t, "100 more are handled", func() bool { return l.count() >= handled+100 })
	}
	end()
	l.settleInAnyOrder(t)
	if n := l.duplicates(); n > 0 {
		t.Errorf("%d duplicates", n)
	}
	atMost(t, 0, failed)
}

// publishSteadily publishes until the function that it returns is called.
func publishSteadily(t *testing.T, b broker.Broker, l *ledger, topic string) (end func()) {
	stop, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for i := 1; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			body := fmt.Sprintf("%s/%d", topic, i)
			err := b.Publish(topic, message(body))
			if l.published(body, err); err != nil {
				t.Errorf("%s: %v", body, err)
			}
		}
	}()
	return func() {
		close(stop)
		<-ended
	}
}

func TestAckWaitShortenedUnderASlowHandler(t *testing.T) {
	t.Parallel()
	for _, concurrency := range []int{1, 2} {
		t.Run(fmt.Sprintf("concurrency %d", concurrency), func(t *testing.T) {
			t.Parallel()
			s := startServer(t)
			_, js := natsConn(t, s)
			l := newLedger()
			b := newBroker(t, s, jsbroker.WithConcurrency(concurrency)) // AckWait is 30s
			started, release := make(chan struct{}, 100), make(chan struct{}, 100)
			subscribe(t, b, "orders", func(e broker.Event) error {
				started <- struct{}{}
				<-release
				return l.handler(e)
			}, broker.Queue("q"))
			l.publish(t, b, "orders", 1, 1)
			receive(t, started)
			const ackWait = 3 * time.Second // it must be extended before, also on a busy machine
			changeConsumer(t, js, func(cc *jetstream.ConsumerConfig) { cc.AckWait = ackWait })
			eventually(t, "the server delivers it again", func() bool { return natstest.ConsumerInfo(t, js, "ORDERS", "q").NumRedelivered == 1 })
			release <- struct{}{}
			l.publish(t, b, "orders", 2, 2)
			receive(t, started) // the second message, not the first again
			release <- struct{}{}
			l.settleInAnyOrder(t)
			eventually(t, "all is settled", func() bool { return streamInfo(t, js, "ORDERS").State.Msgs == 0 })

			// It knows by now, and extends in time.
			l.publish(t, b, "orders", 3, 3)
			receive(t, started)
			again := natstest.ConsumerInfo(t, js, "ORDERS", "q").Delivered.Consumer
			timer := time.NewTimer(2 * ackWait) // the handler's work
			<-timer.C
			if n := natstest.ConsumerInfo(t, js, "ORDERS", "q").Delivered.Consumer; n != again {
				t.Errorf("delivered %d times more while the handler worked", n-again)
			}
			close(release)
			l.settleInAnyOrder(t)
			if n := l.duplicates(); n > 0 {
				t.Errorf("%d duplicates", n)
			}
		})
	}
}

func TestLastDeliverySkippedUnderASlowHandlerIsThatHandlers(t *testing.T) {
	t.Parallel()
	for _, deadLetter := range []bool{false, true} {
		t.Run(fmt.Sprintf("dead letter %v", deadLetter), func(t *testing.T) {
			t.Parallel()
			s := startServer(t)
			_, js := natsConn(t, s)
			natstest.MakeStream(t, js, jetstream.StreamConfig{Name: "ORDERS", Subjects: []string{"orders"}, Retention: jetstream.WorkQueuePolicy})
			natstest.MakeConsumer(t, js, "ORDERS", jetstream.ConsumerConfig{Durable: "q", FilterSubject: "orders", AckPolicy: jetstream.AckExplicitPolicy, MaxDeliver: 2})
			skipped, onSkipped := hookChan[jsbroker.Skipped]()
			exhausted, onExhausted := hookChan[jsbroker.Exhausted]()
			options := []broker.Option{jsbroker.WithConcurrency(2), jsbroker.WithHooks(jsbroker.Hooks{Skipped: onSkipped, Exhausted: onExhausted})}
			if deadLetter {
				options = append(options, jsbroker.WithDeadLetter("graves"))
			}
			b := newBroker(t, s, options...)
			started, release := make(chan struct{}, 10), make(chan struct{})
			subscribe(t, b, "orders", func(broker.Event) error {
				started <- struct{}{}
				<-release
				return errors.New("no")
			}, broker.Queue("q"))
			publish(t, b, "orders", "x")
			receive(t, started)
			changeConsumer(t, js, func(cc *jetstream.ConsumerConfig) { cc.AckWait = time.Second })
			if e := receive(t, skipped); e.NumDelivered != 2 {
				t.Fatalf("skipped %+v", e)
			}
			close(release)
			if !deadLetter {
				if e := receive(t, exhausted); e.Cause.Error() != "no" {
					t.Errorf("exhausted %+v", e)
				}
				return
			}
			eventually(t, "the original is gone", func() bool { return streamInfo(t, js, "ORDERS").State.Msgs == 0 })
			if h := natstest.LastMessage(t, js, "GRAVES", "graves").Header; h.Get("Micro-Dead-Letter-Deliveries") != "2" {
				t.Errorf("dead letter %v", h)
			}
		})
	}
}

// The server delivers a message no more after so many deliveries, and does not say so.
func TestMaxDeliverSetUnderASubscriberIsHeeded(t *testing.T) {
	t.Parallel()
	for _, deadLetter := range []bool{false, true} {
		t.Run(fmt.Sprintf("dead letter %v", deadLetter), func(t *testing.T) {
			t.Parallel()
			s := startServer(t)
			_, js := natsConn(t, s)
			natstest.MakeStream(t, js, jetstream.StreamConfig{Name: "ORDERS", Subjects: []string{"orders"}, Retention: jetstream.WorkQueuePolicy})
			natstest.MakeConsumer(t, js, "ORDERS", jetstream.ConsumerConfig{Durable: "q", FilterSubject: "orders", AckPolicy: jetstream.AckExplicitPolicy})
			exhausted, onExhausted := hookChan[jsbroker.Exhausted]()
			dead, onDead := hookChan[jsbroker.DeadLettered]()
			log := natstest.NewLog()
			options := []broker.Option{broker.Logger(log), jsbroker.WithHooks(jsbroker.Hooks{Exhausted: onExhausted, DeadLettered: onDead})}
			if deadLetter {
				options = append(options, jsbroker.WithDeadLetter("graves"))
			}
			b := newBroker(t, s, options...)
			handled := make(chan string, 100)
			subscribe(t, b, "orders", func(e broker.Event) error {
				handled <- string(e.Message().Body)
				if string(e.Message().Body) == "fails once" && jsbroker.NumDelivered(e) > 1 {
					return nil
				}
				return jsbroker.RetryAfter(200*time.Millisecond, errors.New("no luck"))
			}, broker.Queue("q"))
			// The consumer has just been looked at when its limit is set.
			publish(t, b, "orders", "fails once")
			receive(t, handled)
			receive(t, handled)
			changeConsumer(t, js, func(cc *jetstream.ConsumerConfig) { cc.MaxDeliver = 5 })
			publish(t, b, "orders", "poison")
			var last jsbroker.Delivery
			if deadLetter {
				last = receive(t, dead).Delivery
			} else {
				last = receive(t, exhausted).Delivery
			}
			if last.NumDelivered != 5 {
				t.Errorf("given up after delivery %d", last.NumDelivered)
			}
			if lines := log.With("MaxDeliver of consumer q of stream ORDERS is 5 now"); len(lines) != 1 {
				t.Errorf("logged: %v", log.Lines())
			}
		})
	}
}

func TestFailuresAskForTheLimitNowAndThen(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	nc, _ := natsConn(t, s)
	b := newBroker(t, s)
	handled := make(chan struct{}, 1000)
	subscribe(t, b, "orders", func(e broker.Event) error {
		handled <- struct{}{}
		if string(e.Message().Body) == "good" {
			return nil
		}
		return jsbroker.RetryAfter(time.Hour, errors.New("no luck"))
	}, broker.Queue("q"), jsbroker.Concurrency(4))
	asked := natstest.CountRequests(t, nc, "$JS.API.CONSUMER.INFO.ORDERS.q")
	began := time.Now()
	run := func(body string) {
		t.Helper()
		for range 500 {
			publishAsync(t, b, "orders", body)
		}
		for range 500 {
			receive(t, handled)
		}
	}
	run("good")
	if n := asked.Seen(t); n > 0 {
		t.Errorf("asked %d times for messages that were handled", n)
	}
	run("bad")
	if n, most := asked.Seen(t), 2+int(2*time.Since(began).Seconds()); n < 1 || n > most {
		t.Errorf("asked %d times, at most %d wanted", n, most)
	}
}

func TestSecondDeliveryAfterALostAckIsAckedAndNotHandled(t *testing.T) {
	t.Parallel()
	l := newLedger()
	skipped, onSkip := hookChan[jsbroker.Skipped]()
	b, js := lostSettlements(t, jsbroker.Hooks{Skipped: onSkip})
	subscribe(t, b, "orders", l.handler, broker.Queue("q"))
	const n = 3
	l.publish(t, b, "orders", 1, n)
	eventually(t, "all are acked", func() bool { return streamInfo(t, js, "ORDERS").State.Msgs == 0 })
	l.settle(t)
	if d := l.duplicates(); d > 0 {
		t.Errorf("%d duplicates", d)
	}
	for range n {
		if e := receive(t, skipped); e.NumDelivered != 2 {
			t.Errorf("skipped %+v, want second deliveries", e)
		}
	}
}

// lostSettlements is a broker whose settlements of first deliveries are refused, as
// if a connection had broken with them on their way.
func lostSettlements(t *testing.T, hooks jsbroker.Hooks) (broker.Broker, jetstream.JetStream) {
	t.Helper()
	s := startServer(t, natstest.Limited(natstest.NoPublish("$JS.ACK.ORDERS.q.1.>")))
	_, js := natsConn(t, s, nats.UserInfo("admin", "admin"))
	return newBroker(t, s, as("limited:pw", s), jsbroker.WithHooks(hooks),
		jsbroker.WithConsumerConfig(jetstream.ConsumerConfig{AckWait: time.Second})), js
}

func TestSecondDeliveryAfterALostTerminationIsTerminatedAndNotHandled(t *testing.T) {
	t.Parallel()
	skipped, onSkip := hookChan[jsbroker.Skipped]()
	settled, onSettled := hookChan[jsbroker.Settled]()
	b, js := lostSettlements(t, jsbroker.Hooks{Skipped: onSkip, Settled: onSettled})
	deliveries := make(chan uint64, 10)
	subscribe(t, b, "orders", func(e broker.Event) error {
		deliveries <- jsbroker.NumDelivered(e)
		return jsbroker.Discard(errors.New("malformed"))
	}, broker.Queue("q"))
	publish(t, b, "orders", "1")
	receive(t, skipped)
	for range 2 {
		if e := receive(t, settled); e.Result != jsbroker.ResultTerm {
			t.Errorf("delivery %d: %s", e.NumDelivered, e.Result)
		}
	}
	eventually(t, "it is gone", func() bool { return streamInfo(t, js, "ORDERS").State.Msgs == 0 })
	if n := len(deliveries); n != 1 {
		t.Errorf("handled %d times", n)
	}
}

func TestSecondDeliveryAfterALostLateAckIsAckedAndNotHandled(t *testing.T) {
	t.Parallel()
	skipped, onSkip := hookChan[jsbroker.Skipped]()
	handled, onHandled := hookChan[jsbroker.Handled]()
	b, js := lostSettlements(t, jsbroker.Hooks{Skipped: onSkip, Handled: onHandled})
	events := make(chan broker.Event, 10)
	subscribe(t, b, "orders", func(e broker.Event) error {
		events <- e
		return nil
	}, broker.Queue("q"), broker.DisableAutoAck())
	publish(t, b, "orders", "1")
	receive(t, handled)
	if err := receive(t, events).Ack(); err != nil {
		t.Fatal(err)
	}
	receive(t, skipped)
	eventually(t, "it is gone", func() bool { return streamInfo(t, js, "ORDERS").State.Msgs == 0 })
	if n := len(events); n > 0 {
		t.Errorf("handled %d times more", n)
	}
}

func TestMessageLargerThanMaxRequestMaxBytesIsAFailureUntilThatIsRaised(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	nc, js := natsConn(t, s)
	failed, onFetchError := hookChan[jsbroker.FetchError]()
	b := newBroker(t, s, jsbroker.WithHooks(jsbroker.Hooks{FetchError: onFetchError}))
	natstest.MakeStream(t, js, jetstream.StreamConfig{Name: "ORDERS", Subjects: []string{"orders"}})
	natstest.MakeConsumer(t, js, "ORDERS", jetstream.ConsumerConfig{Durable: "q", AckPolicy: jetstream.AckExplicitPolicy, FilterSubject: "orders", MaxRequestMaxBytes: 1000})
	r := natstest.CountRequests(t, nc, "$JS.API.CONSUMER.MSG.NEXT.ORDERS.q")
	large := strings.Repeat("x", 5000)
	publish(t, b, "orders", "small")
	publish(t, b, "orders", large)
	h, got := collector()
	subscribe(t, b, "orders", h, broker.Queue("q"))
	receive(t, got)
	e := receive(t, failed)
	if e.Reason != "message_too_large" {
		t.Errorf("reason %s", e.Reason)
	}
	wantError(t, e.Err, jetstream.ErrMaxBytesExceeded, "MaxRequestMaxBytes, 1000,", "consumer q", "ORDERS")
	if n := r.Seen(t); n > 10 {
		t.Errorf("%d requests for two messages", n)
	}
	changeConsumer(t, js, func(cc *jetstream.ConsumerConfig) { cc.MaxRequestMaxBytes = 10_000 })
	if body := receive(t, got); body != large {
		t.Errorf("got %q", body)
	}
}
