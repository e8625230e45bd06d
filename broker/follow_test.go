package broker_test

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go-micro.dev/v5/broker"
	"go-micro.dev/v5/logger"

	jsbroker "go-micro-jetstream/broker"
	"go-micro-jetstream/internal/natstest"
)

// wantOneLine checks that exactly one line has the text, and returns it.
func wantOneLine(t testing.TB, log *natstest.Log, level logger.Level, text string) {
	t.Helper()
	if lines := log.With(text); len(lines) != 1 || lines[0].Level != level {
		t.Errorf("not logged once: %q\n%s", text, log.Text())
	}
}

// failing is a handler that never succeeds, and says how often each message came.
func failing(deliveries chan<- uint64) broker.Handler {
	return func(e broker.Event) error {
		deliveries <- jsbroker.NumDelivered(e)
		return jsbroker.RetryAfter(0, errors.New("no luck"))
	}
}

func TestDeadLettersComeToAQueueThatHadNone(t *testing.T) {
	t.Parallel()
	r := natstest.StartRestartable(t)
	first := newBroker(t, r.Server)
	deliveries := make(chan uint64, 1000)
	handled := make(chan struct{}, 10)
	subscribe(t, first, "orders", func(e broker.Event) error {
		if jsbroker.NumDelivered(e) == 1 {
			handled <- struct{}{}
		}
		return errors.New("no luck")
	}, broker.Queue("q"))
	publish(t, first, "orders", "old poison")
	receive(t, handled)
	noErr(t, first.Disconnect())
	r.Stop()
	r.Start(t)

	log := natstest.NewLog()
	limit := jsbroker.WithConsumerConfig(jetstream.ConsumerConfig{MaxDeliver: 3})
	later := newBroker(t, r.Server, limit, jsbroker.WithDeadLetter("graves"), broker.Logger(log))
	subscribe(t, later, "orders", failing(deliveries), broker.Queue("q"))
	publish(t, later, "orders", "new poison")
	_, js := natsConn(t, r.Server)
	eventually(t, "both are dead letters", func() bool {
		info, err := js.Stream(testContext(t), "GRAVES")
		return err == nil && info.CachedInfo().State.Msgs == 2 && streamInfo(t, js, "ORDERS").State.Msgs == 0
	})
	for len(deliveries) > 0 {
		if n := receive(t, deliveries); n > 3 {
			t.Errorf("delivery %d", n)
		}
	}
	wantOneLine(t, log, logger.InfoLevel, "consumer q of stream ORDERS follows its configuration: MaxDeliver is now 3 (counted by the broker), was unlimited")
}

func TestDeadLettersOfAConsumerOfOthersThatHasNoLimit(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	_, js := natsConn(t, s)
	natstest.MakeStream(t, js, jetstream.StreamConfig{Name: "ORDERS", Subjects: []string{"orders"}, Retention: jetstream.WorkQueuePolicy})
	natstest.MakeConsumer(t, js, "ORDERS", jetstream.ConsumerConfig{Durable: "q", FilterSubject: "orders", AckPolicy: jetstream.AckExplicitPolicy})
	before := natstest.ConsumerInfo(t, js, "ORDERS", "q").Config
	b := newBroker(t, s, jsbroker.WithConsumerConfig(jetstream.ConsumerConfig{MaxDeliver: 3}), jsbroker.WithDeadLetter("graves"))
	deliveries := make(chan uint64, 1000)
	subscribe(t, b, "orders", failing(deliveries), broker.Queue("q"))
	publish(t, b, "orders", "poison")
	eventually(t, "it is a dead letter", func() bool { return streamInfo(t, js, "ORDERS").State.Msgs == 0 })
	if n := len(deliveries); n != 3 {
		t.Errorf("%d deliveries", n)
	}
	if after := natstest.ConsumerInfo(t, js, "ORDERS", "q").Config; len(after.Metadata) != len(before.Metadata) || after.MaxDeliver != before.MaxDeliver {
		t.Errorf("it was changed: %+v", after)
	}
}

