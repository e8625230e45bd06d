package metrics_test

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"go-micro.dev/v5/broker"

	jsbroker "go-micro-jetstream/broker"
	"go-micro-jetstream/internal/natstest"
	"go-micro-jetstream/metrics"
)

const ordersMessages = `micro_broker_stream_messages{stream="ORDERS"}`

// scrapeAll scrapes all at the same moment, and returns the lowest value of a series, -1
// if one lacks it.
func scrapeAll(t *testing.T, series string, registries ...*prometheus.Registry) float64 {
	t.Helper()
	var scrapes sync.WaitGroup
	got := make([]float64, len(registries))
	for i, reg := range registries {
		scrapes.Go(func() {
			v, ok := values(t, reg)[series]
			if !ok {
				v = -1
			}
			got[i] = v
		})
	}
	scrapes.Wait()
	lowest := got[0]
	for _, v := range got {
		lowest = min(lowest, v)
	}
	return lowest
}

// Three replicas that share the answers ask about as often as one, lists of several pages
// included, and the end of one of them holds up nobody.
func TestServersShare(t *testing.T) {
	t.Parallel()
	srv := natstest.Start(t)
	_, js := connected(t, srv.ClientURL())
	natstest.MakeStream(t, js, jetstream.StreamConfig{Name: "ORDERS", Subjects: []string{"orders.>"}})
	natstest.MakeStream(t, js, jetstream.StreamConfig{Name: "PARCELS", Subjects: []string{"parcels.>"}})
	const consumers = 260 // more than a page
	for i := range consumers {
		natstest.MakeConsumer(t, js, "PARCELS", jetstream.ConsumerConfig{Durable: fmt.Sprintf("c%d", i), MemoryStorage: true})
	}
	var brokers []broker.Broker
	var registries []*prometheus.Registry
	for range 3 {
		b, _ := connected(t, srv.ClientURL(), jsbroker.WithDeadLetter("orders.dead"))
		brokers = append(brokers, b)
		registries = append(registries, newServer(t, b, metrics.ServerInterval(time.Second), metrics.ServerShared("metrics.server")))
	}
	stored := 0.0
	fresh := func(registries ...*prometheus.Registry) {
		t.Helper()
		publish(t, brokers[2], "orders.created", 1)
		stored++
		natstest.Eventually(t, "new values everywhere", func() bool { return scrapeAll(t, ordersMessages, registries...) == stored })
	}
	fresh(registries...)
	asked := natstest.CountRequests(t, js.Conn(), "$JS.API.>")
	began := time.Now()
	for range 4 {
		fresh(registries...)
	}
	// One replica asks for the names, for two streams, for the dead letters of one, and for
	// three pages of consumers.
	rounds := float64(time.Since(began))/float64(900*time.Millisecond) + 1
	if n := asked.Seen(t); float64(n) > 7*rounds*2 {
		t.Errorf("%d questions in %.1f rounds, want 7 in each", n, rounds)
	} else {
		t.Logf("%d questions in %.1f rounds: %.1f in each", n, rounds, float64(n)/rounds)
	}
	for _, reg := range registries {
		seen := 0
		for series := range values(t, reg) {
			if strings.HasPrefix(series, "micro_broker_consumer_pending{") {
				seen++
			}
		}
		if seen != consumers {
			t.Errorf("%d consumers, want %d", seen, consumers)
		}
		want(t, reg, map[string]float64{`micro_broker_server_up{}`: 1, `micro_broker_stream_dead_letters{stream="ORDERS",topic="orders.dead"}`: 0})
	}

	if err := brokers[0].Disconnect(); err != nil {
		t.Fatal(err)
	}
	fresh(registries[1:]...)
	fresh(registries[1:]...)
	want(t, registries[0], map[string]float64{`micro_broker_server_up{}`: 0})
}

// A replica that listens and is scraped later asks nothing, as long as what it has heard
// is fresh.
func TestServerTakesWhatItHeard(t *testing.T) {
	t.Parallel()
	srv := natstest.Start(t)
	b, js := connected(t, srv.ClientURL())
	publish(t, b, "orders.created", 1)
	one := newServer(t, b, metrics.ServerInterval(time.Second), metrics.ServerShared("metrics.server"))
	late := newServer(t, b, metrics.ServerInterval(time.Hour), metrics.ServerShared("metrics.server"))
	natstest.Eventually(t, "both have asked", func() bool { return scrapeAll(t, ordersMessages, one, late) == 1 })
	asked := natstest.CountRequests(t, js.Conn(), "$JS.API.STREAM.NAMES")
	natstest.Eventually(t, "another round", func() bool {
		_ = values(t, one)
		_ = values(t, late)
		return asked.Seen(t) > 0
	})
	if got := values(t, late)[ordersMessages]; got != 1 {
		t.Errorf("%v messages", got)
	}
}

