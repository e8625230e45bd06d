package broker_test

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go-micro.dev/v5/broker"

	jsbroker "go-micro-jetstream/broker"
)

// The benchmarks measure raw nats.go and this broker in turns within one run,
// because a shared machine's speed changes from one minute to the next, and
// report the ratio: xraw is the broker's speed divided by nats.go's (for
// latency, its time divided by nats.go's). The server is a process of its own.
//
// docs/benchmarks.md has the results and the commands.

// bench is what one benchmark works on.
type bench struct {
	url string
	nc  *nats.Conn
	js  jetstream.JetStream
}

func newBench(b *testing.B) *bench {
	b.Helper()
	p := startServerProcess(b, b.TempDir())
	b.Cleanup(func() { // or it could not remove its directory
		_ = p.input.Close()
		_ = p.cmd.Wait()
	})
	w := &bench{url: p.ClientURL()}
	var err error
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

// enough returns n, or far fewer where a benchmark is only to be seen to run.
func enough(n int) int {
	if testing.Short() {
		return n / 20
	}
	return n
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

// ratio is the broker's speed relative to the other side's, each round by itself:
// the machine is another one in the next.
func (r *ratios) ratio() float64 {
	each := make([]float64, len(r.raw))
	for i := range each {
		each[i] = r.raw[i] / r.ours[i]
	}
	return median(each)
}

// speed reports how many messages per second the broker does, and its speed
// relative to nats.go.
func (r *ratios) speed(b *testing.B, perRound int) {
	b.ReportMetric(r.ratio(), "xraw")
	b.ReportMetric(float64(perRound)/median(r.ours), "msg/s")
	b.ReportMetric(0, "ns/op")
}

// BenchmarkIdle measures what 1,000 subscriptions of one connection cost this
// process while nothing happens: memory each, and the share of one core.
func BenchmarkIdle(b *testing.B) {
	n := enough(1000)
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
	perSubscription := float64(memory()-before) / float64(n)
	idle := time.Minute
	if testing.Short() {
		idle = time.Second // to see that it runs
	}
	var share float64
	for b.Loop() {
		begin, used := time.Now(), cpu()
		time.Sleep(idle) // doing nothing is what is measured
		share = float64(cpu()-used) / float64(time.Since(begin))
	}
	b.ReportMetric(perSubscription, "B/subscription")
	b.ReportMetric(100*share, "%core")
	b.ReportMetric(0, "ns/op")
}
