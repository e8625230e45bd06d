package dashboards_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nats-io/nats.go/jetstream"
	"go-micro.dev/v5/broker"

	jsbroker "go-micro-jetstream/broker"
	"go-micro-jetstream/dashboards"
	"go-micro-jetstream/internal/natstest"
)

// A dead letter is refused, and the original kept. MicroBrokerMessagesStuck fires
// for what the metrics then say only if the message does not come again.
func TestRefusedDeadLetterIsStuckWhenItDoesNotComeAgain(t *testing.T) {
	t.Parallel()
	needPrometheus(t)
	const small = 100 // bytes: not even a reference fits
	for name, c := range map[string]struct {
		byServer bool // the consumer is made by others, and the delivery its last one
		maxSize  int32
		stuck    bool
	}{
		"delivered again":          {},
		"held until there is room": {byServer: true},
		"can never be stored":      {byServer: true, maxSize: small, stuck: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := openShop(t)
			_, js := natstest.Connect(t, s.srv.ClientURL())
			create := func(cfg jetstream.StreamConfig) jetstream.Stream {
				stream, err := js.CreateStream(t.Context(), cfg)
				if err != nil {
					t.Fatal(err)
				}
				return stream
			}
			graves := create(jetstream.StreamConfig{Name: "GRAVES", Subjects: []string{"graves"}, MaxMsgs: 1, Discard: jetstream.DiscardNew, MaxMsgSize: c.maxSize})
			if _, err := js.Publish(t.Context(), "graves", []byte("occupied")); err != nil {
				t.Fatal(err)
			}
			refunds := create(jetstream.StreamConfig{Name: "REFUNDS", Subjects: []string{"refunds"}, Retention: jetstream.WorkQueuePolicy})
			if c.byServer {
				cfg := jetstream.ConsumerConfig{Durable: "q", FilterSubject: "refunds", AckPolicy: jetstream.AckExplicitPolicy, MaxDeliver: 1}
				if _, err := refunds.CreateConsumer(t.Context(), cfg); err != nil {
					t.Fatal(err)
				}
			}
			b := s.open(t, "refunds", jsbroker.WithDeadLetter("graves"))
			if _, err := b.Subscribe("refunds", func(broker.Event) error { return jsbroker.Discard(errBoom) }, broker.Queue("q")); err != nil {
				t.Fatal(err)
			}
			if err := b.Publish("refunds", &broker.Message{Body: []byte("x")}, jsbroker.MessageID("refund")); err != nil {
				t.Fatal(err)
			}
			s.events.await(t, 1, "refunds refused dead letter refund")
			if c.stuck {
				s.events.await(t, 1, "refunds exhausted refund")
				if info, err := refunds.Info(t.Context()); err != nil || info.State.Msgs != 1 {
					t.Fatalf("%+v, %v", info, err)
				}
			} else {
				if err := graves.Purge(t.Context()); err != nil {
					t.Fatal(err)
				}
				s.events.await(t, 1, "refunds dead letter refund")
				natstest.Eventually(t, "the original is removed", func() bool { return natstest.StreamInfo(t, js, "REFUNDS").State.Msgs == 0 })
			}
			checkAlert(t, s, "MicroBrokerMessagesStuck", c.stuck)
		})
	}
}

// checkAlert gives the counters of the topic refunds to the rules, as if they had
// been at zero before, and looks whether the alert fires.
func checkAlert(t *testing.T, s *shop, alert string, fires bool) {
	t.Helper()
	families, err := s.reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var test strings.Builder
	test.WriteString("rule_files: [rules.yaml]\nevaluation_interval: 1m\ntests:\n  - interval: 1m\n    input_series:\n")
	for _, f := range families {
		for _, m := range f.Metric {
			labels := []string{`job="shop"`, `instance="a:1"`}
			ours := false
			for _, l := range m.Label {
				labels = append(labels, fmt.Sprintf("%s=%q", l.GetName(), l.GetValue()))
				ours = ours || l.GetName() == "topic" && l.GetValue() == "refunds"
			}
			if ours && m.Counter != nil {
				fmt.Fprintf(&test, "      - {series: '%s{%s}', values: '0x9 %gx20'}\n", f.GetName(), strings.Join(labels, ", "), m.Counter.GetValue())
			}
		}
	}
	n := 0
	if fires {
		n = 1
	}
	fmt.Fprintf(&test, `    promql_expr_test:
      - expr: count(ALERTS{alertname="%s", alertstate="firing"}) or vector(0)
        eval_time: 12m
        exp_samples: [{labels: '{}', value: %d}]
`, alert, n)
	dir := t.TempDir()
	for name, text := range map[string]string{"rules.yaml": dashboards.Rules(), "test.yaml": test.String()} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	promtool(t, "test", "rules", filepath.Join(dir, "test.yaml"))
}
