package tracing_test

import (
	"maps"
	"slices"
	"testing"

	"go-micro-jetstream/tracing"
)

func TestHeaderCarrierGet(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name   string
		header map[string]string
		key    string
		want   string
	}{
		{"absent", map[string]string{"Micro-Topic": "orders"}, "traceparent", ""},
		{"nil map", nil, "traceparent", ""},
		{"lower", map[string]string{"traceparent": "a"}, "traceparent", "a"},
		{"title", map[string]string{"Traceparent": "a"}, "traceparent", "a"},
		{"upper", map[string]string{"TRACEPARENT": "a"}, "traceparent", "a"},
		{"asked for in title", map[string]string{"traceparent": "a"}, "Traceparent", "a"},
		{"title before lower", map[string]string{"traceparent": "stale", "Traceparent": "fresh"}, "traceparent", "fresh"},
		{"upper before lower", map[string]string{"traceparent": "stale", "TRACEPARENT": "fresh"}, "traceparent", "fresh"},
		{"title before any", map[string]string{"TRACEPARENT": "x", "TraceParent": "y", "Traceparent": "fresh", "traceparent": "z"}, "traceparent", "fresh"},
		{"ties by name", map[string]string{"TraceParent": "b", "TRACEPARENT": "a", "traceParent": "c"}, "traceparent", "a"},
		{"words", map[string]string{"x-b3-traceid": "stale", "X-B3-TraceId": "y", "X-B3-Traceid": "fresh"}, "x-b3-traceid", "fresh"},
		{"empty is absent", map[string]string{"Traceparent": "", "traceparent": "a"}, "traceparent", "a"},

		{"state of a stale parent", map[string]string{"traceparent": "stale", "Traceparent": "fresh", "tracestate": "k=stale"}, "tracestate", ""},
		{"state of a fresh parent", map[string]string{"traceparent": "stale", "Traceparent": "fresh", "tracestate": "k=stale", "Tracestate": "k=fresh"}, "tracestate", "k=fresh"},
		{"state beside one parent", map[string]string{"Traceparent": "a", "tracestate": "k=v"}, "tracestate", "k=v"},
		{"state beside equal parents", map[string]string{"Traceparent": "a", "traceparent": "a", "tracestate": "k=v"}, "tracestate", "k=v"},
		{"baggage beside a stale parent", map[string]string{"traceparent": "stale", "Traceparent": "fresh", "baggage": "k=v"}, "baggage", "k=v"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			for range 100 { // maps are iterated in random order
				if got := tracing.HeaderCarrier(maps.Clone(tc.header)).Get(tc.key); got != tc.want {
					t.Fatalf("Get(%q) of %v = %q, want %q", tc.key, tc.header, got, tc.want)
				}
			}
		})
	}
}

func TestHeaderCarrierSet(t *testing.T) {
	t.Parallel()
	c := tracing.HeaderCarrier{"Traceparent": "a", "TRACEPARENT": "b", "traceparent": "c", "Micro-Topic": "orders"}
	c.Set("TraceParent", "new")
	if want := map[string]string{"traceparent": "new", "Micro-Topic": "orders"}; !maps.Equal(c, want) {
		t.Errorf("after Set: %v, want %v", c, want)
	}
	keys := c.Keys()
	slices.Sort(keys)
	if want := []string{"Micro-Topic", "traceparent"}; !slices.Equal(keys, want) {
		t.Errorf("Keys = %v, want %v", keys, want)
	}
}
