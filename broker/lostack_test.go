package broker_test

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go-micro.dev/v5/broker"

	jsbroker "go-micro-jetstream/broker"
	"go-micro-jetstream/internal/natstest"
)

// An ack that was lost with the connection brings the message again after AckWait,
// however many others have been handled by then.
func TestMessageWhoseAckWasLostIsNotHandledAgain(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		settle error
		want   jsbroker.SkipReason
	}{
		{"ack", nil, jsbroker.SkipHandled},
		{"term", jsbroker.Discard(nil), jsbroker.SkipDiscarded},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			const wait, n = 4 * time.Second, 5000
			s := startServer(t)
			_, js := natsConn(t, s)
			p := natstest.StartProxy(t, s)
			skipped, onSkipped := hookChan[jsbroker.Skipped]()
			b := newBroker(t, s, broker.Addrs(p.URL()), jsbroker.WithHooks(jsbroker.Hooks{Skipped: onSkipped}),
				jsbroker.WithNATSOptions(nats.ReconnectWait(10*time.Millisecond)),
				jsbroker.WithConsumerConfig(jetstream.ConsumerConfig{AckWait: wait}))
			publish(t, b, "orders", "lost")
			var mu sync.Mutex
			times, handled := map[string]int{}, make(chan string, 2*n)
			var lost func() bool
			subscribe(t, b, "orders", func(e broker.Event) error {
				body := string(e.Message().Body)
				mu.Lock()
				times[body]++
				first := times[body] == 1
				mu.Unlock()
				defer func() { handled <- body }()
				if body != "lost" {
					return nil
				}
				if first {
					lost = p.Lose("PUB $JS.ACK.ORDERS.q.1.1.")
				}
				return tt.settle
			}, broker.Queue("q"))
			receive(t, handled)
			eventually(t, "the acknowledgement is lost", lost)
			p.Cut()
			for i := range n {
				if _, err := js.PublishAsync("orders", fmt.Append(nil, i), jetstream.WithStallWait(patience)); err != nil {
					t.Fatal(err)
				}
			}
			for range n {
				receive(t, handled)
			}
			if e := receive(t, skipped); e.Reason != tt.want || e.StreamSequence != 1 {
				t.Errorf("skipped %+v", e)
			}
			eventually(t, "all are settled", func() bool { return streamInfo(t, js, "ORDERS").State.Msgs == 0 })
			mu.Lock()
			defer mu.Unlock()
			for body, k := range times {
				if k != 1 {
					t.Errorf("%s was handled %d times", body, k)
				}
			}
		})
	}
}
