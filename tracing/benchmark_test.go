package tracing_test

import (
	"context"
	"testing"

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
	// The most allocations that one message may cost, header included.
	publish, process float64
}{
	{"noop", noop.NewTracerProvider(), 3, 6},
	{"unsampled", sdktrace.NewTracerProvider(sdktrace.WithSampler(sdktrace.NeverSample()), sdktrace.WithSpanProcessor(discard{})), 6, 8},
	{"recording", sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(discard{})), 20, 20},
}

// publishOne and processOne are one message, with a header such as go-micro sends.
func publishOne(hooks jsbroker.Hooks) func() {
	header := make(map[string]string, 8)
	e := jsbroker.PublishStart{Topic: "orders.created", MessageID: "m1", Header: header, Size: 3}
	end := jsbroker.Published{Topic: "orders.created", MessageID: "m1", Stream: "ORDERS", Sequence: 7}
	ctx := context.Background()
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
			one := publishOne(tracing.New(tracing.WithTracerProvider(p), tracing.WithPropagator(w3c)))
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

// The numbers that the benchmarks report, as a promise.
func TestAllocations(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates, too")
	}
	for _, p := range providers {
		hooks := tracing.New(tracing.WithTracerProvider(p), tracing.WithPropagator(w3c))
		if n := testing.AllocsPerRun(200, publishOne(hooks)); n > p.publish {
			t.Errorf("%s: %v allocations for a publish, want at most %v", p.name, n, p.publish)
		}
		if n := testing.AllocsPerRun(200, processOne(hooks)); n > p.process {
			t.Errorf("%s: %v allocations for a delivery, want at most %v", p.name, n, p.process)
		}
	}
}
