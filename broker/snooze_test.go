package broker_test

import (
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"go-micro.dev/v5/broker"
	"go-micro.dev/v5/logger"

	jsbroker "go-micro-jetstream/broker"
	"go-micro-jetstream/internal/natstest"
)

// Tests of the note that handlers snooze, where it cannot be made, or goes again. In
// each, what was only snoozed is handled in the end, and what fails MaxDeliver times is
// a dead letter.

// snoozing are replicas of a queue that snooze the message "later" until it was
// snoozed often enough, and fail with the message "fails".
type snoozing struct {
	snoozes, failures atomic.Int32
	enough            atomic.Int32 // snoozes of all messages together
	ended             chan string  // what was handled in the end, and the bodies of dead letters after "dead "
}

const snoozeLimit = 3 // deliveries that fail

func newSnoozing(t *testing.T, undertaker broker.Broker) *snoozing {
	t.Helper()
	r := &snoozing{ended: make(chan string, 100)}
	r.enough.Store(40)
	subscribe(t, undertaker, "graves", func(e broker.Event) error {
		r.ended <- "dead " + string(e.Message().Body)
		return nil
	}, broker.Queue("undertaker"))
	return r
}

func snoozingOptions(opts ...broker.Option) []broker.Option {
	return append(opts, jsbroker.WithDeadLetter("graves"), jsbroker.WithConsumerConfig(jetstream.ConsumerConfig{MaxDeliver: snoozeLimit}))
}

func (r *snoozing) handle(e broker.Event) error {
	body := string(e.Message().Body)
	switch {
	case body == "fails":
		r.failures.Add(1)
		return jsbroker.RetryAfter(time.Millisecond, errors.New("fails"))
	case r.snoozes.Load() < r.enough.Load():
		r.snoozes.Add(1)
		return jsbroker.Snooze(time.Millisecond)
	}
	r.ended <- body
	return nil
}

// wantEnd waits until the message that was snoozed is handled.
func (r *snoozing) wantEnd(t *testing.T) {
	t.Helper()
	if end := receive(t, r.ended); end != "later" {
		t.Fatalf("after %d snoozes: %s", r.snoozes.Load(), end)
	}
}

// wantDead publishes a message that fails, and waits until it is a dead letter. Each of
// the replicas may have tried it as often as the limit says.
func (r *snoozing) wantDead(t *testing.T, b broker.Broker, replicas int32) {
	t.Helper()
	publish(t, b, "orders", "fails")
	if end := receive(t, r.ended); end != "dead fails" {
		t.Errorf("got %s", end)
	}
	if n := r.failures.Load(); n < snoozeLimit || n > replicas*snoozeLimit {
		t.Errorf("a dead letter after %d failures", n)
	}
	if len(r.ended) > 0 {
		t.Errorf("also %s", <-r.ended)
	}
}

const noteKey = "go-micro-jetstream-snoozes"

func noteIn(t *testing.T, js jetstream.JetStream) bool {
	t.Helper()
	return natstest.ConsumerInfo(t, js, "ORDERS", "q").Config.Metadata[noteKey] != ""
}

func wantWarnings(t *testing.T, log *natstest.Log, n int, text string) {
	t.Helper()
	if lines := log.With(text); len(lines) != n {
		t.Errorf("%d lines say %q, want %d:\n%s", len(lines), text, n, log.Text())
	}
	for _, line := range log.With(text) {
		if line.Level != logger.WarnLevel {
			t.Errorf("%s", line)
		}
	}
}

