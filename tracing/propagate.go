package tracing

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
)

// carrier is what a hook passes to a propagator. It reads and writes like a
// HeaderCarrier, but with one map look-up for each of the propagator's names, because
// the header has them in lower case only. A HeaderCarrier searches the whole header
// for each name, which adds a tenth to the cost of a span.
type carrier struct {
	HeaderCarrier
	names []string // of the propagator's headers, in lower case
}

var carriers = sync.Pool{New: func() any { return new(carrier) }}

// newCarrier returns a carrier for a header and the lower-case names of a
// propagator's headers. The caller must release it.
//
// The trace headers that the broker knows are in lower case already. A propagator may
// have others, in any case: those are changed to lower case here.
func newCarrier(header map[string]string, names []string) *carrier {
	c := carriers.Get().(*carrier)
	c.HeaderCarrier, c.names = header, names
	for key := range header {
		if slices.ContainsFunc(names, func(name string) bool { return name != key && sameName(name, key) }) {
			c.resolve()
			break
		}
	}
	return c
}

func (c *carrier) release() {
	*c = carrier{}
	carriers.Put(c)
}

// resolve leaves only the lower-case spelling of each name, with the value that
// HeaderCarrier reads.
func (c *carrier) resolve() {
	values := make([]string, len(c.names))
	for i, name := range c.names { // before any change: a tracestate depends on its traceparent
		values[i] = c.HeaderCarrier.Get(name)
	}
	for i, name := range c.names {
		c.remove(name)
		if values[i] != "" {
			c.HeaderCarrier[name] = values[i]
		}
	}
}

// Get implements [propagation.TextMapCarrier].
func (c *carrier) Get(key string) string {
	if name := strings.ToLower(key); slices.Contains(c.names, name) {
		return c.HeaderCarrier[name]
	}
	return c.HeaderCarrier.Get(key)
}

// Set implements [propagation.TextMapCarrier].
func (c *carrier) Set(key, value string) {
	if name := strings.ToLower(key); slices.Contains(c.names, name) {
		c.HeaderCarrier[name] = value
		return
	}
	c.HeaderCarrier.Set(key, value)
}

var errNoPropagator = errors.New("go-micro-jetstream/tracing: the global propagator does nothing, " +
	"so traces end at this service: call otel.SetTextMapPropagator, or pass tracing.WithPropagator")

// inject replaces the trace headers with those of ctx. It reports a panic of the
// propagator and returns, because the caller must still keep the span to end it.
func (i *instance) inject(ctx context.Context, p fieldPropagator, header *carrier) {
	defer func() {
		if v := recover(); v != nil {
			otel.Handle(fmt.Errorf("go-micro-jetstream/tracing: the propagator panicked: %s", text(v)))
		}
	}()
	if header.HeaderCarrier == nil {
		return
	}
	if len(p.fields) == 0 && i.propagator.explicit == nil && trace.SpanContextFromContext(ctx).IsValid() {
		i.warn.Do(func() { otel.Handle(errNoPropagator) })
	}
	header.replace(ctx, p.TextMapPropagator)
}

// replace lets a propagator write the headers of ctx. It first deletes the old ones,
// because ctx may have fewer of them. A tracestate of the previous context must not
// remain beside a new traceparent. Baggage that the propagator cannot read, because
// it is too large for it, is not in ctx and stays as it is.
func (c *carrier) replace(ctx context.Context, p propagation.TextMapPropagator) {
	bag := c.HeaderCarrier["baggage"]
	for _, name := range c.names {
		delete(c.HeaderCarrier, name)
	}
	p.Inject(ctx, c)
	if bag != "" && c.HeaderCarrier["baggage"] == "" && slices.Contains(c.names, "baggage") {
		c.HeaderCarrier["baggage"] = bag
	}
}

// sameName reports whether a and b are spellings of one header name. Names are ASCII,
// so most pairs differ in length.
func sameName(a, b string) bool {
	return len(a) == len(b) && strings.EqualFold(a, b)
}
