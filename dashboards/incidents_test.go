package dashboards_test

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"go-micro.dev/v5/broker"

	"go-micro-jetstream/dashboards"
	"go-micro-jetstream/internal/natstest"
	"go-micro-jetstream/metrics"

	jsbroker "go-micro-jetstream/broker"
)

// An incident is played on a live broker, which takes seconds, and its metrics are
// then drawn out over an hour for promtool: before is how they were for half an hour,
// one minute leads to begun, and each further minute adds what has happened between
// begun and going. So the shape of the series is real, and only the time is scaled.
// Gauges keep their value, and the age of a handler that runs goes on growing.

// site is the brokers of a service, each with a registry of its own, as its replicas
// have, and the metrics at three moments.
type site struct {
	srv      *natstest.Restartable
	replicas []*replica

	before, begun, going map[string]sample
}

type replica struct {
	broker.Broker
	reg *prometheus.Registry
}

// sample is the value of a series.
type sample struct {
	value   float64
	counter bool
}

func openSite(t *testing.T, replicas int, opts ...broker.Option) *site {
	t.Helper()
	s := &site{srv: natstest.StartRestartable(t)}
	for range replicas {
		reg := prometheus.NewRegistry()
		b := jsbroker.NewBroker(append([]broker.Option{
			broker.Addrs(s.srv.ClientURL()), broker.Logger(natstest.Quiet()), jsbroker.WithClientName("shop"),
			jsbroker.WithFetchWait(time.Second), jsbroker.WithNATSOptions(nats.ReconnectWait(20 * time.Millisecond)),
			jsbroker.WithHooks(metrics.New(metrics.WithRegisterer(reg))),
		}, opts...)...)
		if err := b.Connect(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = b.Disconnect() })
		asks, err := metrics.NewServer(b, metrics.ServerInterval(time.Second))
		if err != nil {
			t.Fatal(err)
		}
		reg.MustRegister(asks)
		s.replicas = append(s.replicas, &replica{b, reg})
	}
	return s
}

func (s *site) subscribe(t *testing.T, topic, queue string, h broker.Handler, opts ...broker.SubscribeOption) (subs []broker.Subscriber) {
	t.Helper()
	for _, r := range s.replicas {
		sub, err := r.Subscribe(topic, h, append(opts, broker.Queue(queue))...)
		if err != nil {
			t.Fatal(err)
		}
		subs = append(subs, sub)
	}
	return subs
}

func (s *site) publish(t *testing.T, topic, body string, n int) {
	t.Helper()
	for range n {
		if err := s.replicas[0].Publish(topic, &broker.Message{Body: []byte(body)}); err != nil {
			t.Fatal(err)
		}
	}
}

func (s *site) jetstream(t *testing.T, do func(js jetstream.JetStream)) {
	t.Helper()
	if err := jsbroker.JetStream(t.Context(), s.replicas[0].Broker, "", func(_ context.Context, js jetstream.JetStream) error { do(js); return nil }); err != nil {
		t.Fatal(err)
	}
}

// now returns the metrics of all replicas.
func (s *site) now(t *testing.T) map[string]sample {
	t.Helper()
	all := map[string]sample{}
	for i, r := range s.replicas {
		families, err := r.reg.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range families {
			for _, m := range f.Metric {
				labels := []string{`job="shop"`, fmt.Sprintf(`instance="replica-%d"`, i)}
				for _, l := range m.Label {
					labels = append(labels, fmt.Sprintf("%s=%q", l.GetName(), l.GetValue()))
				}
				series := func(suffix string, more ...string) string {
					return f.GetName() + suffix + "{" + strings.Join(append(slices.Clone(labels), more...), ", ") + "}"
				}
				switch f.GetType() {
				case dto.MetricType_COUNTER:
					all[series("")] = sample{m.Counter.GetValue(), true}
				case dto.MetricType_GAUGE:
					all[series("")] = sample{m.Gauge.GetValue(), strings.Contains(f.GetName(), "created_timestamp")}
				case dto.MetricType_HISTOGRAM:
					all[series("_sum")] = sample{m.Histogram.GetSampleSum(), true}
					all[series("_count")] = sample{float64(m.Histogram.GetSampleCount()), true}
					for _, b := range m.Histogram.Bucket {
						all[series("_bucket", fmt.Sprintf(`le="%g"`, b.GetUpperBound()))] = sample{float64(b.GetCumulativeCount()), true}
					}
					all[series("_bucket", `le="+Inf"`)] = sample{float64(m.Histogram.GetSampleCount()), true}
				}
			}
		}
	}
	return all
}

// await waits until a series whose name begins so, and has these labels, fulfils a
// condition on any replica. It returns what all are then.
func (s *site) await(t *testing.T, metric string, holds func(float64) bool, labels ...string) (all map[string]sample) {
	t.Helper()
	natstest.Eventually(t, metric, func() bool {
		all = s.now(t)
		for series, v := range all {
			if strings.HasPrefix(series, metric+"{") && holds(v.value) && !slices.ContainsFunc(labels, func(l string) bool { return !strings.Contains(series, l) }) {
				return true
			}
		}
		return false
	})
	return all
}

func atLeast(n float64) func(float64) bool { return func(v float64) bool { return v >= n } }

// incidentBegins and the like are minutes of the hour that promtool sees.
const incidentBegins = 30

