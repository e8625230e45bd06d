package tracing

import (
	"net/textproto"
	"strings"

	"go.opentelemetry.io/otel/propagation"
)

// HeaderCarrier lets a propagator read and write go-micro's Message.Header:
//
//	otel.GetTextMapPropagator().Inject(ctx, tracing.HeaderCarrier(msg.Header))
//
// Names match in any case, because those who write trace headers do not agree on
// one. Set writes the name once, in lower case.
//
// A map may hold several spellings of a name, with different values. Then Get reads
// the one with a capital for each word, such as Traceparent, and the lower-case one
// only if there is no other. go-micro copies the headers of a delivery into what its
// handler publishes, and go-micro's own OpenTelemetry wrapper writes its span as
// Traceparent beside the delivered traceparent. So the lower-case one is stale.
//
// Like its map, a HeaderCarrier is not safe for concurrent writes.
type HeaderCarrier map[string]string

var _ propagation.TextMapCarrier = HeaderCarrier(nil)

// Get returns the value of key in any case, or "". A value that is empty, or all blank,
// counts as absent.
//
// A lower-case tracestate belongs to the lower-case traceparent. If that one is
// stale, the tracestate is stale too and counts as absent.
func (c HeaderCarrier) Get(key string) string {
	spelling, value := c.fresh(key)
	if spelling == "tracestate" {
		parent := c["traceparent"]
		if _, current := c.fresh("traceparent"); !blank(parent) && parent != current {
			return ""
		}
	}
	return value
}

// fresh returns the spelling of key that counts, and its value.
func (c HeaderCarrier) fresh(key string) (spelling, value string) {
	lower, title := strings.ToLower(key), textproto.CanonicalMIMEHeaderKey(key)
	if value := c[title]; !blank(value) {
		return title, value
	}
	for k, v := range c {
		// Among other spellings the order of the names decides, not that of the map.
		if !blank(v) && k != lower && sameName(k, key) && (spelling == "" || k < spelling) {
			spelling, value = k, v
		}
	}
	if value := c[lower]; spelling == "" && !blank(value) {
		return lower, value
	}
	return spelling, value
}

// blank reports whether nothing is left of a value on the way through NATS.
func blank(value string) bool { return strings.TrimSpace(value) == "" }

// Set stores value under the lower-case name of key and deletes all other spellings.
func (c HeaderCarrier) Set(key, value string) {
	c.remove(key)
	c[strings.ToLower(key)] = value
}

// Keys returns the names as they are spelled in the map, in no particular order.
func (c HeaderCarrier) Keys() []string {
	keys := make([]string, 0, len(c))
	for k := range c {
		keys = append(keys, k)
	}
	return keys
}

// remove deletes all spellings of key.
func (c HeaderCarrier) remove(key string) {
	for k := range c {
		if sameName(k, key) {
			delete(c, k)
		}
	}
}
