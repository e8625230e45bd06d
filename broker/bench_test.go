package broker_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"go-micro.dev/v5/broker"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	jsbroker "go-micro-jetstream/broker"
	"go-micro-jetstream/metrics"
	"go-micro-jetstream/tracing"
)

// The benchmarks measure raw nats.go and this broker in turns within one run,
// because a shared machine's speed changes from one minute to the next, and
// report the ratio: xraw is the broker's speed divided by nats.go's (for
// latency, its time divided by nats.go's). The server is a process of its own.
//
// The table of the README:
//
//	go test -run '^$' -bench 'Publish|Consume|Latency' -benchtime 10x ./broker

// bench is what one benchmark works on.
type bench struct {
	url string
	nc  *nats.Conn
	js  jetstream.JetStream
}

const (
	serverVariable = "JSBROKER_BENCH_SERVER_DIR"
	syncVariable   = "JSBROKER_BENCH_SYNC_ALWAYS"
)

// runAsServer turns this process into a server if a benchmark has started it as
// one: it prints its URL and ends with its input.
func runAsServer() bool {
	dir := os.Getenv(serverVariable)
	if dir == "" {
		return false
	}
	s, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: -1, JetStream: true, StoreDir: dir, NoSigs: true, SyncAlways: os.Getenv(syncVariable) != ""})
	if err != nil {
		panic(err)
	}
	s.Start()
	s.ReadyForConnections(patience)
	fmt.Println(s.ClientURL())
	_, _ = io.Copy(io.Discard, os.Stdin)
	stopServer(s)
	return true
}

func newBench(b *testing.B) *bench {
	b.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), serverVariable+"="+b.TempDir())
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		_ = in.Close()
		_ = cmd.Wait()
	})
	scanner := bufio.NewScanner(out)
	for scanner.Scan() && !strings.HasPrefix(scanner.Text(), "nats://") {
	}
	w := &bench{url: scanner.Text()}
	if w.nc, err = nats.Connect(w.url); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(w.nc.Close)
	if w.js, err = jetstream.New(w.nc); err != nil {
		b.Fatal(err)
	}
	return w
}

func (w *bench) broker(b *testing.B, opts ...broker.Option) broker.Broker {
	b.Helper()
	br := jsbroker.NewBroker(append([]broker.Option{broker.Addrs(w.url), quiet()}, opts...)...)
	if err := br.Connect(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = br.Disconnect() })
	return br
}

var (
	benchBody   = []byte(strings.Repeat("x", 256))
	benchHeader = map[string]string{"Content-Type": "application/json", "Micro-Topic": "bench.x", "Micro-Id": "0123456789"}
)

func rawMessage(topic string) *nats.Msg {
	m := nats.NewMsg(topic)
	m.Data = benchBody
	for k, v := range benchHeader {
		m.Header.Set(k, v)
	}
	return m
}

// workQueue makes a stream for a benchmark, empty.
func (w *bench) workQueue(b *testing.B, name string) jetstream.Stream {
	b.Helper()
	st, err := w.js.CreateOrUpdateStream(context.Background(), jetstream.StreamConfig{
		Name: strings.ToUpper(name), Subjects: []string{name, name + ".>"}, Retention: jetstream.WorkQueuePolicy,
	})
	if err != nil {
		b.Fatal(err)
	}
	if err := st.Purge(context.Background()); err != nil {
		b.Fatal(err)
	}
	return st
}

// fill stores n messages in a stream.
func (w *bench) fill(b *testing.B, topic string, n int) {
	b.Helper()
	for range n {
		if _, err := w.js.PublishMsgAsync(rawMessage(topic), jetstream.WithStallWait(patience)); err != nil {
			b.Fatal(err)
		}
	}
	<-w.js.PublishAsyncComplete()
}

// ratios collects a measurement of both sides per round.
type ratios struct{ raw, ours []float64 }

func (r *ratios) add(raw, ours time.Duration) {
	r.raw = append(r.raw, raw.Seconds())
	r.ours = append(r.ours, ours.Seconds())
}

func median(v []float64) float64 {
	v = slices.Sorted(slices.Values(v))
	return v[len(v)/2]
}

// speed reports how many messages per second the broker does, and its speed
// relative to nats.go.
func (r *ratios) speed(b *testing.B, perRound int) {
	b.ReportMetric(median(r.raw)/median(r.ours), "xraw")
	b.ReportMetric(float64(perRound)/median(r.ours), "msg/s")
	b.ReportMetric(0, "ns/op")
}

func BenchmarkPublish(b *testing.B) {
	w := newBench(b)
	for _, publishers := range []int{1, 16} {
		b.Run(fmt.Sprintf("publishers=%d", publishers), func(b *testing.B) {
			w.workQueue(b, "pubraw")
			w.workQueue(b, "pubours")
			br := w.broker(b)
			perPublisher := map[int]int{1: 4000, 16: 1250}[publishers]
			round := func(one func() error) time.Duration {
				begin := time.Now()
				var wg sync.WaitGroup
				for range publishers {
					wg.Go(func() {
						for range perPublisher {
							if err := one(); err != nil {
								b.Error(err)
							}
						}
					})
				}
				wg.Wait()
				return time.Since(begin)
			}
			var r ratios
			for b.Loop() {
				raw := round(func() error {
					_, err := w.js.PublishMsg(context.Background(), rawMessage("pubraw.x"))
					return err
				})
				ours := round(func() error {
					return br.Publish("pubours.x", &broker.Message{Header: benchHeader, Body: benchBody})
				})
				r.add(raw, ours)
			}
			r.speed(b, perPublisher*publishers)
		})
	}
}

