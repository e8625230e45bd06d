package tracing_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	jsbroker "go-micro-jetstream/broker"
	"go-micro-jetstream/tracing"
)

type orderError struct{ id int }

func (e *orderError) Error() string { return fmt.Sprintf("order %d is unpaid", e.id) }

// run runs one delivery with these ends.
func (b *bench) run(d jsbroker.Delivery, end jsbroker.Handled, between ...func(context.Context)) {
	b.t.Helper()
	ctx := b.hooks.SubscriptionStart(context.Background(), jsbroker.SubscriptionStart{Subscription: d.Subscription})
	ctx = b.hooks.HandleStart(ctx, jsbroker.HandleStart{Delivery: d, Header: map[string]string{}})
	for _, f := range between {
		f(ctx)
	}
	end.Delivery = d
	b.hooks.Handled(ctx, end)
}

func TestProcessSpan(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.run(delivery(), jsbroker.Handled{Result: jsbroker.ResultAck, Lag: 90 * time.Second})
	s := b.last()
	if s.Name() != "process orders.created" || s.SpanKind() != trace.SpanKindConsumer {
		t.Errorf("%v span %q", s.SpanKind(), s.Name())
	}
	if s.Status().Code != codes.Unset || len(s.Events()) != 0 {
		t.Errorf("status %v, events %v", s.Status(), s.Events())
	}
	expect(t, s.Attributes(), map[string]any{
		"messaging.system":                      "nats",
		"messaging.operation.name":              "process",
		"messaging.operation.type":              "process",
		"messaging.destination.name":            "orders.created",
		"messaging.consumer.group.name":         "workers",
		"messaging.message.id":                  "m1",
		"messaging.message.body.size":           int64(3),
		"messaging.nats.stream.name":            "ORDERS",
		"messaging.nats.stream.sequence":        int64(7),
		"messaging.nats.consumer.name":          "workers_orders-created",
		"messaging.nats.message.delivery_count": int64(1),
		"messaging.nats.message.wait":           90.0,
		"messaging.nats.result":                 "ack",
	})
}

func TestProcessWildcard(t *testing.T) {
	t.Parallel()
	for topic, wildcard := range map[string]bool{
		"orders.*": true, "orders.>": true, "orders.*.paid": true,
		"orders.created": false, "orders": false, "orders.a*b": false,
	} {
		b := setup(t)
		d := delivery()
		d.Topic, d.Queue, d.MessageID = topic, "", ""
		d.Subject = topic
		if wildcard {
			d.Subject = "orders.4711.paid"
		}
		b.run(d, jsbroker.Handled{Result: jsbroker.ResultAck})
		s := b.last()
		if s.Name() != "process "+topic {
			t.Errorf("span %q of topic %q", s.Name(), topic)
		}
		got := attributes(s.Attributes())
		if got["messaging.destination.name"] != d.Subject {
			t.Errorf("%s: destination.name = %v", topic, got["messaging.destination.name"])
		}
		if tmpl, ok := got["messaging.destination.template"]; ok != wildcard || wildcard && tmpl != topic {
			t.Errorf("%s: destination.template = %v", topic, tmpl)
		}
		for _, absent := range []string{"messaging.consumer.group.name", "messaging.message.id"} {
			if v, ok := got[absent]; ok {
				t.Errorf("%s = %v without a queue and a message id", absent, v)
			}
		}
	}
}

