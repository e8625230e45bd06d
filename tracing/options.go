package tracing

import (
	"reflect"

	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
)

// Option configures [New]. A nil Option is skipped.
type Option func(*config)

type config struct {
	provider   trace.TracerProvider          // nil: the global one
	propagator propagation.TextMapPropagator // nil: the global one
	links      bool
}

// WithTracerProvider sets the provider of the tracer. The default, also for
// nil, is the global provider at the time of each message, so that
// otel.SetTracerProvider works before and after [New].
func WithTracerProvider(tp trace.TracerProvider) Option {
	return func(c *config) {
		c.provider = nil
		if !isNil(tp) {
			c.provider = tp
		}
	}
}

// WithPropagator sets what writes the trace context into headers and reads it
// from there. The default, also for nil, is the global propagator at the time of
// each message, so that otel.SetTextMapPropagator works before and after [New].
//
// OpenTelemetry's global propagator does nothing until it is set: traces then
// end at the service's border. The first message that this happens to is reported
// through otel.Handle. To propagate nothing on purpose, and without the report, pass
// propagation.NewCompositeTextMapPropagator().
func WithPropagator(p propagation.TextMapPropagator) Option {
	return func(c *config) {
		c.propagator = nil
		if !isNil(p) {
			c.propagator = p
		}
	}
}

// WithLinks starts a trace of its own for every handled message, linked to the
// span that published it. By default the consumer span is a child of the
// publisher's, so that one trace follows an event through every service.
//
// Links suit messages that wait for hours or fan out widely: backends and tail
// samplers expect a trace to end soon and to stay small.
func WithLinks() Option {
	return func(c *config) { c.links = true }
}

// isNil also finds the nil pointer in an interface: a provider that failed to
// build, passed on unchecked.
func isNil(v any) bool {
	if v == nil {
		return true
	}
	r := reflect.ValueOf(v)
	return r.Kind() == reflect.Pointer && r.IsNil()
}
