package tracing

import (
	"reflect"
	"slices"
	"sync/atomic"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/propagation"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"
)

// ScopeName is the instrumentation scope of all spans: for span processors and
// tests to tell them from others by.
const ScopeName = "go-micro-jetstream/tracing"

// tracerSource gives the tracer of an explicit provider, or of the global one as
// it is now: asking a provider for a tracer takes locks and memory, so it is
// asked again only when the global is another one.
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

// propagatorSource is the same for the propagator and the header names that it
// writes, which a composite propagator makes up anew at each call.
type propagatorSource struct {
	explicit propagation.TextMapPropagator
	cached   atomic.Pointer[fieldPropagator]
}

// fieldPropagator is a propagator and the names that it may read and write.
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
	c := fieldPropagator{p, withB3(p.Fields())}
	// No fields is no answer to keep: the global propagator has none until it
	// is told which one to stand for, and remains the same value.
	if len(c.fields) > 0 {
		s.cached.Store(&fieldPropagator{c.TextMapPropagator, c.fields})
	}
	return c
}

// b3 are the names of one context in its two forms,
// https://github.com/openzipkin/b3-propagation.
var b3 = []string{"b3", "x-b3-traceid", "x-b3-spanid", "x-b3-parentspanid", "x-b3-sampled", "x-b3-flags"}

// withB3 adds the other names if there is one of B3. Its propagators read both
// forms, but announce only the one that they write: the other would stay behind,
// from the context before, and be read first.
func withB3(fields []string) []string {
	known := func(name string) bool {
		return slices.ContainsFunc(fields, func(field string) bool { return sameName(field, name) })
	}
	if !slices.ContainsFunc(b3, known) {
		return fields
	}
	return append(slices.Clip(fields), slices.DeleteFunc(slices.Clone(b3), known)...)
}

// same reports whether two values are one and the same. The composite propagator
// is a slice, on which == panics; its array tells it from another, as long as
// the cache keeps that one alive.
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
	// An interface inside may hold what == panics on, too. reflect's
	// Value.Comparable tells beforehand, but costs allocations.
	defer func() { _ = recover() }()
	return a == b
}
