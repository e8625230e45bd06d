package tracing_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"

	jsbroker "go-micro-jetstream/broker"
	"go-micro-jetstream/tracing"
)

func TestPublishSpan(t *testing.T) {
	t.Parallel()
	for _, duplicate := range []bool{false, true} {
		b := setup(t)
		ctx := b.hooks.PublishStart(context.Background(), jsbroker.PublishStart{
			Topic: "orders.created", MessageID: "m1", Header: map[string]string{}, Size: 42,
		})
		if len(b.Ended()) != 0 {
			t.Fatal("the span ended before the publish did")
		}
		b.hooks.Published(ctx, jsbroker.Published{
			Topic: "orders.created", MessageID: "m1", Size: 42, Stream: "ORDERS", Sequence: 7, Duplicate: duplicate,
		})
		s := b.last()
		if s.Name() != "publish orders.created" || s.SpanKind() != trace.SpanKindProducer {
			t.Errorf("%v span %q", s.SpanKind(), s.Name())
		}
		if s.Status().Code != codes.Unset || len(s.Events()) != 0 {
			t.Errorf("status %v, events %v; a duplicate is a success, too", s.Status(), s.Events())
		}
		expect(t, s.Attributes(), map[string]any{
			"messaging.system":                 "nats",
			"messaging.operation.name":         "publish",
			"messaging.operation.type":         "send",
			"messaging.destination.name":       "orders.created",
			"messaging.message.id":             "m1",
			"messaging.message.body.size":      int64(42),
			"messaging.nats.stream.name":       "ORDERS",
			"messaging.nats.stream.sequence":   int64(7),
			"messaging.nats.message.duplicate": duplicate,
		})
		scope := s.InstrumentationScope()
		if scope.Name != tracing.ScopeName || scope.SchemaURL != semconv.SchemaURL {
			t.Errorf("scope %+v", scope)
		}
		if len(b.Ended()) != 1 {
			t.Errorf("%d spans ended, want 1", len(b.Ended()))
		}
	}
}

func TestPublishFailure(t *testing.T) {
	t.Parallel()
	b := setup(t)
	err := &jsbroker.PublishError{Topic: "orders.created", MessageID: "m1",
		Err: fmt.Errorf("%w: at its limit", jsbroker.ErrStreamFull)}
	header := map[string]string{}
	ctx := b.hooks.PublishStart(context.Background(), jsbroker.PublishStart{
		Topic: "orders.created", MessageID: "m1", Header: header, Size: 42,
	})
	b.hooks.Published(ctx, jsbroker.Published{
		Topic: "orders.created", MessageID: "m1", Size: 42, Err: err, Reason: jsbroker.Reason(err),
	})
	s := b.last()
	if s.Status().Code != codes.Error || s.Status().Description != err.Error() {
		t.Errorf("status %+v", s.Status())
	}
	expect(t, s.Attributes(), map[string]any{
		"messaging.system":            "nats",
		"messaging.operation.name":    "publish",
		"messaging.operation.type":    "send",
		"messaging.destination.name":  "orders.created",
		"messaging.message.id":        "m1",
		"messaging.message.body.size": int64(42),
		"error.type":                  "stream_full",
	})
	if len(s.Events()) != 1 || s.Events()[0].Name != "exception" {
		t.Fatalf("events %v", s.Events())
	}
	expect(t, s.Events()[0].Attributes, map[string]any{
		"exception.type":    "*broker.PublishError",
		"exception.message": err.Error(),
	})
}

// An event without a reason must not make the error.type unbounded.
func TestPublishFailureWithoutReason(t *testing.T) {
	t.Parallel()
	b := setup(t)
	ctx := b.hooks.PublishStart(context.Background(), jsbroker.PublishStart{Topic: "a", Header: map[string]string{}})
	b.hooks.Published(ctx, jsbroker.Published{Err: errors.New("order 4711 failed")})
	if got := attributes(b.last().Attributes())["error.type"]; got != "other" {
		t.Errorf("error.type = %v", got)
	}
}

