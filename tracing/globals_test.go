package tracing_test

import (
	"context"
	"maps"
	"strings"
	"sync"
	"testing"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/propagation"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	jsbroker "go-micro-jetstream/broker"
	"go-micro-jetstream/tracing"
)

// The tests in this file set OpenTelemetry's globals, so they do not run in
// parallel with any other.

func restoreGlobals(t *testing.T) {
	tp, p := otel.GetTracerProvider(), otel.GetTextMapPropagator()
	t.Cleanup(func() {
		otel.SetTracerProvider(tp)
		otel.SetTextMapPropagator(p)
	})
}

func newProvider() (*sdktrace.TracerProvider, *tracetest.SpanRecorder) {
	r := tracetest.NewSpanRecorder()
	return sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(r)), r
}

type reports struct {
	mu   sync.Mutex
	errs []error
}

func (r *reports) Handle(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.errs = append(r.errs, err)
}

func TestGlobalsAreResolvedAtUse(t *testing.T) {
	restoreGlobals(t)
	hooks := tracing.New()
	publish := func(header map[string]string) {
		ctx := hooks.PublishStart(context.Background(), jsbroker.PublishStart{Topic: "orders.created", Header: header})
		hooks.Published(ctx, jsbroker.Published{})
	}
	publish(map[string]string{}) // nothing is set: nothing happens

	for range 3 { // set for the first time, and again
		tp, recorder := newProvider()
		otel.SetTracerProvider(tp)
		otel.SetTextMapPropagator(w3c)
		header := map[string]string{"Traceparent": upstream}
		publish(header)
		if n := len(recorder.Ended()); n != 1 {
			t.Fatalf("%d spans at the new provider, want 1", n)
		}
		wantHeader(t, header, recorder.Ended()[0])

		otel.SetTextMapPropagator(foreignPropagator{})
		header = map[string]string{"X-Foreign": "1-2", "traceparent": upstream}
		publish(header)
		if want := map[string]string{"x-foreign": "set", "traceparent": upstream}; !maps.Equal(header, want) {
			t.Fatalf("header = %v, want %v: another propagator is set", header, want)
		}
	}
}

// Two composite propagators are of one type, and == cannot tell them apart.
func TestOneCompositeAfterAnother(t *testing.T) {
	restoreGlobals(t)
	tp, _ := newProvider()
	hooks := tracing.New(tracing.WithTracerProvider(tp))
	foreign := propagation.NewCompositeTextMapPropagator(foreignPropagator{}, propagation.Baggage{})
	for range 3 {
		for _, c := range []struct {
			p    propagation.TextMapPropagator
			kept string
		}{{w3c, "X-Foreign"}, {foreign, "Traceparent"}} {
			otel.SetTextMapPropagator(c.p)
			header := map[string]string{"Traceparent": upstream, "X-Foreign": "1-2"}
			ctx := hooks.PublishStart(context.Background(), jsbroker.PublishStart{Topic: "a", Header: header})
			hooks.Published(ctx, jsbroker.Published{})
			if _, ok := header[c.kept]; !ok || len(header) != 2 {
				t.Fatalf("header = %v, want %s kept and the other replaced", header, c.kept)
			}
		}
	}
}

// The value that stands for the global has no fields until that is set.
func TestGlobalPropagatorAsOption(t *testing.T) {
	restoreGlobals(t)
	tp, recorder := newProvider()
	hooks := tracing.New(tracing.WithTracerProvider(tp), tracing.WithPropagator(&latePropagator{}))
	for i := range 3 {
		header := map[string]string{"Traceparent": upstream}
		ctx := hooks.PublishStart(context.Background(), jsbroker.PublishStart{Topic: "orders.created", Header: header})
		hooks.Published(ctx, jsbroker.Published{})
		if i > 0 {
			wantHeader(t, header, recorder.Ended()[i])
		}
	}
}

// latePropagator has fields from the second time it is asked.
type latePropagator struct{ asked int }

