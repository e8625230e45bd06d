package consume_test

import (
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"go-micro-jetstream/broker/internal/consume"
)

// gate is code of the user that hangs until it is opened.
type gate struct {
	*observer
	fetched, learned, failed, skipped, key chan struct{} // nil: it returns at once
}

func wait(ch <-chan struct{}) {
	if ch != nil {
		<-ch
	}
}

func (g *gate) Fetched(int, int, uint64)                      { wait(g.fetched) }
func (g *gate) Learned(consume.State)                         { wait(g.learned) }
func (g *gate) FetchFailed(error, int, time.Duration)         { wait(g.failed) }
func (g *gate) Skipped(*consume.Delivery, consume.SkipReason) { wait(g.skipped) }
func (g *gate) askKey(*consume.Delivery) string               { wait(g.key); return "" }
func (g *gate) config(c *consume.Config)                      { c.Observer = g }
func withKey(g *gate, workers int) func(c *consume.Config) {
	return func(c *consume.Config) { c.Key, c.Concurrency = g.askKey, workers }
}

// Whatever of the user's code holds up fetching, the subscription says so, and
// says when it goes on.
func TestWhatHoldsUpFetchingIsTold(t *testing.T) {
	t.Parallel()
	workers := func(n int) func(*gate) func(*consume.Config) {
		return func(*gate) func(*consume.Config) { return func(c *consume.Config) { c.Concurrency = n } }
	}
	for name, tt := range map[string]struct {
		hangs  func(g *gate, open chan struct{})
		change func(g *gate) func(*consume.Config)
		cause  func(b *testbed)
		key    bool
	}{
		"Fetched":              {hangs: func(g *gate, open chan struct{}) { g.fetched = open }, change: workers(1)},
		"Fetched, two workers": {hangs: func(g *gate, open chan struct{}) { g.fetched = open }, change: workers(2)},
		"FetchFailed": {hangs: func(g *gate, open chan struct{}) { g.failed = open }, change: workers(1), cause: func(b *testbed) {
			if err := b.js.DeleteConsumer(b.context(), "ORDERS", "q"); err != nil {
				b.t.Error(err)
			}
		}},
		"Skipped": {hangs: func(g *gate, open chan struct{}) { g.skipped = open }, change: workers(1), cause: func(b *testbed) {
			marker := &nats.Msg{Subject: "orders", Header: nats.Header{jetstream.MarkerReasonHeader: {"MaxAge"}}}
			if err := b.conn.NATS().PublishMsg(marker); err != nil {
				b.t.Error(err)
			}
		}},
		"Key": {hangs: func(g *gate, open chan struct{}) { g.key = open }, key: true,
			change: func(g *gate) func(*consume.Config) { return withKey(g, 1) }},
		"Key, two workers": {hangs: func(g *gate, open chan struct{}) { g.key = open }, key: true,
			change: func(g *gate) func(*consume.Config) { return withKey(g, 2) }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b, g, open := newTestbed(t), &gate{observer: newObserver()}, make(chan struct{})
			release := sync.OnceFunc(func() { close(open) })
			tt.hangs(g, open)
			s := b.start(g.observer, g.config, soon, tt.change(g))
			t.Cleanup(release)
			if tt.cause != nil {
				tt.cause(b)
			} else {
				b.publish("1", "2", "3")
			}
			for told := receive(t, g.heldUp); told.over || told.Key != tt.key; told = receive(t, g.heldUp) {
			}
			eventually(t, "it is held up", func() bool {
				h, held := s.HeldUp()
				return held && h.Key == tt.key && h.For >= 300*time.Millisecond
			})
			release()
			for told := receive(t, g.heldUp); !told.over || told.Key != tt.key; told = receive(t, g.heldUp) {
			}
			b.publish("last")
			for receive(t, g.handled) != "last" {
			}
			eventually(t, "nothing holds it up", func() bool { _, held := s.HeldUp(); return !held })
		})
	}
}

// A handler may run for as long as it likes.
func TestSlowHandlerHoldsNothingUp(t *testing.T) {
	t.Parallel()
	b, o, g := newTestbed(t), newObserver(), &gate{observer: newObserver(), fetched: make(chan struct{})}
	h := newHanging(o)
	s := b.start(o, soon, h.change)
	t.Cleanup(func() { close(h.release) })
	b.publish("hang", "next")
	receive(t, h.started)
	began := time.Now()
	b.start(g.observer, g.config, soon, func(c *consume.Config) { c.Topic, c.Queue = "others", "others" })
	t.Cleanup(func() { close(g.fetched) })
	if _, err := b.js.Publish(b.context(), "others", nil); err != nil {
		t.Fatal(err)
	}
	receive(t, g.heldUp) // as long as that the handler runs
	if held, is := s.HeldUp(); is {
		t.Errorf("after %v of a handler: %+v", time.Since(began), held)
	}
}
