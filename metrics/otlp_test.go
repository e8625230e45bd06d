package metrics_test

import (
	"context"
	"fmt"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	bridge "go.opentelemetry.io/contrib/bridges/prometheus"
	"go.opentelemetry.io/otel/exporters/otlp/otlpmetric/otlpmetrichttp"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	collector "go.opentelemetry.io/proto/otlp/collector/metrics/v1"
	metricspb "go.opentelemetry.io/proto/otlp/metrics/v1"

	jsbroker "go-micro-jetstream/broker"
	"go-micro-jetstream/internal/otlptest"
	"go-micro-jetstream/metrics"
)

// otlpBackend is what a collector is to an exporter.
type otlpBackend = otlptest.Collector[*collector.ExportMetricsServiceRequest]

// latest returns the metrics of the latest request, by name.
func latest(back *otlpBackend) (map[string]*metricspb.Metric, error) {
	requests, err := back.Requests()
	if err != nil || len(requests) == 0 {
		return nil, err
	}
	got := map[string]*metricspb.Metric{}
	for _, resource := range requests[len(requests)-1].ResourceMetrics {
		for _, scope := range resource.ScopeMetrics {
			for _, m := range scope.Metrics {
				got[m.Name] = m
			}
		}
	}
	return got, nil
}

// pushTo sends what the registry has to a collector, as OpenTelemetry's SDK does in
// each interval, and once more at Shutdown.
func pushTo(ctx context.Context, endpoint string, reg prometheus.Gatherer) (*sdkmetric.MeterProvider, error) {
	exporter, err := otlpmetrichttp.New(ctx, otlpmetrichttp.WithEndpointURL(endpoint))
	if err != nil {
		return nil, err
	}
	return sdkmetric.NewMeterProvider(sdkmetric.WithReader(sdkmetric.NewPeriodicReader(exporter,
		sdkmetric.WithInterval(15*time.Second),
		sdkmetric.WithProducer(bridge.NewMetricProducer(bridge.WithGatherer(reg))),
	))), nil
}

// The metrics over OTLP: OpenTelemetry's bridge reads the registry that Prometheus
// would scrape. Names and labels stay the same, so that dashboards and alerts hold.
func Example_otlp() {
	ctx := context.Background()
	back := new(otlpBackend) // a collector
	srv := httptest.NewServer(back)
	defer srv.Close()

	reg := prometheus.NewRegistry()
	hooks := metrics.New(metrics.WithRegisterer(reg)) // for jsbroker.WithHooks
	provider, err := pushTo(ctx, srv.URL, reg)
	must(err)

	hooks.Published(ctx, jsbroker.Published{Topic: "orders.created", Duration: time.Millisecond})
	must(provider.Shutdown(ctx))
	got, err := latest(back)
	must(err)
	for _, name := range []string{"micro_broker_published_total", "micro_broker_publish_duration_seconds"} {
		switch m := got[name]; {
		case m.GetSum() != nil:
			fmt.Println(name, m.GetSum().DataPoints[0].GetAsDouble())
		case m.GetHistogram() != nil:
			fmt.Println(name, m.GetHistogram().DataPoints[0].Count)
		case m.GetExponentialHistogram() != nil:
			fmt.Println(name, m.GetExponentialHistogram().DataPoints[0].Count)
		}
	}
	// Output:
	// micro_broker_published_total 1
	// micro_broker_publish_duration_seconds 1
}

// Everything that a scrape has arrives over OTLP: each metric with its kind, series and
// unit of name, and exemplars with their trace.
func TestOTLPBridge(t *testing.T) {
	t.Parallel()
	back := new(otlpBackend)
	srv := httptest.NewServer(back)
	defer srv.Close()
	reg := prometheus.NewRegistry()
	hooks := metrics.New(metrics.WithRegisterer(reg))
	provider, err := pushTo(t.Context(), srv.URL, reg)
	if err != nil {
		t.Fatal(err)
	}

	sub := jsbroker.Subscription{Topic: "orders.>", Queue: "billing", Stream: "ORDERS", Consumer: "billing"}
	ctx := hooks.SubscriptionStart(context.Background(), jsbroker.SubscriptionStart{Subscription: sub})
	d := jsbroker.Delivery{Subscription: sub, Subject: "orders.created", NumDelivered: 1}
	handling := hooks.HandleStart(ctx, jsbroker.HandleStart{Delivery: d, Lag: time.Second})
	hooks.Handled(handling, jsbroker.Handled{Delivery: d, Result: jsbroker.ResultAck, Duration: time.Millisecond})
	hooks.ConnectionChanged(ctx, jsbroker.ConnectionChanged{BrokerID: "1", ClientName: "shop", State: jsbroker.StateConnected})
	hooks.Published(ctx, jsbroker.Published{Topic: "orders.created", Duration: time.Millisecond})
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	if err := provider.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	got, err := latest(back)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		m := got[f.GetName()]
		points := len(m.GetSum().GetDataPoints()) + len(m.GetGauge().GetDataPoints()) +
			len(m.GetHistogram().GetDataPoints()) + len(m.GetExponentialHistogram().GetDataPoints())
		if points != len(f.Metric) {
			t.Errorf("%s: %d series over OTLP, %d in the registry", f.GetName(), points, len(f.Metric))
		}
		if m.GetSum() != nil && !m.GetSum().IsMonotonic {
			t.Errorf("%s is not monotonic", f.GetName())
		}
	}
	var labels []string
	for _, p := range got["micro_broker_in_flight"].GetGauge().GetDataPoints() {
		for _, a := range p.Attributes {
			labels = append(labels, a.Key+"="+a.Value.GetStringValue())
		}
	}
	if s := fmt.Sprint(labels); s != "[queue=billing topic=orders.>]" {
		t.Errorf("labels %s", s)
	}
}
