package metrics_test

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/expfmt"

	jsbroker "go-micro-jetstream/broker"
	"go-micro-jetstream/metrics"
)

// classicSeries counts the lines of a scrape of text, each of which is a series of
// Prometheus, and its bytes. native counts the series of a scrape of native histograms.
func classicSeries(t *testing.T, reg prometheus.Gatherer) (lines, size, native int) {
	t.Helper()
	var text bytes.Buffer
	for _, f := range gather(t, reg) {
		if _, err := expfmt.MetricFamilyToText(&text, f); err != nil {
			t.Fatal(err)
		}
		native += len(f.Metric)
	}
	for line := range strings.Lines(text.String()) {
		if !strings.HasPrefix(line, "#") {
			lines++
			size += len(line)
		}
	}
	return lines, size, native
}

// What a subscription and a topic cost is what docs/observability.md says.
func TestSeriesCost(t *testing.T) {
	text, err := os.ReadFile("../docs/observability.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		opts []metrics.Option
	}{
		{"defaults", nil},
		{"`metrics.WithDurationBuckets(0.05, 0.25, 1)`", []metrics.Option{metrics.WithDurationBuckets(.05, .25, 1)}},
		{"`metrics.WithFewerBuckets()`", []metrics.Option{metrics.WithFewerBuckets()}},
		{"`metrics.WithNativeHistogramsOnly()`", []metrics.Option{metrics.WithNativeHistogramsOnly()}},
	} {
		h, reg := newHooks(t, c.opts...)
		before, size, native := classicSeries(t, reg)
		subscribe(h, orders)
		subscription, subscribed, nativeSubscription := classicSeries(t, reg)
		h.Published(t.Context(), jsbroker.Published{Topic: orders.Topic})
		topic, _, nativeTopic := classicSeries(t, reg)
		row := fmt.Sprintf("| %s | %d | %d | %d | %d | %.1f MB |", c.name,
			subscription-before, nativeSubscription-native, topic-subscription, nativeTopic-nativeSubscription, float64(subscribed-size)/1000)
		if !strings.Contains(string(text), row) {
			t.Errorf("docs/observability.md lacks the row\n%s", row)
		}
	}
}

// Buckets of each shape are shared by hooks on one registry, and others are an error.
func TestShapes(t *testing.T) {
	_, reg := newHooks(t, metrics.WithFewerBuckets())
	newHooksOn(t, reg) // does not care
	newHooksOn(t, reg, metrics.WithFewerBuckets())
	for name, opts := range map[string][]metrics.Option{
		"other buckets":    {metrics.WithRegisterer(reg), metrics.WithNativeHistogramsOnly()},
		"choose one of":    {metrics.WithNativeHistogramsOnly(), metrics.WithDurationBuckets(1)},
		"the same options": {metrics.WithRegisterer(reg), metrics.WithDurationBuckets(1)},
	} {
		if err := metrics.New(opts...).Err; err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
