package dashboards_test

import (
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"go-micro.dev/v5/broker"

	"go-micro-jetstream/internal/natstest"

	jsbroker "go-micro-jetstream/broker"
)

const (
	ofOrders  = `topic="orders"`
	ofBilling = `queue="billing"`
	inOrders  = `stream="ORDERS"`
	inTest    = `namespace="test"`
)

// Each incident raises its alert, with the topic and queue that it is about, and none
// of the others at any time. The right panels show it, and no panel of another alert does.
func TestIncidents(t *testing.T) {
	needPrometheus(t)
	for _, c := range []struct {
		name    string
		play    func(t *testing.T) *site
		minutes int
		says    string // in one of the texts
		alerts  []string
	}{
		{"a healthy service whose server restarts", playHealthy, 10, "", nil},
		{"retries fill MaxAckPending", playRetries, 5, "retries have used up MaxAckPending", []string{alert("MicroBrokerRetriesFillQueue", ofOrders, ofBilling)}},
		{"all handlers hang", playAllHang, 10, "replica-0", []string{alert("MicroBrokerHandlerHangs", ofOrders, ofBilling)}},
		{"a consumer is paused", playPause, 5, "is paused until 1970-01-01 08:", []string{alert("MicroBrokerPaused", ofOrders, ofBilling, inOrders)}},
		{"the last subscriber has ended", playNoSubscriber, 10, "10 messages of orders wait for queue billing", []string{alert("MicroBrokerNoSubscriber", ofOrders, ofBilling, inOrders)}},
		{"a stream is at 80 percent", playFullStream, 5, "80% of its limit", []string{alert("MicroBrokerStreamFilling", inOrders)}},
		{"dead letters, at once", playDeadLetters, 5, "on replica-0", []string{alert("MicroBrokerDeadLetters", ofOrders, ofBilling)}},
		{"dead letters, after an hour", playUnreadDeadLetters, 65, "2 dead letters lie on dead.orders", []string{alert("MicroBrokerDeadLettersUnread", `topic="dead.orders"`, `stream="DEAD"`)}},
		{"one of several handlers hangs", playHang, 10, "replica-0", []string{alert("MicroBrokerHandlerHangs", ofOrders, ofBilling)}},
		{"one replica of three fails everything", playReplica, 10, "replica-1 of shop fails", []string{
			alert("MicroBrokerReplicaFails", ofOrders, ofBilling),
			// Which is true as well: so much fails that the objective is missed.
			alert("MicroBrokerHandlerErrors", ofOrders, ofBilling), alert("MicroBrokerErrorBudgetBurnsFast", ofOrders, ofBilling),
		}},
		{"a topic cannot be published", playPublishErrors, 5, "message_too_large on replica-0", []string{alert("MicroBrokerPublishErrors", `topic="parcels"`)}},
		{"a message fails for ever", playPoison, 15, "set MaxDeliver", []string{alert("MicroBrokerRetriedForever", ofOrders, ofBilling)}},
		{"a message panics", playPanic, 1, "on replica-0, where the log", []string{alert("MicroBrokerHandlerPanics", ofOrders, ofBilling)}},
		{"the connection flaps", playFlapping, 10, "on replica-0 loses its connection", []string{alert("MicroBrokerConnectionFlapping")}},
		{"the consumer is deleted again and again", playDeletions, 10, "consumer of orders, queue billing", []string{alert("MicroBrokerConsumerDeleted", ofOrders, ofBilling)}},
		{"Subscribe fails", playSubscribe, 1, "on replica-0 cannot subscribe to orders: workqueue_conflict", []string{alert("MicroBrokerSubscribeErrors", ofOrders)}},
		{"a healthy service whose processes are replaced", playDeploy, 10, "", nil},
		{"a healthy run of the demo, restarted with its server", playDemo, 15, "", nil},
		{"the process crashes again and again", playCrashes, 12, "on replica-0 has started", []string{alert("MicroBrokerCrashLoop")}},
		{"handlers are slow, and keep up", playSlow, 12, "have become slow", []string{alert("MicroBrokerHandlerSlow", ofOrders, ofBilling)}},
		{"handlers are slow, and fall behind", playSlowAndBehind, 12, "have become slow", []string{alert("MicroBrokerHandlerSlow", ofOrders, ofBilling)}},
		{"a backlog grows", playSlowAndBehind, 22, "falls behind on orders", []string{alert("MicroBrokerHandlerSlow", ofOrders, ofBilling), alert("MicroBrokerLagGrowing", ofOrders, ofBilling)}},
		{"one of two environments fails everything", playEnvironments, 12, "Most failures", []string{
			alert("MicroBrokerHandlerErrors", ofOrders, ofBilling, inTest), alert("MicroBrokerErrorBudgetBurnsFast", ofOrders, ofBilling, inTest),
		}},
		{"the connection is dead and does not say so", playSilent, 1, "on replica-0 is not connected", []string{alert("MicroBrokerDisconnected")}},
		{"a stream fills", playFillingStream, 8, "is full in ", []string{alert("MicroBrokerStreamFullSoon", inOrders)}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			shows, ok := incidentPanels[c.name]
			if !ok {
				t.Error("incidentPanels does not say which panels show it")
			}
			s := c.play(t)
			s.panels = &shows
			texts := s.check(t, c.minutes, c.alerts...)
			checkTexts(t, texts)
			if c.says != "" && !slices.ContainsFunc(texts, func(r rendered) bool {
				return strings.Contains(r.annotations["summary"]+" "+r.annotations["description"], c.says)
			}) {
				t.Errorf("no text says %q: %v", c.says, texts)
			}
		})
	}
}

