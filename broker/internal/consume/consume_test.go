package consume_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"go-micro-jetstream/broker/internal/consume"
	"go-micro-jetstream/broker/internal/delivery"
	"go-micro-jetstream/broker/internal/fault"
	"go-micro-jetstream/broker/internal/goroutine"
	"go-micro-jetstream/broker/internal/pull"
	"go-micro-jetstream/broker/internal/streams"
	"go-micro-jetstream/internal/natstest"
)

// ackWait is a change of a subscription's consumer.
func ackWait(d time.Duration) func(*consume.Config) {
	return func(c *consume.Config) {
		c.Rules = &streams.Rules{ConsumerTemplate: &jetstream.ConsumerConfig{AckWait: d}}
	}
}

func handle(h func(d *consume.Delivery)) func(*consume.Config) {
	return func(c *consume.Config) { c.Handle = func(_ int, d *consume.Delivery) { h(d) } }
}

func TestMessagesComeInOrder(t *testing.T) {
	t.Parallel()
	const n = 2000
	b, o := newTestbed(t), newObserver()
	b.start(o)
	for i := range n {
		if _, err := b.js.PublishAsync("orders", fmt.Append(nil, i), jetstream.WithStallWait(natstest.Patience)); err != nil {
			t.Fatal(err)
		}
	}
	for i := range n {
		if body := receive(t, o.handled); body != fmt.Sprint(i) {
			t.Fatalf("got %s, want %d", body, i)
		}
	}
	for range n {
		if s := receive(t, o.settled); s.result != consume.Ack || s.returned || s.err != nil {
			t.Fatalf("settled %+v", s)
		}
	}
	eventually(t, "all are acked", func() bool { return b.consumer("q").NumAckPending == 0 })
}

func TestFixedBatchIsNeverExceeded(t *testing.T) {
	t.Parallel()
	b, o := newTestbed(t), newObserver()
	s := b.open(o, func(c *consume.Config) { c.Limits = pull.Limits{Batch: 3} })
	for i := range 10 {
		b.publish(fmt.Sprint(i))
	}
	s.Begin(s.Context(), 0)
	for range 10 {
		receive(t, o.handled)
	}
	s.StopWithin(natstest.Patience)
	receive(t, s.Done())
	for len(o.fetched) > 0 {
		if n := <-o.fetched; n > 3 {
			t.Errorf("fetched %d messages", n)
		}
	}
}

// What was fetched and not started goes back at once: another subscriber does not wait
// for AckWait.
func TestStopGivesBackWhatWasNotStarted(t *testing.T) {
	t.Parallel()
	b, o := newTestbed(t), newObserver()
	started, release := make(chan string, 10), make(chan struct{})
	s := b.open(o, ackWait(time.Hour), handle(func(d *consume.Delivery) {
		started <- string(d.Msg.Data)
		<-release
		_, _, _ = d.Settle(consume.Ack, 0)
	}))
	b.publish("1", "2", "3")
	s.Begin(s.Context(), 0)
	receive(t, started)
	eventually(t, "all are fetched", func() bool { return b.consumer("q").NumAckPending == 3 })
	if !s.StopWithin(natstest.Patience) || s.StopWithin(natstest.Patience) || !s.Stopped() {
		t.Error("not stopped, or twice")
	}
	s.AwaitReturned()
	for _, want := range []string{"2", "3"} {
		if got := receive(t, o.settled); got.result != consume.Nak || !got.returned || string(got.d.Msg.Data) != want {
			t.Errorf("settled %+v, want %s to be given back", got, want)
		}
	}
	if s.Running() != 1 || s.RunsOn(goroutine.ID()) {
		t.Errorf("%d handlers run", s.Running())
	}
	other := newObserver()
	b.start(other)
	got := []string{receive(t, other.handled), receive(t, other.handled)}
	slices.Sort(got) // they come in the order of the server's redelivery
	if !slices.Equal(got, []string{"2", "3"}) {
		t.Errorf("the other subscriber got %v", got)
	}
	select {
	case <-s.Done():
		t.Error("over while a handler runs")
	default:
	}
	close(release)
	receive(t, s.Done())
	receive(t, o.ended)
	if got := receive(t, o.settled); got.result != consume.Ack || s.Context().Err() == nil {
		t.Errorf("settled %+v, context %v", got, s.Context().Err())
	}
}

