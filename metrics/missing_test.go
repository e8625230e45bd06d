package metrics_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"

	"go-micro-jetstream/internal/natstest"
	"go-micro-jetstream/metrics"
)

// Consumers whose only server is away stay as they were last known, and
// micro_broker_server_up says that something is missing.
func TestServerKeepsMissingConsumers(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a cluster")
	}
	t.Parallel()
	c := natstest.StartCluster(t)
	_, js := natstest.Connect(t, strings.Join(c.URLs(), ","))
	natstest.MakeStream(t, js, jetstream.StreamConfig{Name: "ORDERS", Subjects: []string{"orders.>"}, Replicas: 3})
	leader := c.Leader(t)
	away := c.Node(t, "server that leads neither the cluster nor the stream", func(s *server.Server) bool {
		return s != leader.Server && !s.JetStreamIsStreamLeader(server.DEFAULT_GLOBAL_ACCOUNT, "ORDERS")
	})
	// The cluster chooses a server for each: there are consumers until that one has some,
	// and others do, too.
	consumers, held := 0, 0
	for ; held == 0 || held == consumers; consumers++ {
		name := fmt.Sprintf("c%d", consumers)
		natstest.MakeConsumer(t, js, "ORDERS", jetstream.ConsumerConfig{Durable: name, Replicas: 1, AckPolicy: jetstream.AckExplicitPolicy})
		if c.ConsumerLeader(t, "ORDERS", name) == away {
			held++
		}
	}
	b, _ := connected(t, leader.ClientURL())
	reg := newServer(t, b, metrics.ServerInterval(time.Second))
	natstest.Eventually(t, "all consumers", func() bool { return consumersIn(t, reg) == consumers })
	away.Stop()
	natstest.Eventually(t, "the server says that some are missing", func() bool {
		return values(t, reg)[`micro_broker_server_errors_total{reason="offline"}`] > 0
	})
	publish(t, b, "orders.created", 1)
	natstest.Eventually(t, "the next answer about those that are there", func() bool {
		fresh := 0
		for series, pending := range values(t, reg) {
			if strings.HasPrefix(series, "micro_broker_consumer_pending{") && pending == 1 {
				fresh++
			}
		}
		return fresh == consumers-held
	})
	if n := consumersIn(t, reg); n != consumers {
		t.Errorf("%d consumers are shown, want %d, of which %d were on the server that is away", n, consumers, held)
	}
	want(t, reg, map[string]float64{`micro_broker_server_up{}`: 0})
	away.Start(t)
	natstest.Eventually(t, "all consumers are back", func() bool { return values(t, reg)[`micro_broker_server_up{}`] == 1 })
}
