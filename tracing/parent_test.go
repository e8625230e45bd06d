package tracing_test

import (
	"context"
	"maps"
	"strings"
	"testing"

	"go.opentelemetry.io/otel/baggage"
	"go.opentelemetry.io/otel/propagation"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"

	jsbroker "go-micro-jetstream/broker"
	"go-micro-jetstream/tracing"
)

func TestPublishParentFromContext(t *testing.T) {
	t.Parallel()
	b := setup(t)
	ctx, parent := b.provider.Tracer("test").Start(context.Background(), "request")
	header := map[string]string{"traceparent": upstream, "Traceparent": other, "tracestate": "k=v", "Micro-Topic": "orders"}
	s := b.publish(ctx, header)
	wantParent(t, s, parent.SpanContext().TraceID().String(), parent.SpanContext().SpanID().String())
	wantHeader(t, header, s)
	if s.Parent().IsRemote() {
		t.Error("the parent from the context counts as remote")
	}
	if ts, ok := header["tracestate"]; ok {
		t.Errorf("the tracestate %q of another context survived", ts)
	}
	if header["Micro-Topic"] != "orders" {
		t.Errorf("a foreign header was touched: %v", header)
	}
}

func TestPublishParentFromHeader(t *testing.T) {
	t.Parallel()
	for name, header := range map[string]map[string]string{
		"lower": {"traceparent": upstream},
		"title": {"Traceparent": upstream},
		"upper": {"TRACEPARENT": upstream},
		"both":  {"traceparent": other, "Traceparent": upstream},
		"all":   {"traceparent": other, "Traceparent": upstream, "TRACEPARENT": other, "traceParent": other},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setup(t)
			for range 100 {
				h := maps.Clone(header)
				s := b.publish(context.Background(), h)
				wantParent(t, s, upstreamTrace, upstreamSpan)
				wantHeader(t, h, s)
				if len(h) != 1 {
					t.Fatalf("header = %v", h)
				}
			}
		})
	}
}

func TestPublishRoot(t *testing.T) {
	t.Parallel()
	for name, header := range map[string]map[string]string{
		"no headers":        {},
		"broken":            {"Traceparent": "00-zz", "tracestate": "k=v"},
		"all zero":          {"traceparent": "00-00000000000000000000000000000000-0000000000000000-01"},
		"state of nobody":   {"Tracestate": "k=v"},
		"upper case digits": {"traceparent": "00-0AF7651916CD43DD8448EB211C80319C-B7AD6B7169203331-01"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setup(t)
			s := b.publish(context.Background(), header)
			wantRoot(t, s)
			wantHeader(t, header, s)
			if len(header) != 1 {
				t.Errorf("header = %v", header)
			}
		})
	}
}

func TestHandleParentFromHeader(t *testing.T) {
	t.Parallel()
	for name, header := range map[string]map[string]string{
		"lower": {"traceparent": upstream}, // as other languages write it
		"title": {"Traceparent": upstream},
		"upper": {"TRACEPARENT": upstream},
		"both":  {"traceparent": other, "Traceparent": upstream},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setup(t)
			for range 100 {
				h := maps.Clone(header)
				s := b.handle(context.Background(), h)
				wantParent(t, s, upstreamTrace, upstreamSpan)
				wantHeader(t, h, s)
				if !s.Parent().IsRemote() {
					t.Fatal("the parent from the header counts as local")
				}
			}
		})
	}
}

// A message without trace headers has a trace of its own, and so has each of
// them: the context of the subscription is nobody's parent.
func TestHandleWithoutHeaders(t *testing.T) {
	t.Parallel()
	b := setup(t)
	base, startup := b.provider.Tracer("test").Start(context.Background(), "startup")
	base = baggage.ContextWithBaggage(base, baggageOf(t, "phase=startup"))
	base = b.hooks.SubscriptionStart(base, jsbroker.SubscriptionStart{Subscription: subscription()})

	seen := map[trace.TraceID]bool{startup.SpanContext().TraceID(): true}
	for range 3 {
		h := map[string]string{}
		s := b.handle(base, h)
		wantRoot(t, s)
		wantHeader(t, h, s)
		if id := s.SpanContext().TraceID(); seen[id] {
			t.Errorf("trace %v again", id)
		} else {
			seen[id] = true
		}
		if len(h) != 1 {
			t.Errorf("the subscription's baggage is in the message: %v", h)
		}
	}
	h := map[string]string{"traceparent": upstream}
	wantParent(t, b.handle(base, h), upstreamTrace, upstreamSpan)

	// The subscription's context itself keeps its span: it is only not the
	// parent of messages.
	if trace.SpanFromContext(base) != startup {
		t.Error("SubscriptionStart took the span out of the subscription's context")
	}
}

