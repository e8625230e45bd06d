package wire

import "strings"

// The rule of trace headers. Each has one value per message and is written in
// lower case. A message may have several spellings of one, because go-micro copies
// the headers of a delivery into what its handler publishes, and go-micro's own
// OpenTelemetry wrapper then adds its span as Traceparent beside the traceparent
// that was delivered. So:
//   - an empty value counts as absent;
//   - the spelling with a capital for each word is the fresh one and wins over any
//     other, and lower case loses to any other;
//   - a lower-case tracestate belongs to the lower-case traceparent. If that one
//     lost to another value, both are stale and neither is written.
//
// tracing.HeaderCarrier reads headers by the same rule.

// traceHeaders are the headers of the common propagators: W3C trace context and
// baggage, B3, and Jaeger.
var traceHeaders = spellings{
	traceparent: "traceparent", tracestate: "tracestate", baggage: "baggage",
	3: "b3", 4: "x-b3-traceid", 5: "x-b3-spanid", 6: "x-b3-parentspanid", 7: "x-b3-sampled", 8: "x-b3-flags",
	9: "uber-trace-id",
}

// titledTraceHeaders are the same with a capital for each word.
var titledTraceHeaders = func() (titled spellings) {
	for i, name := range traceHeaders {
		titled[i] = title(name)
	}
	return titled
}()

// spellings has one spelling of each trace header.
type spellings [10]string

// Positions in spellings.
const (
	traceparent = 0
	tracestate  = 1
	baggage     = 2
)

// traceIndex returns the position of a key, in any case, among the trace headers,
// or -1.
func traceIndex(key string) int {
	switch len(key) {
	case 2, 7, 10, 11, 12, 13, 17: // the lengths of traceHeaders; most keys have another
		for i, h := range traceHeaders {
			if len(h) == len(key) && strings.EqualFold(h, key) {
				return i
			}
		}
	}
	return -1
}

// traces collects the trace headers of one message and keeps one spelling of each.
type traces struct {
	found     [len(spellings{})]struct{ key, value string }
	delivered string // the value of the lower-case traceparent
}

// add takes in a header if it is a trace header, and reports whether it is one.
func (t *traces) add(key, value string) bool {
	i := traceIndex(key)
	if i < 0 {
		return false
	}
	if strings.TrimSpace(value) == "" { // blanks are lost on the wire
		return true
	}
	if i == traceparent && key == traceHeaders[traceparent] {
		t.delivered = value
	}
	f := &t.found[i]
	if f.key == "" || fresher(key, f.key, i) {
		f.key, f.value = key, value
	}
	return true
}

// stale reports whether a lower-case traceparent lost to one of another value.
func (t *traces) stale() bool {
	return t.delivered != "" && t.delivered != t.found[traceparent].value
}

// each passes on the headers in the given spelling, which is lower case or titled.
func (t *traces) each(names *spellings, set func(key, value string)) {
	for i, f := range t.found {
		if f.key == "" || i == tracestate && f.key == traceHeaders[tracestate] && t.stale() {
			continue
		}
		set(names[i], f.value)
	}
}

// fresher reports whether a wins over b. Both are spellings of the i-th header.
// Between two spellings of one rank the order of the names decides, and never the
// random order of a map.
func fresher(a, b string, i int) bool {
	ra, rb := rank(a, i), rank(b, i)
	return ra > rb || ra == rb && a < b
}

// rank orders the spellings of the i-th header.
func rank(key string, i int) int {
	switch key {
	case titledTraceHeaders[i]:
		return 2
	case traceHeaders[i]:
		return 0
	}
	return 1
}

// title upper-cases the first letter of each word of an ASCII header name.
func title(name string) string {
	b := []byte(name)
	for i := range b {
		if (i == 0 || b[i-1] == '-') && 'a' <= b[i] && b[i] <= 'z' {
			b[i] -= 'a' - 'A'
		}
	}
	return string(b)
}

// received returns the value of the i-th header of a delivery that has several. W3C has
// those of tracestate and baggage put together. Of others it is the first that is not
// empty.
func received(i int, values []string) string {
	full := make([]string, 0, len(values))
	for _, v := range values {
		if v != "" {
			full = append(full, v)
		}
	}
	switch {
	case len(full) == 0:
		return ""
	case i == tracestate || i == baggage:
		return strings.Join(full, ",")
	}
	return full[0]
}

// SpellForGoMicro gives the trace headers of a delivery the spelling that
// go-micro's OpenTelemetry wrapper writes, such as Traceparent. The wrapper then
// replaces them. In lower case they would stand beside the wrapper's own, and the
// wrapper picks one of the two by chance when it looks for the parent.
func SpellForGoMicro(h map[string]string) {
	var t traces
	for k, v := range h {
		if t.add(k, v) {
			delete(h, k)
		}
	}
	t.each(&titledTraceHeaders, func(k, v string) { h[k] = v })
}

// TraceID returns the id of the trace that a message belongs to, or "". The
// traceparent header has it, so the caller need not know who traces: a hook that
// starts a span has put the id there, or else the publisher has.
func TraceID(header map[string]string) string {
	var t traces
	for k, v := range header {
		t.add(k, v)
	}
	// version-traceid-parentid-flags, all of fixed lengths (W3C trace context).
	v := t.found[traceparent].value
	if len(v) < 55 || v[2] != '-' || v[35] != '-' {
		return ""
	}
	id := v[3:35]
	if strings.Trim(id, "0123456789abcdef") != "" || strings.Trim(id, "0") == "" {
		return "" // whoever has sent it may have written anything
	}
	return id
}