func TestSnoozesThatMayNotBeNotedMakeNoDeadLetter(t *testing.T) {
	t.Parallel()
	s := startServer(t, natstest.Limited(natstest.NoPublish("$JS.API.CONSUMER.CREATE.>", "$JS.API.CONSUMER.DURABLE.CREATE.>")))
	admin := newBroker(t, s, snoozingOptions(broker.Addrs(natstest.URL(s, "admin:admin")))...)
	r := newSnoozing(t, admin)
	noErr(t, subscribe(t, admin, "orders", r.handle, broker.Queue("q")).Unsubscribe())
	log := natstest.NewLog()
	limited := snoozingOptions(broker.Addrs(natstest.URL(s, "limited:pw")), broker.Logger(log))
	publish(t, admin, "orders", "later")
	// One replica snoozes it more often than is spared, and another one takes over.
	for range 2 {
		b := newBroker(t, s, limited...)
		sub := subscribe(t, b, "orders", r.handle, broker.Queue("q"))
		before := r.snoozes.Load()
		eventually(t, "it was snoozed", func() bool { return r.snoozes.Load() >= before+17 })
		noErr(t, sub.Unsubscribe())
		noErr(t, b.Disconnect())
	}
	b := newBroker(t, s, limited...)
	subscribe(t, b, "orders", r.handle, broker.Queue("q"))
	r.wantEnd(t)
	r.wantDead(t, admin, 1)
	wantWarnings(t, log, 3, "cannot be told that its handlers snooze") // one for each replica
	if text := log.Text(); !strings.Contains(text, "ermission") {
		t.Errorf("the log does not say why: %s", text)
	}
}

func TestANoteOfSnoozesThatIsTakenOffComesBack(t *testing.T) {
	t.Parallel()
	for name, metadata := range map[string]func(map[string]string) map[string]string{
		"the note":     func(m map[string]string) map[string]string { delete(m, noteKey); return m },
		"all metadata": func(map[string]string) map[string]string { return nil },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := startServer(t)
			_, js := natsConn(t, s)
			undertaker := newBroker(t, s)
			r := newSnoozing(t, undertaker)
			r.enough.Store(1 << 30)
			log := natstest.NewLog()
			b := newBroker(t, s, snoozingOptions(broker.Logger(log))...)
			sub := subscribe(t, b, "orders", r.handle, broker.Queue("q"))
			publish(t, b, "orders", "later")
			eventually(t, "the note is there", func() bool { return noteIn(t, js) })
			cc := natstest.ConsumerInfo(t, js, "ORDERS", "q").Config
			cc.Metadata = metadata(cc.Metadata)
			_, err := js.UpdateConsumer(testContext(t), "ORDERS", cc)
			noErr(t, err)
			eventually(t, "the note is there again", func() bool { return noteIn(t, js) })
			before := r.snoozes.Load()
			eventually(t, "more are snoozed than are spared", func() bool { return r.snoozes.Load() > before+20 })
			noErr(t, sub.Unsubscribe())
			noErr(t, b.Disconnect())

			r.enough.Store(0)
			next := newBroker(t, s, snoozingOptions(broker.Logger(log))...)
			subscribe(t, next, "orders", r.handle, broker.Queue("q"))
			r.wantEnd(t)
			r.wantDead(t, next, 1)
			wantWarnings(t, log, 0, "cannot be told")
		})
	}
}

func TestTwoReplicasNoteSnoozesAtTheSameTime(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	_, js := natsConn(t, s)
	r := newSnoozing(t, newBroker(t, s))
	log := natstest.NewLog()
	begin := make(chan struct{})
	var waiting atomic.Int32
	var b broker.Broker
	for range 2 {
		b = newBroker(t, s, snoozingOptions(broker.Logger(log))...)
		subscribe(t, b, "orders", func(e broker.Event) error {
			if waiting.Add(1) == 2 {
				close(begin)
			}
			<-begin
			return r.handle(e)
		}, broker.Queue("q"))
	}
	published := 0
	eventually(t, "each replica has a message", func() bool { // one may get the first few
		publish(t, b, "orders", "later")
		published++
		return waiting.Load() >= 2
	})
	for range published {
		r.wantEnd(t)
	}
	if !noteIn(t, js) {
		t.Error("there is no note")
	}
	r.wantDead(t, b, 2)
	wantWarnings(t, log, 0, "snooze")
}

