package broker_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"go-micro.dev/v5/broker"

	jsbroker "go-micro-jetstream/broker"
)

// inHand counts the messages that a replica has fetched and not settled.
type inHand struct{ now, most, handled atomic.Int64 }

func (c *inHand) hooks() jsbroker.Hooks {
	return jsbroker.Hooks{
		Fetched: func(_ context.Context, e jsbroker.Fetched) {
			if n := c.now.Add(int64(e.Messages)); n > c.most.Load() {
				c.most.Store(n)
			}
		},
		Handled: func(context.Context, jsbroker.Handled) {
			c.now.Add(-1)
			c.handled.Add(1)
		},
	}
}

func TestSlowHandlersDoNotHoard(t *testing.T) {
	t.Parallel()
	const n = 200
	s := startServer(t)
	publisher := newBroker(t, s)
	for i := range n {
		publish(t, publisher, "orders", fmt.Sprint(i))
	}
	var replicas [2]inHand
	var done sync.WaitGroup
	done.Add(n)
	for i := range replicas {
		b := newBroker(t, s, jsbroker.WithHooks(replicas[i].hooks()))
		subscribe(t, b, "orders", func(broker.Event) error {
			time.Sleep(20 * time.Millisecond) // what a handler's work is
			done.Done()
			return nil
		}, broker.Queue("q"))
	}
	done.Wait()
	for i := range replicas {
		if most := replicas[i].most.Load(); most > 10 {
			t.Errorf("replica %d had %d messages in hand, want at most 10", i, most)
		}
	}
	eventually(t, "all are handled", func() bool { return replicas[0].handled.Load()+replicas[1].handled.Load() == n })
	if a := replicas[0].handled.Load(); a < n*40/100 || a > n*60/100 {
		t.Errorf("the replicas handled %d and %d, want 40:60 at worst", a, n-a)
	}
}

func TestBatchGrowsWithABacklogAndKeepsTheOrder(t *testing.T) {
	t.Parallel()
	const n = 5000
	s := startServer(t)
	_, js := natsConn(t, s)
	var c inHand
	b := newBroker(t, s, jsbroker.WithHooks(c.hooks()))
	publish(t, b, "orders", "0")
	for i := 1; i < n; i++ {
		if _, err := js.PublishAsync("orders", fmt.Append(nil, i), jetstream.WithStallWait(patience)); err != nil {
			t.Fatal(err)
		}
	}
	receive(t, js.PublishAsyncComplete())
	h, got := collector()
	subscribe(t, b, "orders", h, broker.Queue("q"))
	for i := range n {
		if body := receive(t, got); body != fmt.Sprint(i) {
			t.Fatalf("got %s, want %d", body, i)
		}
	}
	if most := c.most.Load(); most <= 10 || most > 1000 {
		t.Errorf("%d messages in hand at most; want more than the first batch and not more than two of the largest", most)
	}
}

func TestFixedBatchSizeIsNeverExceeded(t *testing.T) {
	t.Parallel()
	const n = 500
	var c inHand
	b := newBroker(t, startServer(t), jsbroker.WithBatchSize(7), jsbroker.WithHooks(c.hooks()))
	for i := range n {
		publish(t, b, "orders", fmt.Sprint(i))
	}
	h, got := collector()
	subscribe(t, b, "orders", h, broker.Queue("q"))
	for range n {
		receive(t, got)
	}
	if most := c.most.Load(); most != 7 {
		t.Errorf("%d messages in hand at most, want 7", most)
	}
}
