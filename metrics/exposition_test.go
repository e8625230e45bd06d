package metrics_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	dto "github.com/prometheus/client_model/go"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/protobuf/encoding/protodelim"

	jsbroker "go-micro-jetstream/broker"
)

const (
	openMetrics = "application/openmetrics-text; version=1.0.0"
	protobuf    = "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited"
)

// scrape gets the metrics as a Prometheus server does.
func scrape(t *testing.T, reg *prometheus.Registry, accept string) []byte {
	t.Helper()
	srv := httptest.NewServer(promhttp.HandlerFor(reg, promhttp.HandlerOpts{EnableOpenMetrics: true}))
	defer srv.Close()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, srv.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Accept", accept)
	resp, err := srv.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("scrape: %s: %s", resp.Status, body)
	}
	if got, want := resp.Header.Get("Content-Type"), strings.SplitN(accept, ";", 2)[0]; !strings.HasPrefix(got, want) {
		t.Fatalf("content type %q, want %q", got, want)
	}
	return body
}

// exemplarLine returns the line of an OpenMetrics exposition that has a sample
// with an exemplar of that trace.
func exemplarLine(series, traceID string) *regexp.Regexp {
	return regexp.MustCompile(`(?m)^` + regexp.QuoteMeta(series) + `,le="[^"]+"\} \d+ # \{trace_id="` + traceID + `"\} `)
}

func TestExposition(t *testing.T) {
	h, reg := newHooks(t)
	ctx := subscribe(h, orders)
	span := sampled(ctx, trace.FlagsSampled)
	d := delivery(orders)
	h.HandleStart(ctx, jsbroker.HandleStart{Delivery: d}) // before the span: metrics were installed first
	h.Handled(span, jsbroker.Handled{Delivery: d, Result: jsbroker.ResultAck, Duration: 150 * time.Millisecond, Lag: time.Second})
	h.Published(span, jsbroker.Published{Topic: "orders.created", Duration: 40 * time.Millisecond})

	text := string(scrape(t, reg, openMetrics))
	for _, line := range []string{
		`micro_broker_handled_total{queue="billing",result="ack",topic="orders.*"} 1.0`,
		`micro_broker_handled_total{queue="billing",result="nak",topic="orders.*"} 0.0`,
		`micro_broker_handler_duration_seconds_count{queue="billing",topic="orders.*"} 1`,
		`micro_broker_handler_duration_seconds_bucket{queue="billing",topic="orders.*",le="0.1"} 0`,
		`micro_broker_active_subscriptions{queue="billing",topic="orders.*"} 1.0`,
		`micro_broker_published_total{topic="orders.created"} 1.0`,
		`# TYPE micro_broker_delivery_lag_seconds histogram`,
	} {
		if !strings.Contains(text, line+"\n") {
			t.Errorf("no line %s", line)
		}
	}
	for _, series := range []string{
		`micro_broker_handler_duration_seconds_bucket{queue="billing",topic="orders.*"`,
		`micro_broker_delivery_lag_seconds_bucket{queue="billing",topic="orders.*"`,
		`micro_broker_publish_duration_seconds_bucket{topic="orders.created"`,
	} {
		if !exemplarLine(series, sampledTraceID).MatchString(text) {
			t.Errorf("no exemplar of the trace on %s}", series)
		}
	}
	if t.Failed() {
		t.Log(text)
	}
}

// Without a sampled span nobody could follow the exemplar.
func TestNoExemplarWithoutASampledSpan(t *testing.T) {
	for name, ctx := range map[string]context.Context{
		"no span":     context.Background(),
		"not sampled": sampled(context.Background(), 0),
		"no trace id": trace.ContextWithSpanContext(context.Background(), trace.NewSpanContext(trace.SpanContextConfig{TraceFlags: trace.FlagsSampled})),
	} {
		t.Run(name, func(t *testing.T) {
			h, reg := newHooks(t)
			ctx := handlerContext(t, h, ctx)
			handle(h, ctx, jsbroker.Handled{Delivery: delivery(orders), Result: jsbroker.ResultAck, Duration: time.Second, Lag: time.Second})
			h.Published(ctx, jsbroker.Published{Topic: "orders", Duration: time.Second})
			if text := scrape(t, reg, openMetrics); strings.Contains(string(text), "trace_id") {
				t.Errorf("exemplars:\n%s", text)
			}
		})
	}
}

// A server that asks for protobuf gets native histograms, with exemplars, and
// the classic buckets beside them.
func TestNativeHistograms(t *testing.T) {
	h, reg := newHooks(t)
	ctx := handlerContext(t, h, sampled(context.Background(), trace.FlagsSampled))
	for i := range 10 {
		handle(h, ctx, jsbroker.Handled{Delivery: delivery(orders), Result: jsbroker.ResultAck, Duration: time.Duration(i+1) * 10 * time.Millisecond, Lag: time.Hour})
	}
	h.Published(ctx, jsbroker.Published{Topic: "orders.created", Duration: time.Millisecond})

	seen := 0
	r := bufio.NewReader(strings.NewReader(string(scrape(t, reg, protobuf))))
	for {
		var f dto.MetricFamily
		err := protodelim.UnmarshalFrom(r, &f)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if f.GetType() != dto.MetricType_HISTOGRAM {
			continue
		}
		seen++
		hist := f.Metric[0].Histogram
		if len(hist.PositiveSpan) == 0 || hist.GetSchema() != 3 {
			t.Errorf("%s has no native buckets: %v", f.GetName(), hist)
		}
		if len(hist.Bucket) == 0 {
			t.Errorf("%s has no classic buckets", f.GetName())
		}
		if len(hist.Exemplars) == 0 || hist.Exemplars[0].Label[0].GetValue() != sampledTraceID {
			t.Errorf("%s has the native exemplars %v", f.GetName(), hist.Exemplars)
		}
	}
	if seen != 4 {
		t.Errorf("%d histograms, want 4", seen)
	}
}

// Hostile values make odd labels, and no broken exposition.
func TestExpositionEscapesLabels(t *testing.T) {
	h, reg := newHooks(t)
	s := jsbroker.Subscription{Topic: "orders.\"\n\\", Queue: "{}"}
	subscribe(h, s)
	text := string(scrape(t, reg, openMetrics))
	if line := fmt.Sprintf(`micro_broker_in_flight{queue="{}",topic=%q} 0.0`, s.Topic); !strings.Contains(text, line) {
		t.Errorf("no line %s in\n%s", line, text)
	}
}

// Observations from a nanosecond to centuries must not grow a native histogram
// without bound.
func TestNativeBucketsAreBounded(t *testing.T) {
	h, reg := newHooks(t)
	ctx := subscribe(h, orders)
	for d := time.Nanosecond; d < 1<<62; d += d/16 + 1 {
		handle(h, ctx, jsbroker.Handled{Delivery: delivery(orders), Duration: d, Lag: d})
	}
	for _, name := range []string{"micro_broker_handler_duration_seconds", "micro_broker_delivery_lag_seconds"} {
		n := uint32(0)
		for _, span := range histogram(t, reg, name).PositiveSpan {
			n += span.GetLength()
		}
		if n == 0 || n > 160 {
			t.Errorf("%s has %d native buckets, want at most 160", name, n)
		}
	}
}
