package tracing

import (
	"reflect"

	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
)

// Option configures [New]. A nil Option is skipped.
type Option func(*config)

type config struct {
	provider   trace.TracerProvider          // nil for the global one
	propagator propagation.TextMapPropagator // nil for the global one
	links      bool
}

// WithTracerProvider sets the tracer provider. The default, also for nil, is the
// global one. The hooks look it up for each message, so otel.SetTracerProvider may
// be called before or after [New].
func WithTracerProvider(tp trace.TracerProvider) Option {
	return func(c *config) {
		c.provider = nil
		if !isNil(tp) {
			c.provider = tp
		}
	}
}

// WithPropagator sets the propagator, which writes the trace context into headers
// and reads it from them. The default, also for nil, is the global one. The hooks
// look it up for each message, so otel.SetTextMapPropagator may be called before or
// after [New].
//
// OpenTelemetry's global propagator does nothing until it is set, and traces then
// end at the border of the service. The hooks report this once, through otel.Handle.
// To propagate nothing on purpose and without the report, pass
// propagation.NewCompositeTextMapPropagator().
func WithPropagator(p propagation.TextMapPropagator) Option {
	return func(c *config) {
		c.propagator = nil
		if !isNil(p) {
			c.propagator = p
		}
	}
}

// WithLinks starts a new trace for every handled message, with a link to the span
// that published it. By default the consumer span is a child of that span, so that
// one trace follows an event through every service.
//
// Use links for messages that wait for hours or have many subscribers. Backends and
// tail samplers expect a trace to end soon and to stay small.
func WithLinks() Option {
	return func(c *config) { c.links = true }
}

// isNil reports whether v is nil or a nil pointer. A nil pointer comes from a
// provider that could not be built, if nobody checked the error.
func isNil(v any) bool {
	if v == nil {
		return true
	}
	r := reflect.ValueOf(v)
	return r.Kind() == reflect.Pointer && r.IsNil()
}
