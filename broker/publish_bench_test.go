package broker_test

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"go-micro.dev/v5/broker"

	jsbroker "go-micro-jetstream/broker"
)

// benchID is an id such as Publish gives a message.
func benchID() string {
	random := make([]byte, 16)
	_, _ = rand.Read(random)
	return base64.RawURLEncoding.EncodeToString(random)
}

// BenchmarkPublish measures Publish beside PublishMsg, one publisher and sixteen.
// As Publish does, xraw-with-id gives each message an id, by which the stream
// knows a repetition: the server has more to do for those. xraw-future is beside
// PublishMsgAsync where each publisher waits for its own answer, without ids: of
// the ways in which several can publish with nats.go, the fastest.
func BenchmarkPublish(b *testing.B) {
	w := newBench(b)
	for _, bm := range []struct{ publishers, messages int }{{1, enough(4000)}, {16, enough(20_000)}} {
		b.Run(fmt.Sprintf("publishers=%d", bm.publishers), func(b *testing.B) {
			w.workQueue(b, "pubraw")
			w.workQueue(b, "pubours")
			br := w.broker(b)
			round := func(one func() error) time.Duration {
				begin := time.Now()
				var wg sync.WaitGroup
				for range bm.publishers {
					wg.Go(func() {
						for range bm.messages / bm.publishers {
							if err := one(); err != nil {
								b.Error(err)
							}
						}
					})
				}
				wg.Wait()
				return time.Since(begin)
			}
			raw := func(opts ...jetstream.PublishOpt) error {
				_, err := w.js.PublishMsg(context.Background(), rawMessage("pubraw.x"), opts...)
				return err
			}
			future := func() error {
				f, err := w.js.PublishMsgAsync(rawMessage("pubraw.x"))
				if err != nil {
					return err
				}
				select {
				case <-f.Ok():
					return nil
				case err := <-f.Err():
					return err
				}
			}
			var plain, withID, async ratios
			for b.Loop() {
				bare := round(func() error { return raw() })
				ours := round(func() error {
					return br.Publish("pubours.x", &broker.Message{Header: benchHeader, Body: benchBody})
				})
				identified := round(func() error { return raw(jetstream.WithMsgID(benchID())) })
				plain.add(bare, ours)
				withID.add(identified, ours)
				async.add(round(future), ours)
			}
			plain.speed(b, bm.messages)
			b.ReportMetric(withID.ratio(), "xraw-with-id")
			b.ReportMetric(async.ratio(), "xraw-future")
		})
	}
}

// BenchmarkPublishAsync measures Async beside PublishMsgAsync with the same window,
// and beside the same with message ids.
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
	raw := func(id func() string) time.Duration {
		begin := time.Now()
		for range n {
			opts := []jetstream.PublishOpt{jetstream.WithStallWait(patience)}
			if id != nil {
				opts = append(opts, jetstream.WithMsgID(id()))
			}
			if _, err := js.PublishMsgAsync(rawMessage("asyncraw.x"), opts...); err != nil {
				b.Fatal(err)
			}
		}
		<-js.PublishAsyncComplete()
		return time.Since(begin)
	}
	var plain, withID ratios
	for b.Loop() {
		bare := raw(nil)
		var all sync.WaitGroup
		all.Add(n)
		begin := time.Now()
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
		ours := time.Since(begin)
		plain.add(bare, ours)
		withID.add(raw(benchID), ours)
	}
	plain.speed(b, n)
	b.ReportMetric(withID.ratio(), "xraw-with-id")
}
