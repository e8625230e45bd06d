package broker_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
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

// pair is two replicas of the queue q with SingleActive, whose handlers block until they
// are released.
type pair struct {
	started chan string // "replica body"
	blocked chan struct{}
	release func()
	inside  atomic.Int64
	most    atomic.Int64 // handlers that ran at the same time
}

// With these a replica fetches while a handler runs, and handles one message after the other.
var (
	fetchesMeanwhile = jsbroker.Concurrency(2)
	oneByOne         = jsbroker.OrderBy(func(broker.Event) string { return "" })
)

func newPair(t *testing.T) *pair {
	p := &pair{started: make(chan string, 1000), blocked: make(chan struct{})}
	p.release = sync.OnceFunc(func() { close(p.blocked) })
	t.Cleanup(p.release)
	return p
}

func (p *pair) handler(name string) broker.Handler {
	return func(e broker.Event) error {
		n := p.inside.Add(1)
		defer p.inside.Add(-1)
		for {
			if most := p.most.Load(); n <= most || p.most.CompareAndSwap(most, n) {
				break
			}
		}
		p.started <- name + " " + string(e.Message().Body)
		<-p.blocked
		return nil
	}
}

// staysAlone checks that nothing is started beside the handler that runs, for long enough
// that another replica would have taken over.
func (p *pair) staysAlone(t *testing.T) {
	t.Helper()
	select {
	case what := <-p.started:
		t.Fatalf("%s is started while a handler runs", what)
	case <-time.After(10 * time.Second):
	}
}

// handlesAll releases the handlers, and waits until these bodies and no others are handled.
func (p *pair) handlesAll(t *testing.T, js jetstream.JetStream, bodies ...string) {
	t.Helper()
	p.release()
	for range bodies {
		_, body, _ := strings.Cut(receive(t, p.started), " ")
		if body != bodies[0] {
			t.Errorf("%s is started, want %s", body, bodies[0])
		}
		bodies = bodies[1:]
	}
	eventually(t, "all is acked", func() bool { return streamInfo(t, js, "ORDERS").State.Msgs == 0 })
	if n := p.most.Load(); n > 1 {
		t.Errorf("%d handlers ran at the same time", n)
	}
	if len(p.started) > 0 {
		t.Errorf("%s is started once more", <-p.started)
	}
}

// makePinned makes the consumer q with a short time to live of its pins, so that takeovers
// are quick. In a cluster it is the usual one: after an election nodes may answer late.
func makePinned(t *testing.T, js jetstream.JetStream, replicas int) {
	t.Helper()
	ttl := 2 * time.Second
	if replicas > 1 {
		ttl = 5 * time.Second
	}
	natstest.MakeStream(t, js, jetstream.StreamConfig{Name: "ORDERS", Subjects: []string{"orders"}, Replicas: replicas, Retention: jetstream.WorkQueuePolicy})
	natstest.MakeConsumer(t, js, "ORDERS", jetstream.ConsumerConfig{
		Durable: "q", FilterSubject: "orders", AckPolicy: jetstream.AckExplicitPolicy,
		PriorityPolicy: jetstream.PriorityPolicyPinned, PriorityGroups: []string{"active"}, PinnedTTL: ttl,
	})
}

// The server restarts while a handler runs, so that it forgets who is active. The other
// replica leaves alone what is being handled.
func TestSingleActiveKeepsItsPlaceThroughARestart(t *testing.T) {
	for name, more := range map[string]bool{"nothing new comes": false, "more comes": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := natstest.StartRestartable(t)
			_, js := natsConn(t, r.Server)
			makePinned(t, js, 1)
			p := newPair(t)
			quick := jsbroker.WithNATSOptions(nats.ReconnectWait(10 * time.Millisecond))
			one := newBroker(t, r.Server, quick)
			subscribe(t, one, "orders", p.handler("one"), broker.Queue("q"), jsbroker.SingleActive())
			publish(t, one, "orders", "0")
			receive(t, p.started)
			two := newBroker(t, r.Server, quick)
			subscribe(t, two, "orders", p.handler("two"), broker.Queue("q"), jsbroker.SingleActive())
			r.Stop()
			r.Start(t)
			var rest []string
			if more {
				publish(t, two, "orders", "1")
				rest = []string{"1"}
			}
			p.staysAlone(t)
			p.handlesAll(t, js, rest...)
		})
	}
}

