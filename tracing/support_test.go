package tracing_test

import (
	"context"
	"strings"
	"testing"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/baggage"
	"go.opentelemetry.io/otel/propagation"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	jsbroker "go-micro-jetstream/broker"
	"go-micro-jetstream/tracing"
)

const (
	upstream      = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	upstreamTrace = "0af7651916cd43dd8448eb211c80319c"
	upstreamSpan  = "b7ad6b7169203331"
	other         = "00-11111111111111111111111111111111-2222222222222222-01"
	otherSpan     = "2222222222222222"
	notSampled    = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"
)

var w3c = propagation.NewCompositeTextMapPropagator(propagation.TraceContext{}, propagation.Baggage{})

// bench is one instance of the hooks and a recorder of what it makes. The
// recorder is a synchronous processor: an ended span is there at once.
type bench struct {
	t *testing.T
	*tracetest.SpanRecorder
	provider *sdktrace.TracerProvider
	hooks    jsbroker.Hooks
}

func setup(t *testing.T, opts ...tracing.Option) *bench {
	t.Helper()
	b := &bench{t: t, SpanRecorder: tracetest.NewSpanRecorder()}
	b.provider = sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(b.SpanRecorder))
	b.hooks = tracing.New(append([]tracing.Option{
		tracing.WithTracerProvider(b.provider), tracing.WithPropagator(w3c),
	}, opts...)...)
	return b
}

func (b *bench) connect(url string) {
	b.hooks.ConnectionChanged(b.t.Context(), jsbroker.ConnectionChanged{BrokerID: "one", ClientName: "shop", State: jsbroker.StateConnected, URL: url})
}

// publish runs both hooks of a publish and returns its span.
func (b *bench) publish(ctx context.Context, header map[string]string) sdktrace.ReadOnlySpan {
	b.t.Helper()
	ctx = b.hooks.PublishStart(ctx, jsbroker.PublishStart{Topic: "orders.created", MessageID: "m1", Header: header, Size: 3})
	b.hooks.Published(ctx, jsbroker.Published{Topic: "orders.created", MessageID: "m1", Stream: "ORDERS", Sequence: 7})
	return b.last()
}

// handle runs both hooks of a delivery and returns its span.
func (b *bench) handle(ctx context.Context, header map[string]string) sdktrace.ReadOnlySpan {
	b.t.Helper()
	ctx = b.hooks.HandleStart(ctx, jsbroker.HandleStart{Delivery: delivery(), Header: header})
	b.hooks.Handled(ctx, jsbroker.Handled{Delivery: delivery(), Result: jsbroker.ResultAck})
	return b.last()
}

func (b *bench) last() sdktrace.ReadOnlySpan {
	b.t.Helper()
	ended := b.Ended()
	if len(ended) == 0 {
		b.t.Fatal("no span has ended")
	}
	return ended[len(ended)-1]
}

func subscription() jsbroker.Subscription {
	return jsbroker.Subscription{Topic: "orders.created", Queue: "workers", Stream: "ORDERS", Consumer: "workers_orders-created"}
}

func delivery() jsbroker.Delivery {
	return jsbroker.Delivery{
		Subscription: subscription(), Subject: "orders.created", MessageID: "m1",
		StreamSequence: 7, ConsumerSequence: 3, NumDelivered: 1, Size: 3,
	}
}

func attributes(kvs []attribute.KeyValue) map[string]any {
	m := make(map[string]any, len(kvs))
	for _, kv := range kvs {
		m[string(kv.Key)] = kv.Value.AsInterface()
	}
	return m
}

// expect fails unless the attributes are exactly those.
func expect(t *testing.T, kvs []attribute.KeyValue, want map[string]any) {
	t.Helper()
	got := attributes(kvs)
	if len(got) != len(kvs) {
		t.Errorf("an attribute stands twice: %v", kvs)
	}
	for k, w := range want {
		if g, ok := got[k]; !ok || g != w {
			t.Errorf("%s = %v (%T), want %v (%T)", k, g, g, w, w)
		}
	}
	for k, g := range got {
		if _, ok := want[k]; !ok {
			t.Errorf("unexpected attribute %s = %v", k, g)
		}
	}
}

func wantParent(t *testing.T, s sdktrace.ReadOnlySpan, traceID, spanID string) {
	t.Helper()
	if got := s.SpanContext().TraceID().String(); got != traceID {
		t.Errorf("%s is in trace %s, want %s", s.Name(), got, traceID)
	}
	if got := s.Parent().SpanID().String(); got != spanID {
		t.Errorf("%s has parent %s, want %s", s.Name(), got, spanID)
	}
}

func wantChild(t *testing.T, s, parent sdktrace.ReadOnlySpan) {
	t.Helper()
	wantParent(t, s, parent.SpanContext().TraceID().String(), parent.SpanContext().SpanID().String())
}

func wantRoot(t *testing.T, s sdktrace.ReadOnlySpan) {
	t.Helper()
	if s.Parent().IsValid() {
		t.Errorf("%s has parent %v, want none", s.Name(), s.Parent())
	}
}

// wantHeader checks that the header carries the context of the span: once, and in
// lower case.
func wantHeader(t *testing.T, header map[string]string, s sdktrace.ReadOnlySpan) {
	t.Helper()
	n := 0
	for k := range header {
		if strings.EqualFold(k, "traceparent") {
			n++
		}
	}
	if n != 1 {
		t.Errorf("%d traceparents in %v, want 1", n, header)
	}
	if want := traceparentOf(s.SpanContext()); header["traceparent"] != want {
		t.Errorf("traceparent = %q, want %q", header["traceparent"], want)
	}
}

func traceparentOf(sc trace.SpanContext) string {
	return "00-" + sc.TraceID().String() + "-" + sc.SpanID().String() + "-" + sc.TraceFlags().String()
}

func baggageOf(t *testing.T, s string) baggage.Baggage {
	t.Helper()
	b, err := baggage.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func noErr(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
