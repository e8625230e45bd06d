package dashboards_test

import (
	"context"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
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
	labels   string   // further labels of its targets
	panels   *panels  // that show the incident; nil: not checked
	ended    []string // alerts that have fired meanwhile and do not any more

	// What happens between earlier and before is what happened in each minute of the
	// half hour. Without earlier, that was nothing.
	earlier              map[string]sample
	before, begun, going map[string]sample

	grows []string // gauges that go on as they do between begun and going
}

// replica is one process, or what stands for one. One without a Gatherer has ended.
type replica struct {
	broker.Broker // nil in a process of its own
	prometheus.Gatherer
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
		s.open(t, s.srv.ClientURL(), opts...)
	}
	return s
}

// open adds a replica.
func (s *site) open(t *testing.T, url string, opts ...broker.Option) {
	t.Helper()
	b, reg := connectReplica(t, url, opts...)
	t.Cleanup(func() { _ = b.Disconnect() })
	s.replicas = append(s.replicas, &replica{b, reg})
}

func connectReplica(t *testing.T, url string, opts ...broker.Option) (broker.Broker, *prometheus.Registry) {
	t.Helper()
	reg := prometheus.NewRegistry()
	b := jsbroker.NewBroker(append([]broker.Option{
		broker.Addrs(url), broker.Logger(natstest.Quiet()), jsbroker.WithClientName("shop"),
		jsbroker.WithFetchWait(time.Second), jsbroker.WithNATSOptions(nats.ReconnectWait(20 * time.Millisecond)),
		jsbroker.WithHooks(metrics.New(metrics.WithRegisterer(reg))),
	}, opts...)...)
	if err := b.Connect(); err != nil {
		t.Fatal(err)
	}
	asks, err := metrics.NewServer(b, metrics.ServerInterval(time.Second))
	if err != nil {
		t.Fatal(err)
	}
	reg.MustRegister(asks)
	return b, reg
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
		if r.Gatherer == nil {
			continue
		}
		families, err := r.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range families {
			for _, m := range f.Metric {
				labels := []string{`job="shop"`, fmt.Sprintf(`instance="replica-%d"`, i)}
				if s.labels != "" {
					labels = append(labels, s.labels)
				}
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

// calm waits until nothing backs off any more, and the server has answered.
func (s *site) calm(t *testing.T) (all map[string]sample) {
	t.Helper()
	natstest.Eventually(t, "calm", func() bool {
		all = s.now(t)
		for series, v := range all {
			if strings.HasPrefix(series, "micro_broker_backoff_seconds{") && v.value > 0 ||
				(strings.HasPrefix(series, "micro_broker_server_up{") || strings.HasPrefix(series, "micro_broker_connected{")) && v.value == 0 {
				return false
			}
		}
		return true
	})
	return all
}

func atLeast(n float64) func(float64) bool { return func(v float64) bool { return v >= n } }

// incidentBegins is a minute of the hour that promtool sees.
const incidentBegins = 30

// input writes the series for promtool, as they are if all is scraped in this interval,
// until so many minutes after the incident began.
func (s *site) input(scrapes time.Duration, minutes int) string {
	var text strings.Builder
	names := map[string]bool{}
	for _, m := range []map[string]sample{s.before, s.begun, s.going} {
		for name := range m {
			names[name] = true
		}
	}
	part := scrapes.Minutes()
	first, rest := int(incidentBegins/part)-1, int(float64(minutes)/part)
	// promtool's clock begins at zero. What is a moment must be as far from it as it was.
	shift := float64(incidentBegins*60) - float64(time.Now().Unix())
	for _, name := range slices.Sorted(maps.Keys(names)) {
		at := func(m map[string]sample) (float64, bool) {
			v, ok := m[name]
			if strings.Contains(name, "_timestamp_seconds") || strings.Contains(name, "process_start_time_seconds") {
				v.value += shift
			}
			return v.value, ok
		}
		e, earlier := at(s.earlier)
		a, before := at(s.before)
		b, _ := at(s.begun)
		c, going := at(s.going)
		step, early := 0.0, 0.0
		switch {
		case s.going[name].counter, slices.ContainsFunc(s.grows, func(metric string) bool { return strings.HasPrefix(name, metric+"{") }):
			step = c - b
		case strings.Contains(name, "oldest_in_flight") && c > 1: // it hangs, and was not just seen to run
			step = 60
		}
		if earlier && s.before[name].counter {
			early = a - e
		}
		values := fmt.Sprintf("_x%d", first)
		if before {
			values = fmt.Sprintf("%g%+gx%d", a, early*part, first)
		}
		if going {
			if s.going[name].counter {
				c += early * part * float64(first)
			}
			values += fmt.Sprintf(" %g%+gx%d", c, step*part, rest)
		} else {
			values += " stale"
		}
		fmt.Fprintf(&text, "      - {series: '%s', values: '%s'}\n", name, values)
	}
	return text.String()
}

// incidentScrapes are the intervals at which incidents are scraped. A minute is
// Prometheus' default; the dashboards promise to work up to two.
var incidentScrapes = []time.Duration{15 * time.Second, time.Minute, 2 * time.Minute}

// check has promtool say which alerts fire so many minutes after the incident began, at
// each interval of scrapes. It returns them with their texts.
func (s *site) check(t *testing.T, minutes int, alerts ...string) []rendered {
	t.Helper()
	dir := t.TempDir()
	files := []string{"test", "rules"}
	write := func(name, text string) {
		files = append(files, filepath.Join(dir, name))
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, scrapes := range incidentScrapes {
		var test strings.Builder
		fmt.Fprintf(&test, "rule_files: [rules.yaml]\nevaluation_interval: 1m\ntests:\n  - interval: %v\n    input_series:\n%s", scrapes, s.input(scrapes, minutes))
		fmt.Fprintf(&test, "    promql_expr_test:\n      - expr: count by (alertname, job, namespace, topic, queue, stream) (last_over_time(ALERTS{alertstate=\"firing\"}[%dm]))\n        eval_time: %dm\n        exp_samples: [", minutes, incidentBegins+minutes)
		for _, a := range slices.Concat(s.ended, alerts) {
			fmt.Fprintf(&test, "{labels: '%s', value: 1},", a)
		}
		test.WriteString("]\n")
		if scrapes == time.Minute && s.panels != nil {
			fmt.Fprintf(&test, "      - {expr: '%s', eval_time: %dm, exp_samples: []}\n", strings.ReplaceAll(wronglyShown(t, *s.panels, minutes), "'", "''"), incidentBegins+minutes)
		}
		if scrapes == time.Minute && len(alerts) > 0 { // and the texts
			test.WriteString("    alert_rule_test:\n")
			for _, a := range alerts {
				fmt.Fprintf(&test, "      - {alertname: %s, eval_time: %dm, exp_alerts: []}\n", pairs(a)["alertname"], incidentBegins+minutes)
			}
		}
		write(fmt.Sprintf("%v.yaml", scrapes), test.String())
	}
	if err := os.WriteFile(filepath.Join(dir, "rules.yaml"), []byte(dashboards.Rules()), 0o600); err != nil {
		t.Fatal(err)
	}
	out, _ := exec.Command("promtool", files...).CombinedOutput()
	texts := fired(string(out))
	if strings.Contains(string(out), "expr:") || len(texts) < len(alerts) || len(alerts) == 0 && strings.Contains(string(out), "FAILED") {
		t.Errorf("%s", out)
	}
	return texts
}

// alert is how check expects one, with the labels that it is counted by.
func alert(name string, labels ...string) string {
	return "{" + strings.Join(append([]string{`alertname="` + name + `"`, `job="shop"`}, labels...), ", ") + "}"
}
