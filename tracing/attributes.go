package tracing

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"

	microerrors "go-micro.dev/v5/errors"
	"go.opentelemetry.io/otel/attribute"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"

	jsbroker "go-micro-jetstream/broker"
)

// Attributes that the semantic conventions do not define. None of them is the
// namespace of another, which the conventions forbid.
const (
	streamNameKey      = attribute.Key("messaging.nats.stream.name")
	streamSequenceKey  = attribute.Key("messaging.nats.stream.sequence")
	consumerNameKey    = attribute.Key("messaging.nats.consumer.name")
	deliveryCountKey   = attribute.Key("messaging.nats.message.delivery_count")
	waitKey            = attribute.Key("messaging.nats.message.wait")
	duplicateKey       = attribute.Key("messaging.nats.message.duplicate")
	resultKey          = attribute.Key("messaging.nats.result")
	redeliveryDelayKey = attribute.Key("messaging.nats.redelivery.delay")
	deadLetterTopicKey = attribute.Key("messaging.nats.dead_letter.topic")
)

// Events on a consumer span, in addition to the "exception" of the conventions.
const (
	deadLetterEvent = "dead_letter"
	exhaustedEvent  = "exhausted"
	snoozeEvent     = "snooze"
	giveBackEvent   = "give_back"
	storedEvent     = "stored"
)

// systemNATS is the name of the system, as the conventions ask for where they list
// no value.
var systemNATS = semconv.MessagingSystemKey.String("nats")

// attributes keeps slices for spans that end. A span copies what it is given, so the
// slices can be used again.
var attributes = sync.Pool{New: func() any { return new([]attribute.KeyValue) }}

// setAttributes sets the attributes of a span. attrs was appended to the slice in
// buf, which setAttributes returns to the pool.
func setAttributes(span trace.Span, buf *[]attribute.KeyValue, attrs []attribute.KeyValue) {
	span.SetAttributes(attrs...)
	clear(attrs) // release the strings
	*buf = attrs
	attributes.Put(buf)
}

// sequence returns a JetStream sequence as an attribute. Attributes have no unsigned
// integers.
func sequence(key attribute.Key, n uint64) attribute.KeyValue {
	return key.Int64(int64(n))
}

// clean makes any text valid for a span. Publishers choose subjects and message ids,
// and handlers choose the texts of errors. One string that is not UTF-8 would make
// protobuf refuse the whole batch of spans.
func clean(s string) string {
	return strings.ToValidUTF8(s, "\uFFFD")
}

// text returns the text of an error or a panic value. It does not panic where a call
// of Error would, for example on a nil pointer.
//
// An error of go-micro, whose text is a JSON object, is its detail: "no such order"
// instead of {"id":"shop","code":404,"detail":"no such order","status":"Not Found"}.
func text(v any) string {
	s := fmt.Sprint(v)
	if strings.Contains(s, `"detail":`) {
		s = detail(v, s)
	}
	if len(s) > maxText {
		s = s[:maxText] + "..."
	}
	return clean(s)
}

// maxText bounds the text of an error in a span, in bytes.
const maxText = 4096

// detail replaces the text of an error of go-micro, which may be a part of s, by its
// detail. An error that has come through another service is text only.
func detail(v any, s string) string {
	e, blob := microError(v), s
	if e != nil {
		blob = e.Error()
	} else {
		e = new(microerrors.Error)
		if json.Unmarshal([]byte(s), e) != nil {
			return s
		}
	}
	if e.Detail == "" {
		return s
	}
	return strings.Replace(s, blob, e.Detail, 1)
}

// microError returns the error of go-micro in v, or nil. Methods of v may panic.
func microError(v any) (e *microerrors.Error) {
	defer func() {
		if recover() != nil {
			e = nil
		}
	}()
	if err, ok := v.(error); ok {
		_ = errors.As(err, &e)
	}
	return e
}

// exception returns the attributes of an exception event for err.
//
// It replaces Span.RecordError, which would name the type of a wrapper instead of the
// cause's, record the stack of the hook instead of the handler's, and call Error
// without protection from a panic.
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

// panicError returns the panic of the handler, or nil if the handler returned an
// error. Methods of that error may panic.
func panicError(err error) (p *jsbroker.PanicError) {
	defer func() {
		if recover() != nil {
			p = nil
		}
	}()
	_ = errors.As(err, &p)
	return p
}

// errorType returns the error.type of a failed handler.
func errorType(err error) attribute.KeyValue {
	switch p := panicError(err); {
	case p == nil:
		return semconv.ErrorTypeKey.String(typeName(err))
	case p.Goexit:
		return semconv.ErrorTypeKey.String("goexit")
	}
	return semconv.ErrorTypeKey.String("panic")
}

// reasonType returns the error.type of a failure of the broker. It is the broker's
// reason, which tells more than a Go type and comes from a closed set.
func reasonType(reason string, err error) attribute.KeyValue {
	if reason == "" {
		reason = jsbroker.Reason(err)
	}
	return semconv.ErrorTypeKey.String(reason)
}

// typeName returns the conventions' name for the type of an error or of a panic
// value. Of a decision it is the type of the cause, if there is one. Methods of the
// error may panic.
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
	for slices.Contains(decisions, reflect.TypeOf(err)) {
		cause := errors.Unwrap(err)
		if cause == nil {
			break
		}
		err, v = cause, cause
	}
	return clean(semconv.ErrorType(err).Value.AsString())
}

// decisions are the types of the errors with which a handler tells the broker what
// to do with the message. They say nothing about what went wrong.
var decisions = []reflect.Type{
	reflect.TypeOf(jsbroker.Discard(nil)),
	reflect.TypeOf(jsbroker.RetryAfter(0, nil)),
}