// Terraform and NACK write a consumer as their own files say, without our metadata.
func TestLimitHoldsWhereAToolRewritesTheConsumer(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	_, js := natsConn(t, s)
	log := natstest.NewLog()
	dead, onDead := hookChan[jsbroker.DeadLettered]()
	options := []broker.Option{
		jsbroker.WithConsumerConfig(jetstream.ConsumerConfig{MaxDeliver: 3}), jsbroker.WithDeadLetter("graves"),
		broker.Logger(log), jsbroker.WithHooks(jsbroker.Hooks{DeadLettered: onDead}),
	}
	b := newBroker(t, s, options...)
	deliveries := make(chan uint64, 1000)
	sub := subscribe(t, b, "orders", failing(deliveries), broker.Queue("q"))
	changeConsumer(t, js, func(cc *jetstream.ConsumerConfig) { cc.Metadata = nil })
	for range 2 { // under the subscriber, and for the next one
		publish(t, b, "orders", "poison")
		if d := receive(t, dead); d.NumDelivered != 3 || d.Err != nil {
			t.Errorf("dead letter after delivery %d: %v", d.NumDelivered, d.Err)
		}
		wantOneLine(t, log, logger.WarnLevel, "consumer q of stream ORDERS was rewritten without the metadata of the broker")
		noErr(t, sub.Unsubscribe())
		sub = subscribe(t, b, "orders", failing(deliveries), broker.Queue("q"))
	}
}

// During a rolling deploy each replica applies its own configuration when it
// subscribes, and not when it reconnects. Nothing is lost or handled twice.
func TestTwoVersionsSideBySide(t *testing.T) {
	t.Parallel()
	r := natstest.StartRestartable(t)
	_, js := natsConn(t, r.Server, nats.ReconnectWait(10*time.Millisecond))
	l := newLedger()
	quick := jsbroker.WithNATSOptions(nats.ReconnectWait(10 * time.Millisecond))
	version := func(ackWait, maxAge time.Duration) (broker.Broker, *natstest.Log, <-chan jsbroker.ConnectionChanged) {
		log := natstest.NewLog()
		states, onChange := hookChan[jsbroker.ConnectionChanged]()
		b := newBroker(t, r.Server, quick, l.watch(), broker.Logger(log), jsbroker.WithHooks(jsbroker.Hooks{ConnectionChanged: onChange}),
			jsbroker.WithConsumerConfig(jetstream.ConsumerConfig{AckWait: ackWait}), jsbroker.WithStreamConfig(jetstream.StreamConfig{MaxAge: maxAge}))
		subscribe(t, b, "orders", l.handler, broker.Queue("q"))
		return b, log, states
	}
	old, oldLog, oldStates := version(20*time.Second, time.Hour)
	l.publish(t, old, "orders", 1, 50)
	now, newLog, newStates := version(40*time.Second, 2*time.Hour)
	l.publish(t, now, "orders", 51, 100)
	r.Stop()
	r.Start(t)
	for _, states := range []<-chan jsbroker.ConnectionChanged{oldStates, newStates} {
		natstest.Await(t, states, "reconnected", func(c jsbroker.ConnectionChanged) bool { return c.State == jsbroker.StateReconnected })
	}
	l.publish(t, old, "orders", 101, 150)
	l.publish(t, now, "orders", 151, 200)
	l.settleInAnyOrder(t)
	if cc := natstest.ConsumerInfo(t, js, "ORDERS", "q").Config; cc.AckWait != 40*time.Second {
		t.Errorf("AckWait is %v", cc.AckWait)
	}
	if sc := streamInfo(t, js, "ORDERS").Config; sc.MaxAge != 2*time.Hour {
		t.Errorf("MaxAge is %v", sc.MaxAge)
	}
	wantOneLine(t, newLog, logger.InfoLevel, "consumer q of stream ORDERS follows its configuration: AckWait is now 40s, was 20s")
	wantOneLine(t, newLog, logger.InfoLevel, "stream ORDERS follows its configuration: MaxAge is now 2h0m0s, was 1h0m0s")
	if lines := oldLog.With("follows"); len(lines) > 0 {
		t.Errorf("the old version: %v", lines)
	}
}