func TestProcessFailure(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name        string
		end         jsbroker.Handled
		description string // "" for no error
		errorType   string
		exceptions  []string // their types
		delay       any
	}{
		{"nil", jsbroker.Handled{Result: jsbroker.ResultAck}, "", "", nil, nil},
		{"left for a manual ack", jsbroker.Handled{Result: jsbroker.ResultNone}, "", "", nil, nil},
		{
			"error", jsbroker.Handled{Result: jsbroker.ResultNak, Delay: 1500 * time.Millisecond, Err: &orderError{1}},
			"order 1 is unpaid", "*tracing_test.orderError", []string{"*tracing_test.orderError"}, 1.5,
		},
		{
			"wrapped error", jsbroker.Handled{Result: jsbroker.ResultNak, Err: fmt.Errorf("handle: %w", &orderError{1})},
			"handle: order 1 is unpaid", "*tracing_test.orderError", []string{"*tracing_test.orderError"}, 0.0,
		},
		{
			"deadline", jsbroker.Handled{Result: jsbroker.ResultNak, Err: context.DeadlineExceeded},
			"context deadline exceeded", "context.deadlineExceededError", []string{"context.deadlineExceededError"}, 0.0,
		},
		{
			"discarded", jsbroker.Handled{Result: jsbroker.ResultTerm, Err: errors.New("no such order")},
			"no such order", "*errors.errorString", []string{"*errors.errorString"}, nil,
		},
		{
			"acked by hand, then failed", jsbroker.Handled{Result: jsbroker.ResultAck, Err: errors.New("late")},
			"late", "*errors.errorString", []string{"*errors.errorString"}, nil,
		},
		{
			"not settled", jsbroker.Handled{Result: jsbroker.ResultAck, SettleErr: jsbroker.ErrNotConnected},
			"settle: " + jsbroker.ErrNotConnected.Error(), "not_connected", []string{"*errors.errorString"}, nil,
		},
		{
			"failed and not settled", jsbroker.Handled{Result: jsbroker.ResultNak, Err: &orderError{1}, SettleErr: jsbroker.ErrNotConnected},
			"order 1 is unpaid", "*tracing_test.orderError", []string{"*tracing_test.orderError", "*errors.errorString"}, 0.0,
		},
		{
			"nil pointer as an error", jsbroker.Handled{Result: jsbroker.ResultNak, Err: (*orderError)(nil)},
			"<nil>", "*tracing_test.orderError", []string{"*tracing_test.orderError"}, 0.0,
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			b := setup(t)
			b.run(delivery(), tc.end)
			if len(b.Ended()) != 1 {
				t.Fatalf("%d spans ended, want 1", len(b.Ended()))
			}
			s, got := b.last(), attributes(b.last().Attributes())
			if tc.description == "" {
				if s.Status().Code != codes.Unset {
					t.Errorf("status %+v", s.Status())
				}
				if v, ok := got["error.type"]; ok {
					t.Errorf("error.type = %v", v)
				}
			} else {
				if s.Status().Code != codes.Error || s.Status().Description != tc.description {
					t.Errorf("status %+v, want the description %q", s.Status(), tc.description)
				}
				if got["error.type"] != tc.errorType {
					t.Errorf("error.type = %v, want %v", got["error.type"], tc.errorType)
				}
			}
			if got["messaging.nats.result"] != string(tc.end.Result) {
				t.Errorf("result = %v", got["messaging.nats.result"])
			}
			if got["messaging.nats.redelivery.delay"] != tc.delay {
				t.Errorf("delay = %v, want %v", got["messaging.nats.redelivery.delay"], tc.delay)
			}
			var types []string
			for _, e := range s.Events() {
				a := attributes(e.Attributes)
				types = append(types, a["exception.type"].(string))
				if _, ok := a["exception.stacktrace"]; ok {
					t.Error("a stack trace of a hook says nothing about the handler")
				}
			}
			if fmt.Sprint(types) != fmt.Sprint(tc.exceptions) {
				t.Errorf("exceptions %v, want %v", types, tc.exceptions)
			}
		})
	}
}

func TestProcessPanic(t *testing.T) {
	t.Parallel()
	runtimeErr := func() (err runtime.Error) {
		defer func() { err = recover().(runtime.Error) }()
		var none []int
		_ = none[len(none)] //nolint:gosec,govet // on purpose
		return nil
	}()
	for _, tc := range []struct {
		name          string
		err           *jsbroker.PanicError
		errorType     string
		exceptionType string
		message       string
	}{
		{"string", &jsbroker.PanicError{Value: "boom"}, "panic", "string", "boom"},
		{"error", &jsbroker.PanicError{Value: &orderError{1}}, "panic", "*tracing_test.orderError", "order 1 is unpaid"},
		{"runtime error", &jsbroker.PanicError{Value: runtimeErr}, "panic", "runtime.boundsError", runtimeErr.Error()},
		{"nil pointer", &jsbroker.PanicError{Value: (*orderError)(nil)}, "panic", "*tracing_test.orderError", "<nil>"},
		{"Goexit", &jsbroker.PanicError{Goexit: true}, "goexit", "runtime.Goexit", "handler called runtime.Goexit"},
	} {
		tc.err.Stack = []byte("goroutine 1 [running]:\nmain.handler()")
		for _, reported := range []bool{true, false} { // by Panicked, or by Handled alone
			t.Run(fmt.Sprintf("%s/%v", tc.name, reported), func(t *testing.T) {
				t.Parallel()
				b := setup(t)
				b.run(delivery(), jsbroker.Handled{Result: jsbroker.ResultNak, Err: tc.err, Panicked: true}, func(ctx context.Context) {
					if reported {
						b.hooks.Panicked(ctx, jsbroker.Panicked{Delivery: delivery(), Err: tc.err})
					}
				})
				s := b.last()
				if s.Status().Code != codes.Error || s.Status().Description == "" {
					t.Errorf("status %+v", s.Status())
				}
				if got := attributes(s.Attributes())["error.type"]; got != tc.errorType {
					t.Errorf("error.type = %v", got)
				}
				if len(s.Events()) != 1 {
					t.Fatalf("%d events, want 1", len(s.Events()))
				}
				expect(t, s.Events()[0].Attributes, map[string]any{
					"exception.type":       tc.exceptionType,
					"exception.message":    tc.message,
					"exception.stacktrace": string(tc.err.Stack),
				})
			})
		}
	}
}

