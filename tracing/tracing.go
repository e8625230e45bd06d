package tracing

import (
	"sync"

	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"

	jsbroker "go-micro-jetstream/broker"
)

// New returns hooks that trace every message, for [jsbroker.WithHooks]:
//
//	broker := jsbroker.NewBroker(jsbroker.WithHooks(tracing.New()))
//
// Without options they use the global tracer provider and the global propagator.
//
// The hooks are safe for concurrent use, and one value may serve several brokers.
// Several values on one broker, for example with different providers, each end only
// their own spans.
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
	// Skipped is not used, because the message has no span: no handler has seen it. How
	// a handled message was settled is in Handled.
	return jsbroker.Hooks{
		PublishStart:      i.publishStart,
		Published:         i.published,
		SubscriptionStart: i.subscriptionStart,
		HandleStart:       i.handleStart,
		Panicked:          i.panicked,
		DeadLettered:      i.deadLettered,
		Exhausted:         i.exhausted,
		Settled:           i.settled,
		Handled:           i.handled,
		ConnectionChanged: i.servers.connectionChanged,
	}
}

// instance is the state behind the hooks of one call of New.
type instance struct {
	tracer     *tracerSource
	propagator propagatorSource
	links      bool
	publishes  publishCache
	servers    servers
	earlier    earlier
	warn       sync.Once // reports errNoPropagator
}

// record adds err to the span as an exception event.
func record(span trace.Span, err error) {
	span.AddEvent(semconv.ExceptionEventName, trace.WithAttributes(exception(err)...))
}
