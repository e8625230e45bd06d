package metrics_test

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"go.opentelemetry.io/otel/trace"

	jsbroker "go-micro-jetstream/broker"
	"go-micro-jetstream/metrics"
)

var (
	errBoom = errors.New("boom")

	orders = jsbroker.Subscription{Topic: "orders.*", Queue: "billing", Stream: "ORDERS", Consumer: "billing"}
)

const ordersLabels = `{queue="billing",topic="orders.*"}`

// newHooks returns the hooks of New on a registry of their own.
func newHooks(t *testing.T, opts ...metrics.Option) (jsbroker.Hooks, *prometheus.Registry) {
	t.Helper()
	// Pedantic: what a collector describes and what it collects must agree.
	reg := prometheus.NewPedanticRegistry()
	return newHooksOn(t, reg, opts...), reg
}

func newHooksOn(t *testing.T, reg prometheus.Registerer, opts ...metrics.Option) jsbroker.Hooks {
	t.Helper()
	h := metrics.New(append([]metrics.Option{metrics.WithRegisterer(reg)}, opts...)...)
	if h.Err != nil {
		t.Fatalf("New: %v", h.Err)
	}
	return h
}

func delivery(s jsbroker.Subscription) jsbroker.Delivery {
	return jsbroker.Delivery{Subscription: s, Subject: "orders.created", MessageID: "id", NumDelivered: 1}
}

func subscribe(h jsbroker.Hooks, s jsbroker.Subscription) context.Context {
	return h.SubscriptionStart(context.Background(), jsbroker.SubscriptionStart{Subscription: s})
}

// handle is one delivery that the handler ended with the given event.
func handle(h jsbroker.Hooks, ctx context.Context, e jsbroker.Handled) {
	ctx = h.HandleStart(ctx, jsbroker.HandleStart{Delivery: e.Delivery, Lag: e.Lag})
	h.Settled(ctx, jsbroker.Settled{Delivery: e.Delivery, Result: e.Result, Delay: e.Delay, Err: e.SettleErr})
	h.Handled(ctx, e)
}

// sampled returns a context with a span context that has the flags.
func sampled(ctx context.Context, flags trace.TraceFlags) context.Context {
	return trace.ContextWithSpanContext(ctx, trace.NewSpanContext(trace.SpanContextConfig{
		TraceID:    trace.TraceID{0xab, 15: 1},
		SpanID:     trace.SpanID{7: 2},
		TraceFlags: flags,
	}))
}

const sampledTraceID = "ab000000000000000000000000000001"

// values returns all series of the registry by name and sorted labels: the
// value of counters and gauges, for histograms those of _count and _sum. Left out is
// micro_broker_build_info, which is there from the beginning and never changes.
func values(t *testing.T, reg prometheus.Gatherer) map[string]float64 {
	t.Helper()
	m := map[string]float64{}
	for _, f := range gather(t, reg) {
		if f.GetName() == "micro_broker_build_info" {
			continue
		}
		for _, s := range f.Metric {
			l := labelsOf(s)
			switch f.GetType() {
			case dto.MetricType_COUNTER:
				m[f.GetName()+l] = s.Counter.GetValue()
			case dto.MetricType_GAUGE:
				m[f.GetName()+l] = s.Gauge.GetValue()
			case dto.MetricType_HISTOGRAM:
				m[f.GetName()+"_count"+l] = float64(s.Histogram.GetSampleCount())
				m[f.GetName()+"_sum"+l] = s.Histogram.GetSampleSum()
			default:
				t.Errorf("%s has the type %v", f.GetName(), f.GetType())
			}
		}
	}
	return m
}

func gather(t *testing.T, reg prometheus.Gatherer) []*dto.MetricFamily {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatalf("gather: %v", err)
	}
	return families
}

func labelsOf(m *dto.Metric) string {
	var pairs []string
	for _, l := range m.Label {
		pairs = append(pairs, l.GetName()+`="`+l.GetValue()+`"`)
	}
	slices.Sort(pairs)
	return "{" + strings.Join(pairs, ",") + "}"
}

// want checks that series exist and have the values.
func want(t *testing.T, reg prometheus.Gatherer, expected map[string]float64) {
	t.Helper()
	got := values(t, reg)
	for _, name := range slices.Sorted(maps.Keys(expected)) {
		v, ok := got[name]
		if !ok {
			t.Errorf("no series %s", name)
		} else if v != expected[name] {
			t.Errorf("%s is %v, want %v", name, v, expected[name])
		}
	}
}

// wantGone checks that series do not exist.
func wantGone(t *testing.T, reg prometheus.Gatherer, series ...string) {
	t.Helper()
	got := values(t, reg)
	for _, name := range series {
		if v, ok := got[name]; ok {
			t.Errorf("%s exists (%v)", name, v)
		}
	}
}