// The last delivery that the server makes was for nothing.
func TestLastDeliveryThatIsGivenBackIsExhausted(t *testing.T) {
	t.Parallel()
	b, o := newTestbed(t), newObserver()
	started, release := make(chan *consume.Delivery, 10), make(chan struct{})
	var s *consume.Subscription
	s = b.open(o, handle(func(d *consume.Delivery) {
		started <- d
		<-release
		s.LearnLimit()
		if exhausted, byServer := d.Exhausted(); !exhausted || !byServer {
			t.Errorf("exhausted %v, by the server %v", exhausted, byServer)
		}
		_, _, _ = d.Settle(consume.Ack, 0)
	}), func(c *consume.Config) {
		c.Rules = &streams.Rules{ConsumerTemplate: &jetstream.ConsumerConfig{MaxDeliver: 1}}
	})
	b.publish("1", "2")
	s.Begin(s.Context(), 0)
	receive(t, started)
	eventually(t, "both are fetched", func() bool { return b.consumer("q").NumAckPending == 2 })
	s.StopWithin(natstest.Patience)
	if err := receive(t, o.spent); !strings.Contains(err.Error(), "given back") {
		t.Error(err)
	}
	close(release)
	receive(t, s.Done())
}

// A message comes again while its handler runs, as somebody has naked it behind the
// subscription's back, and once more when it was acked in vain.
func TestSecondDeliveryIsSkipped(t *testing.T) {
	t.Parallel()
	b, o := newTestbed(t), newObserver()
	deliveries, release := make(chan *consume.Delivery, 10), make(chan struct{})
	var log bytes.Buffer
	s := b.open(o, handle(func(d *consume.Delivery) {
		deliveries <- d
		<-release
		_, _, _ = d.Settle(consume.Ack, 0)
	}), func(c *consume.Config) {
		c.Concurrency = 2
		c.Log = slog.New(slog.NewTextHandler(&log, nil))
	})
	s.Begin(s.Context(), 0)
	b.publish("1")
	first := receive(t, deliveries)
	nak := func() {
		if err := b.conn.NATS().Publish(first.Msg.Reply, []byte("-NAK")); err != nil {
			t.Fatal(err)
		}
	}
	nak()
	if d := receive(t, o.skipped); d.Meta.NumDelivered != 2 || first.Deliveries() != 2 || d.why != delivery.SkipRunning {
		t.Errorf("skipped delivery %d as %s; the first one counts %d", d.Meta.NumDelivered, d.why, first.Deliveries())
	}
	// Once it has failed, the next delivery is one to be handled.
	first.Fail()
	nak()
	if d := receive(t, deliveries); d.Meta.NumDelivered != 3 {
		t.Errorf("handles delivery %d, want 3", d.Meta.NumDelivered)
	}
	close(release)
	s.StopWithin(natstest.Patience)
	receive(t, s.Done())
	if !strings.Contains(log.String(), "skipped a message: it is a second delivery") || !strings.Contains(log.String(), "consumer=q") || !strings.Contains(log.String(), "deliveries=2") {
		t.Errorf("the log says %s", log.String())
	}
}

