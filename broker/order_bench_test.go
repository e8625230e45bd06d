package broker_test

import (
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"go-micro.dev/v5/broker"

	jsbroker "go-micro-jetstream/broker"
)

// BenchmarkOrderBy measures a subscription with ten handlers and an order by key beside
// one without, on a backlog. Handlers do nothing, so that everything is overhead.
func BenchmarkOrderBy(b *testing.B) {
	w := newBench(b)
	br := w.broker(b)
	byHeader := func(e broker.Event) string { return e.Message().Header["Micro-Id"] }
	for _, bm := range []struct {
		name string
		keys int
		key  func(broker.Event) string
	}{
		{"by=topic,keys=10", 10, broker.Event.Topic},
		{"by=topic,keys=1000", 1000, broker.Event.Topic},
		{"by=header,keys=1000", 1000, byHeader},
	} {
		b.Run(bm.name, func(b *testing.B) {
			n := enough(100_000)
			var r ratios
			for b.Loop() {
				var took [2]time.Duration
				for i, opts := range [2][]broker.SubscribeOption{{}, {jsbroker.OrderBy(bm.key)}} {
					w.workQueue(b, "keyed")
					w.fillKeys(b, n, bm.keys)
					took[i] = w.consumeTogether(b, br, n, opts...)
				}
				r.add(took[0], took[1])
			}
			b.ReportMetric(r.ratio(), "xwithout")
			b.ReportMetric(float64(n)/median(r.ours), "msg/s")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// fillKeys stores n messages whose topics and ids are one of so many.
func (w *bench) fillKeys(b *testing.B, n, keys int) {
	b.Helper()
	for i := range n {
		m := rawMessage(fmt.Sprintf("keyed.%d", i%keys))
		m.Header.Set("Micro-Id", fmt.Sprint(i%keys))
		if _, err := w.js.PublishMsgAsync(m, jetstream.WithStallWait(patience)); err != nil {
			b.Fatal(err)
		}
	}
	<-w.js.PublishAsyncComplete()
}

// consumeTogether takes n messages with ten handlers at a time.
func (w *bench) consumeTogether(b *testing.B, br broker.Broker, n int, opts ...broker.SubscribeOption) time.Duration {
	b.Helper()
	done := make(chan struct{})
	var got atomic.Int64
	begin := time.Now()
	sub, err := br.Subscribe("keyed.>", func(broker.Event) error {
		if got.Add(1) == int64(n) {
			close(done)
		}
		return nil
	}, append(opts, broker.Queue("ours"), jsbroker.Concurrency(10))...)
	if err != nil {
		b.Fatal(err)
	}
	<-done
	took := time.Since(begin)
	_ = sub.Unsubscribe()
	return took
}
