package metrics_test

import (
	"testing"

	"go-micro.dev/v5/broker"

	jsbroker "go-micro-jetstream/broker"
	"go-micro-jetstream/internal/natstest"
)

// What was fetched and waits for a handler is known at each scrape, also while handlers
// hang and nothing happens.
func TestInHand(t *testing.T) {
	t.Parallel()
	for name, opts := range map[string][]broker.SubscribeOption{
		"in order": nil,
		"by key":   {jsbroker.Concurrency(2), jsbroker.OrderBy(func(broker.Event) string { return "a" })},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h, reg := newHooks(t)
			b, _ := connected(t, natstest.Start(t).ClientURL(), jsbroker.WithHooks(h))
			publish(t, b, "orders", 10)
			release := make(chan struct{})
			if _, err := b.Subscribe("orders", func(broker.Event) error { <-release; return nil }, append(opts, broker.Queue("q"))...); err != nil {
				t.Error(err)
			}
			const series = `micro_broker_in_hand{queue="q",topic="orders"}`
			natstest.Eventually(t, "nine wait behind the first", func() bool { return values(t, reg)[series] == 9 })
			close(release)
			natstest.Eventually(t, "none waits", func() bool {
				all := values(t, reg)
				return all[series] == 0 && all[`micro_broker_handled_total{queue="q",result="ack",topic="orders"}`] == 10
			})
		})
	}
}

// The window of Async fills while the server does not answer, and while done takes long.
func TestAsyncWindow(t *testing.T) {
	t.Parallel()
	h, reg := newHooks(t)
	proxy := natstest.StartProxy(t, natstest.Start(t))
	b, _ := connected(t, proxy.URL(), jsbroker.WithHooks(h), jsbroker.WithAsyncWindow(5), jsbroker.WithClientName("shop"))
	publish(t, b, "orders", 1)
	want(t, reg, map[string]float64{`micro_broker_async_window_used{broker="shop"}`: 0, `micro_broker_async_window_limit{broker="shop"}`: 5})
	release, done := make(chan struct{}), make(chan struct{}, 3)
	proxy.Stall()
	for range 3 {
		err := b.Publish("orders", &broker.Message{Body: []byte("a")}, jsbroker.Async(func(error) { <-release; done <- struct{}{} }))
		if err != nil {
			t.Error(err)
		}
	}
	want(t, reg, map[string]float64{`micro_broker_async_window_used{broker="shop"}`: 3})
	proxy.Resume()
	natstest.Eventually(t, "all are published", func() bool { return values(t, reg)[`micro_broker_published_total{topic="orders"}`] >= 2 })
	natstest.Eventually(t, "all wait for done", func() bool { return values(t, reg)[`micro_broker_async_window_used{broker="shop"}`] == 3 })
	close(release)
	for range 3 {
		natstest.Receive(t, done)
	}
	natstest.Eventually(t, "the window is empty", func() bool { return values(t, reg)[`micro_broker_async_window_used{broker="shop"}`] == 0 })
}