// Acks go nowhere when the consumer is gone: what was handled comes again from the next
// one, and is acked without being handled.
func TestConsumerDeletedAndMadeAgain(t *testing.T) {
	t.Parallel()
	for _, queue := range []string{"q", ""} {
		t.Run("queue "+queue, func(t *testing.T) {
			t.Parallel()
			b, o := newTestbed(t), newObserver()
			started, release := make(chan string, 10), make(chan struct{})
			s := b.start(o, handle(func(d *consume.Delivery) {
				started <- string(d.Msg.Data)
				<-release
				_, _, _ = d.Settle(consume.Ack, 0)
			}), func(c *consume.Config) { c.Queue = queue })
			b.publish("1", "2")
			receive(t, started)
			eventually(t, "both are fetched", func() bool { return b.consumer(s.Consumer().Name).NumAckPending == 2 })
			former := s.Consumer()
			if err := b.js.DeleteConsumer(b.context(), "ORDERS", former.Name); err != nil {
				t.Fatal(err)
			}
			close(release)
			if err := receive(t, o.failed); !errors.Is(err, jetstream.ErrConsumerDeleted) {
				t.Error(err)
			}
			receive(t, o.back)
			b.publish("3")
			if a, b := receive(t, started), receive(t, started); a != "2" || b != "3" {
				t.Errorf("handled %s and %s, want 2 and 3", a, b)
			}
			receive(t, o.skipped)
			receive(t, o.skipped)
			if s.Consumer().Created.Equal(former.Created) {
				t.Error("it still has the former consumer")
			}
			eventually(t, "all are acked", func() bool { return b.consumer(s.Consumer().Name).NumAckPending == 0 })
		})
	}
}

// The worker lives on, and what was not settled comes again.
func TestHandlersThatDoNotReturn(t *testing.T) {
	t.Parallel()
	for name, fail := range map[string]func(){"Goexit": runtime.Goexit, "panic": func() { panic("boom") }} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b, o := newTestbed(t), newObserver()
			s := b.start(o, ackWait(500*time.Millisecond), handle(func(d *consume.Delivery) {
				if string(d.Msg.Data) == "bad" && d.Meta.NumDelivered == 1 {
					fail()
				}
				o.ack(0, d)
			}))
			b.publish("bad", "good")
			if a, b := receive(t, o.handled), receive(t, o.handled); a != "good" || b != "bad" {
				t.Errorf("handled %s and %s", a, b)
			}
			eventually(t, "no handler runs", func() bool { return s.Running() == 0 })
		})
	}
}

func TestStopFromInside(t *testing.T) {
	t.Parallel()
	t.Run("a handler", func(t *testing.T) {
		t.Parallel()
		b, o := newTestbed(t), newObserver()
		var s *consume.Subscription
		s = b.open(o, handle(func(d *consume.Delivery) {
			if !s.RunsOn(goroutine.ID()) || !s.StopWithin(natstest.Patience) {
				t.Error("not on a worker, or stopped before")
			}
			o.ack(0, d)
		}))
		if !s.RunsOn(goroutine.ID()) {
			t.Error("until Begin it runs on the goroutine of Open")
		}
		b.publish("1", "2")
		s.Begin(s.Context(), 0)
		receive(t, s.Done())
		if s.RunsOn(goroutine.ID()) || s.RunsOn(0) {
			t.Error("it runs on the goroutine of Begin")
		}
	})
	t.Run("the observer, as something is given back", func(t *testing.T) {
		t.Parallel()
		b, o := newTestbed(t), newObserver()
		started, release := make(chan *consume.Delivery, 10), make(chan struct{})
		s := b.open(o, handle(func(d *consume.Delivery) {
			started <- d
			<-release
		}))
		o.onSettle = func(settled) {
			if s.StopWithin(natstest.Patience) || !s.RunsOn(goroutine.ID()) {
				t.Error("not on the goroutine that stops, or stopped twice")
			}
		}
		b.publish("1", "2", "3")
		s.Begin(s.Context(), 0)
		receive(t, started)
		eventually(t, "all are fetched", func() bool { return b.consumer("q").NumAckPending == 3 })
		s.StopWithin(natstest.Patience)
		close(release)
		receive(t, s.Done())
		if len(o.settled) != 2 {
			t.Errorf("%d given back, want 2", len(o.settled))
		}
	})
}

func TestSlowHandlerAndWhatWaitsBehindItAreKeptAlive(t *testing.T) {
	t.Parallel()
	const wait = 600 * time.Millisecond
	b, o := newTestbed(t), newObserver()
	s := b.open(o, ackWait(wait), handle(func(d *consume.Delivery) {
		if string(d.Msg.Data) == "1" {
			time.Sleep(3 * wait) // which is what a slow handler does
		}
		o.ack(0, d)
	}))
	b.publish("1", "2", "3")
	s.Begin(s.Context(), 0)
	for _, want := range []string{"1", "2", "3"} {
		if body := receive(t, o.handled); body != want {
			t.Errorf("handled %s, want %s", body, want)
		}
	}
	eventually(t, "all are acked", func() bool { return b.consumer("q").NumAckPending == 0 })
	if n := b.consumer("q").Delivered.Consumer; n != 3 {
		t.Errorf("%d deliveries, want 3", n)
	}
	s.StopWithin(natstest.Patience)
	receive(t, s.Done())
}

