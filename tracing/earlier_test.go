package tracing_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	microerrors "go-micro.dev/v5/errors"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"

	jsbroker "go-micro-jetstream/broker"
	"go-micro-jetstream/tracing"
)

// deliver runs the n-th delivery of a message and returns its span.
func (b *bench) deliver(sequence, n uint64, end jsbroker.Handled) sdktrace.ReadOnlySpan {
	b.t.Helper()
	d := delivery()
	d.StreamSequence, d.NumDelivered = sequence, n
	b.run(d, end)
	return b.last()
}

// A redelivery has a link to the delivery before it, also next to the link to the
// publisher.
func TestRedeliveryLinksToTheDeliveryBefore(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]jsbroker.Handled{
		"failed":      {Result: jsbroker.ResultNak, Err: errors.New("x")},
		"snoozed":     {Result: jsbroker.ResultNak, Snoozed: true},
		"not settled": {Result: jsbroker.ResultNone},
		"ack is lost": {Result: jsbroker.ResultAck, SettleErr: jsbroker.ErrNotConnected},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setup(t)
			first := b.deliver(7, 1, end)
			b.deliver(8, 2, jsbroker.Handled{Result: jsbroker.ResultAck})
			if links := b.last().Links(); len(links) != 0 {
				t.Errorf("another message has the links %v", links)
			}
			second := b.deliver(7, 2, end)
			third := b.deliver(7, 3, jsbroker.Handled{Result: jsbroker.ResultAck})
			for _, pair := range [][2]sdktrace.ReadOnlySpan{{first, second}, {second, third}} {
				links := pair[1].Links()
				if len(links) != 1 || links[0].SpanContext.SpanID() != pair[0].SpanContext().SpanID() {
					t.Errorf("links %v, want one to %v", links, pair[0].SpanContext().SpanID())
				}
			}
			b.deliver(7, 4, jsbroker.Handled{Result: jsbroker.ResultAck})
			if links := b.last().Links(); len(links) != 0 {
				t.Errorf("what was acked is linked to: %v", links)
			}
		})
	}
}

func TestRedeliveryWithLinksToPublishers(t *testing.T) {
	t.Parallel()
	b := setup(t, tracing.WithLinks())
	d := delivery()
	header := map[string]string{"traceparent": upstream}
	ctx := b.hooks.HandleStart(context.Background(), jsbroker.HandleStart{Delivery: d, Header: header})
	b.hooks.Handled(ctx, jsbroker.Handled{Delivery: d, Result: jsbroker.ResultNak, Err: errors.New("x")})
	first := b.last()
	d.NumDelivered = 2
	header = map[string]string{"traceparent": upstream}
	ctx = b.hooks.HandleStart(context.Background(), jsbroker.HandleStart{Delivery: d, Header: header})
	b.hooks.Handled(ctx, jsbroker.Handled{Delivery: d, Result: jsbroker.ResultAck})
	links := b.last().Links()
	if len(links) != 2 || links[0].SpanContext.SpanID().String() != upstreamSpan || links[1].SpanContext.SpanID() != first.SpanContext().SpanID() {
		t.Errorf("links %v", links)
	}
}

// The memory of earlier deliveries is bounded: the oldest are forgotten.
func TestEarlierDeliveriesAreBounded(t *testing.T) {
	t.Parallel()
	b := setup(t)
	const most = 4096
	for sequence := range uint64(most + 1) {
		b.deliver(sequence, 1, jsbroker.Handled{Result: jsbroker.ResultNone})
	}
	for sequence, want := range map[uint64]int{0: 0, 1: 1, most: 1} {
		b.deliver(sequence, 2, jsbroker.Handled{Result: jsbroker.ResultAck})
		if got := len(b.last().Links()); got != want {
			t.Errorf("message %d: %d links, want %d", sequence, got, want)
		}
	}
}

// A message that was given back has no span, and its next delivery tells of it.
func TestGiveBackIsAnEventOfTheNextDelivery(t *testing.T) {
	t.Parallel()
	b := setup(t)
	d := delivery()
	before := time.Now()
	b.hooks.Settled(context.Background(), jsbroker.Settled{Delivery: d, Result: jsbroker.ResultNak, Returned: true})
	if len(b.Started()) != 0 {
		t.Error("giving back has a span")
	}
	s := b.deliver(d.StreamSequence, 2, jsbroker.Handled{Result: jsbroker.ResultAck})
	if e := s.Events(); len(e) != 1 || e[0].Name != "give_back" || e[0].Time.Before(before) || e[0].Time.After(s.StartTime()) || len(s.Links()) != 0 {
		t.Errorf("events %v, links %v", e, s.Links())
	}
}

// How long a message lay in the stream is known without a sampled publisher, and when
// that began.
func TestWaitWithoutSampledPublisher(t *testing.T) {
	t.Parallel()
	b := setup(t) // samples everything but children of what is not sampled
	b.provider = sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(b.SpanRecorder), sdktrace.WithSampler(sdktrace.AlwaysSample()))
	b.hooks = tracing.New(tracing.WithTracerProvider(b.provider), tracing.WithPropagator(w3c))
	for _, header := range []map[string]string{{"traceparent": notSampled}, {}} {
		d := delivery()
		d.StoredAt = time.Now().Add(-time.Minute)
		ctx := b.hooks.HandleStart(context.Background(), jsbroker.HandleStart{Delivery: d, Header: header})
		b.hooks.Handled(ctx, jsbroker.Handled{Delivery: d, Result: jsbroker.ResultAck, Lag: time.Minute})
		if got := attributes(b.last().Attributes())["messaging.nats.message.wait"]; got != 60.0 {
			t.Errorf("%v: wait = %v", header, got)
		}
		if e := b.last().Events(); len(e) != 1 || e[0].Name != "stored" || !e[0].Time.Equal(d.StoredAt) {
			t.Errorf("%v: events %v", header, e)
		}
	}
}

// The description of a go-micro error is its detail, not the JSON that is its text.
func TestGoMicroErrorIsItsDetail(t *testing.T) {
	t.Parallel()
	missing := microerrors.NotFound("shop", "no such order")
	for _, c := range []struct {
		err  error
		want string
	}{
		{missing, "no such order"},
		{fmt.Errorf("load: %w", missing), "load: no such order"},
		{errors.New(missing.Error()), "no such order"}, // from another service
		{jsbroker.Discard(missing), "no such order"},
		{microerrors.New("shop", "", 500), microerrors.New("shop", "", 500).Error()},
		{errors.New(`not JSON: {"detail": 1`), `{"detail": 1`},
		{(*microerrors.Error)(nil), "null"},
	} {
		b := setup(t)
		b.run(delivery(), jsbroker.Handled{Result: jsbroker.ResultNak, Err: c.err})
		s := b.last()
		if got := s.Status().Description; !strings.Contains(got, c.want) || strings.Contains(got, `"code"`) != strings.Contains(c.want, `"code"`) {
			t.Errorf("%v: status %q, want %q", c.err, got, c.want)
		}
		message := attributes(s.Events()[0].Attributes)["exception.message"]
		if message != s.Status().Description {
			t.Errorf("%v: exception %q", c.err, message)
		}
	}
}
