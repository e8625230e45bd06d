package wire

import (
	"maps"
	"strings"
	"testing"
)

func TestTraceHeadersAreRecognisedInAnyCase(t *testing.T) {
	t.Parallel()
	for key, want := range map[string]string{
		"traceparent": "traceparent", "Traceparent": "traceparent", "TRACESTATE": "tracestate", "Baggage": "baggage", "B3": "b3",
		"X-B3-TraceId": "x-b3-traceid", "Uber-Trace-Id": "uber-trace-id", "": "", "traceparen": "", "traceparents": "", "b4": "", "X-B3-Flags": "x-b3-flags",
	} {
		got := ""
		if i := traceIndex(key); i >= 0 {
			got = traceHeaders[i]
		}
		if got != want {
			t.Errorf("%q: %q", key, got)
		}
	}
	for i, h := range traceHeaders { // traceIndex lists their lengths
		if traceIndex(strings.ToUpper(h)) != i {
			t.Errorf("%s is not recognised", h)
		}
		if titled := titledTraceHeaders[i]; !strings.EqualFold(titled, h) || titled == h {
			t.Errorf("%s is titled %s", h, titled)
		}
	}
}

// traceRule has the cases of the rule. want is in lower case.
var traceRule = []struct {
	name     string
	in, want map[string]string
}{
	{"none", map[string]string{"Other": "o"}, map[string]string{}},
	{"lower case", map[string]string{"traceparent": "a"}, map[string]string{"traceparent": "a"}},
	{"title", map[string]string{"Traceparent": "a"}, map[string]string{"traceparent": "a"}},
	{"any", map[string]string{"tRaCePaReNt": "a"}, map[string]string{"traceparent": "a"}},
	{"title before lower", map[string]string{"traceparent": "stale", "Traceparent": "fresh"}, map[string]string{"traceparent": "fresh"}},
	{"any before lower", map[string]string{"traceparent": "stale", "TRACEPARENT": "fresh"}, map[string]string{"traceparent": "fresh"}},
	{"title before any", map[string]string{"TRACEPARENT": "x", "TraceParent": "y", "Traceparent": "fresh", "traceparent": "z"}, map[string]string{"traceparent": "fresh"}},
	{"ties by name", map[string]string{"TraceParent": "b", "TRACEPARENT": "a", "traceParent": "c"}, map[string]string{"traceparent": "a"}},
	{"words", map[string]string{"x-b3-traceid": "stale", "X-B3-TraceId": "y", "X-B3-Traceid": "fresh"}, map[string]string{"x-b3-traceid": "fresh"}},
	{"others", map[string]string{"b3": "stale", "B3": "fresh", "uber-trace-id": "stale", "Uber-Trace-Id": "fresh"}, map[string]string{"b3": "fresh", "uber-trace-id": "fresh"}},

	{"empty title beside a full one", map[string]string{"Traceparent": "", "traceparent": "full"}, map[string]string{"traceparent": "full"}},
	{"empty title beside a full one with a state", map[string]string{"Traceparent": "", "traceparent": "full", "tracestate": "k=v"}, map[string]string{"traceparent": "full", "tracestate": "k=v"}},
	{"empty lower case beside a full one with a state", map[string]string{"Traceparent": "full", "traceparent": "", "tracestate": "k=v"}, map[string]string{"traceparent": "full", "tracestate": "k=v"}},
	{"empty alone", map[string]string{"Traceparent": "", "tracestate": ""}, map[string]string{}},
	{"empty title state of a fresh parent", map[string]string{"traceparent": "stale", "Traceparent": "fresh", "tracestate": "k=stale", "Tracestate": ""}, map[string]string{"traceparent": "fresh"}},

	{"state of a stale parent", map[string]string{"traceparent": "stale", "Traceparent": "fresh", "tracestate": "k=stale"}, map[string]string{"traceparent": "fresh"}},
	{"state of a fresh parent", map[string]string{"traceparent": "stale", "Traceparent": "fresh", "tracestate": "k=stale", "Tracestate": "k=fresh"}, map[string]string{"traceparent": "fresh", "tracestate": "k=fresh"}},
	{"state beside one parent", map[string]string{"Traceparent": "a", "tracestate": "k=v"}, map[string]string{"traceparent": "a", "tracestate": "k=v"}},
	{"state beside equal parents", map[string]string{"Traceparent": "a", "traceparent": "a", "tracestate": "k=v"}, map[string]string{"traceparent": "a", "tracestate": "k=v"}},
	{"state beside two parents that are not in lower case", map[string]string{"Traceparent": "a", "TRACEPARENT": "b", "tracestate": "k=v"}, map[string]string{"traceparent": "a", "tracestate": "k=v"}},
	{"state without a parent", map[string]string{"tracestate": "k=v"}, map[string]string{"tracestate": "k=v"}},
	{"baggage beside a stale parent", map[string]string{"traceparent": "stale", "Traceparent": "fresh", "baggage": "k=v"}, map[string]string{"traceparent": "fresh", "baggage": "k=v"}},
}

