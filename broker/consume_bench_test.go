package broker_test

import (
	"context"
	"crypto/sha256"
	"fmt"
	"runtime"
	runtimemetrics "runtime/metrics"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"go-micro.dev/v5/broker"
	"go.opentelemetry.io/otel/propagation"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	jsbroker "go-micro-jetstream/broker"
	"go-micro-jetstream/metrics"
	"go-micro-jetstream/tracing"
)

// consumeRaw takes n messages with Consume, its window at the default of 500. As
// with a subscription, the consumer is made within the time.
func (w *bench) consumeRaw(b *testing.B, st jetstream.Stream, topic string, n int, handle func(body []byte)) time.Duration {
	b.Helper()
	done, got := make(chan struct{}), 0
	begin := time.Now()
	cons, err := st.CreateOrUpdateConsumer(context.Background(), jetstream.ConsumerConfig{Durable: "raw", FilterSubject: topic, AckPolicy: jetstream.AckExplicitPolicy})
	if err != nil {
		b.Fatal(err)
	}
	cc, err := cons.Consume(func(m jetstream.Msg) {
		handle(m.Data())
		_ = m.Ack()
		if got++; got == n {
			close(done)
		}
	})
	if err != nil {
		b.Fatal(err)
	}
	<-done
	took := time.Since(begin)
	cc.Stop()
	<-cc.Closed()
	return took
}

// consumeOurs takes n messages with a subscription.
func (w *bench) consumeOurs(b *testing.B, br broker.Broker, topic string, n int, handle func(body []byte)) time.Duration {
	b.Helper()
	done, got := make(chan struct{}), 0
	begin := time.Now()
	sub, err := br.Subscribe(topic, func(e broker.Event) error {
		handle(e.Message().Body)
		if got++; got == n {
			close(done)
		}
		return nil
	}, broker.Queue("ours"))
	if err != nil {
		b.Fatal(err)
	}
	<-done
	took := time.Since(begin)
	_ = sub.Unsubscribe()
	return took
}

// BenchmarkConsume measures a subscription beside Consume on a backlog, with the
// hooks that a service may have installed: in a process that has nothing else to
// do, and in one with a heap such as services have.
func BenchmarkConsume(b *testing.B) {
	b.Run("heap=0", benchmarkConsume)
	b.Run("heap=64MiB", func(b *testing.B) {
		heap := liveHeap(64 << 20)
		benchmarkConsume(b)
		runtime.KeepAlive(heap)
	})
}

// liveHeap returns about so many bytes of small objects that point to each other.
// A process without any collects its garbage whenever there are 4 MiB of it, here
// forty times a second, and on two cores that stands in the way of both sides, but
// more of the one with more garbage.
func liveHeap(bytes int) any {
	type object struct {
		next *object
		data *[240]byte
	}
	var all *object
	for range bytes / 256 {
		all = &object{next: all, data: new([240]byte)}
	}
	return all
}

func benchmarkConsume(b *testing.B) {
	w := newBench(b)
	withMetrics := func() jsbroker.Hooks { return metrics.New(metrics.WithRegisterer(prometheus.NewRegistry())) }
	withTracing := func(opts ...sdktrace.TracerProviderOption) jsbroker.Hooks {
		return tracing.New(tracing.WithTracerProvider(sdktrace.NewTracerProvider(opts...)), tracing.WithPropagator(propagation.TraceContext{}))
	}
	for _, bm := range []struct {
		name  string
		hooks []jsbroker.Hooks
	}{
		{"hooks=none", nil},
		{"hooks=metrics", []jsbroker.Hooks{withMetrics()}},
		{"hooks=metrics+tracing,sampled=none", []jsbroker.Hooks{withMetrics(), withTracing(sdktrace.WithSampler(sdktrace.NeverSample()))}},
		{"hooks=metrics+tracing,sampled=all", []jsbroker.Hooks{withMetrics(), withTracing(sdktrace.WithBatcher(tracetest.NewNoopExporter()))}},
	} {
		b.Run(bm.name, func(b *testing.B) {
			w.consume(b, w.broker(b, jsbroker.WithHooks(bm.hooks...)), enough(100_000))
		})
	}
}

// BenchmarkBacklog measures whether a long backlog makes a message dearer.
func BenchmarkBacklog(b *testing.B) {
	w := newBench(b)
	br := w.broker(b)
	for _, n := range []int{1000, 30_000, 1_000_000} {
		b.Run(fmt.Sprintf("messages=%d", n), func(b *testing.B) {
			if testing.Short() && n > 100_000 {
				b.Skip("it takes most of a minute")
			}
			w.consume(b, br, n)
		})
	}
}