func TestSnoozesOnAConsumerOfOthersMakeNoDeadLetter(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	_, js := natsConn(t, s)
	r := newSnoozing(t, newBroker(t, s))
	natstest.MakeStream(t, js, jetstream.StreamConfig{Name: "ORDERS", Subjects: []string{"orders"}, Retention: jetstream.WorkQueuePolicy})
	natstest.MakeConsumer(t, js, "ORDERS", jetstream.ConsumerConfig{Durable: "q", FilterSubject: "orders", AckPolicy: jetstream.AckExplicitPolicy})
	log := natstest.NewLog()
	var b broker.Broker
	for range 2 {
		b = newBroker(t, s, snoozingOptions(broker.Logger(log))...)
		subscribe(t, b, "orders", r.handle, broker.Queue("q"))
	}
	publish(t, b, "orders", "later")
	r.wantEnd(t)
	if noteIn(t, js) {
		t.Error("the consumer of others was changed")
	}
	if n := len(log.With(noteKey)); n < 1 || n > 2 { // one of each replica that has snoozed
		t.Errorf("%d lines name the note: %s", n, log.Text())
	}
	r.wantDead(t, b, 2)
}

func TestTheNoteOfSnoozesIsMadeAfterALostConnection(t *testing.T) {
	t.Parallel()
	const request = "CONSUMER.CREATE.ORDERS.q"
	for name, lose := range map[string]func(*natstest.Proxy) (lost func(noted bool) bool){
		"with the request": func(p *natstest.Proxy) func(bool) bool {
			happened := p.Lose(request)
			return func(bool) bool { return happened() }
		},
		"with the answer": func(p *natstest.Proxy) func(bool) bool {
			p.StallAfter(request)
			return func(noted bool) bool { return noted }
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := startServer(t)
			_, js := natsConn(t, s)
			p := natstest.StartProxy(t, s)
			r := newSnoozing(t, newBroker(t, s))
			log := natstest.NewLog()
			b := newBroker(t, s, snoozingOptions(broker.Addrs(p.URL()), broker.Logger(log))...)
			subscribe(t, b, "orders", r.handle, broker.Queue("q"), jsbroker.ConsumerConfig(jetstream.ConsumerConfig{MaxDeliver: snoozeLimit, AckWait: 2 * time.Second}))
			lost := lose(p)
			publish(t, newBroker(t, s), "orders", "later")
			eventually(t, "the request or its answer is lost", func() bool { return lost(noteIn(t, js)) })
			p.Cut()
			p.Resume()
			r.wantEnd(t)
			if !noteIn(t, js) {
				t.Error("there is no note")
			}
			r.wantDead(t, b, 1)
			wantWarnings(t, log, 0, "cannot be told")
		})
	}
}

func TestSnoozesWhileLeadersChangeMakeNoDeadLetter(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("a cluster takes too long for -short")
	}
	c := natstest.StartCluster(t)
	opts := snoozingOptions(broker.Addrs(c.URLs()...), quiet(), jsbroker.WithStreamConfig(jetstream.StreamConfig{Replicas: 3, Retention: jetstream.WorkQueuePolicy}))
	replica := func() broker.Broker {
		b := jsbroker.NewBroker(opts...)
		noErr(t, b.Connect())
		t.Cleanup(func() { _ = b.Disconnect() })
		return b
	}
	undertaker := replica()
	r := newSnoozing(t, undertaker)
	r.enough.Store(1 << 30)
	const messages = 20
	short := jsbroker.ConsumerConfig(jetstream.ConsumerConfig{MaxDeliver: snoozeLimit, AckWait: 3 * time.Second})
	for range 2 {
		subscribe(t, replica(), "orders", r.handle, broker.Queue("q"), short)
	}
	for range messages {
		publish(t, undertaker, "orders", "later")
	}
	goesOn := func() {
		before := r.snoozes.Load()
		eventually(t, "snoozes go on", func() bool { return r.snoozes.Load() > before+10*messages })
	}
	goesOn()
	for range 2 {
		c.Bounce(t, c.ConsumerLeader(t, "ORDERS", "q"), goesOn)
	}
	r.enough.Store(0)
	for range messages {
		r.wantEnd(t)
	}
	eventually(t, "nothing is left", func() bool {
		_, js := natstest.Connect(t, c.StreamLeader(t, "ORDERS").ClientURL())
		return streamInfo(t, js, "ORDERS").State.Msgs == 0
	})
	r.wantDead(t, undertaker, 2)
}
