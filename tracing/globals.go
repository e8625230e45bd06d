package tracing

import (
	"reflect"
	"slices"
	"strings"
	"sync/atomic"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/propagation"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"
)

// ScopeName is the name of the instrumentation scope of all spans. Span processors
// and tests can select spans by it.
const ScopeName = "go-micro-jetstream/tracing"

// tracerSource returns the tracer of an explicit provider, or of the provider that
// is global at that moment. It caches the tracer until the global provider changes,
// because Provider.Tracer takes a lock and allocates.
type tracerSource struct {
	explicit trace.Tracer
	cached   atomic.Pointer[cachedTracer]
}

type cachedTracer struct {
	provider trace.TracerProvider
	tracer   trace.Tracer
}

func newTracerSource(tp trace.TracerProvider) *tracerSource {
	s := new(tracerSource)
	if tp != nil {
		s.explicit = newTracer(tp)
	}
	return s
}

func newTracer(tp trace.TracerProvider) trace.Tracer {
	return tp.Tracer(ScopeName, trace.WithSchemaURL(semconv.SchemaURL))
}

func (s *tracerSource) get() trace.Tracer {
	if s.explicit != nil {
		return s.explicit
	}
	tp := otel.GetTracerProvider()
	if c := s.cached.Load(); c != nil && same(c.provider, tp) {
		return c.tracer
	}
	t := newTracer(tp)
	s.cached.Store(&cachedTracer{tp, t})
	return t
}

// propagatorSource does the same for the propagator. It also caches the names of the
// propagator's headers, because a composite propagator builds that list in each
// call.
type propagatorSource struct {
	explicit propagation.TextMapPropagator
	cached   atomic.Pointer[fieldPropagator]
}

// fieldPropagator is a propagator with the names of its headers, in lower case.
type fieldPropagator struct {
	propagation.TextMapPropagator
	fields []string
}

func (s *propagatorSource) get() fieldPropagator {
	p := s.explicit
	if p == nil {
		p = otel.GetTextMapPropagator()
	}
	if c := s.cached.Load(); c != nil && (s.explicit != nil || same(c.TextMapPropagator, p)) {
		return *c
	}
	c := fieldPropagator{p, headerNames(p)}
	// An empty list is not cached. The global propagator returns one until it has a
	// delegate, and then it is still the same value.
	if len(c.fields) > 0 {
		s.cached.Store(&fieldPropagator{c.TextMapPropagator, c.fields})
	}
	return c
}

// b3 are the headers of B3 in both formats, one header and several:
// https://github.com/openzipkin/b3-propagation.
var b3 = []string{"b3", "x-b3-traceid", "x-b3-spanid", "x-b3-parentspanid", "x-b3-sampled", "x-b3-flags"}

// headerNames returns the names of the headers that p reads and writes, in lower
// case.
//
// B3 propagators read both formats but announce only the one that they write. So if
// p announces one name of B3, all of them are included. A header that is not
// replaced would keep the previous context, and the next service may read it first.
func headerNames(p propagation.TextMapPropagator) []string {
	var names []string
	add := func(name string) {
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	for _, field := range p.Fields() {
		add(strings.ToLower(field))
	}
	if slices.ContainsFunc(b3, func(name string) bool { return slices.Contains(names, name) }) {
		for _, name := range b3 {
			add(name)
		}
	}
	return names
}

// same reports whether a and b are one value. It works for composite propagators,
// which are slices: == panics on them, but two of them are the same if they share
// their array. The cache keeps that array alive, so its address is not reused.
func same(a, b any) (same bool) {
	va, vb := reflect.ValueOf(a), reflect.ValueOf(b)
	switch {
	case !va.IsValid() || !vb.IsValid() || va.Type() != vb.Type():
		return false
	case va.Kind() == reflect.Slice:
		return va.Len() == vb.Len() && va.Pointer() == vb.Pointer()
	case !va.Type().Comparable():
		return false
	}
	// An interface inside the value may hold something on which == panics.
	// reflect.Value.Comparable would tell, but it allocates.
	defer func() { _ = recover() }()
	return a == b
}