func TestDeadLetter(t *testing.T) {
	t.Parallel()
	b := setup(t)
	cause := errors.New("poison")
	b.run(delivery(), jsbroker.Handled{Result: jsbroker.ResultTerm, Err: cause}, func(ctx context.Context) {
		b.hooks.DeadLettered(ctx, jsbroker.DeadLettered{Delivery: delivery(), DeadLetterTopic: "dead.orders", Cause: cause, Err: jsbroker.ErrStreamFull})
		b.hooks.DeadLettered(ctx, jsbroker.DeadLettered{Delivery: delivery(), DeadLetterTopic: "dead.orders", Cause: cause})
		b.hooks.Exhausted(ctx, jsbroker.Exhausted{Delivery: delivery(), Cause: cause})
	})
	events := b.last().Events()
	if len(events) != 4 || events[0].Name != "dead_letter" || events[1].Name != "dead_letter" || events[2].Name != "exhausted" || events[3].Name != "exception" {
		t.Fatalf("events %v", events)
	}
	expect(t, events[0].Attributes, map[string]any{
		"messaging.nats.dead_letter.topic": "dead.orders",
		"error.type":                       "stream_full",
		"exception.message":                jsbroker.ErrStreamFull.Error(),
	})
	expect(t, events[1].Attributes, map[string]any{"messaging.nats.dead_letter.topic": "dead.orders"})
	expect(t, events[2].Attributes, nil)
}

func TestSnoozeIsNoError(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.run(delivery(), jsbroker.Handled{Result: jsbroker.ResultNak, Delay: time.Minute, Snoozed: true})
	span := b.last()
	if events := span.Events(); len(events) != 1 || events[0].Name != "snooze" {
		t.Errorf("events %v", events)
	}
	got := attributes(span.Attributes())
	if span.Status().Code != codes.Unset || got["messaging.nats.redelivery.delay"] != 60.0 || got["error.type"] != nil {
		t.Errorf("status %+v, attributes %v", span.Status(), got)
	}
}

// The span in the context may be anybody's when the ends are called.
func TestEndsOnlyItsOwnSpan(t *testing.T) {
	t.Parallel()
	b := setup(t)
	ctx := b.hooks.HandleStart(context.Background(), jsbroker.HandleStart{Delivery: delivery(), Header: map[string]string{}})
	ctx, foreign := b.provider.Tracer("another").Start(ctx, "foreign")
	b.hooks.Panicked(ctx, jsbroker.Panicked{Err: &jsbroker.PanicError{Value: "boom"}})
	b.hooks.Handled(ctx, jsbroker.Handled{Delivery: delivery(), Result: jsbroker.ResultNak, Err: errors.New("x")})
	if got := names(b); len(got) != 1 || got[0] != "process orders.created" {
		t.Fatalf("ended: %v", got)
	}
	if !foreign.IsRecording() {
		t.Error("the other tracer's span was ended")
	}
	foreign.End()
	if s := b.last(); s.Status().Code != codes.Unset || len(s.Events()) != 0 {
		t.Errorf("the other tracer's span was written to: %+v %v", s.Status(), s.Events())
	}

	ctx = b.hooks.PublishStart(context.Background(), jsbroker.PublishStart{Topic: "a", Header: map[string]string{}})
	ctx, foreign = b.provider.Tracer("another").Start(ctx, "foreign")
	b.hooks.Published(ctx, jsbroker.Published{})
	if b.last().Name() != "publish a" || !foreign.IsRecording() {
		t.Errorf("ended: %v", names(b))
	}
	foreign.End()
}