// Nobody waits for the handler any more: somebody else gets the message.
func TestAbandonedHandlerIsNotKeptAlive(t *testing.T) {
	t.Parallel()
	b, o := newTestbed(t), newObserver()
	contexts, release := make(chan context.Context, 10), make(chan struct{})
	s := b.open(o, ackWait(300*time.Millisecond), handle(func(d *consume.Delivery) {
		contexts <- d.Context
		<-release
	}))
	b.publish("1")
	s.Begin(s.Context(), 0)
	ctx := receive(t, contexts)
	s.StopWithin(natstest.Patience)
	if ctx.Err() != nil {
		t.Error("the handler's context has ended with StopWithin")
	}
	s.Abandon()
	receive(t, ctx.Done())
	other := newObserver()
	b.start(other, ackWait(300*time.Millisecond)) // settings follow the latest subscriber
	receive(t, other.handled)
	close(release)
	receive(t, s.Done())
}

func TestSettlingTwice(t *testing.T) {
	t.Parallel()
	b, o := newTestbed(t), newObserver()
	deliveries := make(chan *consume.Delivery, 10)
	b.start(o, ackWait(time.Hour), handle(func(d *consume.Delivery) { deliveries <- d }))
	b.publish("by hand", "by its return")
	d := receive(t, deliveries)
	eventually(t, "it stays unsettled", func() bool { return b.consumer("q").NumAckPending == 2 })
	if d.Settled() {
		t.Error("settled before")
	}
	if err := d.Ack(); err != nil || !d.Settled() {
		t.Errorf("ack: %v", err)
	}
	if err := d.Ack(); !errors.Is(err, fault.ErrAlreadySettled) {
		t.Errorf("second ack: %v", err)
	}
	if r, delay, err := d.Settle(consume.Nak, time.Hour); r != consume.Ack || delay != 0 || err != nil {
		t.Errorf("settled with %s, %v, %v after the ack", r, delay, err)
	}
	d = receive(t, deliveries)
	if r, delay, err := d.Settle(consume.Nak, time.Millisecond); r != consume.Nak || delay != time.Millisecond || err != nil {
		t.Errorf("settled with %s, %v, %v", r, delay, err)
	}
	if again := receive(t, deliveries); again.Meta.NumDelivered != 2 || again.Meta.StreamSequence != d.Meta.StreamSequence {
		t.Errorf("then got %+v", again.Meta)
	} else if r, _, err := again.Settle(consume.Term, 0); r != consume.Term || err != nil {
		t.Errorf("settled with %s, %v", r, err)
	}
	for _, want := range []consume.Result{consume.Ack, consume.Nak, consume.Term} {
		if s := receive(t, o.settled); s.result != want {
			t.Errorf("settled %+v, want %s", s, want)
		}
	}
	eventually(t, "all are settled", func() bool { return b.consumer("q").NumAckPending == 0 })
}

func TestAckThatCouldNotBeSentMayBeTriedAgain(t *testing.T) {
	t.Parallel()
	b, o := newTestbed(t), newObserver()
	deliveries, release := make(chan *consume.Delivery, 10), make(chan struct{})
	s := b.open(o, handle(func(d *consume.Delivery) {
		deliveries <- d
		<-release
	}))
	b.publish("1")
	s.Begin(s.Context(), 0)
	d := receive(t, deliveries)
	s.StopWithin(natstest.Patience)
	close(release)
	receive(t, s.Done())
	b.conn.Close()
	for range 2 {
		if err := d.Ack(); !errors.Is(err, nats.ErrConnectionClosed) || !strings.HasPrefix(err.Error(), "ack not sent, so the message is delivered again after AckWait: ") || d.Settled() {
			t.Errorf("ack: %v, settled %v", err, d.Settled())
		}
		if got := receive(t, o.settled); got.err == nil {
			t.Errorf("settled %+v", got)
		}
	}
}