// input writes the series for promtool.
func (s *site) input() string {
	var text strings.Builder
	names := map[string]bool{}
	for _, m := range []map[string]sample{s.before, s.begun, s.going} {
		for name := range m {
			names[name] = true
		}
	}
	// promtool's clock begins at zero. What is a moment must be as far from it as it was.
	shift := float64(incidentBegins*60) - float64(time.Now().Unix())
	for _, name := range slices.Sorted(maps.Keys(names)) {
		at := func(m map[string]sample) (float64, bool) {
			v, ok := m[name]
			if strings.Contains(name, "_timestamp_seconds") {
				v.value += shift
			}
			return v.value, ok
		}
		a, before := at(s.before)
		b, _ := at(s.begun)
		c, going := at(s.going)
		step := 0.0
		switch {
		case s.going[name].counter:
			step = c - b
		case strings.Contains(name, "oldest_in_flight") && c > 1: // it hangs, and was not just seen to run
			step = 60
		}
		values := fmt.Sprintf("_x%d", incidentBegins-1)
		if before {
			values = fmt.Sprintf("%gx%d", a, incidentBegins-1)
		}
		if going {
			values += fmt.Sprintf(" %g+%gx%d", c, step, 100)
		} else {
			values += " stale"
		}
		fmt.Fprintf(&text, "      - {series: '%s', values: '%s'}\n", name, values)
	}
	return text.String()
}

// check has promtool say which alerts fire so many minutes after the incident began.
func (s *site) check(t *testing.T, minutes int, alerts ...string) {
	t.Helper()
	var test strings.Builder
	fmt.Fprintf(&test, "rule_files: [rules.yaml]\nevaluation_interval: 1m\ntests:\n  - interval: 1m\n    input_series:\n%s", s.input())
	fmt.Fprintf(&test, "    promql_expr_test:\n      - expr: count by (alertname, job, topic, queue, stream) (ALERTS{alertstate=\"firing\"})\n        eval_time: %dm\n        exp_samples: [", incidentBegins+minutes)
	for _, a := range alerts {
		fmt.Fprintf(&test, "{labels: '%s', value: 1},", a)
	}
	test.WriteString("]\n")
	dir := t.TempDir()
	for name, text := range map[string]string{"rules.yaml": dashboards.Rules(), "test.yaml": test.String()} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	promtool(t, "test", "rules", filepath.Join(dir, "test.yaml"))
}

// alert is how check expects one, with the labels that it is counted by.
func alert(name string, labels ...string) string {
	return "{" + strings.Join(append([]string{`alertname="` + name + `"`, `job="shop"`}, labels...), ", ") + "}"
}

const (
	ofOrders  = `topic="orders"`
	ofBilling = `queue="billing"`
	inOrders  = `stream="ORDERS"`
)

// Each incident raises its alert, with the topic and queue that it is about, and none
// of the others.
func TestIncidents(t *testing.T) {
	needPrometheus(t)
	for _, c := range []struct {
		name    string
		play    func(t *testing.T) *site
		minutes int
		alerts  []string
	}{
		{"a healthy service whose server restarts", playHealthy, 10, nil},
		{"retries fill MaxAckPending", playRetries, 5, []string{alert("MicroBrokerRetriesFillQueue", ofOrders, ofBilling)}},
		{"all handlers hang", playAllHang, 15, []string{alert("MicroBrokerHandlerHangs", ofOrders, ofBilling)}},
		{"a consumer is paused", playPause, 5, []string{alert("MicroBrokerPaused", ofOrders, ofBilling, inOrders)}},
		{"the last subscriber has ended", playNoSubscriber, 10, []string{alert("MicroBrokerNoSubscriber", ofOrders, ofBilling, inOrders)}},
		{"a stream is at 85 percent", playFullStream, 5, []string{alert("MicroBrokerStreamFilling", inOrders)}},
		{"dead letters, at once", playDeadLetters, 5, []string{alert("MicroBrokerDeadLetters", ofOrders, ofBilling)}},
		{"dead letters, after an hour", playDeadLetters, 65, []string{alert("MicroBrokerDeadLettersUnread", `topic="dead.orders"`, `stream="DEAD"`)}},
		{"one of several handlers hangs", playHang, 10, []string{alert("MicroBrokerHandlerHangs", ofOrders, ofBilling)}},
		{"one replica of three fails everything", playReplica, 14, []string{
			alert("MicroBrokerReplicaFails", ofOrders, ofBilling),
			// Which is true as well: so much fails that the objective is missed.
			alert("MicroBrokerHandlerErrors", ofOrders, ofBilling), alert("MicroBrokerErrorBudgetBurnsFast", ofOrders, ofBilling),
		}},
		{"a topic cannot be published", playPublishErrors, 10, []string{alert("MicroBrokerPublishErrors", `topic="parcels"`)}},
		{"a message fails for ever", playPoison, 15, []string{alert("MicroBrokerRetriedForever", ofOrders, ofBilling)}},
		{"a message panics", playPanic, 1, []string{alert("MicroBrokerHandlerPanics", ofOrders, ofBilling)}},
		{"the connection flaps", playFlapping, 10, []string{alert("MicroBrokerConnectionFlapping")}},
		{"the consumer is deleted again and again", playDeletions, 10, []string{alert("MicroBrokerConsumerDeleted", ofOrders, ofBilling)}},
		{"Subscribe fails", playSubscribe, 1, []string{alert("MicroBrokerSubscribeErrors", ofOrders)}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			c.play(t).check(t, c.minutes, c.alerts...)
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
	s.before = s.await(t, "micro_broker_consumer_delivered_total", atLeast(10))
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
	s.publish(t, "orders", "x", 75)
	s.begun = s.await(t, "micro_broker_stream_messages", atLeast(85))
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