// Two providers see one span each and chain up, in the order of installation.
func TestTwoInstances(t *testing.T) {
	t.Parallel()
	first, second := setup(t), setup(t)
	header := map[string]string{"traceparent": upstream}
	ctx := first.hooks.SubscriptionStart(context.Background(), jsbroker.SubscriptionStart{Subscription: subscription()})
	ctx = second.hooks.SubscriptionStart(ctx, jsbroker.SubscriptionStart{Subscription: subscription()})
	ctx = first.hooks.HandleStart(ctx, jsbroker.HandleStart{Delivery: delivery(), Header: header})
	ctx = second.hooks.HandleStart(ctx, jsbroker.HandleStart{Delivery: delivery(), Header: header})
	second.hooks.Handled(ctx, jsbroker.Handled{Result: jsbroker.ResultAck})
	if len(first.Ended()) != 0 || len(second.Ended()) != 1 {
		t.Fatalf("ended: %v and %v", names(first), names(second))
	}
	first.hooks.Handled(ctx, jsbroker.Handled{Result: jsbroker.ResultAck})
	if len(first.Ended()) != 1 || len(second.Ended()) != 1 {
		t.Fatalf("ended: %v and %v", names(first), names(second))
	}
	wantParent(t, first.last(), upstreamTrace, upstreamSpan)
	wantChild(t, second.last(), first.last())
	wantHeader(t, header, second.last())

	header = map[string]string{}
	ctx = first.hooks.PublishStart(context.Background(), jsbroker.PublishStart{Topic: "a", Header: header})
	ctx = second.hooks.PublishStart(ctx, jsbroker.PublishStart{Topic: "a", Header: header})
	second.hooks.Published(ctx, jsbroker.Published{})
	first.hooks.Published(ctx, jsbroker.Published{})
	wantRoot(t, first.last())
	wantChild(t, second.last(), first.last())
	wantHeader(t, header, second.last())
}

// A handler may subscribe with its own context: what happens to that
// subscription is not written to the handler's span.
func TestSubscriptionInsideHandler(t *testing.T) {
	t.Parallel()
	b := setup(t)
	outer := b.hooks.HandleStart(context.Background(), jsbroker.HandleStart{Delivery: delivery(), Header: map[string]string{}})
	sub := b.hooks.SubscriptionStart(outer, jsbroker.SubscriptionStart{Subscription: subscription()})
	b.hooks.Exhausted(sub, jsbroker.Exhausted{})
	b.hooks.DeadLettered(sub, jsbroker.DeadLettered{})
	b.hooks.Handled(sub, jsbroker.Handled{})
	if len(b.Ended()) != 0 {
		t.Fatal("the outer span was ended through the inner subscription")
	}
	wantRoot(t, b.handle(sub, map[string]string{}))
	b.hooks.Handled(outer, jsbroker.Handled{Result: jsbroker.ResultAck})
	if len(b.Ended()) != 2 || len(b.last().Events()) != 0 {
		t.Errorf("ended %v, events %v", names(b), b.last().Events())
	}
}

// A consumer that was lost is made again, under another name if it has no queue.
func TestConsumerMadeAgain(t *testing.T) {
	t.Parallel()
	b := setup(t)
	ctx := b.hooks.SubscriptionStart(context.Background(), jsbroker.SubscriptionStart{Subscription: subscription()})
	d := delivery()
	for _, name := range []string{d.Consumer, "another", "another"} {
		d.Consumer = name
		h := b.hooks.HandleStart(ctx, jsbroker.HandleStart{Delivery: d, Header: map[string]string{}})
		b.hooks.Handled(h, jsbroker.Handled{Delivery: d})
		if got := attributes(b.last().Attributes())["messaging.nats.consumer.name"]; got != name {
			t.Errorf("consumer %v, want %v", got, name)
		}
	}
}

// Hooks that get contexts which they did not make do nothing.
func TestForeignContexts(t *testing.T) {
	t.Parallel()
	b := setup(t)
	ctx, span := b.provider.Tracer("test").Start(context.Background(), "foreign")
	defer span.End()
	b.hooks.Published(ctx, jsbroker.Published{Err: errors.New("x")})
	b.hooks.Panicked(ctx, jsbroker.Panicked{Err: &jsbroker.PanicError{}})
	b.hooks.DeadLettered(ctx, jsbroker.DeadLettered{})
	b.hooks.Exhausted(ctx, jsbroker.Exhausted{})
	b.hooks.Handled(ctx, jsbroker.Handled{Err: errors.New("x")})
	if len(b.Ended()) != 0 {
		t.Errorf("ended: %v", names(b))
	}
	// And without the map that the broker promises, there is no panic.
	b.hooks.Handled(b.hooks.HandleStart(ctx, jsbroker.HandleStart{}), jsbroker.Handled{})
	b.hooks.Published(b.hooks.PublishStart(ctx, jsbroker.PublishStart{}), jsbroker.Published{})
}