// consume measures both sides on a backlog of n messages each.
func (w *bench) consume(b *testing.B, br broker.Broker, n int) {
	b.Helper()
	var r ratios
	for b.Loop() {
		st := w.workQueue(b, "consume")
		w.fill(b, "consume.raw", n)
		raw := w.consumeRaw(b, st, "consume.raw", n, func([]byte) {})
		w.fill(b, "consume.ours", n)
		r.add(raw, w.consumeOurs(b, br, "consume.ours", n, func([]byte) {}))
	}
	r.speed(b, n)
}

// BenchmarkLargeBodies measures the memory of this process, at the most, while a
// backlog of 48 MiB is worked on: MiB with a subscription, MiB-raw with Consume. With more than 64 MiB
// nats.go drops what Consume has asked for, and gets it again after AckWait.
func BenchmarkLargeBodies(b *testing.B) {
	const backlog = 48 << 20
	w := newBench(b)
	br := w.broker(b)
	for _, size := range []int{64 << 10, 1<<20 - 4<<10} { // the largest that the server accepts, about
		b.Run(fmt.Sprintf("bytes=%d", size), func(b *testing.B) {
			n := backlog / size
			body := make([]byte, size)
			var rawPeak, oursPeak []float64
			var r ratios
			for b.Loop() {
				st := w.workQueue(b, "large")
				for _, topic := range []string{"large.raw", "large.ours"} {
					for range n {
						if _, err := w.js.Publish(context.Background(), topic, body); err != nil {
							b.Fatal(err)
						}
					}
				}
				handle, peak := watchMemory()
				raw := w.consumeRaw(b, st, "large.raw", n, handle)
				rawPeak = append(rawPeak, peak())
				handle, peak = watchMemory()
				r.add(raw, w.consumeOurs(b, br, "large.ours", n, handle))
				oursPeak = append(oursPeak, peak())
			}
			r.speed(b, n)
			b.ReportMetric(median(rawPeak), "MiB-raw")
			b.ReportMetric(median(oursPeak), "MiB")
		})
	}
}

// watchMemory returns a handler that has some work with a message, and the most
// memory in MiB that the heap has grown by when one was handled, garbage included.
func watchMemory() (handle func(body []byte), peak func() float64) {
	heap := func() uint64 {
		sample := []runtimemetrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
		runtimemetrics.Read(sample)
		return sample[0].Value.Uint64()
	}
	runtime.GC()
	before := heap()
	most := before
	return func(body []byte) {
			sha256.Sum256(body)
			most = max(most, heap())
		}, func() float64 {
			return float64(most-before) / (1 << 20)
		}
}

// BenchmarkLatency measures the time from a publish to the handler, nothing else
// being under way.
func BenchmarkLatency(b *testing.B) {
	w := newBench(b)
	const n = 500
	br := w.broker(b)
	st := w.workQueue(b, "latency")
	publisher, err := nats.Connect(w.url) // neither side's own
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(publisher.Close)
	var r ratios
	for b.Loop() {
		sample := func(topic string, arrived <-chan time.Time) time.Duration {
			var times []float64
			for range n {
				begin := time.Now()
				if err := publisher.PublishMsg(rawMessage(topic)); err != nil {
					b.Fatal(err)
				}
				times = append(times, (<-arrived).Sub(begin).Seconds())
			}
			return time.Duration(median(times) * float64(time.Second))
		}
		arrived := make(chan time.Time, 1)
		cons, err := st.CreateOrUpdateConsumer(context.Background(), jetstream.ConsumerConfig{Durable: "raw", FilterSubject: "latency.raw", AckPolicy: jetstream.AckExplicitPolicy})
		if err != nil {
			b.Fatal(err)
		}
		cc, err := cons.Consume(func(m jetstream.Msg) { arrived <- time.Now(); _ = m.Ack() })
		if err != nil {
			b.Fatal(err)
		}
		raw := sample("latency.raw", arrived)
		cc.Stop()
		<-cc.Closed()
		sub, err := br.Subscribe("latency.ours", func(broker.Event) error { arrived <- time.Now(); return nil }, broker.Queue("ours"))
		if err != nil {
			b.Fatal(err)
		}
		r.add(raw, sample("latency.ours", arrived))
		_ = sub.Unsubscribe()
	}
	b.ReportMetric(1/r.ratio(), "xraw")
	b.ReportMetric(median(r.ours)*1e6, "p50-us")
	b.ReportMetric(0, "ns/op")
}
