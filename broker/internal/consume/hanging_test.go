package consume_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"go-micro-jetstream/broker/internal/consume"
	"go-micro-jetstream/broker/internal/pull"
	"go-micro-jetstream/broker/internal/streams"
	"go-micro-jetstream/internal/natstest"
)

// soon has handlers count as hanging soon.
func soon(c *consume.Config) { c.HangsAfter = 300 * time.Millisecond }

// hanging is a handler that hangs at the messages that are said to.
type hanging struct {
	o       *observer
	started chan string // those that hang
	release chan struct{}
}

func newHanging(o *observer) *hanging {
	return &hanging{o: o, started: make(chan string, 100), release: make(chan struct{})}
}

func (h *hanging) change(c *consume.Config) {
	c.Handle = func(_ int, d *consume.Delivery) {
		if strings.HasPrefix(string(d.Msg.Data), "hang") {
			h.started <- string(d.Msg.Data)
			<-h.release
		}
		h.o.ack(0, d)
	}
}

// All that waits behind a handler that hangs is handled by another replica, at once and
// in order. The handler keeps its own.
func TestWhatWaitsBehindAHandlerThatHangsGoesToAnotherReplica(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		concurrency int
		change      func(*consume.Config)
	}{
		"one worker":   {1, func(*consume.Config) {}},
		"several":      {3, func(*consume.Config) {}},
		"fixed batch":  {1, func(c *consume.Config) { c.Limits = pull.Limits{Batch: 100, Wait: time.Second} }},
		"bytes":        {1, func(c *consume.Config) { c.Limits = pull.Limits{Bytes: 1 << 20, Wait: time.Second} }},
		"with keys":    {3, func(c *consume.Config) { c.Key = func(d *consume.Delivery) string { return string(d.Msg.Data) } }},
		"long AckWait": {1, ackWait(time.Hour)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b, o, other := newTestbed(t), newObserver(), newObserver()
			h := newHanging(o)
			const quick, rest = 300, 60
			s := b.open(o, soon, h.change, tt.change, func(c *consume.Config) { c.Concurrency = tt.concurrency })
			for i := range quick { // the batches grow
				b.publish(fmt.Sprint(i))
			}
			for i := range tt.concurrency {
				b.publish(fmt.Sprint("hang", i))
			}
			for i := range rest {
				b.publish(fmt.Sprint("rest", i))
			}
			b.begin(s)
			for range tt.concurrency {
				receive(t, h.started)
			}
			b.start(other, tt.change)
			seen := map[string]bool{}
			for len(seen) < rest {
				select {
				case body := <-other.handled:
					seen[body] = true
				case body := <-o.handled: // while some do not hang yet
					if strings.HasPrefix(body, "rest") {
						seen[body] = true
					}
				case <-b.context().Done():
					t.Fatalf("%d of %d are handled while the others hang", len(seen), rest)
				}
			}
			if n := s.Running(); n != tt.concurrency {
				t.Errorf("%d run, want %d", n, tt.concurrency)
			}
			close(h.release)
			eventually(t, "all are acked", func() bool {
				i := b.consumer("q")
				return i.NumAckPending == 0 && i.NumPending == 0
			})
		})
	}
}

// What waits for its key stays where the key's order is kept.
func TestLaneOfAHandlerThatHangsStays(t *testing.T) {
	t.Parallel()
	b, o, other := newTestbed(t), newObserver(), newObserver()
	h := newHanging(o)
	oneKey := func(c *consume.Config) { c.Key = func(*consume.Delivery) string { return "" } }
	s := b.open(o, soon, h.change, oneKey, func(c *consume.Config) {
		c.Concurrency = 2
		c.Limits = pull.Limits{Batch: 10, Wait: time.Second}
	})
	b.publish("hang", "1", "2", "3", "4")
	b.begin(s)
	receive(t, h.started)
	b.start(other)
	timer := time.NewTimer(6 * 300 * time.Millisecond) // twice as long as it takes to give back
	<-timer.C
	close(h.release)
	for _, want := range []string{"hang", "1", "2", "3", "4"} {
		if body := receive(t, o.handled); body != want {
			t.Errorf("handled %s, want %s", body, want)
		}
	}
}

