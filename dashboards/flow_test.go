package dashboards_test

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
)

// The Flow dashboard finds the publishers of a pattern, over all services, and the
// subscriptions that include a topic. Its graph has the fields that Grafana's node graph
// looks for, and each edge once.
func TestFlowFollowsPatterns(t *testing.T) {
	t.Parallel()
	needPrometheus(t)
	sample := func(m *dto.Metric, labels ...string) *dto.Metric {
		for pair := range slices.Chunk(labels, 2) {
			m.Label = append(m.Label, &dto.LabelPair{Name: new(pair[0]), Value: new(pair[1])})
		}
		return m
	}
	subscriptions := &dto.MetricFamily{Name: new("micro_broker_active_subscriptions"), Type: dto.MetricType_GAUGE.Enum()}
	for topic, queue := range map[string]string{
		"orders": "bare", "orders.created": "exact", "orders.>": "all", "orders.*": "two", "orders.eu.>": "europe", "parcels.>": "",
		"orders.*.created": "regions", "orders.*.>": "deep", "a.*.c.*.e": "odd", "a.*.*.*.*": "wide", "a.*.c.>": "tail", "a.b.*.d.e": "third",
	} {
		subscriptions.Metric = append(subscriptions.Metric, sample(&dto.Metric{Gauge: &dto.Gauge{Value: new(1.0)}}, "topic", topic, "queue", queue))
	}
	handled := &dto.MetricFamily{Name: new("micro_broker_handled_total"), Type: dto.MetricType_COUNTER.Enum(), Metric: []*dto.Metric{
		sample(&dto.Metric{Counter: &dto.Counter{Value: new(30.0)}}, "topic", "orders.*", "queue", "two", "result", "ack"),
		sample(&dto.Metric{Counter: &dto.Counter{Value: new(3.0)}}, "topic", "orders.*", "queue", "two", "result", "nak"),
		sample(&dto.Metric{Counter: &dto.Counter{Value: new(120.0)}}, "topic", "orders.created", "queue", "exact", "result", "ack"),
	}}
	// Each of two services publishes one message a second to each topic.
	before := &dto.MetricFamily{Name: new("micro_broker_published_total"), Type: dto.MetricType_COUNTER.Enum()}
	after := &dto.MetricFamily{Name: before.Name, Type: before.Type}
	for _, topic := range []string{"orders", "orders.created", "orders.paid", "orders.eu.created", "invoices.sent", "a.b.c.d.e"} {
		before.Metric = append(before.Metric, sample(&dto.Metric{Counter: &dto.Counter{Value: new(0.0)}}, "topic", topic))
		after.Metric = append(after.Metric, sample(&dto.Metric{Counter: &dto.Counter{Value: new(60.0)}}, "topic", topic))
	}
	b := newBackfill(t, 20*time.Minute)
	b.add(t, before, after, map[string]time.Duration{"shop": time.Minute, "office": time.Minute})
	b.add(t, nil, handled, map[string]time.Duration{"depot": time.Minute})
	b.add(t, nil, subscriptions, map[string]time.Duration{"depot": time.Minute})
	p := b.serve(t)

	dashboards := readDashboards(t)
	d := dashboards[slices.IndexFunc(dashboards, func(d dashboard) bool { return d.file == "flow.json" })]
	separator := " "
	ask := func(title, column string, by ...string) map[string]float64 {
		t.Helper()
		at := slices.IndexFunc(d.Panels, func(p panel) bool { return p.Title == title && p.Type != "row" })
		i := slices.IndexFunc(d.Panels[at].Targets, func(q target) bool { return q.LegendFormat == column })
		values := d.all()
		values["__rate_interval"] = "4m"
		result, err := p.queryAt(b.end, 0, 0, fill(d.Panels[at].Targets[i].Expr, values))
		if err != nil {
			t.Fatal(err)
		}
		got := map[string]float64{}
		for _, s := range result {
			var key []string
			for _, l := range by {
				key = append(key, s.labels[l])
			}
			got[strings.Join(key, separator)] = math.Round(s.finite[0]*10) / 10
		}
		return got
	}
	compare := func(what string, got, want map[string]float64) {
		t.Helper()
		for key, value := range want {
			if got[key] != value {
				t.Errorf("%s: %s has %v, want %v", what, key, got[key], value)
			}
		}
		if len(got) != len(want) {
			t.Errorf("%s: %v, want %v", what, got, want)
		}
	}
	compare("published", ask("From topics to services", "Published", "job", "topic", "queue"), map[string]float64{
		"depot orders bare": 2, "depot orders.created exact": 2, "depot orders.> all": 6, "depot orders.* two": 4, "depot orders.eu.> europe": 2,
		"depot orders.*.created regions": 2, "depot orders.*.> deep": 2, "depot a.b.*.d.e third": 2, "depot a.*.c.> tail": 2,
	})
	compare("subscribed as", ask("From services to topics", "Subscribed as", "job", "topic"), map[string]float64{
		"shop orders": 1, "shop orders.created": 3, "shop orders.paid": 2, "shop orders.eu.created": 4, "shop a.b.c.d.e": 2,
		"office orders": 1, "office orders.created": 3, "office orders.paid": 2, "office orders.eu.created": 4, "office a.b.c.d.e": 2,
	})
	edges := map[string]float64{}
	for _, service := range []string{"shop", "office"} {
		for _, topic := range []string{"orders", "orders.created", "orders.paid", "orders.eu.created", "invoices.sent", "a.b.c.d.e"} {
			edges[fmt.Sprintf("service %s to %s|service %[1]s|%[2]s|1 msg/s", service, topic)] = 1
		}
	}
	for topic, patterns := range map[string][]string{
		"orders.created": {"orders.*", "orders.>"}, "orders.paid": {"orders.*", "orders.>"},
		"orders.eu.created": {"orders.>", "orders.eu.>", "orders.*.created", "orders.*.>"}, "a.b.c.d.e": {"a.b.*.d.e", "a.*.c.>"},
	} {
		for _, pattern := range patterns {
			edges[fmt.Sprintf("%s to %s|%[1]s|%[2]s|2 msg/s", topic, pattern)] = 1
		}
	}
	edges["orders.* to service depot|orders.*|service depot|0.55 msg/s"] = 1
	edges["orders.created to service depot|orders.created|service depot|2 msg/s"] = 1
	separator = "|"
	compare("the graph", ask("The way of messages", "{{source}} to {{target}}", "id", "source", "target", "mainstat"), edges)
}
