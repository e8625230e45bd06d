package broker_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"go-micro.dev/v5/broker"

	jsbroker "go-micro-jetstream/broker"
	"go-micro-jetstream/internal/natstest"
)

// A message that came with a pin waits in the inbox of a replica whose only worker is busy.
// The connection is cut, and another replica becomes active. When the first one is back it
// does not take that message for a sign that it is active, and does not handle it.
func TestMessageThatCameWithALostPin(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	_, js := natsConn(t, s)
	makePinned(t, js, 1)
	proxy := natstest.StartProxy(t, s)
	started, release := make(chan string, 10), make(chan struct{})
	free := sync.OnceFunc(func() { close(release) })
	t.Cleanup(free)
	one := startReplicaWith(t, s, []broker.Option{broker.Addrs(proxy.URL()), jsbroker.WithBatchSize(10), jsbroker.WithNATSOptions(nats.ReconnectWait(10 * time.Millisecond))}, func(e broker.Event) error {
		started <- string(e.Message().Body)
		<-release
		return nil
	})
	other := newBroker(t, s)
	publish(t, other, "orders", "0")
	one.await(t, true)
	receive(t, started)
	publish(t, other, "orders", "1")
	eventually(t, "1 is in the inbox of the first replica", func() bool { return natstest.ConsumerInfo(t, js, "ORDERS", "q").NumAckPending == 2 })
	proxy.Sever()
	h, got := collector()
	two := startReplica(t, s, h)
	two.await(t, true)
	for i := range 2 {
		if body := receive(t, got); body != fmt.Sprint(i) {
			t.Fatalf("%s is handled, want %d", body, i)
		}
	}
	proxy.Restore()
	one.await(t, false)
	free()
	publish(t, other, "orders", "2")
	if body := receive(t, got); body != "2" {
		t.Errorf("%s is handled by the second replica", body)
	}
	eventually(t, "all is acked", func() bool { return streamInfo(t, js, "ORDERS").State.Msgs == 0 })
	noErr(t, one.sub.Unsubscribe())
	noErr(t, one.broker.Disconnect())
	for len(one.changes) > 0 {
		t.Errorf("the first replica says %+v", <-one.changes)
	}
	if len(started) > 0 {
		t.Errorf("the first replica handles %s", <-started)
	}
}

// deploy is what the replicas of a rolling deploy have handled.
type deploy struct {
	mu     sync.Mutex
	inside map[string]int // handlers that run, by replica
	ended  map[string][]int
	faults []string
	total  int // messages that were handled for good
}

func (d *deploy) begin(replica, body string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for other, n := range d.inside {
		if other != replica && n > 0 {
			d.faults = append(d.faults, fmt.Sprintf("%s handles %s beside a handler of %s", replica, body, other))
		}
	}
	d.inside[replica]++
}

func (d *deploy) end(replica, body string, ok bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.inside[replica]--
	if !ok {
		return
	}
	key, _, _ := strings.Cut(body, "/")
	n := number(body)
	if all := d.ended[key]; n != len(all) {
		d.faults = append(d.faults, fmt.Sprintf("key %s: %d is handled by %s, want %d", key, n, replica, len(all)))
	}
	d.ended[key] = append(d.ended[key], n)
	d.total++
}

func (d *deploy) handled() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.total
}

// Three replicas are replaced one after the other while messages come. Nothing is lost or
// handled twice, the order of the keys is kept through retries, and no two replicas work at
// the same time.
func TestRollingDeployOfSingleActive(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	_, js := natsConn(t, s)
	d := &deploy{inside: map[string]int{}, ended: map[string][]int{}}
	replica := func(name string) broker.Broker {
		b := newBroker(t, s)
		var tries sync.Map
		subscribe(t, b, "orders", func(e broker.Event) error {
			body := string(e.Message().Body)
			d.begin(name, body)
			_, again := tries.LoadOrStore(body, true)
			failing := !again && number(body)%10 == 3
			defer func() { d.end(name, body, !failing) }()
			time.Sleep(time.Millisecond)
			if failing {
				return jsbroker.RetryAfter(5*time.Millisecond, errors.New("not yet"))
			}
			return nil
		}, broker.Queue("q"), jsbroker.SingleActive(), jsbroker.OrderBy(byKey), jsbroker.Concurrency(4))
		return b
	}
	running := []broker.Broker{replica("old 0"), replica("old 1"), replica("old 2")}
	const keys = 7
	published := make(chan int, 1)
	ctx, stop := context.WithCancel(t.Context())
	go steadily(ctx, newBroker(t, s), keys, published)
	eventually(t, "they work", func() bool { return d.handled() >= 50 })
	for i := range 3 {
		fresh := replica(fmt.Sprint("new ", i))
		noErr(t, running[i].Disconnect())
		running[i] = fresh
		more := d.handled() + 50
		eventually(t, "they work again", func() bool { return d.handled() >= more })
	}
	stop()
	n := receive(t, published)
	eventually(t, "all is acked", func() bool { return streamInfo(t, js, "ORDERS").State.Msgs == 0 })
	eventually(t, "all have returned", func() bool { return d.handled() >= n })
	if got := d.handled(); got != n {
		t.Errorf("%d are handled, of %d", got, n)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, f := range d.faults {
		t.Error(f)
	}
}

// steadily publishes messages of several keys in turn until the context ends, and then says
// how many.
func steadily(ctx context.Context, b broker.Broker, keys int, published chan<- int) {
	n := 0
	defer func() { published <- n }()
	for pace := time.NewTicker(3 * time.Millisecond); ; n++ {
		select {
		case <-ctx.Done():
			pace.Stop()
			return
		case <-pace.C:
		}
		if b.Publish("orders", message(fmt.Sprint(n%keys, "/", n/keys))) != nil {
			return
		}
	}
}
