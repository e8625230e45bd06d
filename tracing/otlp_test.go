package tracing_test

import (
	"compress/gzip"
	"context"
	"encoding/hex"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"

	"go-micro.dev/v5/broker"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	jsbroker "go-micro-jetstream/broker"
	"go-micro-jetstream/internal/natstest"
	"go-micro-jetstream/tracing"
)

// backend is what a collector is to an exporter.
type backend struct {
	mu    sync.Mutex
	spans []*tracepb.Span
	fail  []error
}

func (b *backend) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.read(r); err != nil {
		b.fail = append(b.fail, err)
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "application/x-protobuf")
}

func (b *backend) read(r *http.Request) error {
	body := io.Reader(r.Body)
	if r.Header.Get("Content-Encoding") == "gzip" {
		z, err := gzip.NewReader(body)
		if err != nil {
			return err
		}
		body = z
	}
	data, err := io.ReadAll(body)
	if err != nil {
		return err
	}
	var req collector.ExportTraceServiceRequest
	if err := proto.Unmarshal(data, &req); err != nil {
		return err
	}
	for _, rs := range req.ResourceSpans {
		for _, ss := range rs.ScopeSpans {
			if ss.Scope.Name == tracing.ScopeName {
				b.spans = append(b.spans, ss.Spans...)
			}
		}
	}
	return nil
}

// TestOTLP looks at what a backend gets: the tree of spans, and nothing lost to
// texts that are not UTF-8.
func TestOTLP(t *testing.T) {
	t.Parallel()
	back := new(backend)
	srv := httptest.NewServer(back)
	defer srv.Close()
	exporter, err := otlptracehttp.New(t.Context(), otlptracehttp.WithEndpointURL(srv.URL), otlptracehttp.WithTimeout(natstest.Patience))
	noErr(t, err)
	spans := make(ended, 100)
	tp := sdktrace.NewTracerProvider(sdktrace.WithBatcher(exporter), sdktrace.WithSpanProcessor(spans))
	b := newBroker(t, startServer(t),
		jsbroker.WithHooks(tracing.New(tracing.WithTracerProvider(tp), tracing.WithPropagator(w3c))))
	_, err = b.Subscribe("orders.created", func(e broker.Event) error {
		if err := b.Publish("invoices.paid", message(nil), broker.PublishContext(jsbroker.EventContext(e))); err != nil {
			return err
		}
		return jsbroker.Discard(errors.New("not UTF-8: \xff\xfe")) // no second delivery
	}, broker.Queue("workers"))
	noErr(t, err)
	noErr(t, b.Publish("orders.created", message(map[string]string{"traceparent": upstream}), jsbroker.MessageID("m1")))
	for range 3 {
		natstest.Receive(t, spans)
	}
	noErr(t, b.Disconnect())
	noErr(t, tp.ForceFlush(t.Context()))
	noErr(t, tp.Shutdown(context.Background()))

	back.mu.Lock()
	defer back.mu.Unlock()
	if len(back.fail) > 0 {
		t.Fatalf("the backend could not read: %v", back.fail)
	}
	tree := make(map[string]*tracepb.Span)
	for _, s := range back.spans {
		if hex.EncodeToString(s.TraceId) != upstreamTrace {
			t.Errorf("%s is in trace %x", s.Name, s.TraceId)
		}
		tree[s.Name] = s
	}
	parent := upstreamSpan
	for _, want := range []struct {
		name string
		kind tracepb.Span_SpanKind
	}{
		{"publish orders.created", tracepb.Span_SPAN_KIND_PRODUCER},
		{"process orders.created", tracepb.Span_SPAN_KIND_CONSUMER},
		{"publish invoices.paid", tracepb.Span_SPAN_KIND_PRODUCER},
	} {
		s := tree[want.name]
		if s == nil {
			t.Fatalf("no span %q among %v", want.name, tree)
		}
		if s.Kind != want.kind || hex.EncodeToString(s.ParentSpanId) != parent {
			t.Errorf("%s: %v with parent %x, want %v with %s", s.Name, s.Kind, s.ParentSpanId, want.kind, parent)
		}
		parent = hex.EncodeToString(s.SpanId)
	}
	failed := tree["process orders.created"]
	if failed.Status.Code != tracepb.Status_STATUS_CODE_ERROR || len(failed.Events) != 1 || failed.Events[0].Name != "exception" {
		t.Errorf("status %v, events %v", failed.Status, failed.Events)
	}
	if s := tree["publish invoices.paid"]; s.Status.Code != tracepb.Status_STATUS_CODE_UNSET {
		t.Errorf("status %v", s.Status)
	}
}