func succeed(broker.Event) error { return nil }

// handled waits until so many deliveries are handled, by one replica.
func (s *site) handled(t *testing.T, n float64, labels ...string) map[string]sample {
	t.Helper()
	return s.await(t, "micro_broker_handled_total", atLeast(n), labels...)
}

func playHealthy(t *testing.T) *site {
	s := openSite(t, 1)
	s.subscribe(t, "orders", "billing", succeed)
	s.publish(t, "orders", "x", 20)
	s.before = s.handled(t, 20)
	s.srv.Stop()
	s.srv.Start(t)
	s.await(t, "micro_broker_reconnects_total", atLeast(1))
	s.publish(t, "orders", "x", 20)
	s.begun = s.handled(t, 40)
	s.await(t, "micro_broker_server_up", atLeast(1))
	s.publish(t, "orders", "x", 20)
	s.going = s.handled(t, 60)
	return s
}

func playPause(t *testing.T) *site {
	s := openSite(t, 1)
	s.subscribe(t, "orders", "billing", succeed)
	s.before = s.now(t)
	s.jetstream(t, func(js jetstream.JetStream) {
		if _, err := js.PauseConsumer(t.Context(), "ORDERS", "billing", time.Now().Add(8*time.Hour)); err != nil {
			t.Error(err)
		}
	})
	s.publish(t, "orders", "x", 5)
	s.begun = s.await(t, "micro_broker_consumer_pending", atLeast(5))
	s.going = s.begun
	return s
}

func playNoSubscriber(t *testing.T) *site {
	s := openSite(t, 2)
	subs := s.subscribe(t, "orders", "billing", succeed)
	s.publish(t, "orders", "x", 10)
	s.await(t, "micro_broker_consumer_delivered_total", atLeast(10), `replica-0`)
	// Or what is in hand would be given back, and delivered again.
	s.before = s.await(t, "micro_broker_consumer_ack_pending", func(v float64) bool { return v == 0 }, `replica-0`)
	for _, sub := range subs {
		if err := sub.Unsubscribe(); err != nil {
			t.Fatal(err)
		}
	}
	s.publish(t, "orders", "x", 10)
	s.await(t, "micro_broker_consumer_waiting", func(v float64) bool { return v == 0 }, `replica-0`)
	s.await(t, "micro_broker_consumer_waiting", func(v float64) bool { return v == 0 }, `replica-1`)
	s.begun = s.await(t, "micro_broker_consumer_pending", atLeast(10))
	s.going = s.begun
	return s
}

func playFullStream(t *testing.T) *site {
	s := openSite(t, 1)
	s.jetstream(t, func(js jetstream.JetStream) {
		natstest.MakeStream(t, js, jetstream.StreamConfig{Name: "ORDERS", Subjects: []string{"orders"}, MaxMsgs: 100, Discard: jetstream.DiscardNew})
	})
	s.publish(t, "orders", "x", 10)
	s.before = s.await(t, "micro_broker_stream_messages", atLeast(10))
	s.publish(t, "orders", "x", 70)
	s.begun = s.await(t, "micro_broker_stream_messages", atLeast(80))
	s.going = s.begun
	return s
}

