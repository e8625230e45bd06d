package tracing_test

import (
	"context"
	"encoding/hex"
	"errors"
	"net/http/httptest"
	"testing"

	"go-micro.dev/v5/broker"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"

	jsbroker "go-micro-jetstream/broker"
	"go-micro-jetstream/internal/natstest"
	"go-micro-jetstream/internal/otlptest"
	"go-micro-jetstream/tracing"
)

// TestOTLP looks at what a backend gets: the tree of spans, and nothing lost to
// texts that are not UTF-8.
func TestOTLP(t *testing.T) {
	t.Parallel()
	back := new(otlptest.Collector[*collector.ExportTraceServiceRequest])
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

	requests, err := back.Requests()
	noErr(t, err)
	tree := make(map[string]*tracepb.Span)
	for _, s := range spansOf(requests) {
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
	if failed.Status.Code != tracepb.Status_STATUS_CODE_ERROR || len(failed.Events) != 2 || failed.Events[1].Name != "exception" {
		t.Errorf("status %v, events %v", failed.Status, failed.Events)
	}
	if s := tree["publish invoices.paid"]; s.Status.Code != tracepb.Status_STATUS_CODE_UNSET {
		t.Errorf("status %v", s.Status)
	}
}

// A backend sees when a message was stored, and so how long it lay in the stream, also if
// its publisher has no spans.
func TestOTLPShowsWhenAMessageWasStored(t *testing.T) {
	t.Parallel()
	back := new(otlptest.Collector[*collector.ExportTraceServiceRequest])
	srv := httptest.NewServer(back)
	defer srv.Close()
	exporter, err := otlptracehttp.New(t.Context(), otlptracehttp.WithEndpointURL(srv.URL), otlptracehttp.WithTimeout(natstest.Patience))
	noErr(t, err)
	tp := sdktrace.NewTracerProvider(sdktrace.WithSyncer(exporter), sdktrace.WithSampler(sdktrace.AlwaysSample()))
	url := startServer(t)
	b := newBroker(t, url, jsbroker.WithHooks(tracing.New(tracing.WithTracerProvider(tp), tracing.WithPropagator(w3c))))
	publisher := newBroker(t, url) // without hooks
	noErr(t, publisher.Publish("orders.created", message(nil)))
	noErr(t, publisher.Publish("orders.created", message(map[string]string{"traceparent": notSampled})))
	_, js := natstest.Connect(t, url)
	stream, err := js.Stream(t.Context(), "ORDERS")
	noErr(t, err)
	stored := make(map[uint64]bool) // in Unix nanoseconds
	for sequence := range uint64(2) {
		m, err := stream.GetMsg(t.Context(), sequence+1)
		noErr(t, err)
		stored[uint64(m.Time.UnixNano())] = true
	}
	_, err = b.Subscribe("orders.created", func(broker.Event) error { return nil }, broker.Queue("workers"))
	noErr(t, err)
	natstest.Eventually(t, "both spans", func() bool {
		requests, err := back.Requests()
		noErr(t, err)
		return len(spansOf(requests)) == 2
	})
	noErr(t, b.Disconnect())
	noErr(t, tp.Shutdown(context.Background()))
	requests, err := back.Requests()
	noErr(t, err)
	for _, s := range spansOf(requests) {
		if len(s.Events) != 1 || s.Events[0].Name != "stored" || !stored[s.Events[0].TimeUnixNano] || s.Events[0].TimeUnixNano >= s.StartTimeUnixNano {
			t.Errorf("%s begins at %d, events %v, stored at %v", s.Name, s.StartTimeUnixNano, s.Events, stored)
		}
	}
}

// spansOf returns the spans of this library.
func spansOf(requests []*collector.ExportTraceServiceRequest) (spans []*tracepb.Span) {
	for _, request := range requests {
		for _, rs := range request.ResourceSpans {
			for _, ss := range rs.ScopeSpans {
				if ss.Scope.Name == tracing.ScopeName {
					spans = append(spans, ss.Spans...)
				}
			}
		}
	}
	return spans
}
