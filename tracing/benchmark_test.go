package tracing_test

import (
	"context"
	"strconv"
	"testing"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
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
	// the API alone takes 1, 4 and 10 to publish, 3, 6 and 12 to process: see
	// BenchmarkBare.
	publish, process float64
}{
	{"noop", noop.NewTracerProvider(), 1, 3},
	{"unsampled", sdktrace.NewTracerProvider(sdktrace.WithSampler(sdktrace.NeverSample()), sdktrace.WithSpanProcessor(discard{})), 4, 6},
	{"recording", sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(discard{})), 11, 13},
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
// headers, with options and names made beforehand and as many attributes: the
// floor of the above.
func BenchmarkBare(b *testing.B) {
	for _, p := range providers {
		tracer := p.Tracer("bare")
		one := func(ctx context.Context, header map[string]string, opts []trace.SpanStartOption, further []attribute.KeyValue) {
			ctx, span := tracer.Start(ctx, "publish orders.created", opts...)
			w3c.Inject(ctx, propagation.MapCarrier(header))
			if span.IsRecording() {
				span.SetAttributes(further...)
			}
			span.End()
		}
		b.Run("publish/"+p.name, func(b *testing.B) {
			opts := []trace.SpanStartOption{trace.WithSpanKind(trace.SpanKindProducer), trace.WithAttributes(someAttributes("start", 4)...)}
			further := someAttributes("end", 5)
			header := make(map[string]string, 8)
			b.ReportAllocs()
			for b.Loop() {
				one(context.Background(), header, opts, further)
			}
		})
		b.Run("process/"+p.name, func(b *testing.B) {
			opts := []trace.SpanStartOption{trace.WithSpanKind(trace.SpanKindConsumer), trace.WithAttributes(someAttributes("start", 5)...)}
			further := someAttributes("end", 7)
			header := make(map[string]string, 8)
			b.ReportAllocs()
			for b.Loop() {
				header["traceparent"] = upstream
				one(w3c.Extract(context.Background(), propagation.MapCarrier(header)), header, opts, further)
			}
		})
	}
}

func someAttributes(prefix string, n int) (attrs []attribute.KeyValue) {
	for i := range n {
		attrs = append(attrs, attribute.String(prefix+strconv.Itoa(i), "value"))
	}
	return attrs
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
