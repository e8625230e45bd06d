package broker_test

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"go-micro.dev/v5/broker"

	jsbroker "go-micro-jetstream/broker"
	"go-micro-jetstream/internal/natstest"
)

// Tests of what becomes of messages that wait while servers crash or change their
// leaders.

// waiting is messages that are due at various times.
type waiting struct {
	due  map[string]time.Time // of those that have not come
	late []time.Duration      // of those that have
}

// postpone publishes n messages that are due within 2 seconds from the given time on.
func postpone(t *testing.T, b broker.Broker, n int, from time.Time) *waiting {
	t.Helper()
	w := &waiting{due: make(map[string]time.Time, n)}
	for i := range n {
		w.due[strconv.Itoa(i)] = from.Add(time.Duration(i%100) * 20 * time.Millisecond)
	}
	publishLater(t, b, w.due)
	return w
}

// publishLater publishes bodies that are due at the given times, and returns when all
// are stored. Each has a deadline of its own: a busy machine needs more than that of a
// publish by itself, and all of them together may take long.
func publishLater(t *testing.T, b broker.Broker, due map[string]time.Time) {
	t.Helper()
	var answers sync.WaitGroup
	i := 0
	for body, at := range due {
		ctx, cancel := context.WithTimeout(t.Context(), 4*natstest.Patience)
		answers.Add(1)
		publish(t, b, fmt.Sprintf("orders.%d", i%7), body, jsbroker.DeliverAt(at), broker.PublishContext(ctx), jsbroker.Async(func(err error) {
			defer answers.Done()
			cancel()
			if err != nil {
				t.Error(err)
			}
		}))
		i++
	}
	answers.Wait()
}

// receiveLate is receive for what waits over a restart or a change of leaders. A server
// that has just started, or is overloaded, tries to get what is due again after 12 seconds,
// then after 20 (calculateRetryBackoff in server/stream.go).
func receiveLate(t *testing.T, got <-chan stamped) (r stamped) {
	t.Helper()
	select {
	case r = <-got:
	case <-time.After(4 * natstest.Patience):
		t.Fatalf("nothing received within %v", 4*natstest.Patience)
	}
	return r
}

// impatient has what a server took along when it went delivered again while a test
// still waits for it. By default that takes as long as a test waits.
func impatient() broker.SubscribeOption {
	return jsbroker.ConsumerConfig(jetstream.ConsumerConfig{AckWait: natstest.Patience / 3})
}

// come receives n messages: each once, and none early.
func (w *waiting) come(t *testing.T, got <-chan stamped, n int) {
	t.Helper()
	for range n {
		r := receiveLate(t, got)
		at, ok := w.due[r.body]
		if !ok {
			t.Fatalf("%q is a second delivery", r.body)
		}
		if r.at.Before(at) {
			t.Errorf("%q is early by %v", r.body, at.Sub(r.at))
		}
		delete(w.due, r.body)
		w.late = append(w.late, r.at.Sub(at))
	}
}

// settle receives the rest, and nothing more.
func (w *waiting) settle(t *testing.T, b broker.Broker, js jetstream.JetStream, got <-chan stamped) {
	t.Helper()
	w.come(t, got, len(w.due))
	slices.Sort(w.late)
	t.Logf("%d messages: lateness p50 %v, p99 %v, at most %v", len(w.late), w.late[len(w.late)/2], w.late[len(w.late)*99/100], w.late[len(w.late)-1])
	eventually(t, "nothing waits", func() bool { return streamInfo(t, js, "ORDERS-later").State.Msgs == 0 })
	publish(t, b, "orders.0", "end")
	if r := receive(t, got); r.body != "end" {
		t.Errorf("%q is a second delivery", r.body)
	}
}

// killable starts a server in a process of its own, with a subscriber, and says how many
// messages to send. Restart kills it with SIGKILL, and starts it again.
func killable(t *testing.T) (n int, b broker.Broker, got <-chan stamped, restart func() jetstream.JetStream) {
	t.Helper()
	if n = 5000; testing.Short() {
		n = 500
	}
	dir := t.TempDir()
	p := startServerProcess(t, dir)
	url := p.ClientURL()
	b = jsbroker.NewBroker(broker.Addrs(url), quiet())
	noErr(t, b.Connect())
	t.Cleanup(func() { _ = b.Disconnect() })
	h, got := stamper()
	subscribe(t, b, "orders.>", h, broker.Queue("q"), impatient())
	return n, b, got, func() jetstream.JetStream {
		p.kill()
		startServerProcess(t, dir, portVariable+"="+url[strings.LastIndex(url, ":")+1:])
		_, js := natstest.Connect(t, url)
		return js
	}
}

func TestWhatWaitsSurvivesAKilledServer(t *testing.T) {
	t.Parallel()
	n, b, got, restart := killable(t)
	// A server that is killed while messages fall due may deliver these again. Where the
	// machine was too busy to publish all before the first one is due, there is another
	// round, with more time.
	var w *waiting
	for lead := 6 * time.Second; ; lead *= 2 {
		from := time.Now().Add(lead)
		w = postpone(t, b, n, from)
		if time.Until(from) > time.Second {
			break
		}
		t.Logf("%d messages took more than %v", n, lead-time.Second)
		w.come(t, got, n)
	}
	w.settle(t, b, restart(), got)
}

