package metrics_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"

	"go-micro-jetstream/internal/natstest"
	"go-micro-jetstream/metrics"
)

func consumersIn(t *testing.T, reg *prometheus.Registry) (n int) {
	t.Helper()
	for series := range values(t, reg) {
		if strings.HasPrefix(series, "micro_broker_consumer_pending{") {
			n++
		}
	}
	return n
}

// Two thousand consumers in one round.
func TestServerSeesManyConsumers(t *testing.T) {
	if testing.Short() {
		t.Skip("makes 2,000 consumers")
	}
	t.Parallel()
	srv := natstest.Start(t)
	b, js := connected(t, srv.ClientURL())
	const consumers, inEach = 2000, 1000 // as many as a stream may have by default
	for i := range consumers {
		stream := fmt.Sprintf("S%d", i/inEach)
		if i%inEach == 0 {
			natstest.MakeStream(t, js, jetstream.StreamConfig{Name: stream, Subjects: []string{stream}, Storage: jetstream.MemoryStorage})
		}
		natstest.MakeConsumer(t, js, stream, jetstream.ConsumerConfig{Durable: fmt.Sprintf("c%d", i), MemoryStorage: true})
	}
	for name, opts := range map[string][]metrics.ServerOption{"alone": nil, "shared": {metrics.ServerShared("metrics.server")}} {
		began := time.Now()
		reg := newServer(t, b, append(opts, metrics.ServerLimits(100, consumers))...)
		natstest.Eventually(t, "all consumers", func() bool { return consumersIn(t, reg) == consumers })
		t.Logf("%s: after %v", name, time.Since(began))
		want(t, reg, map[string]float64{`micro_broker_server_up{}`: 1, `micro_broker_server_truncated{}`: 0})
	}
}
