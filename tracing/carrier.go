package tracing

import (
	"strings"

	"go.opentelemetry.io/otel/propagation"
)

const (
	traceparent = "traceparent"
	tracestate  = "tracestate"
)

// HeaderCarrier lets a propagator read and write go-micro's Message.Header:
//
//	otel.GetTextMapPropagator().Inject(ctx, tracing.HeaderCarrier(msg.Header))
//
// NATS header names are case-sensitive and go-micro's map is too, but those who
// write trace headers do not agree on a case. So names match in any case, and
// what is written stands there once, in lower case.
//
// Where one name stands in several spellings with different values, the one that
// is not in lower case is read. That is the fresh one: go-micro copies the
// headers of a delivery into what its handler publishes, and go-micro's own
// OpenTelemetry wrapper adds its span as Traceparent, not knowing of the
// traceparent that was delivered.
//
// A HeaderCarrier is as safe for concurrent use as the map is: not for writing.
type HeaderCarrier map[string]string

var _ propagation.TextMapCarrier = HeaderCarrier(nil)

// Get returns the value of key in any case, or "". An empty value counts as
// absent.
func (c HeaderCarrier) Get(key string) string {
	spelling, value, _ := c.find(key)
	if value != "" && isLower(spelling) && strings.EqualFold(key, tracestate) {
		// A tracestate belongs to its traceparent: where the one in lower case is
		// stale, so is the tracestate beside it. The fresh context had none.
		if _, _, stale := c.find(traceparent); stale {
			return ""
		}
	}
	return value
}

// find returns the spelling of key that counts and its value, and whether a
// stale one in lower case, of another value, stands beside it.
func (c HeaderCarrier) find(key string) (spelling, value string, stale bool) {
	lower, best := "", -1
	for k, v := range c {
		if v == "" || !sameName(k, key) {
			continue
		}
		r := rank(k)
		if r == 0 {
			lower = v
		}
		// Among equals the order of the names decides: never that of the map.
		if r > best || r == best && k < spelling {
			spelling, value, best = k, v, r
		}
	}
	return spelling, value, lower != "" && lower != value
}

// Set deletes key in every case and stores value under its lower-case name.
func (c HeaderCarrier) Set(key, value string) {
	c.remove(key)
	c[strings.ToLower(key)] = value
}

// Keys lists the names as they are spelled in the map, in no order.
func (c HeaderCarrier) Keys() []string {
	keys := make([]string, 0, len(c))
	for k := range c {
		keys = append(keys, k)
	}
	return keys
}

// remove deletes name in every case.
func (c HeaderCarrier) remove(name string) {
	for k := range c {
		if sameName(k, name) {
			delete(c, k)
		}
	}
}

// sameName reports whether two spellings are of one name. Names are ASCII, so the
// length tells most of them apart: each is compared with every header of a
// message.
func sameName(a, b string) bool {
	return len(a) == len(b) && strings.EqualFold(a, b)
}

// rank orders the spellings of one name: lower case, anything else, and best
// the one that go-micro's wrapper writes, each word with a capital.
func rank(name string) int {
	switch {
	case isLower(name):
		return 0
	case isTitle(name):
		return 2
	}
	return 1
}

func isLower(name string) bool {
	for i := range len(name) {
		if isUpper(name[i]) {
			return false
		}
	}
	return true
}

func isTitle(name string) bool {
	for i := range len(name) {
		c, first := name[i], i == 0 || name[i-1] == '-'
		if isUpper(c) && !first || first && 'a' <= c && c <= 'z' {
			return false
		}
	}
	return true
}

func isUpper(c byte) bool { return 'A' <= c && c <= 'Z' }