// A server that is killed while messages fall due may deliver some of these again, but
// loses none.
func TestNothingThatFallsDueIsLostWithAKilledServer(t *testing.T) {
	t.Parallel()
	n, b, got, restart := killable(t)
	w := postpone(t, b, n, time.Now().Add(6*time.Second))
	for range n / 4 {
		delete(w.due, receiveLate(t, got).body)
	}
	restart()
	again := 0
	var late time.Duration
	for len(w.due) > 0 {
		r := receiveLate(t, got)
		if at, ok := w.due[r.body]; ok {
			late = max(late, r.at.Sub(at))
			delete(w.due, r.body)
		} else {
			again++
		}
	}
	t.Logf("%d came again; lateness at most %v", again, late)
}

func TestWhatWaitsSurvivesANodeAndItsLeaders(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("a cluster takes too long for -short")
	}
	c := natstest.StartCluster(t)
	b := jsbroker.NewBroker(broker.Addrs(c.URLs()...), quiet(), jsbroker.WithStreamConfig(jetstream.StreamConfig{Replicas: 3, Retention: jetstream.WorkQueuePolicy}))
	noErr(t, b.Connect())
	t.Cleanup(func() { _ = b.Disconnect() })
	h, got := stamper()
	eventually(t, "the busy cluster has made a stream and a consumer in time", func() bool {
		_, err := b.Subscribe("orders.>", h, broker.Queue("q"), impatient())
		return err == nil
	})
	publish(t, b, "orders.0", "first", jsbroker.DeliverAfter(time.Millisecond), broker.PublishContext(testContext(t))) // makes the companion
	receive(t, got)
	w := postpone(t, b, 2000, time.Now().Add(5*time.Second))
	// One node goes while all wait; another one while they fall due.
	c.Bounce(t, c.StreamLeader(t, "ORDERS-later"), func() { c.StreamLeader(t, "ORDERS-later") })
	w.come(t, got, 500)
	c.Bounce(t, c.StreamLeader(t, "ORDERS-later"), func() { c.StreamLeader(t, "ORDERS-later") })
	_, js := natstest.Connect(t, c.StreamLeader(t, "ORDERS").ClientURL())
	w.settle(t, b, js, got)
}

// What is due while its stream is full waits for room.
func TestWhatIsDueWaitsForRoom(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	_, js := natsConn(t, s)
	b := newBroker(t, s, jsbroker.WithStreamConfig(jetstream.StreamConfig{Retention: jetstream.WorkQueuePolicy, Discard: jetstream.DiscardNew, MaxMsgs: 2}))
	publish(t, b, "orders.0", "full")
	publish(t, b, "orders.0", "full")
	for i := range 5 {
		publish(t, b, "orders.0", strconv.Itoa(i), jsbroker.DeliverAfter(time.Second))
	}
	due := func() uint64 {
		st, err := js.Stream(testContext(t), "ORDERS-later")
		noErr(t, err)
		info, err := st.Info(testContext(t), jetstream.WithSubjectFilter("_due.>"))
		noErr(t, err)
		return info.State.Subjects["_due.ORDERS.orders.0"]
	}
	eventually(t, "all are due, and wait", func() bool { return due() == 5 })
	h, got := stamper()
	begin := time.Now()
	subscribe(t, b, "orders.>", h, broker.Queue("q"))
	bodies := map[string]int{}
	for range 7 {
		bodies[receive(t, got).body]++
	}
	if len(bodies) != 6 || bodies["full"] != 2 {
		t.Errorf("got %v", bodies)
	}
	t.Logf("all there after %v", time.Since(begin))
	eventually(t, "nothing waits", func() bool { return streamInfo(t, js, "ORDERS-later").State.Msgs == 0 })
}

// What waits comes although its stream is deleted meanwhile, and made again by somebody
// who publishes nothing.
func TestWhatWaitsOutlivesItsStream(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	_, js := natsConn(t, s)
	at := time.Now().Add(3 * time.Second)
	publish(t, newBroker(t, s), "orders.0", "later", jsbroker.DeliverAt(at))
	noErr(t, js.DeleteStream(testContext(t), "ORDERS"))
	h, got := stamper()
	subscribe(t, newBroker(t, s), "orders.>", h, broker.Queue("q"))
	if n := len(streamInfo(t, js, "ORDERS").Config.Sources); n != 1 {
		t.Fatalf("%d sources", n)
	}
	if r := receive(t, got); r.body != "later" || r.at.Before(at) {
		t.Errorf("got %q, early by %v", r.body, at.Sub(r.at))
	}
	// The same where only the consumer of the source is gone: the server makes it again.
	noErr(t, js.DeleteConsumer(testContext(t), "ORDERS-later", sourcing(t, js)))
	publish(t, newBroker(t, s), "orders.0", "again", jsbroker.DeliverAfter(time.Second))
	if r := receiveLate(t, got); r.body != "again" {
		t.Errorf("got %q", r.body)
	}
}

// sourcing names the consumer that the server has made for the source of ORDERS.
func sourcing(t *testing.T, js jetstream.JetStream) string {
	t.Helper()
	st, err := js.Stream(testContext(t), "ORDERS-later")
	noErr(t, err)
	list := st.ConsumerNames(testContext(t))
	names := slices.Collect(func(yield func(string) bool) {
		for name := range list.Name() {
			if !yield(name) {
				return
			}
		}
	})
	if list.Err() != nil || len(names) != 1 {
		t.Fatalf("%v, %v", names, list.Err())
	}
	return names[0]
}