// The span of the consumer is in the context that the handler gets, and a publish
// with it is its child.
func TestPublishFromHandler(t *testing.T) {
	t.Parallel()
	b := setup(t)
	header := map[string]string{"traceparent": upstream}
	ctx := b.hooks.HandleStart(context.Background(), jsbroker.HandleStart{Delivery: delivery(), Header: header})
	byContext := b.publish(ctx, map[string]string{})
	byHeader := b.publish(context.Background(), maps.Clone(header))
	b.hooks.Handled(ctx, jsbroker.Handled{Delivery: delivery(), Result: jsbroker.ResultAck})
	process := b.last()
	wantParent(t, process, upstreamTrace, upstreamSpan)
	wantChild(t, byContext, process)
	wantChild(t, byHeader, process)
}

func TestUpstreamDecidesSampling(t *testing.T) {
	t.Parallel()
	b := setup(t)
	for _, h := range []map[string]string{{"traceparent": notSampled}, {"Traceparent": notSampled}} {
		ctx := b.hooks.HandleStart(context.Background(), jsbroker.HandleStart{Delivery: delivery(), Header: h})
		sc := trace.SpanContextFromContext(ctx)
		if sc.IsSampled() || sc.TraceID().String() != upstreamTrace || sc.SpanID().String() == upstreamSpan {
			t.Errorf("span context %v", sc)
		}
		if got := h["traceparent"]; got != traceparentOf(sc) || len(h) != 1 {
			t.Errorf("header %v, want the unsampled %s", h, traceparentOf(sc))
		}
		out := map[string]string{}
		pub := b.hooks.PublishStart(ctx, jsbroker.PublishStart{Topic: "orders.paid", MessageID: "m", Header: out})
		if sc := trace.SpanContextFromContext(pub); sc.IsSampled() || sc.TraceID().String() != upstreamTrace {
			t.Errorf("span context %v", sc)
		}
		b.hooks.Published(pub, jsbroker.Published{})
		b.hooks.Handled(ctx, jsbroker.Handled{Delivery: delivery()})
	}
	if n := len(b.Started()); n != 0 {
		t.Errorf("%d spans recorded of a trace that is not sampled", n)
	}
}

func TestTracestate(t *testing.T) {
	t.Parallel()
	b := setup(t)
	h := map[string]string{"Traceparent": upstream, "Tracestate": "vendor=1"}
	s := b.handle(context.Background(), h)
	if got := s.SpanContext().TraceState().Get("vendor"); got != "1" {
		t.Errorf("tracestate of the span: %q", s.SpanContext().TraceState())
	}
	if h["tracestate"] != "vendor=1" || len(h) != 2 {
		t.Errorf("header = %v", h)
	}
	// The wrapper's fresh context has no state; the delivered one had.
	h = map[string]string{"traceparent": other, "tracestate": "vendor=stale", "Traceparent": upstream}
	s = b.publish(context.Background(), h)
	wantParent(t, s, upstreamTrace, upstreamSpan)
	if len(h) != 1 || s.SpanContext().TraceState().Len() != 0 {
		t.Errorf("a stale tracestate survived: %v, %q", h, s.SpanContext().TraceState())
	}
}