func playDeadLetters(t *testing.T) *site {
	s := openSite(t, 1, jsbroker.WithDeadLetter("dead.orders"))
	s.subscribe(t, "orders", "billing", func(broker.Event) error { return jsbroker.Discard(errBoom) })
	s.before = s.now(t)
	s.publish(t, "orders", "x", 2)
	s.begun = s.await(t, "micro_broker_stream_dead_letters", atLeast(2))
	s.going = s.begun
	return s
}

func playUnreadDeadLetters(t *testing.T) *site {
	s := playDeadLetters(t)
	s.ended = []string{alert("MicroBrokerDeadLetters", ofOrders, ofBilling)}
	return s
}

func playHang(t *testing.T) *site {
	s := openSite(t, 1)
	ended := make(chan struct{})
	t.Cleanup(func() { close(ended) })
	s.subscribe(t, "orders", "billing", func(e broker.Event) error {
		if string(e.Message().Body) == "hang" {
			<-ended
		}
		return nil
	}, jsbroker.Concurrency(4))
	s.publish(t, "orders", "x", 10)
	s.before = s.handled(t, 10)
	s.publish(t, "orders", "hang", 1)
	s.publish(t, "orders", "x", 10)
	s.begun = s.handled(t, 20)
	s.publish(t, "orders", "x", 10)
	s.handled(t, 30)
	s.going = s.await(t, "micro_broker_oldest_in_flight_seconds", atLeast(1.1))
	return s
}

func playAllHang(t *testing.T) *site {
	s := openSite(t, 1)
	ended := make(chan struct{})
	t.Cleanup(func() { close(ended) })
	s.subscribe(t, "orders", "billing", func(e broker.Event) error {
		if string(e.Message().Body) == "hang" {
			<-ended
		}
		return nil
	})
	s.publish(t, "orders", "x", 10)
	s.before = s.handled(t, 10)
	s.publish(t, "orders", "hang", 50)
	s.begun = s.await(t, "micro_broker_consumer_ack_pending", atLeast(1))
	s.going = s.await(t, "micro_broker_oldest_in_flight_seconds", atLeast(1.1))
	return s
}

// The server is asked how many messages are unsettled when nothing has come for 15
// seconds: hence the time that this takes.
func playRetries(t *testing.T) *site {
	s := openSite(t, 1)
	s.subscribe(t, "orders", "billing", func(broker.Event) error { return jsbroker.RetryAfter(time.Minute, errBoom) },
		jsbroker.ConsumerConfig(jetstream.ConsumerConfig{MaxAckPending: 5, MaxDeliver: -1}))
	s.before = s.now(t)
	s.publish(t, "orders", "x", 20)
	s.await(t, "micro_broker_ack_pending", atLeast(5))
	s.begun = s.await(t, "micro_broker_retries", atLeast(5))
	s.going = s.begun
	return s
}

func playReplica(t *testing.T) *site {
	s := openSite(t, 3)
	for i, r := range s.replicas {
		if _, err := r.Subscribe("orders", func(broker.Event) error {
			if i == 1 {
				return errBoom
			}
			time.Sleep(5 * time.Millisecond) // so that others get their share
			return nil
		}, broker.Queue("billing"), jsbroker.ConsumerConfig(jetstream.ConsumerConfig{BackOff: []time.Duration{10 * time.Millisecond}, MaxDeliver: -1})); err != nil {
			t.Fatal(err)
		}
	}
	s.before = s.now(t)
	some := func(from map[string]sample) map[string]sample {
		for {
			s.publish(t, "orders", "x", 30)
			now := s.now(t)
			enough := 0
			for series, v := range now {
				if v.value-from[series].value > 20 && strings.HasPrefix(series, "micro_broker_handled_total{") &&
					(strings.Contains(series, "replica-1") && strings.Contains(series, `"nak"`) || strings.Contains(series, `"ack"`)) {
					enough++
				}
			}
			if enough == 3 {
				return now
			}
		}
	}
	s.begun = some(s.before)
	s.going = some(s.begun)
	return s
}

