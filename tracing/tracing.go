package tracing

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"go.opentelemetry.io/otel"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"

	jsbroker "go-micro-jetstream/broker"
)

// New returns hooks that trace every message, for [jsbroker.WithHooks]:
//
//	broker := jsbroker.NewBroker(jsbroker.WithHooks(tracing.New()))
//
// Without options it uses the global tracer provider and the global propagator.
// The hooks are safe for concurrent use, and one value may serve several
// brokers. Several values with different providers do not end each other's
// spans.
func New(opts ...Option) jsbroker.Hooks {
	var c config
	for _, opt := range opts {
		if opt != nil {
			opt(&c)
		}
	}
	i := &instance{
		tracer:     newTracerSource(c.provider),
		propagator: propagatorSource{explicit: c.propagator},
		links:      c.links,
	}
	// Skipped, and Settled with Returned, are about messages that no handler has
	// seen: they have no span to stand on. How a handled message was settled
	// is told by Handled.
	return jsbroker.Hooks{
		PublishStart:      i.publishStart,
		Published:         i.published,
		SubscriptionStart: i.subscriptionStart,
		HandleStart:       i.handleStart,
		Panicked:          i.panicked,
		DeadLettered:      i.deadLettered,
		Exhausted:         i.exhausted,
		Handled:           i.handled,
		ConnectionChanged: i.servers.connectionChanged,
	}
}

// instance is what one call of New made.
type instance struct {
	tracer     *tracerSource
	propagator propagatorSource
	links      bool
	publishes  publishCache
	servers    servers
	warn       sync.Once
}

var errNoPropagator = errors.New("go-micro-jetstream/tracing: the global propagator does nothing, " +
	"so traces end at this service: call otel.SetTextMapPropagator, or pass tracing.WithPropagator")

// inject replaces the trace headers by those of ctx. It survives a propagator that
// panics: somebody has to end the span.
func (i *instance) inject(ctx context.Context, p fieldPropagator, header *fields) {
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

// record adds err to the span as an exception event.
func record(span trace.Span, err error) {
	span.AddEvent(semconv.ExceptionEventName, trace.WithAttributes(exception(err)...))
}
