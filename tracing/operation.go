package tracing

import (
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"go.opentelemetry.io/otel/attribute"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"

	jsbroker "go-micro-jetstream/broker"
)

const (
	publishName = "publish"
	processName = "process"
)

// operation is what all spans of one kind to one destination have in common. It
// is worked out once, and holds what a sampler may want to decide by: the
// conventions list these attributes. All others are set at once when the span
// ends, so that the SDK copies them once, and not at all for a span that is not
// sampled.
type operation struct {
	name string
	opts []trace.SpanStartOption // full to its capacity: an append copies it
}

func newOperation(name string, kind trace.SpanKind, attrs ...attribute.KeyValue) operation {
	return operation{
		name: name,
		opts: slices.Clip([]trace.SpanStartOption{
			trace.WithSpanKind(kind),
			trace.WithAttributes(attrs...), // one option: each costs an allocation per span
		}),
	}
}

func newPublishOperation(topic string) *operation {
	topic = clean(topic)
	op := newOperation(publishName+" "+topic, trace.SpanKindProducer,
		systemNATS,
		semconv.MessagingOperationName(publishName),
		semconv.MessagingOperationTypeSend,
		semconv.MessagingDestinationName(topic),
	)
	return &op
}

// processOperation is the operation of one subscription.
type processOperation struct {
	operation
	of       jsbroker.Subscription
	wildcard bool
	further  []attribute.KeyValue // what no sampler decides by, for the end of the span
}

func newProcessOperation(s jsbroker.Subscription) *processOperation {
	topic, wildcard := clean(s.Topic), isWildcard(s.Topic)
	destination := semconv.MessagingDestinationName(topic)
	if wildcard {
		destination = semconv.MessagingDestinationTemplate(topic)
	}
	attrs := []attribute.KeyValue{
		systemNATS,
		semconv.MessagingOperationName(processName),
		semconv.MessagingOperationTypeProcess,
		destination,
	}
	if s.Queue != "" {
		attrs = append(attrs, semconv.MessagingConsumerGroupName(clean(s.Queue)))
	}
	return &processOperation{
		operation: newOperation(processName+" "+topic, trace.SpanKindConsumer, attrs...),
		of:        s,
		wildcard:  wildcard,
		further: []attribute.KeyValue{
			streamNameKey.String(clean(s.Stream)),
			consumerNameKey.String(clean(s.Consumer)),
		},
	}
}

// isWildcard reports whether a token of the topic is one. An asterisk inside a
// token is an ordinary letter to NATS.
func isWildcard(topic string) bool {
	for token := range strings.SplitSeq(topic, ".") {
		if token == "*" || token == ">" {
			return true
		}
	}
	return false
}

const (
	maxCachedTopics = 1024
	maxCachedLength = 256
)

// publishCache holds the operations of the topics that are published to. Topics
// can be made up by whoever calls the service, so it is bounded: when it is
// full it starts afresh, which keeps the topics in use in it.
//
// The zero value is ready; all methods are safe for concurrent use.
type publishCache struct {
	generation atomic.Pointer[generation]
}

type generation struct {
	operations sync.Map // topic to *operation
	size       atomic.Int64
}

func (c *publishCache) get(topic string) *operation {
	if len(topic) > maxCachedLength {
		return newPublishOperation(topic)
	}
	g := c.generation.Load()
	if g != nil {
		if op, ok := g.operations.Load(topic); ok {
			return op.(*operation)
		}
	}
	if g == nil || g.size.Load() >= maxCachedTopics {
		fresh := new(generation)
		if c.generation.CompareAndSwap(g, fresh) {
			g = fresh
		} else {
			g = c.generation.Load()
		}
	}
	// The caller's string may be part of a far larger one, which must not be
	// kept alive.
	key := strings.Clone(topic)
	op, loaded := g.operations.LoadOrStore(key, newPublishOperation(key))
	if !loaded {
		g.size.Add(1)
	}
	return op.(*operation)
}
