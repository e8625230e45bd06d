package tracing_test

import (
	"context"
	"testing"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/propagation"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"

	jsbroker "go-micro-jetstream/broker"
	"go-micro-jetstream/tracing"
)

// discard keeps recorded spans from piling up, and costs nothing itself.
type discard struct{}

func (discard) OnStart(context.Context, sdktrace.ReadWriteSpan) {}
func (discard) OnEnd(sdktrace.ReadOnlySpan)                     {}
func (discard) Shutdown(context.Context) error                  { return nil }
func (discard) ForceFlush(context.Context) error                { return nil }

var providers = []struct {
	name string
	trace.TracerProvider
	// The most allocations that one message may cost, header included. Of these
	// the API alone takes 1, 3 and 4 to publish, 3, 5 and 6 to process: see
	// BenchmarkBare.
	publish, process float64
}{
	{"noop", noop.NewTracerProvider(), 3, 4},
	{"unsampled", sdktrace.NewTracerProvider(sdktrace.WithSampler(sdktrace.NeverSample()), sdktrace.WithSpanProcessor(discard{})), 5, 7},
	{"recording", sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(discard{})), 14, 15},
}

// publishOne and processOne are one message, with a header such as go-micro sends.
func publishOne(ctx context.Context, hooks jsbroker.Hooks) func() {
	header := make(map[string]string, 8)
	e := jsbroker.PublishStart{Topic: "orders.created", MessageID: "m1", Header: header, Size: 3}
	end := jsbroker.Published{Topic: "orders.created", MessageID: "m1", Stream: "ORDERS", Sequence: 7}
	return func() {
		clear(header)
		header["Micro-Topic"], header["Content-Type"] = "orders.created", "application/json"
		hooks.Published(hooks.PublishStart(ctx, e), end)
	}
}

func processOne(hooks jsbroker.Hooks) func() {
	header := make(map[string]string, 8)
	e := jsbroker.HandleStart{Delivery: delivery(), Header: header}
	end := jsbroker.Handled{Delivery: delivery(), Result: jsbroker.ResultAck}
	ctx := hooks.SubscriptionStart(context.Background(), jsbroker.SubscriptionStart{Subscription: subscription()})
	return func() {
		clear(header)
		header["Micro-Topic"], header["Content-Type"] = "orders.created", "application/json"
		header["traceparent"] = upstream
		hooks.Handled(hooks.HandleStart(ctx, e), end)
	}
}

func BenchmarkPublish(b *testing.B) {
	for _, p := range providers {
		b.Run(p.name, func(b *testing.B) {
			one := publishOne(context.Background(), tracing.New(tracing.WithTracerProvider(p), tracing.WithPropagator(w3c)))
			b.ReportAllocs()
			for b.Loop() {
				one()
			}
		})
	}
}

func BenchmarkProcess(b *testing.B) {
	for _, p := range providers {
		b.Run(p.name, func(b *testing.B) {
			one := processOne(tracing.New(tracing.WithTracerProvider(p), tracing.WithPropagator(w3c)))
			b.ReportAllocs()
			for b.Loop() {
				one()
			}
		})
	}
}

// BenchmarkBare is what the OpenTelemetry API itself costs for the same spans and
// headers, with options and names made beforehand: the floor of the above.
func BenchmarkBare(b *testing.B) {
	for _, p := range providers {
		tracer := p.Tracer("bare")
		opts := []trace.SpanStartOption{trace.WithSpanKind(trace.SpanKindProducer)}
		b.Run("publish/"+p.name, func(b *testing.B) {
			header := make(map[string]string, 8)
			b.ReportAllocs()
			for b.Loop() {
				ctx, span := tracer.Start(context.Background(), "publish orders.created", opts...)
				w3c.Inject(ctx, propagation.MapCarrier(header))
				span.End()
			}
		})
		b.Run("process/"+p.name, func(b *testing.B) {
			header := make(map[string]string, 8)
			b.ReportAllocs()
			for b.Loop() {
				header["traceparent"] = upstream
				ctx := w3c.Extract(context.Background(), propagation.MapCarrier(header))
				ctx, span := tracer.Start(ctx, "process orders.created", opts...)
				w3c.Inject(ctx, propagation.MapCarrier(header))
				span.End()
			}
		})
	}
}

// The numbers that the benchmarks report, as a promise. It is the same one for a
// parent in the context and for the globals, which are looked up each time.
func TestAllocations(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates, too")
	}
	restoreGlobals(t)
	otel.SetTextMapPropagator(w3c)
	parent := trace.ContextWithSpanContext(context.Background(), trace.NewSpanContext(trace.SpanContextConfig{
		TraceID: trace.TraceID{1}, SpanID: trace.SpanID{1},
	}))
	for _, p := range providers {
		otel.SetTracerProvider(p.TracerProvider)
		for name, hooks := range map[string]jsbroker.Hooks{
			"options": tracing.New(tracing.WithTracerProvider(p.TracerProvider), tracing.WithPropagator(w3c)),
			"globals": tracing.New(),
		} {
			for of, ctx := range map[string]context.Context{"a root": context.Background(), "a child": parent} {
				if n := testing.AllocsPerRun(200, publishOne(ctx, hooks)); n > p.publish {
					t.Errorf("%s, %s: %v allocations for the publish of %s, want at most %v", p.name, name, n, of, p.publish)
				}
			}
			if n := testing.AllocsPerRun(200, processOne(hooks)); n > p.process {
				t.Errorf("%s, %s: %v allocations for a delivery, want at most %v", p.name, name, n, p.process)
			}
		}
	}
}
