package tracing_test

import (
	"context"
	"maps"
	"math/rand/v2"
	"strings"
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

// lowered returns a header that has the announced names in lower case only, with the
// values that HeaderCarrier reads.
func lowered(header map[string]string) map[string]string {
	h := maps.Clone(header)
	for _, name := range announced {
		for _, spelling := range spellings[name] {
			delete(h, spelling)
		}
	}
	for _, name := range announced {
		if value := tracing.HeaderCarrier(header).Get(name); value != "" {
			h[strings.ToLower(name)] = value
		}
	}
	return h
}

// equal compares headers. An empty value counts as absent.
func equal(a, b map[string]string) bool {
	filled := func(h map[string]string) map[string]string {
		h = maps.Clone(h)
		maps.DeleteFunc(h, func(_, value string) bool { return value == "" })
		return h
	}
	return maps.Equal(filled(a), filled(b))
}

// What hooks give to a propagator looks through the header once. It must read and
// write as HeaderCarrier does, whatever the header is.
func TestCarrierOfHooksIsHeaderCarrier(t *testing.T) {
	t.Parallel()
	for range 5000 {
		header := randomHeader()
		c, release := tracing.Carrier(writer{}, maps.Clone(header))
		for name := range spellings {
			if got, want := c.Get(name), tracing.HeaderCarrier(header).Get(name); got != want {
				t.Fatalf("Get(%q) of %v = %q, want %q", name, header, got, want)
			}
		}
		release()

		for name := range spellings {
			got, want := maps.Clone(header), lowered(header)
			c, release := tracing.Carrier(writer{}, got)
			for _, value := range []string{"first", "second"} {
				c.Set(name, value)
				tracing.HeaderCarrier(want).Set(name, value)
				if !equal(got, want) || c.Get(name) != tracing.HeaderCarrier(want).Get(name) {
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

// Propagators take no baggage beyond 8 KiB.
func TestBaggageThatIsTooLargeStays(t *testing.T) {
	t.Parallel()
	b := setup(t)
	bag := "k=" + strings.Repeat("v", 9<<10)
	header := map[string]string{"baggage": bag}
	b.handle(context.Background(), header)
	if header["baggage"] != bag {
		t.Errorf("the handler sees %d bytes of baggage, want %d", len(header["baggage"]), len(bag))
	}
}
