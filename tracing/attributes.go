package tracing

import (
	"errors"
	"fmt"
	"go/token"
	"reflect"
	"strings"
	"sync"

	"go.opentelemetry.io/otel/attribute"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"

	jsbroker "go-micro-jetstream/broker"
)

// The attributes that the conventions have no name for. No name is the prefix of
// another: the conventions forbid a name that is a namespace too.
const (
	streamNameKey      = attribute.Key("messaging.nats.stream.name")
	streamSequenceKey  = attribute.Key("messaging.nats.stream.sequence")
	consumerNameKey    = attribute.Key("messaging.nats.consumer.name")
	deliveryCountKey   = attribute.Key("messaging.nats.message.delivery_count")
	duplicateKey       = attribute.Key("messaging.nats.message.duplicate")
	resultKey          = attribute.Key("messaging.nats.result")
	redeliveryDelayKey = attribute.Key("messaging.nats.redelivery.delay")
	deadLetterTopicKey = attribute.Key("messaging.nats.dead_letter.topic")
)

// The events on a consumer span, beside the conventions' "exception".
const (
	deadLetterEvent = "dead_letter"
	exhaustedEvent  = "exhausted"
)

// The conventions list no value for NATS, and ask for the system's name then.
var systemNATS = semconv.MessagingSystemKey.String("nats")

// attributes keeps slices for spans that end: the API copies what it is given.
var attributes = sync.Pool{New: func() any { return new([]attribute.KeyValue) }}

// setAttributes sets attributes that were appended to a slice of the pool, and
// gives that back.
func setAttributes(span trace.Span, buf *[]attribute.KeyValue, attrs []attribute.KeyValue) {
	span.SetAttributes(attrs...)
	clear(attrs) // let go of the strings
	*buf = attrs
	attributes.Put(buf)
}

// sequence converts a JetStream sequence: attributes have no unsigned numbers.
func sequence(key attribute.Key, n uint64) attribute.KeyValue {
	return key.Int64(int64(n))
}

// clean makes text of unknown origin fit for a span. One string that is not
// UTF-8, and anyone who may publish chooses subjects, message ids and what a
// handler puts into its errors, makes protobuf refuse the whole batch of spans.
func clean(s string) string {
	return strings.ToValidUTF8(s, "\uFFFD")
}

// text is what an error or a panic value says. Unlike a call of Error it
// survives an Error method that panics, as that of a nil pointer does.
func text(v any) string {
	return clean(fmt.Sprint(v))
}

// exception describes what went wrong as the attributes of an exception event.
//
// The event is written by hand and not by Span.RecordError, which the conventions
// are leaving: what arrives is the same, but RecordError names the type
// of the broker's own wrapper, takes its stack where the hook runs rather than
// where the handler panicked, and calls Error unprotected.
func exception(err error) []attribute.KeyValue {
	p := panicError(err)
	if p == nil {
		return []attribute.KeyValue{
			semconv.ExceptionType(typeName(err)),
			semconv.ExceptionMessage(text(err)),
		}
	}
	kind, message := "runtime.Goexit", text(p)
	if !p.Goexit {
		kind, message = typeName(p.Value), text(p.Value)
	}
	return []attribute.KeyValue{
		semconv.ExceptionType(kind),
		semconv.ExceptionMessage(message),
		semconv.ExceptionStacktrace(clean(string(p.Stack))),
	}
}

// panicError returns the panic of the handler, or nil if it returned an error. Like
// text it survives the methods of that.
func panicError(err error) (p *jsbroker.PanicError) {
	defer func() {
		if recover() != nil {
			p = nil
		}
	}()
	_ = errors.As(err, &p)
	return p
}

// errorType is the error.type of what a handler did.
func errorType(err error) attribute.KeyValue {
	switch p := panicError(err); {
	case p == nil:
		return semconv.ErrorTypeKey.String(typeName(err))
	case p.Goexit:
		return semconv.ErrorTypeKey.String("goexit")
	}
	return semconv.ErrorTypeKey.String("panic")
}

// reasonType is the error.type of what the broker did: its closed set of
// reasons tells more than a Go type.
func reasonType(reason string, err error) attribute.KeyValue {
	if reason == "" {
		reason = jsbroker.Reason(err)
	}
	return semconv.ErrorTypeKey.String(reason)
}

// typeName is the conventions' name for the type of an error, or of what was
// passed to panic. It looks through the wrappers with which a handler tells the
// broker what to do: what it wrapped is the error. Like text it survives the methods
// of that.
func typeName(v any) (name string) {
	defer func() {
		if recover() != nil {
			name = fmt.Sprintf("%T", v)
		}
	}()
	err, ok := v.(error)
	if !ok {
		return fmt.Sprintf("%T", v)
	}
	for isDecision(err) {
		cause := errors.Unwrap(err)
		if cause == nil {
			break
		}
		err, v = cause, cause
	}
	return clean(semconv.ErrorType(err).Value.AsString())
}

var brokerPackage = reflect.TypeFor[jsbroker.PublishError]().PkgPath()

// isDecision reports whether err is one of the broker's own wrappers, which are
// not exported.
func isDecision(err error) bool {
	t := reflect.TypeOf(err)
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	return t.PkgPath() == brokerPackage && !token.IsExported(t.Name())
}
