package tracing

import (
	"context"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/baggage"
	"go.opentelemetry.io/otel/codes"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"

	jsbroker "go-micro-jetstream/broker"
)

func (i *instance) publishStart(ctx context.Context, e jsbroker.PublishStart) context.Context {
	p := i.propagator.get()
	header := newCarrier(e.Header, p.fields)
	defer header.release()
	op := i.publishes.get(e.Topic)
	ctx, span := i.tracer.get().Start(publishParent(ctx, p, header), op.name, op.opts...)
	i.inject(ctx, p, header)
	// A span that does not record needs no scope: its attributes and its End do
	// nothing. But a publish that a hook makes inside another publish needs one in any
	// case, or else published would find the outer scope and end its span.
	if !span.IsRecording() && i.scopeOf(ctx, publishing) == nil {
		return ctx
	}
	return &scope{Context: ctx, owner: i, stage: publishing, span: span}
}

// publishParent returns a context with the parent span: the span in ctx, else the one
// in the header, else none.
//
// Baggage follows the same order by itself: baggage in the header is kept, also with a
// parent from ctx, unless ctx has baggage.
func publishParent(ctx context.Context, p fieldPropagator, header *carrier) context.Context {
	parent := p.Extract(ctx, header)
	span := trace.SpanFromContext(ctx)
	if sc := span.SpanContext(); sc.IsValid() && !sc.Equal(trace.SpanContextFromContext(parent)) {
		parent = trace.ContextWithSpan(parent, span)
	}
	if bag := baggage.FromContext(ctx); bag.Len() > 0 {
		parent = baggage.ContextWithBaggage(parent, bag)
	}
	return parent
}

func (i *instance) published(ctx context.Context, e jsbroker.Published) {
	s := i.scopeOf(ctx, publishing)
	if s == nil {
		return
	}
	defer s.span.End()
	if !s.span.IsRecording() {
		return
	}
	buf := attributes.Get().(*[]attribute.KeyValue)
	attrs := append((*buf)[:0],
		semconv.MessagingMessageID(clean(e.MessageID)),
		semconv.MessagingMessageBodySize(e.Size),
	)
	attrs = append(attrs, i.servers.attributes()...)
	if e.Err != nil {
		setAttributes(s.span, buf, append(attrs, reasonType(e.Reason, e.Err)))
		s.span.SetStatus(codes.Error, text(e.Err))
		record(s.span, e.Err)
		return
	}
	setAttributes(s.span, buf, append(attrs,
		streamNameKey.String(clean(e.Stream)),
		sequence(streamSequenceKey, e.Sequence),
		duplicateKey.Bool(e.Duplicate),
	))
}
