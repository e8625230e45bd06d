package dashboards_test

import (
	"maps"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go-micro.dev/v5/broker"

	jsbroker "go-micro-jetstream/broker"
	"go-micro-jetstream/internal/natstest"
)

// slowly takes its time for some messages.
func slowly(e broker.Event) error {
	if string(e.Message().Body) == "slow" {
		time.Sleep(200 * time.Millisecond)
	}
	return nil
}

// slowSite handled twenty messages in each minute, quickly.
func slowSite(t *testing.T) *site {
	s := openSite(t, 1)
	s.subscribe(t, "orders", "billing", slowly, jsbroker.ConsumerConfig(jetstream.ConsumerConfig{MaxAckPending: 5, MaxDeliver: -1}))
	s.publish(t, "orders", "x", 20)
	s.earlier = s.handled(t, 20, `"ack"`)
	s.publish(t, "orders", "x", 20)
	s.before = s.handled(t, 40, `"ack"`)
	return s
}

func playSlow(t *testing.T) *site {
	s := slowSite(t)
	s.publish(t, "orders", "slow", 5)
	s.begun = s.handled(t, 45, `"ack"`)
	s.publish(t, "orders", "slow", 5)
	s.going = s.handled(t, 50, `"ack"`)
	return s
}

// More comes than can be handled: the backlog grows by hundreds in each minute.
func playSlowAndBehind(t *testing.T) *site {
	s := slowSite(t)
	s.publish(t, "orders", "slow", 1300)
	s.await(t, "micro_broker_pending", atLeast(1200))
	s.begun = s.handled(t, 45, `"ack"`)
	s.publish(t, "orders", "slow", 300)
	s.await(t, "micro_broker_pending", atLeast(1500))
	s.going = s.handled(t, 50, `"ack"`)
	s.grows = []string{"micro_broker_pending", "micro_broker_consumer_pending"}
	return s
}

// Two environments have the same names for everything, and are scraped under the same
// job. All of both fails in one of them, where little happens: summed up with the other
// one, it would not be noticed.
func playEnvironments(t *testing.T) *site {
	prod := openSite(t, 2)
	prod.labels = `namespace="prod"`
	prod.subscribe(t, "orders", "billing", succeed)
	test := openSite(t, 2)
	test.labels = `namespace="test"`
	test.subscribe(t, "orders", "billing", func(broker.Event) error { return jsbroker.Discard(errBoom) })
	some := func(n float64) map[string]sample {
		prod.publish(t, "orders", "x", 600)
		test.publish(t, "orders", "x", 30)
		sum := func(s *site, result string) (all map[string]sample) {
			natstest.Eventually(t, "all are handled", func() bool {
				all = s.now(t)
				handled := 0.0
				for _, replica := range []string{"replica-0", "replica-1"} {
					handled += all[`micro_broker_handled_total{job="shop", instance="`+replica+`", `+s.labels+`, queue="billing", result="`+result+`", topic="orders"}`].value
				}
				return handled == map[string]float64{"ack": 600, "term": 30}[result]*n
			})
			return all
		}
		all := sum(prod, "ack")
		maps.Copy(all, sum(test, "term"))
		return all
	}
	prod.before = prod.now(t)
	maps.Copy(prod.before, test.now(t))
	prod.begun = some(1)
	prod.going = some(2)
	return prod
}

// The network swallows everything, both ways, and new connections as well. With the
// default settings the client finds out within half a minute, and here sooner.
func playSilent(t *testing.T) *site {
	s := openSite(t, 0)
	proxy := natstest.StartProxy(t, s.srv.Server)
	s.open(t, proxy.URL(), jsbroker.WithNATSOptions(nats.PingInterval(100*time.Millisecond), nats.Timeout(time.Second), nats.ReconnectWait(20*time.Millisecond)))
	s.subscribe(t, "orders", "billing", succeed)
	s.publish(t, "orders", "x", 10)
	s.before = s.handled(t, 10)
	proxy.ForgetAll()
	t.Cleanup(proxy.Remember)
	s.begun = s.await(t, "micro_broker_connected", func(v float64) bool { return v == 0 })
	s.going = s.begun
	return s
}

// A stream is half full, and grows by forty messages a minute.
func playFillingStream(t *testing.T) *site {
	s := openSite(t, 1)
	s.jetstream(t, func(js jetstream.JetStream) {
		natstest.MakeStream(t, js, jetstream.StreamConfig{Name: "ORDERS", Subjects: []string{"orders"}, MaxMsgs: 2000, Discard: jetstream.DiscardNew})
	})
	grow := func(by, to int) map[string]sample {
		s.publish(t, "orders", "x", by)
		return s.await(t, "micro_broker_stream_messages", atLeast(float64(to)))
	}
	s.before, s.begun, s.going = grow(1100, 1100), grow(40, 1140), grow(40, 1180)
	s.grows = []string{"micro_broker_stream_messages", "micro_broker_stream_bytes"}
	return s
}