func TestOperatorsEditOutlivesRestarts(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	_, js := natsConn(t, s)
	start := func(ackWait, maxAge time.Duration) *natstest.Log {
		log := natstest.NewLog()
		b := newBroker(t, s, broker.Logger(log), jsbroker.WithConsumerConfig(jetstream.ConsumerConfig{AckWait: ackWait}), jsbroker.WithStreamConfig(jetstream.StreamConfig{MaxAge: maxAge}))
		subscribe(t, b, "orders", ignore, broker.Queue("q"))
		subscribe(t, b, "orders.created", ignore, broker.Queue("q"))
		publish(t, b, "orders", "x")
		noErr(t, b.Disconnect())
		return log
	}
	start(20*time.Second, time.Hour)
	changeConsumer(t, js, func(cc *jetstream.ConsumerConfig) { cc.AckWait = time.Minute })
	sc := streamInfo(t, js, "ORDERS").Config
	sc.MaxAge = 24 * time.Hour
	natstest.UpdateStream(t, js, sc)
	for _, code := range []time.Duration{20 * time.Second, 40 * time.Second} { // as it was, and changed as well
		log := start(code, 360*code)
		wantOneLine(t, log, logger.WarnLevel, "consumer q of stream ORDERS was changed by somebody else and is used as it is: AckWait is 1m0s, not "+code.String())
		wantOneLine(t, log, logger.WarnLevel, "stream ORDERS was changed by somebody else and is used as it is: MaxAge is 24h0m0s, not "+(360*code).String())
		if cc := natstest.ConsumerInfo(t, js, "ORDERS", "q").Config; cc.AckWait != time.Minute {
			t.Errorf("AckWait is %v", cc.AckWait)
		}
		if sc := streamInfo(t, js, "ORDERS").Config; sc.MaxAge != 24*time.Hour {
			t.Errorf("MaxAge is %v", sc.MaxAge)
		}
	}
}

func TestSubjectAddedInTheCodeCanBePublishedTo(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	_, js := natsConn(t, s)
	shop := func(subjects ...string) broker.Option {
		return jsbroker.WithStreamConfig(jetstream.StreamConfig{Name: "SHOP", Subjects: subjects})
	}
	publish(t, newBroker(t, s, shop("orders.>")), "orders.created", "x")
	log := natstest.NewLog()
	b := newBroker(t, s, shop("orders.>", "carts"), broker.Logger(log))
	publish(t, b, "carts", "y")
	h, got := collector()
	subscribe(t, b, "carts", h, broker.Queue("q"))
	if body := receive(t, got); body != "y" {
		t.Errorf("got %q", body)
	}
	if subjects := streamInfo(t, js, "SHOP").Config.Subjects; !slices.Equal(subjects, []string{"orders.>", "carts"}) {
		t.Errorf("subjects %v", subjects)
	}
	wantOneLine(t, log, logger.InfoLevel, "stream SHOP follows its configuration: Subjects is now [orders.> carts], was [orders.>]")
}