// Subjects, ids and errors come from anybody, and one byte that is not UTF-8
// would cost the whole batch of spans.
func TestTextIsValid(t *testing.T) {
	t.Parallel()
	b := setup(t)
	const bad = "a\xffb"
	sub := jsbroker.Subscription{Topic: bad + ".*", Queue: bad, Stream: bad, Consumer: bad}
	d := jsbroker.Delivery{Subscription: sub, Subject: bad, MessageID: bad}
	p := &jsbroker.PanicError{Value: bad, Stack: []byte(bad)}
	b.run(d, jsbroker.Handled{Err: p, SettleErr: errors.New(bad)}, func(ctx context.Context) {
		b.hooks.Panicked(ctx, jsbroker.Panicked{Err: p})
		b.hooks.DeadLettered(ctx, jsbroker.DeadLettered{DeadLetterTopic: bad, Err: errors.New(bad)})
	})
	b.run(d, jsbroker.Handled{Err: errors.New(bad)})
	ctx := b.hooks.PublishStart(context.Background(), jsbroker.PublishStart{Topic: bad, MessageID: bad, Header: map[string]string{}})
	b.hooks.Published(ctx, jsbroker.Published{Stream: bad})
	ctx = b.hooks.PublishStart(context.Background(), jsbroker.PublishStart{Topic: bad, MessageID: bad, Header: map[string]string{}})
	b.hooks.Published(ctx, jsbroker.Published{Err: errors.New(bad), Reason: "other"})
	valid := func(what, s string) {
		if s != strings.ToValidUTF8(s, "?") {
			t.Errorf("%s is not UTF-8: %q", what, s)
		}
	}
	for _, s := range b.Ended() {
		valid("name", s.Name())
		valid("description", s.Status().Description)
		for k, v := range attributes(s.Attributes()) {
			valid(k, fmt.Sprint(v))
		}
		for _, e := range s.Events() {
			for k, v := range attributes(e.Attributes) {
				valid(k, fmt.Sprint(v))
			}
		}
	}
}

// A nil pointer in an error is a failure like any other, although its methods panic.
func TestFailureWhoseMethodsPanic(t *testing.T) {
	t.Parallel()
	for err, name := range map[error]string{
		(*namelessError)(nil): "*tracing_test.namelessError",
		(*wrapperError)(nil):  "*tracing_test.wrapperError",
		jsbroker.RetryAfter(time.Second, (*namelessError)(nil)): "*tracing_test.namelessError",
	} {
		b := setup(t)
		b.run(delivery(), jsbroker.Handled{Result: jsbroker.ResultNak, Err: err})
		s := b.last()
		got := attributes(s.Attributes())
		if s.Status().Code != codes.Error || got["error.type"] != name || got["messaging.nats.result"] != "nak" || len(s.Events()) != 1 {
			t.Errorf("%T: status %v, attributes %v, events %v", err, s.Status(), got, s.Events())
		}
	}
}

type namelessError struct{ kind string }

func (e *namelessError) Error() string     { return e.kind }
func (e *namelessError) ErrorType() string { return e.kind }

type wrapperError struct{ cause error }

func (e *wrapperError) Error() string { return e.cause.Error() }
func (e *wrapperError) Unwrap() error { return e.cause }

// A propagator that panics costs the trace its way to the next service, and not the
// span its end.
func TestPropagatorThatPanics(t *testing.T) {
	b := setup(t, tracing.WithPropagator(brokenWriter{w3c}))
	var got reports
	otel.SetErrorHandler(&got)
	t.Cleanup(func() { otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) { t.Log(err) })) })
	b.publish(context.Background(), map[string]string{})
	b.handle(context.Background(), map[string]string{"traceparent": upstream})
	if started, ended := len(b.Started()), len(b.Ended()); started != 2 || ended != 2 {
		t.Errorf("%d spans started, %d ended, want 2", started, ended)
	}
	if len(got.errs) != 2 || !strings.Contains(got.errs[0].Error(), "no baggage today") {
		t.Errorf("reported: %v", got.errs)
	}
}

type brokenWriter struct{ propagation.TextMapPropagator }

func (brokenWriter) Inject(context.Context, propagation.TextMapCarrier) { panic("no baggage today") }

func TestNilOptions(t *testing.T) {
	t.Parallel()
	hooks := tracing.New(nil, tracing.WithTracerProvider(nil), tracing.WithPropagator(nil))
	ctx := hooks.PublishStart(context.Background(), jsbroker.PublishStart{Topic: "a", Header: map[string]string{}})
	hooks.Published(ctx, jsbroker.Published{})
	if hooks.Err != nil {
		t.Error(hooks.Err)
	}
}