func TestBaggage(t *testing.T) {
	t.Parallel()
	b := setup(t)
	spanCtx, span := b.provider.Tracer("test").Start(context.Background(), "request")
	defer span.End()
	bagCtx := baggage.ContextWithBaggage(context.Background(), baggageOf(t, "from=context"))
	bothCtx := baggage.ContextWithBaggage(spanCtx, baggageOf(t, "from=context"))
	for _, tc := range []struct {
		name   string
		ctx    context.Context
		header map[string]string
		want   string // "" for no baggage
		parent string // "" for none
	}{
		{"header only", context.Background(), map[string]string{"Baggage": "from=header"}, "from=header", ""},
		{"header, parent in the context", spanCtx, map[string]string{"Baggage": "from=header", "traceparent": upstream}, "from=header", span.SpanContext().SpanID().String()},
		{"context wins", bothCtx, map[string]string{"baggage": "from=header"}, "from=context", span.SpanContext().SpanID().String()},
		{"context wins, parent in the header", bagCtx, map[string]string{"Baggage": "from=header", "Traceparent": upstream}, "from=context", upstreamSpan},
		{"two spellings", context.Background(), map[string]string{"baggage": "from=stale", "Baggage": "from=fresh"}, "from=fresh", ""},
		{"none", spanCtx, map[string]string{}, "", span.SpanContext().SpanID().String()},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := b.publish(tc.ctx, tc.header)
			wantHeader(t, tc.header, s)
			if tc.parent == "" {
				wantRoot(t, s)
			} else if got := s.Parent().SpanID().String(); got != tc.parent {
				t.Errorf("parent %s, want %s", got, tc.parent)
			}
			want := 1
			if tc.want != "" {
				want = 2
			}
			if tc.header["baggage"] != tc.want || len(tc.header) != want {
				t.Errorf("header = %v, want baggage %q once", tc.header, tc.want)
			}
		})
	}

	h := map[string]string{"Baggage": "tenant=a"}
	ctx := b.hooks.HandleStart(context.Background(), jsbroker.HandleStart{Delivery: delivery(), Header: h})
	if got := baggage.FromContext(ctx).Member("tenant").Value(); got != "a" {
		t.Errorf("the handler's context has baggage %q", baggage.FromContext(ctx))
	}
	if h["baggage"] != "tenant=a" || len(h) != 2 {
		t.Errorf("header = %v", h)
	}
	out := map[string]string{}
	b.publish(ctx, out)
	if out["baggage"] != "tenant=a" {
		t.Errorf("baggage is not passed on: %v", out)
	}
	b.hooks.Handled(ctx, jsbroker.Handled{Delivery: delivery()})
}

// Without a provider the hooks are a wire: what came in goes out.
func TestNoopProviderPassesOn(t *testing.T) {
	t.Parallel()
	hooks := tracing.New(tracing.WithTracerProvider(noop.NewTracerProvider()), tracing.WithPropagator(w3c))
	h := map[string]string{"Traceparent": upstream, "Baggage": "k=v"}
	ctx := hooks.HandleStart(context.Background(), jsbroker.HandleStart{Delivery: delivery(), Header: h})
	out := map[string]string{}
	pub := hooks.PublishStart(ctx, jsbroker.PublishStart{Topic: "orders.paid", Header: out})
	hooks.Published(pub, jsbroker.Published{})
	hooks.Handled(ctx, jsbroker.Handled{})
	want := map[string]string{"traceparent": upstream, "baggage": "k=v"}
	if !maps.Equal(h, want) || !maps.Equal(out, want) {
		t.Errorf("headers %v and %v, want %v", h, out, want)
	}
}

// A propagator that writes no headers leaves them alone.
func TestEmptyPropagator(t *testing.T) {
	t.Parallel()
	b := setup(t, tracing.WithPropagator(propagation.NewCompositeTextMapPropagator()))
	h := map[string]string{"Traceparent": upstream, "traceparent": other}
	want := maps.Clone(h)
	wantRoot(t, b.publish(context.Background(), h))
	wantRoot(t, b.handle(context.Background(), h))
	if !maps.Equal(h, want) {
		t.Errorf("header = %v, want it untouched", h)
	}
}

func TestLinks(t *testing.T) {
	t.Parallel()
	b := setup(t, tracing.WithLinks())
	base := b.hooks.SubscriptionStart(context.Background(), jsbroker.SubscriptionStart{Subscription: subscription()})
	for range 3 { // static options are shared: one message's link must not be another's
		h := map[string]string{"traceparent": upstream, "baggage": "k=v"}
		s := b.handle(base, h)
		wantRoot(t, s)
		wantHeader(t, h, s)
		if s.SpanContext().TraceID().String() == upstreamTrace {
			t.Error("still in the trace of the publisher")
		}
		if links := s.Links(); len(links) != 1 || links[0].SpanContext.SpanID().String() != upstreamSpan {
			t.Errorf("links %v, want the publisher", links)
		}
		if h["baggage"] != "k=v" {
			t.Errorf("baggage is lost: %v", h)
		}
		if s := b.handle(base, map[string]string{}); len(s.Links()) != 0 {
			t.Errorf("links %v, want none", s.Links())
		}
	}
	// Publishing is not affected.
	wantParent(t, b.publish(context.Background(), map[string]string{"traceparent": upstream}), upstreamTrace, upstreamSpan)
}

