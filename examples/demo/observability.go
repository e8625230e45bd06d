package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go-micro.dev/v5/broker"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"

	"go-micro-jetstream/dashboards/live"
	"go-micro-jetstream/examples/natsurl"
	"go-micro-jetstream/metrics"
)

// exportTimeout limits the last export of spans, in case the collector does not
// answer.
const exportTimeout = 5 * time.Second

var propagator = propagation.NewCompositeTextMapPropagator(propagation.TraceContext{}, propagation.Baggage{})

// observability holds one /metrics and one live page for the whole process, and a
// tracer provider for each service, as if each were a process of its own.
type observability struct {
	registry  *prometheus.Registry
	streams   *prometheus.Registry // what the server says; asked by scrapes alone
	page      *live.Page
	spans     *collector
	endpoint  string // of the OTLP collector; empty: no export
	server    *http.Server
	providers []*sdktrace.TracerProvider

	describeMetrics string
	describePage    string
	describeTraces  string

	exportErr sync.Once
}

func newObservability(cfg settings) (*observability, error) {
	o := &observability{
		registry:       prometheus.NewRegistry(),
		streams:        prometheus.NewRegistry(),
		page:           live.New(),
		spans:          newCollector(),
		describeTraces: "one is shown below; OTEL_EXPORTER_OTLP_ENDPOINT exports all",
	}
	if o.endpoint = cmp.Or(os.Getenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"), os.Getenv("OTEL_EXPORTER_OTLP_ENDPOINT")); o.endpoint != "" {
		o.describeTraces = "exported to " + natsurl.Redact(o.endpoint)
	}
	// It has the start time of the process, which dashboards use to mark restarts.
	o.registry.MustRegister(collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	// Report a failed export only once. A collector that is down must not fill the
	// screen, or look like a fault of the broker.
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) {
		o.exportErr.Do(func() {
			fmt.Fprintf(os.Stderr, "\ndemo: spans could not be exported: %v\n", err)
		})
	}))
	if err := o.serve(cfg); err != nil {
		return nil, err
	}
	return o, nil
}

// serve starts serving /metrics and /live. If the address is taken, it uses a free port
// instead, unless the user asked for that address.
func (o *observability) serve(cfg settings) error {
	l, err := net.Listen("tcp", cfg.metricsAddr)
	note := ""
	if errors.Is(err, syscall.EADDRINUSE) {
		if cfg.fixedAddr {
			return fmt.Errorf("cannot serve /metrics: %s is taken; choose another with -metrics-addr, port 0 for any", cfg.metricsAddr)
		}
		note = fmt.Sprintf(" (%s is taken)", cfg.metricsAddr)
		l, err = net.Listen("tcp", "127.0.0.1:0")
	}
	if err != nil {
		return fmt.Errorf("cannot serve /metrics: %w", err)
	}
	o.describeMetrics = fmt.Sprintf("http://%s/metrics%s", l.Addr(), note)
	o.describePage = fmt.Sprintf("http://%s/live", l.Addr())
	mux := http.NewServeMux()
	mux.Handle("/live", o.page)
	// Exemplars, the trace ids in the histograms, exist only in OpenMetrics.
	all := prometheus.Gatherers{o.registry, o.streams}
	mux.Handle("/metrics", promhttp.HandlerFor(all, promhttp.HandlerOpts{EnableOpenMetrics: true}))
	o.server = &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	go func() { _ = o.server.Serve(l) }()
	return nil
}

// watchStreams adds the metrics of streams and consumers, which the server is asked for
// on the connection of b. They have a registry of their own, so that the rows on the
// screen, which read the other one, need not wait for the server.
func (o *observability) watchStreams(b broker.Broker) error {
	asks, err := metrics.NewServer(b)
	if err != nil {
		return err
	}
	return o.streams.Register(asks)
}

// provider returns a new tracer provider for a service.
func (o *observability) provider(service string) *sdktrace.TracerProvider {
	res := resource.NewSchemaless(attribute.String("service.name", service))
	if merged, err := resource.Merge(resource.Default(), res); err == nil {
		res = merged
	}
	opts := []sdktrace.TracerProviderOption{sdktrace.WithResource(res), sdktrace.WithSpanProcessor(o.spans)}
	if o.endpoint != "" {
		// The exporter reads the endpoint and the headers from the environment.
		exporter, err := otlptracehttp.New(context.Background())
		if err != nil {
			otel.Handle(err)
		} else {
			opts = append(opts, sdktrace.WithBatcher(exporter))
		}
	}
	tp := sdktrace.NewTracerProvider(opts...)
	o.providers = append(o.providers, tp)
	return tp
}

// close exports the remaining spans and stops serving /metrics.
func (o *observability) close() {
	ctx, cancel := context.WithTimeout(context.Background(), exportTimeout)
	defer cancel()
	for _, tp := range o.providers {
		if err := tp.Shutdown(ctx); err != nil {
			otel.Handle(err)
		}
	}
	_ = o.server.Close()
}

// totals adds up the series of each counter and gauge, as sum() does in PromQL.
func totals(g prometheus.Gatherer) map[string]float64 {
	sums := map[string]float64{}
	families, _ := g.Gather() // on an error, it still returns what it could gather
	for _, f := range families {
		for _, m := range f.GetMetric() {
			sums[f.GetName()] += m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	return sums
}
