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
	header := fieldsOf(e.Header, p.fields)
	defer header.release()
	op := i.publishes.get(e.Topic)
	ctx, span := i.tracer.get().Start(publishParent(ctx, p, header), op.name, op.opts...)
	i.inject(ctx, p, header)
	// There is nothing to add to one that does not record, and its End does nothing.
	// But it must not be taken for that of a publish whose hook publishes this.
	if !span.IsRecording() && i.scopeOf(ctx, publishing) == nil {
		return ctx
	}
	return &scope{Context: ctx, owner: i, stage: publishing, span: span}
}

// publishParent returns the context whose span is to be the parent: the span in
// ctx, else the one in the header, else none.
//
// What else the header says is kept unless ctx says something itself: baggage
// that only the header knows travels on under a parent from ctx.
func publishParent(ctx context.Context, p fieldPropagator, header *fields) context.Context {
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
