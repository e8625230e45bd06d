package tracing_test

import (
	"context"
	"maps"
	"testing"

	"go-micro.dev/v5/metadata"
	wrapper "go-micro.dev/v5/wrapper/trace/opentelemetry"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/trace"

	jsbroker "go-micro-jetstream/broker"
)

// go-micro's server makes metadata of the delivered header, its OpenTelemetry
// wrapper looks for the parent there with EqualFold in the order of the map and
// writes its own span back, and what the handler publishes carries all of it.
func TestGoMicroWrapper(t *testing.T) {
	restoreGlobals(t)
	otel.SetTextMapPropagator(w3c)
	for name, in := range map[string]map[string]string{
		"lower": {"traceparent": upstream},
		"title": {"Traceparent": upstream},
		"both":  {"traceparent": other, "Traceparent": upstream},
		"state": {"traceparent": upstream, "tracestate": "k=v", "baggage": "tenant=a"},
	} {
		t.Run(name, func(t *testing.T) {
			b := setup(t)
			for range 100 {
				header := maps.Clone(in)
				ctx := b.hooks.HandleStart(context.Background(), jsbroker.HandleStart{Delivery: delivery(), Header: header})
				process := trace.SpanFromContext(ctx)

				md := make(metadata.Metadata)
				for k, v := range header {
					md[k] = v
				}
				handler, sub := wrapper.StartSpanFromContext(
					metadata.NewContext(context.Background(), md), b.provider, "Sub from orders.created")
				if got := parentOf(sub); got != process.SpanContext().SpanID() {
					t.Fatalf("the wrapper's span has parent %v, want the process span %v; metadata %v", got, process.SpanContext().SpanID(), md)
				}

				// The handler publishes: its own span is in the metadata, as
				// Traceparent, beside what was delivered.
				out, _ := metadata.FromContext(handler)
				outgoing := map[string]string(maps.Clone(out))
				published := b.publish(context.Background(), outgoing)
				if got := published.Parent().SpanID(); got != sub.SpanContext().SpanID() {
					t.Fatalf("the publish has parent %v, want the wrapper's %v; metadata %v", got, sub.SpanContext().SpanID(), out)
				}
				wantHeader(t, outgoing, published)
				if outgoing["tracestate"] != in["tracestate"] || outgoing["baggage"] != in["baggage"] {
					t.Fatalf("header %v", outgoing)
				}
				sub.End()
				b.hooks.Handled(ctx, jsbroker.Handled{Delivery: delivery(), Result: jsbroker.ResultAck})
			}
		})
	}
}

func parentOf(s trace.Span) trace.SpanID {
	return s.(interface{ Parent() trace.SpanContext }).Parent().SpanID()
}