// What the server has sent to the lost connection comes again after AckWait, and what it
// has not sent comes at once.
func TestFetchingGoesOnAfterAReconnect(t *testing.T) {
	t.Parallel()
	b, o := newTestbed(t), newObserver()
	b.start(o, ackWait(time.Second))
	b.publish("1")
	receive(t, o.handled)
	if err := b.conn.NATS().ForceReconnect(); err != nil {
		t.Fatal(err)
	}
	b.publish("2")
	if body := receive(t, o.handled); body != "2" {
		t.Errorf("handled %s", body)
	}
}

// A message that was not subscribed to goes back, and the fetch fails.
func TestChangedFilterIsAFailure(t *testing.T) {
	t.Parallel()
	b, o := newTestbed(t), newObserver()
	stream := jetstream.StreamConfig{Name: "ORDERS", Subjects: []string{"orders", "orders.>"}}
	if _, err := b.js.CreateStream(b.context(), stream); err != nil {
		t.Fatal(err)
	}
	s := b.start(o)
	cfg := b.consumer("q").Config
	cfg.FilterSubject = "orders.>"
	if _, err := b.js.UpdateConsumer(b.context(), "ORDERS", cfg); err != nil {
		t.Fatal(err)
	}
	if _, err := b.js.Publish(b.context(), "orders.paid", nil); err != nil {
		t.Fatal(err)
	}
	if err := receive(t, o.failed); !errors.Is(err, fault.ErrConsumerConflict) || !strings.Contains(err.Error(), "delivers orders.paid") {
		t.Error(err)
	}
	if err := receive(t, o.failed); !errors.Is(err, fault.ErrConsumerConflict) || !strings.Contains(err.Error(), "now has the filter orders.>") {
		t.Error(err)
	}
	if got := s.Consumer().Config.FilterSubject; got != "orders.>" {
		t.Errorf("the consumer is taken to have the filter %s", got)
	}
	if len(o.handled) > 0 {
		t.Errorf("handled %s", <-o.handled)
	}
}

func TestRefusedFetchFails(t *testing.T) {
	t.Parallel()
	b, o := newTestbed(t), newObserver()
	s := b.start(o)
	violation := func(subject string) error {
		return fmt.Errorf("%w: Permissions Violation for Publish to %q", nats.ErrPermissionViolation, subject)
	}
	s.Refuse(violation("$JS.API." + s.Consumer().Next() + "-of-another"))
	s.Refuse(violation("$JS.API." + s.Consumer().Next()))
	if err := receive(t, o.failed); !errors.Is(err, fault.ErrPermission) || strings.Contains(err.Error(), "another") {
		t.Error(err)
	}
	b.publish("1")
	receive(t, o.handled)
}

func TestRefresh(t *testing.T) {
	t.Parallel()
	b, o := newTestbed(t), newObserver()
	s := b.open(o)
	b.publish("1", "2", "3")
	s.RefreshIfOlder(time.Hour)
	if len(o.learned) > 0 {
		t.Error("asked although it is known")
	}
	eventually(t, "it learns that three messages wait", func() bool {
		s.RefreshIfOlder(0)
		return receive(t, o.learned).Pending == 3
	})
	s.Begin(s.Context(), 0)
	receive(t, o.handled)
	s.StopWithin(natstest.Patience)
	receive(t, s.Done())
	s.RefreshIfOlder(0)
	if len(o.learned) > 0 {
		t.Error("asked although it is over")
	}
}

