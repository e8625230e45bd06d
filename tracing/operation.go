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

// operation is what all spans of one kind for one destination have in common. It is
// built once.
//
// Its options have only the attributes that the conventions list for sampling
// decisions. All others are set together when the span ends: the SDK then copies
// them once, and not at all for a span that is not sampled.
type operation struct {
	name string
	opts []trace.SpanStartOption // no spare capacity, so an append copies it
}

func newOperation(name string, kind trace.SpanKind, attrs ...attribute.KeyValue) operation {
	return operation{
		name: name,
		opts: slices.Clip([]trace.SpanStartOption{
			trace.WithSpanKind(kind),
			trace.WithAttributes(attrs...), // a single option, because each allocates once per span
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
	further  []attribute.KeyValue // not for sampling; set when the span ends
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

// isWildcard reports whether the topic has a wildcard. A wildcard is a whole token:
// NATS takes an asterisk inside a token literally.
func isWildcard(topic string) bool {
	for token := range strings.SplitSeq(topic, ".") {
		if token == "*" || token == ">" {
			return true
		}
	}
	return false
}

// The limits of a publishCache.
const (
	maxCachedTopics = 1024
	maxCachedLength = 256 // bytes of one topic
)

// publishCache keeps the operations of published topics. It is bounded, because
// callers of the service may make up topics. When it is full it starts again empty,
// and the topics in use soon return to it.
//
// The zero value is ready. All methods are safe for concurrent use.
type publishCache struct {
	generation atomic.Pointer[generation]
}

type generation struct {
	operations sync.Map // topic to *operation
	size       atomic.Int64
}

// get returns the operation of a topic.
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
	// A copy, because the caller's string may be a part of a much larger one and
	// would keep it in memory.
	key := strings.Clone(topic)
	op, loaded := g.operations.LoadOrStore(key, newPublishOperation(key))
	if !loaded {
		g.size.Add(1)
	}
	return op.(*operation)
}