func (p *latePropagator) Fields() []string {
	p.asked++
	if p.asked == 1 {
		return nil
	}
	return w3c.Fields()
}

func (p *latePropagator) Inject(ctx context.Context, c propagation.TextMapCarrier) {
	if p.asked > 1 {
		w3c.Inject(ctx, c)
	}
}

func (p *latePropagator) Extract(ctx context.Context, c propagation.TextMapCarrier) context.Context {
	return w3c.Extract(ctx, c)
}

// foreignPropagator is not comparable: == on it panics.
type foreignPropagator []string

func (foreignPropagator) Fields() []string { return []string{"X-Foreign"} }
func (foreignPropagator) Inject(_ context.Context, c propagation.TextMapCarrier) {
	c.Set("X-Foreign", "set")
}
func (foreignPropagator) Extract(ctx context.Context, _ propagation.TextMapCarrier) context.Context {
	return ctx
}

type incomparableProvider struct {
	trace.TracerProvider
	_ []int
}

type incomparableInside struct {
	trace.TracerProvider
	extra any
}

func TestIncomparableGlobals(t *testing.T) {
	restoreGlobals(t)
	tp, recorder := newProvider()
	otel.SetTextMapPropagator(w3c)
	hooks := tracing.New()
	for i, global := range []trace.TracerProvider{
		incomparableProvider{TracerProvider: tp}, incomparableInside{tp, []int{1}}, incomparableInside{tp, 1},
	} {
		otel.SetTracerProvider(global)
		for range 3 {
			ctx := hooks.PublishStart(context.Background(), jsbroker.PublishStart{Topic: "a", Header: map[string]string{}})
			hooks.Published(ctx, jsbroker.Published{})
		}
		if n := len(recorder.Ended()); n != 3*(i+1) {
			t.Errorf("%d spans with %T, want %d", n, global, 3*(i+1))
		}
	}
}

// A forgotten propagator is the commonest mistake, and silent: say it, once.
func TestForgottenPropagatorIsReported(t *testing.T) {
	restoreGlobals(t)
	none := propagation.NewCompositeTextMapPropagator()
	otel.SetTextMapPropagator(none)
	var got reports
	otel.SetErrorHandler(&got)
	t.Cleanup(func() { otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) { t.Log(err) })) })

	tp, _ := newProvider()
	publish := func(hooks jsbroker.Hooks) {
		for range 3 {
			ctx := hooks.PublishStart(context.Background(), jsbroker.PublishStart{Topic: "a", Header: map[string]string{}})
			hooks.Published(ctx, jsbroker.Published{})
		}
	}
	publish(tracing.New(tracing.WithTracerProvider(tp)))
	if len(got.errs) != 1 || !strings.Contains(got.errs[0].Error(), "otel.SetTextMapPropagator") {
		t.Fatalf("reported: %v", got.errs)
	}
	publish(tracing.New(tracing.WithTracerProvider(tp), tracing.WithPropagator(none)))
	if len(got.errs) != 1 {
		t.Errorf("an empty propagator that was asked for is reported: %v", got.errs)
	}
}

// A provider that could not be built and is passed on unchecked.
func TestTypedNilOptions(t *testing.T) {
	restoreGlobals(t)
	tp, recorder := newProvider()
	otel.SetTracerProvider(tp)
	otel.SetTextMapPropagator(w3c)
	var noProvider *sdktrace.TracerProvider
	var noPropagator *latePropagator
	hooks := tracing.New(tracing.WithTracerProvider(noProvider), tracing.WithPropagator(noPropagator))
	header := map[string]string{}
	ctx := hooks.PublishStart(context.Background(), jsbroker.PublishStart{Topic: "a", Header: header})
	hooks.Published(ctx, jsbroker.Published{})
	if n := len(recorder.Ended()); n != 1 {
		t.Fatalf("%d spans, want 1", n)
	}
	wantHeader(t, header, recorder.Ended()[0])
}
