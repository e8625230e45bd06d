package broker_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/nats-io/nats.go"
	"go-micro.dev/v5/broker"

	jsbroker "go-micro-jetstream/broker"
	"go-micro-jetstream/internal/natstest"
)

// unpin is what "nats consumer unpin ORDERS q" does.
func unpin(t *testing.T, nc *nats.Conn) {
	t.Helper()
	if _, err := nc.RequestWithContext(testContext(t), "$JS.API.CONSUMER.UNPIN.ORDERS.q", []byte(`{"group":"active"}`)); err != nil {
		t.Fatal(err)
	}
}

// The pin is taken away while the function of OrderBy runs. The keys that it returns are
// of the messages that it was called for, and it is not called at the same time for others.
func TestKeyFunctionRunsWhileThePinIsTakenAway(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	nc, _ := natsConn(t, s)
	var inside, overlaps atomic.Int64
	asked, release, block := make(chan string, 100), make(chan struct{}), true
	key := func(e broker.Event) string {
		if inside.Add(1) > 1 {
			overlaps.Add(1)
		}
		defer inside.Add(-1)
		if body := string(e.Message().Body); body == "k/2" && block {
			block = false
			asked <- body
			<-release
		}
		return "k"
	}
	got := make(chan string, 100)
	b := newBroker(t, s)
	for i := range 5 {
		publish(t, b, "orders", fmt.Sprint("k/", i))
	}
	subscribe(t, b, "orders", func(e broker.Event) error {
		got <- string(e.Message().Body)
		return nil
	}, broker.Queue("q"), jsbroker.SingleActive(), jsbroker.Concurrency(2), jsbroker.OrderBy(key))
	receive(t, asked)
	unpin(t, nc)
	requests := natstest.CountRequests(t, nc, "$JS.API.CONSUMER.MSG.NEXT.ORDERS.q")
	for i := range 3 {
		publish(t, b, "orders", fmt.Sprint("k/", 5+i))
	}
	seen := 0
	eventually(t, "the subscription asks again", func() bool {
		seen += requests.Seen(t)
		return seen >= 3
	})
	close(release)
	next := 0
	for next < 8 {
		if body := receive(t, got); number(body) == next {
			next++
		} else if number(body) > next {
			t.Fatalf("%s is handled before %d", body, next)
		}
	}
	if n := overlaps.Load(); n > 0 {
		t.Errorf("the key function was called %d times while it ran", n)
	}
	eventually(t, "the subscription is well", func() bool { return jsbroker.Health(testContext(t), b) == nil })
}

// An old request of the replica that stands by brings it the pin while a handler of the
// other one runs, as it does when the consumer gets another leader. It gives the pin back.
func TestSingleActiveGivesBackAPinThatItShouldNotHave(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	nc, js := natsConn(t, s)
	makePinned(t, js, 1)
	p := newPair(t)
	turned := natstest.CountRequests(t, nc, "$JS.EVENT.ADVISORY.CONSUMER.PINNED.ORDERS.q")
	var got [2]atomic.Int64
	brokers := [2]broker.Broker{}
	for i := range brokers {
		brokers[i] = newBroker(t, s, jsbroker.WithHooks(jsbroker.Hooks{Fetched: func(_ context.Context, f jsbroker.Fetched) { got[i].Add(int64(f.Messages)) }}))
		subscribe(t, brokers[i], "orders", p.handler(fmt.Sprint(i)), broker.Queue("q"), jsbroker.SingleActive(), fetchesMeanwhile, oneByOne)
	}
	eventually(t, "both have asked", func() bool { return natstest.ConsumerInfo(t, js, "ORDERS", "q").NumWaiting == 2 })
	publish(t, brokers[0], "orders", "0")
	active := int(receive(t, p.started)[0] - '0')
	unpin(t, nc)
	for i := range 3 {
		publish(t, brokers[0], "orders", fmt.Sprint(i+1))
	}
	eventually(t, "the active one has all", func() bool {
		if len(p.started) > 0 {
			t.Fatalf("%s is started while a handler runs", <-p.started)
		}
		return got[active].Load() == 4
	})
	if n := turned.Seen(t); n < 3 || got[1-active].Load() == 0 {
		t.Errorf("the pin was given %d times: the other one has never had it", n)
	}
	p.handlesAll(t, js, "1", "2", "3")
}