func BenchmarkPublishAsync(b *testing.B) {
	const n, window = 20_000, 1000
	w := newBench(b)
	w.workQueue(b, "asyncraw")
	w.workQueue(b, "asyncours")
	br := w.broker(b, jsbroker.WithAsyncWindow(window))
	js, err := jetstream.New(w.nc, jetstream.WithPublishAsyncMaxPending(window))
	if err != nil {
		b.Fatal(err)
	}
	var r ratios
	for b.Loop() {
		begin := time.Now()
		for range n {
			if _, err := js.PublishMsgAsync(rawMessage("asyncraw.x"), jetstream.WithStallWait(patience)); err != nil {
				b.Fatal(err)
			}
		}
		<-js.PublishAsyncComplete()
		raw := time.Since(begin)
		var all sync.WaitGroup
		all.Add(n)
		begin = time.Now()
		for range n {
			err := br.Publish("asyncours.x", &broker.Message{Header: benchHeader, Body: benchBody}, jsbroker.Async(func(err error) {
				if err != nil {
					b.Error(err)
				}
				all.Done()
			}))
			if err != nil {
				b.Fatal(err)
			}
		}
		all.Wait()
		r.add(raw, time.Since(begin))
	}
	r.speed(b, n)
}

// consumeRaw takes n messages with Consume, its window at the default of 500.
func (w *bench) consumeRaw(b *testing.B, st jetstream.Stream, topic string, n int) time.Duration {
	b.Helper()
	cons, err := st.CreateOrUpdateConsumer(context.Background(), jetstream.ConsumerConfig{Durable: "raw", FilterSubject: topic, AckPolicy: jetstream.AckExplicitPolicy})
	if err != nil {
		b.Fatal(err)
	}
	done, got := make(chan struct{}), 0
	begin := time.Now()
	cc, err := cons.Consume(func(m jetstream.Msg) {
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

func (w *bench) consumeOurs(b *testing.B, br broker.Broker, topic string, n int) time.Duration {
	b.Helper()
	done, got := make(chan struct{}), 0
	begin := time.Now()
	sub, err := br.Subscribe(topic, func(broker.Event) error {
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

func BenchmarkConsume(b *testing.B) {
	w := newBench(b)
	recorded := sdktrace.NewTracerProvider(sdktrace.WithBatcher(tracetest.NewNoopExporter()))
	dropped := sdktrace.NewTracerProvider(sdktrace.WithSampler(sdktrace.NeverSample()))
	for _, bm := range []struct {
		name  string
		hooks func() []jsbroker.Hooks
	}{
		{"hooks=none", func() []jsbroker.Hooks { return nil }},
		{"hooks=metrics", func() []jsbroker.Hooks {
			return []jsbroker.Hooks{metrics.New(metrics.WithRegisterer(prometheus.NewRegistry()))}
		}},
		{"hooks=metrics+tracing,sampled=none", func() []jsbroker.Hooks {
			return []jsbroker.Hooks{metrics.New(metrics.WithRegisterer(prometheus.NewRegistry())), tracing.New(tracing.WithTracerProvider(dropped))}
		}},
		{"hooks=metrics+tracing,sampled=all", func() []jsbroker.Hooks {
			return []jsbroker.Hooks{metrics.New(metrics.WithRegisterer(prometheus.NewRegistry())), tracing.New(tracing.WithTracerProvider(recorded))}
		}},
	} {
		b.Run(bm.name, func(b *testing.B) {
			const n = 30_000
			br := w.broker(b, jsbroker.WithHooks(bm.hooks()...))
			var r ratios
			for b.Loop() {
				st := w.workQueue(b, "consume")
				w.fill(b, "consume.raw", n)
				raw := w.consumeRaw(b, st, "consume.raw", n)
				w.fill(b, "consume.ours", n)
				r.add(raw, w.consumeOurs(b, br, "consume.ours", n))
			}
			r.speed(b, n)
		})
	}
}

func BenchmarkLatency(b *testing.B) {
	w := newBench(b)
	const n = 500
	br := w.broker(b)
	st := w.workQueue(b, "latency")
	var r ratios
	for b.Loop() {
		sample := func(topic string, arrived <-chan time.Time) time.Duration {
			var times []float64
			for range n {
				begin := time.Now()
				if err := w.nc.PublishMsg(rawMessage(topic)); err != nil {
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
	b.ReportMetric(median(r.ours)/median(r.raw), "xraw")
	b.ReportMetric(median(r.ours)*1e6, "p50-us")
	b.ReportMetric(0, "ns/op")
}

// BenchmarkIdle measures what 1,000 subscriptions of one connection cost this
// process while nothing happens: memory each, and the share of one core.
func BenchmarkIdle(b *testing.B) {
	const n = 1000
	w := newBench(b)
	br := w.broker(b)
	memory := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapInuse + m.StackInuse
	}
	cpu := func() time.Duration {
		var u syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
			b.Fatal(err)
		}
		return time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	before := memory()
	for i := range n {
		if _, err := br.Subscribe(fmt.Sprintf("idle.t%d", i), func(broker.Event) error { return nil }, broker.Queue("q")); err != nil {
			b.Fatal(err)
		}
	}
	perSubscription := float64(memory()-before) / n
	var share float64
	for b.Loop() {
		begin, used := time.Now(), cpu()
		time.Sleep(60 * time.Second) // doing nothing is what is measured
		share = float64(cpu()-used) / float64(time.Since(begin))
	}
	b.ReportMetric(perSubscription, "B/subscription")
	b.ReportMetric(100*share, "%core")
	b.ReportMetric(0, "ns/op")
}