func playPublishErrors(t *testing.T) *site {
	s := openSite(t, 1)
	s.jetstream(t, func(js jetstream.JetStream) {
		natstest.MakeStream(t, js, jetstream.StreamConfig{Name: "PARCELS", Subjects: []string{"parcels"}, MaxMsgSize: 500})
	})
	fail := func() map[string]sample {
		s.publish(t, "orders", "x", 19)
		if err := s.replicas[0].Publish("parcels", &broker.Message{Body: make([]byte, 1000)}); err == nil {
			t.Fatal("published")
		}
		return s.now(t)
	}
	s.publish(t, "parcels", "x", 1)
	s.before = s.now(t)
	s.begun, s.going = fail(), fail()
	return s
}

func playPoison(t *testing.T) *site {
	s := openSite(t, 1)
	s.subscribe(t, "orders", "billing", func(e broker.Event) error {
		if string(e.Message().Body) == "poison" {
			return errBoom
		}
		return nil
	}, jsbroker.ConsumerConfig(jetstream.ConsumerConfig{BackOff: []time.Duration{50 * time.Millisecond}, MaxDeliver: -1}))
	s.before = s.now(t)
	s.publish(t, "orders", "poison", 1)
	s.begun = s.await(t, "micro_broker_late_deliveries_total", atLeast(1))
	s.publish(t, "orders", "x", 100)
	late := func() float64 {
		for series, v := range s.now(t) {
			if strings.HasPrefix(series, "micro_broker_late_deliveries_total{") {
				return v.value
			}
		}
		return 0
	}()
	s.handled(t, 100, `"ack"`)
	s.going = s.await(t, "micro_broker_late_deliveries_total", atLeast(late+1))
	// As often as the default pauses make it: twice a minute, beside a hundred others.
	for series, v := range s.going {
		if strings.Contains(series, "nak") || strings.Contains(series, "late_") || strings.Contains(series, "redelivered_total") || strings.Contains(series, "handler_errors") {
			v.value = min(v.value, s.begun[series].value+2)
			s.going[series] = v
		}
	}
	return s
}

func playPanic(t *testing.T) *site {
	s := openSite(t, 1)
	var panicked atomic.Bool
	s.subscribe(t, "orders", "billing", func(broker.Event) error {
		if !panicked.Swap(true) {
			panic("oops")
		}
		return nil
	})
	s.before = s.now(t)
	s.publish(t, "orders", "x", 1)
	s.begun = s.handled(t, 1, `"ack"`)
	s.going = s.begun
	return s
}

func playFlapping(t *testing.T) *site {
	s := openSite(t, 1)
	s.before = s.now(t)
	lose := func(n float64) map[string]sample {
		s.srv.Stop()
		s.srv.Start(t)
		s.await(t, "micro_broker_reconnects_total", atLeast(n))
		return s.await(t, "micro_broker_server_up", atLeast(1))
	}
	s.begun = lose(1)
	s.going = lose(2)
	return s
}

func playDeletions(t *testing.T) *site {
	s := openSite(t, 1)
	s.subscribe(t, "orders", "billing", succeed)
	s.before = s.now(t)
	errors := 0.0
	remove := func() map[string]sample {
		s.jetstream(t, func(js jetstream.JetStream) {
			if err := js.DeleteConsumer(t.Context(), "ORDERS", "billing"); err != nil {
				t.Error(err)
			}
		})
		all := s.await(t, "micro_broker_fetch_errors_total", atLeast(errors+1), `"consumer_deleted"`)
		for series, v := range all {
			if strings.HasPrefix(series, "micro_broker_fetch_errors_total{") && strings.Contains(series, `"consumer_deleted"`) {
				errors = v.value
			}
		}
		s.await(t, "micro_broker_backoff_seconds", func(v float64) bool { return v == 0 })
		return s.now(t)
	}
	s.begun = remove()
	s.going = remove()
	return s
}

func playSubscribe(t *testing.T) *site {
	s := openSite(t, 1)
	s.subscribe(t, "orders", "billing", succeed)
	s.before = s.now(t)
	fail := func() map[string]sample {
		if _, err := s.replicas[0].Subscribe("orders", succeed, broker.Queue("another")); err == nil {
			t.Fatal("subscribed")
		}
		return s.now(t)
	}
	s.begun, s.going = fail(), fail()
	return s
}
