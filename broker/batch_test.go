package broker_test

import (
	"context"
	"fmt"
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
	if most := c.most.Load(); most <= 10 || most > 900 {
		t.Errorf("%d messages in hand at most; want more than the first batch and not more than the largest", most)
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

// A burst makes the batch grow; what comes in between is less than was asked for,
// so requests end unfulfilled while others are under way.
func TestRequestsThatEndUnfulfilledAreAccountedFor(t *testing.T) {
	t.Parallel()
	const rounds, burst = 20, 400
	s := startServer(t)
	failed := make(chan jsbroker.FetchError, rounds*burst)
	b := newBroker(t, s, jsbroker.WithFetchWait(20*time.Millisecond), jsbroker.WithHooks(jsbroker.Hooks{
		FetchError: func(_ context.Context, e jsbroker.FetchError) { failed <- e },
	}))
	h, got := collector()
	subscribe(t, b, "orders", h, broker.Queue("q"))
	nc, _ := natsConn(t, s)
	slowest := watchAnswers(t, nc) // a machine that is busy makes a server silent
	for round := range rounds {
		for i := range burst {
			publishAsync(t, b, "orders", fmt.Sprint(round, i))
		}
		for i := range burst {
			if body := receive(t, got); body != fmt.Sprint(round, i) {
				t.Fatalf("got %s, want %d %d", body, round, i)
			}
		}
	}
	if longest := slowest(); longest > 300*time.Millisecond {
		t.Logf("%d fetches failed, but the server took up to %v for an answer to another client", len(failed), longest)
		return
	}
	for range len(failed) {
		t.Errorf("a fetch failed: %+v", <-failed)
	}
}

// watchAnswers has another client ask the server without a pause. The function that it
// returns ends that, and says how long the slowest answer took.
func watchAnswers(t *testing.T, nc *nats.Conn) (slowest func() time.Duration) {
	t.Helper()
	enough, longest := make(chan struct{}), make(chan time.Duration, 1)
	go func() {
		var most time.Duration
		defer func() { longest <- most }()
		for {
			begin := time.Now()
			if nc.FlushTimeout(natstest.Patience) != nil {
				return
			}
			most = max(most, time.Since(begin))
			select {
			case <-enough:
				return
			case <-time.After(10 * time.Millisecond):
			}
		}
	}()
	return func() time.Duration {
		close(enough)
		return <-longest
	}
}

// Large messages that come all of a sudden, when the batch has grown with small
// ones, must not all be sent at once.
func TestLargeMessagesAreFewAtATime(t *testing.T) {
	t.Parallel()
	const small, large, size = 2000, 600, 128 << 10
	// 16 MiB are asked for. When the last were asked for, half of 4 MiB may have waited.
	const most = (16<<20 + 2<<20) / size
	s := startServer(t)
	_, js := natsConn(t, s)
	b := newBroker(t, s)
	for i := range small {
		publishAsync(t, b, "orders", fmt.Sprint(i))
	}
	eventually(t, "the small ones are stored", func() bool { return streamInfo(t, js, "ORDERS").State.Msgs == small })
	body := strings.Repeat("x", size)
	for range large {
		publish(t, b, "orders", body)
	}
	goOn := make(chan struct{})
	var done sync.WaitGroup
	done.Add(small + large)
	subscribe(t, b, "orders", func(e broker.Event) error {
		if len(e.Message().Body) == size {
			<-goOn
		}
		done.Done()
		return nil
	}, broker.Queue("q"))
	var info *jetstream.ConsumerInfo
	defer func() {
		if t.Failed() {
			t.Logf("the consumer at the end: %+v", info)
		}
	}()
	eventually(t, "the requests have ended, with few of the large messages under way", func() bool {
		info = natstest.ConsumerInfo(t, js, "ORDERS", "q")
		return info.NumWaiting == 0 && info.NumPending > 0 && info.NumPending < large && info.NumAckPending <= most
	})
	close(goOn)
	done.Wait()
}

func publishAsync(t *testing.T, b broker.Broker, topic, body string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), natstest.Patience) // a busy machine may need it
	defer cancel()                                                              // what is sent already has the deadline
	err := b.Publish(topic, &broker.Message{Body: []byte(body)}, broker.PublishContext(ctx), jsbroker.Async(func(err error) {
		if err != nil {
			t.Error(err)
		}
	}))
	if err != nil {
		t.Fatal(err)
	}
}
