package docs_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"go-micro.dev/v5/broker"
	otelprom "go.opentelemetry.io/contrib/bridges/prometheus"
	"go.opentelemetry.io/otel/exporters/otlp/otlpmetric/otlpmetrichttp"
	"go.opentelemetry.io/otel/propagation"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
	"go.yaml.in/yaml/v3"

	jsbroker "go-micro-jetstream/broker"
	"go-micro-jetstream/dashboards"
	"go-micro-jetstream/dashboards/live"
	"go-micro-jetstream/internal/natstest"
	"go-micro-jetstream/metrics"
	"go-micro-jetstream/tracing"
)

// get asks the handlers that the code of the page has registered.
func get(t *testing.T, method, path, body string) (status int, answer string) {
	t.Helper()
	return getWith(t, context.Background(), method, path, body)
}

func getWith(t *testing.T, ctx context.Context, method, path, body string) (status int, answer string) {
	t.Helper()
	w := httptest.NewRecorder()
	http.DefaultServeMux.ServeHTTP(w, httptest.NewRequest(method, path, strings.NewReader(body)).WithContext(ctx))
	return w.Code, w.Body.String()
}

// Serve the live page
func TestLivePage(t *testing.T) {
	with := begin(t)
	url := with.url
	page := live.New()
	b := jsbroker.NewBroker(broker.Addrs(url), jsbroker.WithHooks(page.Hooks()))
	http.Handle("/debug/jetstream", page)
	connect(t, b)
	must(t, b.Publish("orders.created", with.msg))
	if status, answer := get(t, "GET", "/debug/jetstream?format=json", ""); status != http.StatusOK || !strings.Contains(answer, "orders.created") {
		t.Fatalf("%d %s", status, answer)
	}
}

// Watch queues that nobody subscribes to
func TestWatchQueues(t *testing.T) {
	with := begin(t)
	b := with.b
	all := prometheus.NewRegistry()
	defaults := prometheus.DefaultRegisterer
	prometheus.DefaultRegisterer = all
	defer func() { prometheus.DefaultRegisterer = defaults }()
	sub, err := b.Subscribe("orders.created", with.handler, broker.Queue("payments"))
	must(t, err)
	must(t, sub.Unsubscribe())
	must(t, b.Publish("orders.created", with.msg))
	{
		server, err := metrics.NewServer(b)
		if err == nil {
			err = prometheus.Register(server)
		}
		must(t, err)
	}
	natstest.Eventually(t, "a message waits for payments", func() bool {
		families, err := all.Gather()
		must(t, err)
		for _, f := range families {
			if f.GetName() == "micro_broker_consumer_pending" {
				return f.GetMetric()[0].GetGauge().GetValue() == 1
			}
		}
		return false
	})
}

// Answer a readiness probe
func TestReadiness(t *testing.T) {
	with := begin(t)
	b := with.b
	http.HandleFunc("/readyz", func(w http.ResponseWriter, r *http.Request) {
		if err := jsbroker.Health(r.Context(), b); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
		}
	})
	if status, answer := get(t, "GET", "/readyz", ""); status != http.StatusOK {
		t.Fatalf("%d %s", status, answer)
	}
	must(t, b.Disconnect())
	if status, answer := get(t, "GET", "/readyz", ""); status != http.StatusServiceUnavailable {
		t.Fatalf("%d %s", status, answer)
	}
}

// tracer returns a provider and the spans that have ended.
func tracer(t *testing.T) (*sdktrace.TracerProvider, *tracetest.InMemoryExporter) {
	t.Helper()
	spans := tracetest.NewInMemoryExporter()
	tp := sdktrace.NewTracerProvider(sdktrace.WithSyncer(spans))
	t.Cleanup(func() { _ = tp.Shutdown(context.Background()) })
	return tp, spans
}

func hooks(tp trace.TracerProvider) jsbroker.Hooks {
	return tracing.New(tracing.WithTracerProvider(tp), tracing.WithPropagator(propagation.TraceContext{}))
}

// Follow a request into its messages
func TestRequestTrace(t *testing.T) {
	tp, spans := tracer(t)
	with := begin(t, jsbroker.WithHooks(hooks(tp)))
	b := with.b
	http.HandleFunc("POST /orders", func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err == nil {
			err = b.Publish("orders.created", &broker.Message{Body: body}, broker.PublishContext(r.Context()))
		}
		if err != nil {
			http.Error(w, "try again later", http.StatusServiceUnavailable)
		}
	})
	sub, err := b.Subscribe("orders.created", with.handler, broker.Queue("payments"))
	must(t, err)
	ctx, span := tp.Tracer("otelhttp").Start(context.Background(), "POST /orders") // as the middleware does
	if status, answer := getWith(t, ctx, "POST", "/orders", "4711"); status != http.StatusOK {
		t.Fatalf("%d %s", status, answer)
	}
	span.End()
	natstest.Receive(t, with.got)
	must(t, sub.Unsubscribe())
	must(t, b.Disconnect())
	names := ""
	for _, s := range spans.GetSpans() {
		if s.SpanContext.TraceID() == span.SpanContext().TraceID() {
			names += s.Name + "; "
		}
	}
	for _, want := range []string{"publish orders.created", "process orders.created"} {
		if !strings.Contains(names, want) {
			t.Errorf("the trace of the request has only %s", names)
		}
	}
}

