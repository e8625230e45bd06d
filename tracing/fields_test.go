package tracing_test

import (
	"context"
	"maps"
	"math/rand/v2"
	"testing"

	"go.opentelemetry.io/otel/propagation"

	"go-micro-jetstream/tracing"
)

var spellings = map[string][]string{
	"traceparent": {"traceparent", "Traceparent", "TRACEPARENT"},
	"tracestate":  {"tracestate", "Tracestate"},
	"X-Trace":     {"x-trace", "X-Trace"}, // announced like this
	"stranger":    {"stranger", "Stranger"},
}

var announced = []string{"traceparent", "tracestate", "X-Trace"}

// randomHeader has most names once or not at all, and some in several spellings.
func randomHeader() map[string]string {
	h := map[string]string{"Micro-Topic": "orders"}
	for _, all := range spellings {
		for range rand.IntN(3) {
			h[all[rand.IntN(len(all))]] = []string{"", "a", "b"}[rand.IntN(3)]
		}
	}
	return h
}

// What hooks give to a propagator knows a header from one look. It must read and
// write as HeaderCarrier does, whatever stands there.
func TestCarrierOfHooksIsHeaderCarrier(t *testing.T) {
	t.Parallel()
	for range 5000 {
		header := randomHeader()
		c, release := tracing.Carrier(maps.Clone(header), announced...)
		for name := range spellings {
			if got, want := c.Get(name), tracing.HeaderCarrier(header).Get(name); got != want {
				t.Fatalf("Get(%q) of %v = %q, want %q", name, header, got, want)
			}
		}
		release()

		for name := range spellings {
			got, want := maps.Clone(header), maps.Clone(header)
			c, release := tracing.Carrier(got, announced...)
			for _, value := range []string{"first", "second"} {
				c.Set(name, value)
				tracing.HeaderCarrier(want).Set(name, value)
				if !maps.Equal(got, want) || c.Get(name) != tracing.HeaderCarrier(want).Get(name) {
					t.Fatalf("Set(%q, %q) of %v: %v, want %v", name, value, header, got, want)
				}
			}
			release()
		}
	}
}

// writer is a propagator that writes some of the names that it announces, and
// one that it does not.
type writer map[string]string

func (w writer) Inject(_ context.Context, c propagation.TextMapCarrier) {
	for name, value := range w {
		c.Set(name, value)
	}
}
func (writer) Extract(ctx context.Context, _ propagation.TextMapCarrier) context.Context { return ctx }
func (writer) Fields() []string                                                          { return announced }

func TestReplaceLeavesNothingOfTheFormerContext(t *testing.T) {
	t.Parallel()
	for range 5000 {
		header, w := randomHeader(), writer{"stranger": "new"}
		want := maps.Clone(header)
		for _, name := range announced {
			for _, spelling := range spellings[name] {
				delete(want, spelling)
			}
			if rand.IntN(2) == 0 {
				w[name] = "new"
			}
		}
		for name, value := range w {
			tracing.HeaderCarrier(want).Set(name, value)
		}
		got := maps.Clone(header)
		tracing.Replace(context.Background(), w, got)
		if !maps.Equal(got, want) {
			t.Fatalf("%v written into %v: %v, want %v", w, header, got, want)
		}
	}
}
