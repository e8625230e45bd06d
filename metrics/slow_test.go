package metrics_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"
	"go-micro.dev/v5/broker"

	jsbroker "go-micro-jetstream/broker"
	"go-micro-jetstream/internal/natstest"
	"go-micro-jetstream/metrics"
)

// startSilent starts a server that takes in these questions and never answers, as one
// does for a stream without a leader.
func startSilent(t *testing.T, questions ...string) *server.Server {
	t.Helper()
	var mappings strings.Builder
	for _, q := range questions {
		fmt.Fprintf(&mappings, "\"$JS.API.%s\": silent\n", q)
	}
	srv := natstest.Start(t, natstest.Configured(t, "mappings {\n"+mappings.String()+"}\n"))
	nc, _ := natstest.Connect(t, srv.ClientURL())
	natstest.Listen(t, nc, "silent")
	return srv
}

// Twenty streams that do not answer come first in the alphabet. Nevertheless the others are
// seen from the first round on, soon, and in each round. What is known of the consumers of
// such a stream is seen, too.
func TestServerSeesStreamsBesideThoseThatAreSilent(t *testing.T) {
	t.Parallel()
	const offline = 20
	var names, questions []string
	for i := range offline {
		names = append(names, fmt.Sprintf("A%02d", i))
		questions = append(questions, "STREAM.INFO."+names[i])
	}
	for name, shared := range map[string]bool{"alone": false, "shared": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			srv := startSilent(t, questions...)
			b, js := connected(t, srv.ClientURL())
			for _, name := range names {
				natstest.MakeStream(t, js, jetstream.StreamConfig{Name: name, Subjects: []string{name}, Storage: jetstream.MemoryStorage})
			}
			natstest.MakeConsumer(t, js, names[0], jetstream.ConsumerConfig{Durable: "q", AckPolicy: jetstream.AckExplicitPolicy})
			publish(t, b, "orders.created", 1)
			opts := []metrics.ServerOption{metrics.ServerInterval(time.Second)}
			if shared {
				opts = append(opts, metrics.ServerShared("metrics.server"))
			}
			reg := newServer(t, b, opts...)
			began := time.Now()
			natstest.Eventually(t, "the first answer", func() bool { return values(t, reg)[ordersMessages] == 1 })
			t.Logf("seen after %v", time.Since(began))
			for n := range 2 {
				publish(t, b, "orders.created", 1)
				natstest.Eventually(t, "the next answer", func() bool { return values(t, reg)[ordersMessages] == float64(n+2) })
				t.Logf("renewed after %v", time.Since(began))
			}
			natstest.Eventually(t, "a consumer", func() bool {
				_, seen := values(t, reg)[`micro_broker_consumer_pending{consumer="q",queue="q",stream="A00",topic=""}`]
				return seen
			})
			want(t, reg, map[string]float64{`micro_broker_server_up{}`: 0})
		})
	}
}

// A list of consumers that does not come hides neither the stream nor its dead letters.
func TestServerSeesAStreamWithoutItsConsumers(t *testing.T) {
	t.Parallel()
	srv := startSilent(t, "CONSUMER.LIST.ORDERS")
	b, _ := connected(t, srv.ClientURL(), jsbroker.WithDeadLetter("orders.dead"))
	publish(t, b, "orders.created", 2)
	reg := newServer(t, b, metrics.ServerInterval(time.Second))
	natstest.Eventually(t, "the stream", func() bool { return values(t, reg)[ordersMessages] == 2 })
	want(t, reg, map[string]float64{
		`micro_broker_server_up{}`: 0,
		`micro_broker_stream_dead_letters{stream="ORDERS",topic="orders.dead"}`: 0,
	})
}

// A stream that was deleted is gone with the next round.
func TestServerForgetsADeletedStream(t *testing.T) {
	t.Parallel()
	for name, opts := range map[string][]metrics.ServerOption{
		"listed": nil, "named": {metrics.ServerStreams("ORDERS", "PARCELS")}, "shared": {metrics.ServerShared("metrics.server")},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			srv := natstest.Start(t)
			b, js := connected(t, srv.ClientURL())
			publish(t, b, "orders.created", 1)
			publish(t, b, "parcels.packed", 1)
			reg := newServer(t, b, append(opts, metrics.ServerInterval(time.Second))...)
			natstest.Eventually(t, "both streams", func() bool {
				all := values(t, reg)
				return all[ordersMessages] == 1 && all[`micro_broker_stream_messages{stream="PARCELS"}`] == 1
			})
			if err := js.DeleteStream(t.Context(), "ORDERS"); err != nil {
				t.Fatal(err)
			}
			publish(t, b, "parcels.packed", 1)
			natstest.Eventually(t, "the next round", func() bool {
				all := values(t, reg)
				if all[`micro_broker_stream_messages{stream="PARCELS"}`] != 2 {
					return false
				}
				if _, there := all[ordersMessages]; there {
					t.Error("the deleted stream is still there")
				}
				return true
			})
		})
	}
}

// One question that is lost on the way, as in the election of a leader, is no reason to
// ask without the others for half an hour.
func TestServerSharesAfterALostQuestion(t *testing.T) {
	t.Parallel()
	srv := natstest.Start(t)
	p := natstest.StartProxy(t, srv)
	log := natstest.NewLog()
	b, _ := connected(t, p.URL(), broker.Logger(log))
	admin, _ := natstest.Connect(t, srv.ClientURL())
	publish(t, b, "orders.created", 1)
	reg := newServer(t, b, metrics.ServerInterval(time.Second), metrics.ServerShared("metrics.server"))
	natstest.Eventually(t, "the first answer", func() bool { return values(t, reg)[ordersMessages] == 1 })
	lost := p.Lose("PUB $JS.API.STREAM.NAMES metrics.server.")
	natstest.Eventually(t, "a question is lost", func() bool {
		_ = values(t, reg)
		return lost()
	})
	asked := natstest.CountRequests(t, admin, "$JS.API.STREAM.NAMES")
	natstest.Eventually(t, "a question whose answer is shared", func() bool {
		_ = values(t, reg)
		for _, m := range asked.Messages(t) {
			if strings.HasPrefix(m.Reply, "metrics.server.") {
				return true
			}
		}
		return false
	})
	if lines := log.With("ServerShared"); len(lines) > 0 {
		t.Errorf("lines: %v", lines)
	}
}
