package broker_test

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"go-micro.dev/v5/broker"
)

// BenchmarkPublishSyncAlways measures what it costs to have each message synced
// to disk before it is acknowledged (sync_interval: always), rather than every
// two minutes, the server's default. Both servers are asked in turns; xdefault
// is the speed with the sync divided by the one without. It is the disk under
// the temporary directory (TMPDIR) that is measured.
//
//	go test -run '^$' -bench SyncAlways -benchtime 10x ./broker
func BenchmarkPublishSyncAlways(b *testing.B) {
	byDefault := newBench(b)
	b.Setenv(syncVariable, "1")
	always := newBench(b)
	for _, publishers := range []int{1, 16} {
		b.Run(fmt.Sprintf("publishers=%d", publishers), func(b *testing.B) {
			perPublisher := enough(1600) / publishers
			publishing := func(w *bench) func() time.Duration {
				w.workQueue(b, "sync")
				br := w.broker(b)
				return func() time.Duration {
					begin := time.Now()
					var wg sync.WaitGroup
					for range publishers {
						wg.Go(func() {
							for range perPublisher {
								if err := br.Publish("sync.x", &broker.Message{Header: benchHeader, Body: benchBody}); err != nil {
									b.Error(err)
								}
							}
						})
					}
					wg.Wait()
					return time.Since(begin)
				}
			}
			without, with := publishing(byDefault), publishing(always)
			var r ratios // the default in the place of nats.go
			for b.Loop() {
				r.add(without(), with())
			}
			b.ReportMetric(median(r.raw)/median(r.ours), "xdefault")
			b.ReportMetric(float64(perPublisher*publishers)/median(r.ours), "msg/s")
			b.ReportMetric(0, "ns/op")
		})
	}
}
