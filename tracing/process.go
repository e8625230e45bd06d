package tracing

import (
	"context"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/baggage"
	"go.opentelemetry.io/otel/codes"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"

	jsbroker "go-micro-jetstream/broker"
)

// subscriptionStart keeps the operation of the subscription in its context, for all
// its messages.
func (i *instance) subscriptionStart(ctx context.Context, e jsbroker.SubscriptionStart) context.Context {
	s := &scope{Context: ctx, owner: i, stage: subscribed}
	s.process.Store(newProcessOperation(e.Subscription))
	return s
}

// processOperation returns the operation of the subscription that ctx belongs to.
func (i *instance) processOperation(ctx context.Context, of jsbroker.Subscription) *processOperation {
	s := i.scopeOf(ctx, subscribed)
	if s == nil {
		return newProcessOperation(of)
	}
	op := s.process.Load()
	if op.of != of {
		// The consumer was lost and created again, under another name.
		op = newProcessOperation(of)
		s.process.Store(op)
	}
	return op
}

func (i *instance) handleStart(ctx context.Context, e jsbroker.HandleStart) context.Context {
	p := i.propagator.get()
	header := newCarrier(e.Header, p.fields)
	defer header.release()
	op := i.processOperation(ctx, e.Subscription)
	ctx = p.Extract(detached(ctx), header)
	opts := op.opts
	if i.links {
		opts = append(opts, trace.WithNewRoot())
		if from := trace.SpanContextFromContext(ctx); from.IsValid() {
			opts = append(opts, trace.WithLinks(trace.Link{SpanContext: from}))
		}
	}
	var before delivered
	if e.NumDelivered > 1 {
		before, _ = i.earlier.take(messageOf(e.Delivery))
		if before.span.IsValid() {
			opts = append(opts, trace.WithLinks(trace.Link{SpanContext: before.span}))
		}
	}
	ctx, span := i.tracer.get().Start(ctx, op.name, opts...)
	i.inject(ctx, p, header)
	if !span.IsRecording() {
		return ctx // its attributes, events and its End do nothing
	}
	if !e.StoredAt.IsZero() {
		span.AddEvent(storedEvent, trace.WithTimestamp(e.StoredAt))
	}
	if !before.givenBack.IsZero() {
		span.AddEvent(giveBackEvent, trace.WithTimestamp(before.givenBack))
	}
	s := &scope{Context: ctx, owner: i, stage: handling, span: span}
	s.process.Store(op)
	return s
}

// detached returns ctx without its span and baggage. They are those of the
// subscription, such as the span of the service's start, and would become the parent
// of every message.
func detached(ctx context.Context) context.Context {
	if trace.SpanContextFromContext(ctx).IsValid() {
		ctx = trace.ContextWithSpanContext(ctx, trace.SpanContext{})
	}
	if baggage.FromContext(ctx).Len() > 0 {
		ctx = baggage.ContextWithoutBaggage(ctx)
	}
	return ctx
}

// panicked records the panic at once, so that it precedes its consequences, such as
// the dead letter.
func (i *instance) panicked(ctx context.Context, e jsbroker.Panicked) {
	if s := i.scopeOf(ctx, handling); s != nil && s.span.IsRecording() && e.Err != nil {
		record(s.span, e.Err)
		s.panicked = true
	}
}

func (i *instance) deadLettered(ctx context.Context, e jsbroker.DeadLettered) {
	s := i.scopeOf(ctx, handling)
	if s == nil || !s.span.IsRecording() {
		return
	}
	attrs := []attribute.KeyValue{deadLetterTopicKey.String(clean(e.DeadLetterTopic))}
	if e.Err != nil {
		attrs = append(attrs, reasonType("", e.Err), semconv.ExceptionMessage(text(e.Err)))
	}
	s.span.AddEvent(deadLetterEvent, trace.WithAttributes(attrs...))
}

func (i *instance) exhausted(ctx context.Context, _ jsbroker.Exhausted) {
	if s := i.scopeOf(ctx, handling); s != nil && s.span.IsRecording() {
		s.span.AddEvent(exhaustedEvent)
	}
}

// settled remembers a message that was given back before its handler had started. It
// has no span, and its next delivery would look as if one were missing.
func (i *instance) settled(_ context.Context, e jsbroker.Settled) {
	if e.Returned {
		i.earlier.remember(messageOf(e.Delivery), delivered{givenBack: time.Now()})
	}
}

func (i *instance) handled(ctx context.Context, e jsbroker.Handled) {
	s := i.scopeOf(ctx, handling)
	if s == nil {
		return
	}
	defer s.span.End()
	if !s.span.IsRecording() { // the handler has ended the span
		return
	}
	if sc := s.span.SpanContext(); sc.IsSampled() && comesAgain(e) {
		i.earlier.remember(messageOf(e.Delivery), delivered{span: sc})
	}
	op := s.process.Load()
	buf := attributes.Get().(*[]attribute.KeyValue)
	attrs := append((*buf)[:0], op.further...)
	attrs = append(attrs, i.servers.attributes()...)
	attrs = append(attrs,
		semconv.MessagingMessageBodySize(e.Size),
		sequence(streamSequenceKey, e.StreamSequence),
		sequence(deliveryCountKey, e.NumDelivered),
		waitKey.Float64(e.Lag.Seconds()),
		resultKey.String(string(e.Result)),
	)
	if e.MessageID != "" {
		attrs = append(attrs, semconv.MessagingMessageID(clean(e.MessageID)))
	}
	if op.wildcard {
		attrs = append(attrs, semconv.MessagingDestinationName(clean(e.Subject)))
	}
	if e.Result == jsbroker.ResultNak {
		attrs = append(attrs, redeliveryDelayKey.Float64(e.Delay.Seconds()))
	}
	switch {
	case e.Err != nil:
		attrs = append(attrs, errorType(e.Err))
		s.span.SetStatus(codes.Error, text(e.Err))
	case e.SettleErr != nil:
		// The handler succeeded, but the message will be delivered again. This is the
		// reason.
		attrs = append(attrs, reasonType("", e.SettleErr))
		s.span.SetStatus(codes.Error, "settle: "+text(e.SettleErr))
	}
	setAttributes(s.span, buf, attrs)
	if e.Snoozed {
		s.span.AddEvent(snoozeEvent)
	}
	if e.Err != nil && !s.panicked {
		record(s.span, e.Err)
	}
	if e.SettleErr != nil {
		record(s.span, e.SettleErr)
	}
}

// comesAgain reports whether the message is delivered again, as far as this process
// can tell.
func comesAgain(e jsbroker.Handled) bool {
	return e.Result == jsbroker.ResultNak || e.Result == jsbroker.ResultNone || e.SettleErr != nil
}