// With nobody else there, what was given back comes again when the handler returns: each
// once, and in order.
func TestWhatWasGivenBackComesAgain(t *testing.T) {
	t.Parallel()
	b, o := newTestbed(t), newObserver()
	h := newHanging(o)
	s := b.open(o, soon, h.change)
	b.publish("0", "hang", "1", "2", "3", "4", "5", "6")
	b.begin(s)
	receive(t, h.started)
	for range 6 {
		s := receive(t, o.settled)
		for !s.returned {
			s = receive(t, o.settled)
		}
	}
	close(h.release)
	for _, want := range []string{"0", "hang", "1", "2", "3", "4", "5", "6"} {
		if body := receive(t, o.handled); body != want {
			t.Errorf("handled %s, want %s", body, want)
		}
	}
	eventually(t, "all are acked", func() bool { return b.consumer("q").NumAckPending == 0 })
	if len(o.handled) > 0 {
		t.Errorf("%s was handled twice", <-o.handled)
	}
}

// The server would not deliver it again.
func TestLastDeliveryIsNotGivenBackWhileAHandlerHangs(t *testing.T) {
	t.Parallel()
	b, o := newTestbed(t), newObserver()
	h := newHanging(o)
	s := b.open(o, soon, h.change, func(c *consume.Config) {
		c.Rules = &streams.Rules{ConsumerTemplate: &jetstream.ConsumerConfig{MaxDeliver: 1}}
	})
	b.publish("hang", "1", "2")
	b.begin(s)
	receive(t, h.started)
	timer := time.NewTimer(6 * 300 * time.Millisecond) // twice as long as it takes to give back
	<-timer.C
	close(h.release)
	for range 3 {
		if s := receive(t, o.settled); s.returned {
			t.Errorf("%s was given back", s.d.Msg.Data)
		}
	}
	if len(o.spent) > 0 {
		t.Errorf("exhausted: %v", <-o.spent)
	}
}

// Handlers that are always slow are not taken for hanging.
func TestSlowHandlersDoNotHang(t *testing.T) {
	t.Parallel()
	b, o := newTestbed(t), newObserver()
	s := b.open(o, soon, handle(func(d *consume.Delivery) {
		time.Sleep(700 * time.Millisecond) // which is what a slow handler does
		o.ack(0, d)
	}))
	b.publish("0", "1", "2", "3", "4", "5")
	b.begin(s)
	for range 6 {
		if s := receive(t, o.settled); s.returned {
			t.Errorf("%s was given back", s.d.Msg.Data)
		}
	}
}

// Nothing more is fetched while the user's function for keys hangs, and what waits
// behind it goes to another replica.
func TestKeyFunctionThatHangs(t *testing.T) {
	t.Parallel()
	b, o, other := newTestbed(t), newObserver(), newObserver()
	asked, release := make(chan string, 1000), make(chan struct{})
	b.start(o, soon, func(c *consume.Config) {
		c.Concurrency = 3
		c.Limits = pull.Limits{Batch: 200, Wait: time.Second}
		c.Key = func(d *consume.Delivery) string {
			if string(d.Msg.Data) == "hang" {
				asked <- "hang"
				<-release
			}
			return string(d.Msg.Data)
		}
	})
	b.publish("hang")
	receive(t, asked)
	const n = 100
	for i := range n {
		b.publish(fmt.Sprint(i))
	}
	b.start(other)
	for range n {
		receive(t, other.handled)
	}
	close(release)
	if body := receive(t, o.handled); body != "hang" {
		t.Errorf("handled %s", body)
	}
}

// The observer hangs when it is told of what is given back. The deadlines of what runs are
// extended all the same, and the subscription says what holds it up.
func TestDeadlinesAreExtendedWhileTheObserverHangs(t *testing.T) {
	t.Parallel()
	b, o := newTestbed(t), newObserver()
	h, open := newHanging(o), make(chan struct{})
	hangs := make(chan struct{}, 100)
	o.onSettle = func(s settled) {
		if s.returned {
			hangs <- struct{}{}
			<-open
		}
	}
	s := b.open(o, soon, h.change, ackWait(2*time.Second))
	b.publish("hang", "1", "2")
	b.begin(s)
	t.Cleanup(func() { close(h.release); close(open) })
	receive(t, h.started)
	receive(t, hangs)
	acks := natstest.Listen(t, b.conn.NATS(), "$JS.ACK.>")
	for n := 0; n < 8; { // more than two AckWaits, as there are three for each
		if string(receive(t, acks).Data) == "+WPI" {
			n++
		}
	}
	for told := receive(t, o.heldUp); !told.Beside || told.over; told = receive(t, o.heldUp) {
	}
	eventually(t, "it is held up", func() bool { held, is := s.HeldUp(); return is && held.Beside })
	if len(h.started) > 0 || len(hangs) > 0 {
		t.Error("a message came a second time, or another goroutine hangs")
	}
}