// Put trace ids into your log
func TestTraceIDsInLog(t *testing.T) {
	tp, _ := tracer(t)
	with := begin(t, jsbroker.WithHooks(hooks(tp)))
	b := with.b
	r, w, err := os.Pipe()
	must(t, err)
	stderr := os.Stderr
	os.Stderr = w
	func() {
		defer func() { os.Stderr = stderr }()
		log := slog.New(traced{slog.NewJSONHandler(os.Stderr, nil)})
		_, err := b.Subscribe("orders.created", func(e broker.Event) error {
			log.InfoContext(jsbroker.EventContext(e), "charging", "order", string(e.Message().Body))
			return nil
		}, broker.Queue("payments"))
		must(t, err)
	}()
	must(t, b.Publish("orders.created", with.msg))
	var line struct {
		Order   string
		TraceID string `json:"trace_id"`
	}
	must(t, json.NewDecoder(r).Decode(&line))
	must(t, errors.Join(r.Close(), w.Close()))
	if line.Order != "4711" || len(line.TraceID) != 32 {
		t.Fatalf("logged %+v", line)
	}
}

// traced is a slog.Handler that adds the trace id of the context.
type traced struct{ slog.Handler }

func (h traced) Handle(ctx context.Context, r slog.Record) error {
	if sc := trace.SpanContextFromContext(ctx); sc.IsValid() {
		r.AddAttrs(slog.String("trace_id", sc.TraceID().String()))
	}
	return h.Handler.Handle(ctx, r)
}

// Send metrics with OTLP
func TestOTLPMetrics(t *testing.T) {
	with := begin(t)
	url, ctx := with.url, with.ctx
	received := make(chan []byte, 10)
	collector := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		received <- body
		w.Header().Set("Content-Type", "application/x-protobuf")
	}))
	defer collector.Close()
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.URL)

	reg := prometheus.NewRegistry()
	b := jsbroker.NewBroker(broker.Addrs(url), jsbroker.WithHooks(metrics.New(metrics.WithRegisterer(reg))))
	stop, err := sendMetrics(ctx, reg)
	must(t, err)
	connect(t, b)
	must(t, b.Publish("orders.created", with.msg))
	must(t, stop(ctx)) // sends the last ones
	if sent := natstest.Receive(t, received); !bytes.Contains(sent, []byte("micro_broker_publish_duration_seconds")) || !bytes.Contains(sent, []byte("orders.created")) {
		t.Fatalf("%d bytes were sent, without the metrics", len(sent))
	}
}

// sendMetrics sends the metrics of a registry each minute, to OTEL_EXPORTER_OTLP_ENDPOINT.
func sendMetrics(ctx context.Context, reg prometheus.Gatherer) (stop func(context.Context) error, err error) {
	exporter, err := otlpmetrichttp.New(ctx)
	if err != nil {
		return nil, err
	}
	bridge := otelprom.NewMetricProducer(otelprom.WithGatherer(reg))
	reader := sdkmetric.NewPeriodicReader(exporter, sdkmetric.WithProducer(bridge))
	return sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader)).Shutdown, nil
}

// Put the dashboards into Grafana
func TestDashboards(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	dir := filepath.Join(os.TempDir(), "grafana")
	err := os.CopyFS(dir, dashboards.Grafana())
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "rules.yaml"), []byte(dashboards.Rules()), 0o600)
	}
	must(t, err)
	for _, pattern := range []string{"overview.json", "consumer.json", "rules.yaml"} {
		if found, err := fs.Glob(os.DirFS(dir), pattern); err != nil || len(found) != 1 {
			t.Errorf("%s: %v %v", pattern, found, err)
		}
	}
}

// Add your own labels to metrics
func TestOwnLabels(t *testing.T) {
	with := begin(t)
	url := with.url
	all := prometheus.NewRegistry()
	defaults := prometheus.DefaultRegisterer
	prometheus.DefaultRegisterer = all
	defer func() { prometheus.DefaultRegisterer = defaults }()
	reg := prometheus.WrapRegistererWith(prometheus.Labels{"env": "staging"}, prometheus.DefaultRegisterer)
	b := jsbroker.NewBroker(broker.Addrs(url), jsbroker.WithHooks(metrics.New(metrics.WithRegisterer(reg))))
	connect(t, b)
	must(t, b.Publish("orders.created", with.msg))
	families, err := all.Gather()
	must(t, err)
	for _, f := range families {
		if strings.HasPrefix(f.GetName(), "micro_broker_") && !strings.Contains(fmt.Sprint(f.GetMetric()[0]), `name:"env"`) {
			t.Errorf("%s has no label env", f.GetName())
		}
	}
	var conf struct {
		Jobs []struct {
			Name string `yaml:"job_name"`
		} `yaml:"scrape_configs"`
	}
	must(t, yaml.Unmarshal([]byte(fromPage(t, "Add your own labels to metrics", "yaml")), &conf))
	if len(families) == 0 || len(conf.Jobs) != 1 || conf.Jobs[0].Name != "staging-payments" {
		t.Errorf("%d metrics, %v", len(families), conf)
	}
}

// Be told when a message is given up
func TestBell(t *testing.T) {
	with := begin(t)
	url := with.url
	rung := make(chan string, 1)
	ring := func(text string) { rung <- text }
	bell := jsbroker.Hooks{
		DeadLettered: func(ctx context.Context, e jsbroker.DeadLettered) {
			ring(fmt.Sprintf("%s, queue %s: %v", e.Subject, e.Queue, e.Cause))
		},
	}
	b := jsbroker.NewBroker(broker.Addrs(url), jsbroker.WithHooks(bell), jsbroker.WithDeadLetter("dead-letters.orders"))
	connect(t, b)
	_, err := b.Subscribe("orders.created", func(broker.Event) error {
		return jsbroker.Discard(errors.New("no such card"))
	}, broker.Queue("payments"))
	must(t, err)
	must(t, b.Publish("orders.created", with.msg))
	if text := natstest.Receive(t, rung); text != "orders.created, queue payments: no such card" {
		t.Fatal(text)
	}
}