// One publish inside another, as a hook may do, ends its own span only.
func TestNestedPublish(t *testing.T) {
	t.Parallel()
	b := setup(t)
	outer := b.hooks.PublishStart(context.Background(), jsbroker.PublishStart{Topic: "outer", Header: map[string]string{}})
	inner := b.hooks.PublishStart(outer, jsbroker.PublishStart{Topic: "inner", Header: map[string]string{}})
	b.hooks.Published(inner, jsbroker.Published{Topic: "inner"})
	if len(b.Ended()) != 1 || b.last().Name() != "publish inner" {
		t.Fatalf("ended: %v", names(b))
	}
	b.hooks.Published(outer, jsbroker.Published{Topic: "outer"})
	if len(b.Ended()) != 2 || b.last().Name() != "publish outer" {
		t.Fatalf("ended: %v", names(b))
	}
}

// The span of a publish is not that of another inside it that has none.
func TestNestedPublishWithoutSpan(t *testing.T) {
	t.Parallel()
	rec := tracetest.NewSpanRecorder()
	tp := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(rec), sdktrace.WithSampler(noInner{}))
	hooks := tracing.New(tracing.WithTracerProvider(tp), tracing.WithPropagator(w3c))
	outer := hooks.PublishStart(context.Background(), jsbroker.PublishStart{Topic: "outer", Header: map[string]string{}})
	inner := hooks.PublishStart(outer, jsbroker.PublishStart{Topic: "inner", Header: map[string]string{}})
	hooks.Published(inner, jsbroker.Published{Topic: "inner", MessageID: "inner"})
	if n := len(rec.Ended()); n != 0 {
		t.Fatalf("%d spans ended with the publish that has none", n)
	}
	hooks.Published(outer, jsbroker.Published{Topic: "outer", MessageID: "outer", Err: errors.New("full")})
	ended := rec.Ended()
	if len(ended) != 1 || ended[0].Status().Code != codes.Error || attributes(ended[0].Attributes())["messaging.message.id"] != "outer" {
		t.Errorf("ended: %v", ended)
	}
}

// noInner is a sampler that drops the spans of one topic.
type noInner struct{}

func (noInner) Description() string { return "no inner" }

func (noInner) ShouldSample(p sdktrace.SamplingParameters) sdktrace.SamplingResult {
	if p.Name == "publish inner" {
		return sdktrace.SamplingResult{Decision: sdktrace.Drop}
	}
	return sdktrace.SamplingResult{Decision: sdktrace.RecordAndSample}
}

func names(b *bench) (names []string) {
	for _, s := range b.Ended() {
		names = append(names, s.Name())
	}
	return names
}

// Topics may be made up by callers of the service: the cache must not grow with
// them, and the spans must be right all the same.
func TestTopicsAreBounded(t *testing.T) {
	t.Parallel()
	b := setup(t)
	for i := range 3 * tracing.MaxCachedTopics {
		topic := fmt.Sprintf("orders.%d", i)
		ctx := b.hooks.PublishStart(context.Background(), jsbroker.PublishStart{Topic: topic, Header: map[string]string{}})
		b.hooks.Published(ctx, jsbroker.Published{Topic: topic})
		if got := b.last().Name(); got != "publish "+topic {
			t.Fatalf("name %q for topic %q", got, topic)
		}
	}
	var cache tracing.PublishCache
	done := make(chan struct{})
	const workers = 4
	for w := range workers {
		go func() {
			defer func() { done <- struct{}{} }()
			for i := range 2 * tracing.MaxCachedTopics {
				cache.Get(fmt.Sprintf("orders.%d.%d", w, i))
				if n := cache.Len(); n > tracing.MaxCachedTopics+workers {
					t.Errorf("%d topics are held", n)
					return
				}
			}
		}()
	}
	for range workers {
		<-done
	}
	before := cache.Len()
	cache.Get(string(make([]byte, 1<<20)))
	if cache.Len() != before {
		t.Error("a topic of 1 MiB is held")
	}
}