func TestStreamTemplateThatDiffersIsLogged(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	_, js := natsConn(t, s)
	natstest.MakeStream(t, js, jetstream.StreamConfig{Name: "THEIRS", Subjects: []string{"users.>"}})
	publish(t, newBroker(t, s), "orders", "x") // the first service to start: a WorkQueue
	before := streamInfo(t, js, "THEIRS").Config
	log := natstest.NewLog()
	b := newBroker(t, s, broker.Logger(log), jsbroker.WithStreamConfig(jetstream.StreamConfig{Retention: jetstream.InterestPolicy, Duplicates: time.Minute}))
	for range 2 {
		publish(t, b, "orders", "x")
		publish(t, b, "users.a", "x")
		subscribe(t, b, "users.b", ignore)
	}
	wantOneLine(t, log, logger.WarnLevel, "stream THEIRS exists and is used as it is: Retention is Limits, not Interest; Duplicates is 2m0s, not 1m0s")
	wantOneLine(t, log, logger.WarnLevel, "stream ORDERS is used as it is, as the server cannot change this: Retention is WorkQueue, not Interest; name another stream")
	wantOneLine(t, log, logger.InfoLevel, "stream ORDERS follows its configuration: Duplicates is now 1m0s, was 2m0s")
	if after := streamInfo(t, js, "THEIRS").Config; after.Duplicates != before.Duplicates || len(after.Metadata) != len(before.Metadata) {
		t.Errorf("it was changed: %+v", after)
	}
}

// Wherever a stream comes from that is not as it was asked for, the log says so.
func TestStreamThatDiffersIsLoggedWhereverItComesFrom(t *testing.T) {
	t.Parallel()
	asks := jsbroker.WithStreamConfig(jetstream.StreamConfig{MaxAge: time.Hour})
	fails := func(broker.Event) error { return jsbroker.Discard(errors.New("no")) }
	for name, tt := range map[string]struct {
		stream jetstream.StreamConfig
		opts   []broker.Option
		use    func(t *testing.T, b broker.Broker)
		line   string
	}{
		"of dead letters": {jetstream.StreamConfig{Name: "GRAVES", Subjects: []string{"graves"}}, []broker.Option{asks, jsbroker.WithDeadLetter("graves")}, func(t *testing.T, b broker.Broker) {
			subscribe(t, b, "orders", fails, broker.Queue("q"))
			publish(t, b, "orders", "x")
		}, "stream GRAVES exists and is used as it is: MaxAge is unlimited, not 1h0m0s"},
		"under another name": {jetstream.StreamConfig{Name: "THEIRS", Subjects: []string{"orders.>"}},
			[]broker.Option{asks, jsbroker.WithStreamName(func(string) string { return "SHOP" })}, func(t *testing.T, b broker.Broker) {
				publish(t, b, "orders.x", "x")
			}, "stream THEIRS exists and is used as it is: MaxAge"},
		"wider than asked for": {jetstream.StreamConfig{Name: "ALL", Subjects: []string{"orders", "orders.>", "users.>"}}, []broker.Option{asks}, func(t *testing.T, b broker.Broker) {
			subscribe(t, b, "orders.*", ignore)
		}, "stream ALL exists and is used as it is: MaxAge"},
		"of redriven letters": {jetstream.StreamConfig{Name: "ORDERS", Subjects: []string{"orders"}}, []broker.Option{asks, jsbroker.WithDeadLetter("graves")}, func(t *testing.T, b broker.Broker) {
			noErr(t, b.Publish("graves", &broker.Message{Header: map[string]string{"Micro-Dead-Letter-Topic": "orders"}, Body: []byte("x")}))
			_, err := jsbroker.Redrive(testContext(t), b, "graves")
			noErr(t, err)
		}, "stream ORDERS exists and is used as it is: MaxAge"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := startServer(t)
			_, js := natsConn(t, s)
			natstest.MakeStream(t, js, tt.stream)
			log := natstest.NewLog()
			tt.use(t, newBroker(t, s, append(tt.opts, broker.Logger(log))...))
			eventually(t, "the log says "+tt.line, func() bool { return len(log.With(tt.line)) == 1 })
		})
	}
}