func TestNothingIsLeftOfASubscriptionWithoutAQueue(t *testing.T) {
	t.Parallel()
	queueless := func(c *consume.Config) { c.Queue = "" }
	for name, end := range map[string]func(*testing.T, *consume.Subscription){
		"discarded": func(_ *testing.T, s *consume.Subscription) { s.Discard() },
		"stopped": func(t *testing.T, s *consume.Subscription) {
			s.Begin(s.Context(), 0)
			s.StopWithin(natstest.Patience)
			receive(t, s.Done())
		},
		"stopped before it began": func(t *testing.T, s *consume.Subscription) {
			s.StopWithin(natstest.Patience)
			s.Begin(s.Context(), time.Hour)
			receive(t, s.Done())
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b, o := newTestbed(t), newObserver()
			s := b.open(o, queueless)
			end(t, s)
			if _, err := b.js.Consumer(b.context(), "ORDERS", s.Consumer().Name); !errors.Is(err, jetstream.ErrConsumerNotFound) {
				t.Errorf("the consumer: %v", err)
			}
			if n := b.conn.NATS().NumSubscriptions(); n > 1 { // of the client's requests
				t.Errorf("%d subscriptions of the client", n)
			}
			if s.Context().Err() == nil {
				t.Error("its context has not ended")
			}
		})
	}
}

func TestPauseEndsWithTheSubscription(t *testing.T) {
	t.Parallel()
	b, o := newTestbed(t), newObserver()
	s := b.open(o)
	if !s.Pause(time.Millisecond) {
		t.Error("a pause ends before the subscription does")
	}
	time.AfterFunc(10*time.Millisecond, func() { s.StopWithin(natstest.Patience) })
	if s.Pause(time.Hour) {
		t.Error("it goes on although it is stopped")
	}
	s.AwaitReturned()
	s.Begin(s.Context(), 0)
	receive(t, s.Done())
}

func TestPauseEndsWhenTheConnectionIsBack(t *testing.T) {
	t.Parallel()
	b, o := newTestbed(t), newObserver()
	s := b.start(o)
	time.AfterFunc(10*time.Millisecond, func() { _ = b.conn.NATS().ForceReconnect() })
	if !s.Pause(time.Hour) {
		t.Error("it does not go on")
	}
}

// Whoever may publish to the inbox may not have this client publish anywhere in turn.
func TestStraysInTheInboxAreNotAnsweredAndNoFailure(t *testing.T) {
	t.Parallel()
	b, o := newTestbed(t), newObserver()
	b.start(o)
	b.publish("1")
	receive(t, o.handled)
	requests := make(chan *nats.Msg, 100)
	if _, err := b.conn.NATS().ChanSubscribe("$JS.API.CONSUMER.MSG.NEXT.ORDERS.q", requests); err != nil {
		t.Fatal(err)
	}
	replies := []string{"$JS.API.STREAM.PURGE.ORDERS", "elsewhere", "$JS.ACK.", "$JS.ACK.OTHER.c.1.1.1.1.0", "$JS.ACK.ORDERS.other.1.1.1.1.0", "$JS.ACK.a.b.ORDERS.other.1.1.1.1.0", ""}
	answers := make(chan *nats.Msg, 100)
	for _, subject := range []string{"$JS.API.STREAM.PURGE.>", "elsewhere", "$JS.ACK.OTHER.>", "$JS.ACK.ORDERS.other.>", "$JS.ACK.a.>"} {
		if _, err := b.conn.NATS().ChanSubscribe(subject, answers); err != nil {
			t.Fatal(err)
		}
	}
	inbox := receive(t, requests).Reply
	for _, reply := range replies {
		for _, header := range []nats.Header{nil, {"Status": {"409"}, "Description": {"Consumer Deleted"}}} {
			if header != nil && reply == "" {
				continue // what the server would send
			}
			if err := b.conn.NATS().PublishMsg(&nats.Msg{Subject: inbox, Reply: reply, Header: header, Data: []byte("x")}); err != nil {
				t.Fatal(err)
			}
		}
	}
	b.publish("2")
	if body := receive(t, o.handled); body != "2" {
		t.Errorf("handled %q", body)
	}
	if err := b.conn.NATS().Flush(); err != nil {
		t.Fatal(err)
	}
	if len(answers) > 0 {
		t.Errorf("answered to %s", (<-answers).Subject)
	}
	if len(o.failed) > 0 {
		t.Errorf("a failure: %v", <-o.failed)
	}
}