func TestTraceRule(t *testing.T) {
	t.Parallel()
	for _, tt := range traceRule {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			want := maps.Clone(tt.want)
			if o, ok := tt.in["Other"]; ok {
				want["Other"] = o
			}
			titled := map[string]string{}
			for k, v := range want {
				titled[title(strings.ToLower(k))] = v
			}
			for range 50 { // maps are iterated in random order
				out := OutgoingHeader(tt.in)
				if !maps.Equal(out, want) {
					t.Fatalf("OutgoingHeader: %v, want %v", out, want)
				}
				if again := OutgoingHeader(out); !maps.Equal(again, want) {
					t.Fatalf("OutgoingHeader of its result: %v, want %v", again, want)
				}
				var h Header
				if _, err := h.Make(tt.in, "id", false); err != nil {
					t.Fatal(err)
				}
				onWire, _ := IncomingHeader(h.Map())
				if !maps.Equal(onWire, want) {
					t.Fatalf("Make: %v, want %v", onWire, want)
				}
				spelled := maps.Clone(tt.in)
				if SpellForGoMicro(spelled); !maps.Equal(spelled, titled) {
					t.Fatalf("SpellForGoMicro: %v, want %v", spelled, titled)
				}
			}
		})
	}
}

// A hook that starts a span writes into the copy: its span must win over the one
// that was there, however each is spelled.
func TestWhatAHookWritesInTitleIsFresh(t *testing.T) {
	t.Parallel()
	h := OutgoingHeader(map[string]string{"Traceparent": "before", "Tracestate": "k=before"})
	h["Traceparent"] = "after"
	if got := OutgoingHeader(h); !maps.Equal(got, map[string]string{"traceparent": "after"}) {
		t.Errorf("%v", got)
	}
}

func TestTraceID(t *testing.T) {
	t.Parallel()
	const stale, fresh = "00-11111111111111111111111111111111-1111111111111111-01", "00-22222222222222222222222222222222-2222222222222222-01"
	for _, tt := range []struct {
		header map[string]string
		want   string
	}{
		{nil, ""},
		{map[string]string{"traceparent": fresh}, strings.Repeat("2", 32)},
		{map[string]string{"TRACEPARENT": fresh}, strings.Repeat("2", 32)},
		{map[string]string{"traceparent": stale, "Traceparent": fresh}, strings.Repeat("2", 32)},
		{map[string]string{"traceparent": fresh, "Traceparent": ""}, strings.Repeat("2", 32)},
		{map[string]string{"traceparent": fresh + "-and-what-a-later-version-adds"}, strings.Repeat("2", 32)},
		{map[string]string{"traceparent": fresh[:54]}, ""},
		{map[string]string{"traceparent": strings.ReplaceAll(fresh, "-", "_")}, ""},
		{map[string]string{"b3": fresh}, ""},
	} {
		if got := TraceID(tt.header); got != tt.want {
			t.Errorf("%v: %q, want %q", tt.header, got, tt.want)
		}
	}
}

// FuzzTraces holds the two passes of a publish to the rule: the result does not
// depend on the order of a map, and a second pass changes nothing.
func FuzzTraces(f *testing.F) {
	f.Add("traceparent", "a", "Traceparent", "b", "tracestate", "c")
	f.Add("traceparent", "a", "Traceparent", "", "Tracestate", "c")
	f.Add("B3", "a", "b3", "a", "X-B3-TraceId", "c")
	f.Fuzz(func(t *testing.T, k1, v1, k2, v2, k3, v3 string) {
		in := map[string]string{k1: v1, k2: v2, k3: v3}
		want := OutgoingHeader(in)
		for range 10 {
			if got := OutgoingHeader(in); !maps.Equal(got, want) {
				t.Fatalf("%q and %q", want, got)
			}
		}
		if again := OutgoingHeader(want); !maps.Equal(again, want) {
			t.Fatalf("%q becomes %q", want, again)
		}
		for k := range want {
			if i := traceIndex(k); i >= 0 && (k != traceHeaders[i] || want[k] == "") {
				t.Fatalf("%q: %q is left", k, want[k])
			}
		}
	})
}

func BenchmarkMake(b *testing.B) {
	in := map[string]string{"Content-Type": "application/json", "Micro-Topic": "orders.created", "traceparent": "00-11111111111111111111111111111111-1111111111111111-01", "Micro-Id": "x"}
	var h Header
	b.ReportAllocs()
	for b.Loop() {
		if _, err := h.Make(in, "id", false); err != nil {
			b.Fatal(err)
		}
		h.Reset()
	}
}