// A local root that is not sampled stays so downstream.
func TestLocalSamplerDecides(t *testing.T) {
	t.Parallel()
	b := setup(t)
	never := sdktrace.NewTracerProvider(sdktrace.WithSampler(sdktrace.NeverSample()))
	hooks := tracing.New(tracing.WithTracerProvider(never), tracing.WithPropagator(w3c))
	h := map[string]string{}
	ctx := hooks.PublishStart(context.Background(), jsbroker.PublishStart{Topic: "orders.created", Header: h})
	hooks.Published(ctx, jsbroker.Published{})
	if sc := trace.SpanContextFromContext(ctx); sc.IsSampled() || h["traceparent"] != traceparentOf(sc) {
		t.Errorf("header %v of %v", h, sc)
	}
	ctx = b.hooks.HandleStart(context.Background(), jsbroker.HandleStart{Delivery: delivery(), Header: h})
	b.hooks.Handled(ctx, jsbroker.Handled{})
	if len(b.Started()) != 0 {
		t.Error("the consumer recorded a trace that its publisher did not sample")
	}
}

// B3 has two forms, and its propagators read both and write one. The other must not
// stay behind: it would be read first by the next service.
func TestB3StandsInOneForm(t *testing.T) {
	t.Parallel()
	b := setup(t, tracing.WithPropagator(b3Headers{}))
	h := map[string]string{"B3": upstreamTrace + "-" + upstreamSpan + "-1", "X-B3-Flags": "1", "Micro-Topic": "orders"}
	process := b.handle(context.Background(), h)
	wantParent(t, process, upstreamTrace, upstreamSpan)
	want := map[string]string{
		"x-b3-traceid": upstreamTrace, "x-b3-spanid": process.SpanContext().SpanID().String(), "x-b3-sampled": "1", "Micro-Topic": "orders",
	}
	if !maps.Equal(h, want) {
		t.Errorf("header %v, want %v", h, want)
	}
	wantChild(t, b.publish(context.Background(), h), process)
	wantParent(t, b.publish(context.Background(), map[string]string{"b3": upstreamTrace + "-" + upstreamSpan + "-1"}), upstreamTrace, upstreamSpan)
	w3 := map[string]string{"b3": "stays"}
	if setup(t).handle(context.Background(), w3); w3["b3"] != "stays" {
		t.Errorf("a header that is nothing to the propagator was touched: %v", w3)
	}
}

// b3Headers is as OpenTelemetry's propagator for B3 in several headers is.
type b3Headers struct{}

func (b3Headers) Fields() []string {
	return []string{"x-b3-traceid", "x-b3-spanid", "x-b3-sampled", "x-b3-flags"}
}

func (b3Headers) Inject(ctx context.Context, c propagation.TextMapCarrier) {
	sc := trace.SpanContextFromContext(ctx)
	c.Set("x-b3-traceid", sc.TraceID().String())
	c.Set("x-b3-spanid", sc.SpanID().String())
	c.Set("x-b3-sampled", "1")
}

func (b3Headers) Extract(ctx context.Context, c propagation.TextMapCarrier) context.Context {
	traceID, spanID := c.Get("x-b3-traceid"), c.Get("x-b3-spanid")
	if parts := strings.Split(c.Get("b3"), "-"); len(parts) == 3 {
		traceID, spanID = parts[0], parts[1]
	}
	cfg := trace.SpanContextConfig{TraceFlags: trace.FlagsSampled, Remote: true}
	cfg.TraceID, _ = trace.TraceIDFromHex(traceID)
	cfg.SpanID, _ = trace.SpanIDFromHex(spanID)
	return trace.ContextWithRemoteSpanContext(ctx, trace.NewSpanContext(cfg))
}
