package wire_test

import (
	"maps"
	"math/rand/v2"
	"net/textproto"
	"strings"
	"testing"

	"go-micro-jetstream/broker/internal/wire"
	"go-micro-jetstream/tracing"
)

// The tracing hooks cannot use this package, so they have the rule of trace headers once
// more. Both must choose the same value, whatever spellings there are.
func TestHeaderCarrierHasTheSameRule(t *testing.T) {
	t.Parallel()
	names := []string{"traceparent", "tracestate", "baggage", "x-b3-traceid"}
	for range 2000 {
		header := map[string]string{}
		for _, name := range names {
			for _, key := range []string{name, textproto.CanonicalMIMEHeaderKey(name), strings.ToUpper(name), strings.ToUpper(name[:2]) + name[2:]} {
				if rand.N(2) == 0 {
					header[key] = []string{"", " ", "a", "b"}[rand.N(4)]
				}
			}
		}
		chosen := maps.Clone(header)
		wire.SpellForGoMicro(chosen)
		for _, name := range names {
			got, want := tracing.HeaderCarrier(header).Get(name), chosen[textproto.CanonicalMIMEHeaderKey(name)]
			if got != want {
				t.Fatalf("%v: the carrier reads %q of %s, and the broker sends %q", header, got, name, want)
			}
		}
	}
}