// Neither Publish nor Subscribe fails where the user may not change a stream.
func TestChangeWithoutPermissionIsLogged(t *testing.T) {
	t.Parallel()
	s := startServer(t, natstest.Limited(natstest.NoPublish("$JS.API.STREAM.UPDATE.>")))
	publish(t, newBroker(t, s, as("admin:admin", s), jsbroker.WithStreamConfig(jetstream.StreamConfig{})), "orders", "x")
	log := natstest.NewLog()
	b := newBroker(t, s, as("limited:pw", s), broker.Logger(log), jsbroker.WithStreamConfig(jetstream.StreamConfig{MaxAge: time.Hour}))
	atOnce(t, "Publish", func() { publish(t, b, "orders", "y") })
	h, got := collector()
	subscribe(t, b, "orders", h, broker.Queue("q"))
	receive(t, got)
	wantOneLine(t, log, logger.WarnLevel, "stream ORDERS cannot follow its configuration and is used as it is: MaxAge is unlimited, not 1h0m0s: permission denied")
	if lines := log.With("$JS.API.STREAM.UPDATE.ORDERS"); len(lines) == 0 {
		t.Error(log.Text())
	}
}

func TestConsumersThatDeliverNothingToHandle(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	_, js := natsConn(t, s)
	natstest.MakeStream(t, js, jetstream.StreamConfig{Name: "ORDERS", Subjects: []string{"orders"}, Retention: jetstream.WorkQueuePolicy})
	cc := jetstream.ConsumerConfig{Durable: "q", FilterSubject: "orders", AckPolicy: jetstream.AckExplicitPolicy, HeadersOnly: true}
	natstest.MakeConsumer(t, js, "ORDERS", cc)
	log := natstest.NewLog()
	b := newBroker(t, s, broker.Logger(log))
	publish(t, b, "orders", "x")
	_, err := b.Subscribe("orders", ignore, broker.Queue("q"))
	wantError(t, err, jsbroker.ErrConsumerConflict, "headers only", "nats consumer edit", "HeadersOnly in WithConsumerConfig")
	h, got := collector()
	sub := subscribe(t, b, "orders", h, broker.Queue("q"), jsbroker.ConsumerConfig(jetstream.ConsumerConfig{HeadersOnly: true}))
	if body := receive(t, got); body != "" {
		t.Errorf("got %q", body)
	}
	noErr(t, sub.Unsubscribe())

	changeConsumer(t, js, func(cc *jetstream.ConsumerConfig) { cc.HeadersOnly = false })
	until := time.Now().Add(time.Hour)
	if _, err := js.PauseConsumer(testContext(t), "ORDERS", "q", until); err != nil {
		t.Fatal(err)
	}
	publish(t, b, "orders", "y")
	subscribe(t, b, "orders", h, broker.Queue("q"))
	wantOneLine(t, log, logger.WarnLevel, "consumer q of stream ORDERS is paused and delivers nothing until "+until.UTC().Format("2006-01-02T15:04"))
	if lines := log.With("nats consumer resume ORDERS q"); len(lines) != 1 {
		t.Error(log.Text())
	}
	if _, err := js.ResumeConsumer(testContext(t), "ORDERS", "q"); err != nil {
		t.Fatal(err)
	}
	if body := receive(t, got); body != "y" {
		t.Errorf("got %q", body)
	}
}

// What an option is given stays the caller's, and what the broker remembers is no
// secret: whoever looks at a stream can read it.
func TestMetadataSayWhatWasAskedFor(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	_, js := natsConn(t, s)
	b := newBroker(t, s, jsbroker.WithConsumerConfig(jetstream.ConsumerConfig{AckWait: time.Minute}), jsbroker.WithStreamConfig(jetstream.StreamConfig{Retention: jetstream.WorkQueuePolicy, MaxMsgs: 7}))
	subscribe(t, b, "orders", ignore, broker.Queue("q"))
	const key = "go-micro-jetstream-asked"
	if got := natstest.ConsumerInfo(t, js, "ORDERS", "q").Config.Metadata[key]; got != `{"ack_wait":60000000000}` {
		t.Errorf("consumer %s", got)
	}
	if got := streamInfo(t, js, "ORDERS").Config.Metadata[key]; !strings.Contains(got, `"max_msgs":7`) || !strings.Contains(got, `"retention":"workqueue"`) {
		t.Errorf("stream %s", got)
	}
}
