package metrics_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace"

	jsbroker "go-micro-jetstream/broker"
	"go-micro-jetstream/metrics"
)

// BenchmarkDelivery is what the hook adds to one message. Most of it are the three
// observations.
func BenchmarkDelivery(b *testing.B) {
	for _, bm := range []struct {
		name         string
		ctx          context.Context
		numDelivered uint64
	}{
		{"first", context.Background(), 1},
		{"redelivery", context.Background(), 2},
		{"sampled", sampled(context.Background(), trace.FlagsSampled), 1},
	} {
		b.Run(bm.name, func(b *testing.B) {
			h := metrics.New(metrics.WithRegisterer(prometheus.NewRegistry()))
			ctx := handlerContext(b, h, bm.ctx)
			// The broker makes the events, installed or not.
			start, settled, handled := events(bm.numDelivered)
			b.ReportAllocs()
			for b.Loop() {
				ctx := h.HandleStart(ctx, start)
				h.Settled(ctx, settled)
				h.Handled(ctx, handled)
			}
		})
	}
}

func BenchmarkPublish(b *testing.B) {
	h := metrics.New(metrics.WithRegisterer(prometheus.NewRegistry()))
	topics := make([]string, 64)
	for i := range topics {
		topics[i] = fmt.Sprintf("orders.%d", i)
	}
	ctx := context.Background()
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		h.Published(ctx, jsbroker.Published{Topic: topics[i%len(topics)], Duration: time.Millisecond})
	}
}

// The promise of the package documentation: no garbage from a message whose
// trace is not sampled.
func TestNoAllocationsPerMessage(t *testing.T) {
	h, _ := newHooks(t)
	ctx := handlerContext(t, h, sampled(context.Background(), 0))
	deliver := func(numDelivered uint64, change func(*jsbroker.Handled)) func() {
		start, settled, handled := events(numDelivered)
		change(&handled)
		return func() {
			ctx := h.HandleStart(ctx, start)
			h.Settled(ctx, settled)
			h.Handled(ctx, handled)
		}
	}
	for name, f := range map[string]func(){
		"first delivery": deliver(1, func(*jsbroker.Handled) {}),
		"redelivery":     deliver(2, func(*jsbroker.Handled) {}),
		"error":          deliver(1, func(e *jsbroker.Handled) { e.Result, e.Err = jsbroker.ResultNak, errBoom }),
		"panic":          deliver(1, func(e *jsbroker.Handled) { e.Result, e.Panicked = jsbroker.ResultNak, true }),
		"fetched":        func() { h.Fetched(ctx, jsbroker.Fetched{Subscription: orders, Messages: 10}) },
		"consumer state": func() { h.ConsumerState(ctx, jsbroker.ConsumerState{Subscription: orders, Pending: 3}) },
		"published":      func() { h.Published(ctx, jsbroker.Published{Topic: "orders.created", Duration: time.Millisecond}) },
		"publish error": func() {
			h.Published(ctx, jsbroker.Published{Topic: "orders.created", Err: errBoom, Reason: "timeout"})
		},
	} {
		f() // the first one makes what is kept
		if n := testing.AllocsPerRun(1000, f); n != 0 {
			t.Errorf("%s: %v allocations, want none", name, n)
		}
	}
}

func events(numDelivered uint64) (jsbroker.HandleStart, jsbroker.Settled, jsbroker.Handled) {
	d := delivery(orders)
	d.NumDelivered = numDelivered
	return jsbroker.HandleStart{Delivery: d, Lag: 3 * time.Millisecond},
		jsbroker.Settled{Delivery: d, Result: jsbroker.ResultAck},
		jsbroker.Handled{Delivery: d, Result: jsbroker.ResultAck, Lag: 3 * time.Millisecond, Duration: time.Millisecond}
}

// handlerContext nests the subscription's context as deep as a broker with
// tracing does: a cancellation and a span lie between it and the handler's.
func handlerContext(tb testing.TB, h jsbroker.Hooks, ctx context.Context) context.Context {
	tb.Helper()
	span := trace.SpanFromContext(ctx)
	ctx = h.SubscriptionStart(ctx, jsbroker.SubscriptionStart{Subscription: orders})
	ctx, cancel := context.WithCancel(ctx)
	tb.Cleanup(cancel)
	return trace.ContextWithSpan(ctx, span)
}