// Without permission to listen, the process asks for itself and says so once.
func TestServerMayNotListen(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ subject, says string }{
		"no permission":          {"metrics.server", "Permit the user to subscribe to metrics.server.*"},
		"below the inbox prefix": {"_INBOX.metrics", "it is below the inbox prefix _INBOX"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			srv := natstest.Start(t, natstest.Limited(natstest.NoSubscribe("metrics.>")))
			log := natstest.NewLog()
			b, _ := connected(t, natstest.URL(srv, "limited:pw"), broker.Logger(log))
			reg := newServer(t, b, metrics.ServerInterval(time.Second), metrics.ServerShared(c.subject))
			for n := range 3 {
				publish(t, b, "orders.created", 1)
				natstest.Eventually(t, "the next answer", func() bool { return values(t, reg)[ordersMessages] == float64(n+1) })
			}
			want(t, reg, map[string]float64{`micro_broker_server_up{}`: 1})
			if lines := log.With("ServerShared"); len(lines) != 1 || !strings.Contains(lines[0].Text, c.says) {
				t.Errorf("lines: %v", lines)
			}
		})
	}
}

// What arrives and is not the answer to the question is ignored.
func TestServerIgnoresOtherAnswers(t *testing.T) {
	t.Parallel()
	srv := natstest.Start(t)
	b, js := connected(t, srv.ClientURL())
	publish(t, b, "orders.created", 1)
	publish(t, b, "parcels.packed", 2)
	nc := js.Conn()
	arrived := make(chan *nats.Msg, 1000)
	if _, err := nc.ChanSubscribe("metrics.server.*", arrived); err != nil {
		t.Fatal(err)
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	reg := newServer(t, b, metrics.ServerInterval(time.Second), metrics.ServerShared("metrics.server"))
	want(t, reg, map[string]float64{ordersMessages: 1})
	var answers []*nats.Msg
	for range 5 {
		answers = append(answers, natstest.Receive(t, arrived))
	}
	// Each answer comes to each question, with what is no answer and what is too much.
	for _, to := range answers {
		for _, from := range answers {
			if from != to && !bytes.Contains(from.Data, []byte("stream_names")) {
				_ = nc.Publish(to.Subject, from.Data)
			}
		}
		for _, bad := range []string{"", "null", "{}", "x", `{"type":"io.nats.jetstream.api.v1.stream_info_response"}`, `{"type":"io.nats.jetstream.api.v1.consumer_list_response","consumers":[null]}`} {
			_ = nc.Publish(to.Subject, []byte(bad))
		}
	}
	_ = nc.Publish("metrics.server.unknown", answers[0].Data)
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	for n := range 2 {
		publish(t, b, "orders.created", 1)
		natstest.Eventually(t, "the next answer", func() bool { return values(t, reg)[ordersMessages] == float64(n+2) })
		want(t, reg, map[string]float64{`micro_broker_stream_messages{stream="PARCELS"}`: 2, `micro_broker_server_up{}`: 1})
	}
}

// A hub and its leaf node have an account and a subject in common, and each a JetStream of
// its own with streams of the same names.
func TestServersOfHubAndLeafDoNotMix(t *testing.T) {
	t.Parallel()
	hub := natstest.StartHub(t)
	leaf := natstest.StartLeaf(t, hub, natstest.LeafAddress(hub), func(o *server.Options) {
		o.JetStream, o.JetStreamDomain = true, "leaf"
	})
	place := func(url, subject string, messages int, opts ...broker.Option) *prometheus.Registry {
		b, js := connected(t, url, opts...)
		if subject != "" {
			natstest.MakeStream(t, js, jetstream.StreamConfig{Name: "ORDERS", Subjects: []string{subject}})
			publish(t, b, subject, messages)
		}
		return newServer(t, b, metrics.ServerInterval(time.Second), metrics.ServerShared("metrics.server"))
	}
	atHub := place(hub.ClientURL(), "hub.orders", 1)
	atLeaf := place(leaf.ClientURL(), "leaf.orders", 2)
	fromLeaf := place(leaf.ClientURL(), "", 0, jsbroker.WithDomain("hub"))
	for range 3 {
		for reg, n := range map[*prometheus.Registry]float64{atHub: 1, atLeaf: 2, fromLeaf: 1} {
			natstest.Eventually(t, "an answer", func() bool { return values(t, reg)[`micro_broker_server_up{}`] == 1 })
			want(t, reg, map[string]float64{ordersMessages: n})
		}
	}
}

func TestServerSharedRefuses(t *testing.T) {
	t.Parallel()
	for _, subject := range []string{"", ".", "a..b", "a.", "a.*", ">", "a b", "$JS.API", "a\n"} {
		if _, err := metrics.NewServer(jsbroker.NewBroker(), metrics.ServerShared(subject)); !errors.Is(err, jsbroker.ErrInvalidConfig) {
			t.Errorf("%q: %v", subject, err)
		}
	}
}