// The consumer gets another leader again and again, at once after a handler has begun and
// then while messages come. No other handler runs beside it, the place stays where it is,
// and all are handled in order.
func TestSingleActiveKeepsItsPlaceThroughElections(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a cluster")
	}
	c := natstest.StartCluster(t)
	_, js := natstest.Connect(t, c.URLs()[0])
	makePinned(t, js, 3)
	p := newPair(t)
	var fetched [2]atomic.Int64
	var publisher broker.Broker
	for i := range fetched {
		publisher = newBroker(t, c.Nodes[i].Server, jsbroker.WithHooks(jsbroker.Hooks{Fetched: func(_ context.Context, f jsbroker.Fetched) {
			fetched[i].Add(int64(f.Messages))
		}}))
		subscribe(t, publisher, "orders", p.handler(fmt.Sprint(i)), broker.Queue("q"), jsbroker.SingleActive(), fetchesMeanwhile, oneByOne)
	}
	eventually(t, "both have asked", func() bool { return natstest.ConsumerInfo(t, js, "ORDERS", "q").NumWaiting == 2 })
	publish(t, publisher, "orders", "0")
	active, _, _ := strings.Cut(receive(t, p.started), " ")
	one := int(active[0] - '0')
	var rest []string
	for i := range 5 {
		leader := c.ConsumerLeader(t, "ORDERS", "q")
		noErr(t, leader.JetStreamStepdownConsumer("$G", "ORDERS", "q"))
		eventually(t, "another one leads", func() bool {
			return slices.ContainsFunc(c.Nodes, func(n *natstest.Restartable) bool {
				return n != leader && n.JetStreamIsConsumerLeader("$G", "ORDERS", "q")
			})
		})
		rest = append(rest, fmt.Sprint(i+1))
		ctx, cancel := context.WithTimeout(t.Context(), natstest.Patience)
		noErr(t, publisher.Publish("orders", message(rest[i]), broker.PublishContext(ctx)))
		cancel()
	}
	eventually(t, "the active one has all messages", func() bool {
		if len(p.started) > 0 {
			t.Fatalf("%s is started while %s runs 0", <-p.started, active)
		}
		return fetched[one].Load() >= 6
	})
	p.handlesAll(t, js, rest...)
	t.Logf("the replica that was active fetched %d messages, the other one %d", fetched[one].Load(), fetched[1-one].Load())
}

// An operator takes the pin away while a handler runs.
func TestSingleActiveKeepsItsMessageWhenItIsUnpinned(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	nc, js := natsConn(t, s)
	makePinned(t, js, 1)
	p := newPair(t)
	one, two := newBroker(t, s), newBroker(t, s)
	subscribe(t, one, "orders", p.handler("one"), broker.Queue("q"), jsbroker.SingleActive())
	publish(t, one, "orders", "0")
	receive(t, p.started)
	subscribe(t, two, "orders", p.handler("two"), broker.Queue("q"), jsbroker.SingleActive())
	unpin(t, nc)
	publish(t, two, "orders", "1")
	p.staysAlone(t)
	p.handlesAll(t, js, "1")
}

// A hook that hangs is named by Health, and another replica takes over.
func TestHookThatHangsGivesThePinUp(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	release := make(chan struct{})
	one := newBroker(t, s, jsbroker.WithHooks(jsbroker.Hooks{ActiveChanged: func(_ context.Context, e jsbroker.ActiveChanged) {
		if e.Active {
			<-release
		}
	}}))
	t.Cleanup(func() { close(release) })
	first, second := make(chan string, 10), make(chan string, 10)
	h := func(got chan<- string) broker.Handler {
		return func(e broker.Event) error { got <- string(e.Message().Body); return nil }
	}
	subscribe(t, one, "orders", h(first), broker.Queue("q"), jsbroker.SingleActive())
	publish(t, one, "orders", "x")
	eventually(t, "Health names the hook", func() bool {
		err := jsbroker.Health(testContext(t), one)
		return err != nil && strings.Contains(err.Error(), "the hook ActiveChanged has not returned for ")
	})
	subscribe(t, newBroker(t, s), "orders", h(second), broker.Queue("q"), jsbroker.SingleActive())
	if body := receive(t, second); body != "x" {
		t.Errorf("%s is handled", body)
	}
	if len(first) > 0 {
		t.Error("it is handled by the replica whose hook hangs")
	}
}
