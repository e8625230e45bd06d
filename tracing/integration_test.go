package tracing_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go-micro.dev/v5/broker"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"

	jsbroker "go-micro-jetstream/broker"
	"go-micro-jetstream/internal/natstest"
	"go-micro-jetstream/tracing"
)

// startServer runs a nats-server for one test.
func startServer(t *testing.T) string {
	t.Helper()
	return natstest.Start(t).ClientURL()
}

// ended hands over spans as they end.
type ended chan sdktrace.ReadOnlySpan

func (ended) OnStart(context.Context, sdktrace.ReadWriteSpan) {}
func (c ended) OnEnd(s sdktrace.ReadOnlySpan)                 { c <- s }
func (ended) Shutdown(context.Context) error                  { return nil }
func (ended) ForceFlush(context.Context) error                { return nil }

// service is a broker with a provider of its own, as one process has.
type service struct {
	broker.Broker
	provider *sdktrace.TracerProvider
	ended    ended                   // as they come
	early    []sdktrace.ReadOnlySpan // came before what was waited for
}

func newService(t *testing.T, url string, opts ...broker.Option) *service {
	t.Helper()
	s := &service{ended: make(ended, 100)}
	s.provider = sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(s.ended))
	hooks := tracing.New(tracing.WithTracerProvider(s.provider), tracing.WithPropagator(w3c))
	s.Broker = newBroker(t, url, append(opts, jsbroker.WithHooks(hooks))...)
	t.Cleanup(func() {
		if err := s.Disconnect(); err != nil {
			t.Errorf("Disconnect: %v", err)
		}
	})
	return s
}

func newBroker(t *testing.T, url string, opts ...broker.Option) broker.Broker {
	t.Helper()
	b := jsbroker.NewBroker(append([]broker.Option{broker.Addrs(url), broker.Logger(natstest.Quiet())}, opts...)...)
	noErr(t, b.Connect())
	return b
}

// next waits until the next span of that name has ended. A message may be handled
// before the call that published it has returned, so that others may come first.
func (s *service) next(t *testing.T, name string) sdktrace.ReadOnlySpan {
	t.Helper()
	for i, span := range s.early {
		if span.Name() == name {
			s.early = slices.Delete(s.early, i, i+1)
			return span
		}
	}
	for {
		span := natstest.Receive(t, s.ended)
		if span.Name() == name {
			return span
		}
		s.early = append(s.early, span)
	}
}

func (s *service) subscribe(t *testing.T, topic string, h broker.Handler, opts ...broker.SubscribeOption) {
	t.Helper()
	_, err := s.Subscribe(topic, h, append([]broker.SubscribeOption{broker.Queue("workers")}, opts...)...)
	noErr(t, err)
}

func message(header map[string]string) *broker.Message {
	return &broker.Message{Header: header, Body: []byte(`{"id":1}`)}
}

// Propagators take no baggage beyond 8 KiB. It reaches the handler all the same.
func TestLargeBaggageReachesTheHandler(t *testing.T) {
	t.Parallel()
	s := newService(t, startServer(t))
	got := make(chan map[string]string, 1)
	s.subscribe(t, "orders", func(e broker.Event) error {
		got <- e.Message().Header
		return nil
	})
	bag := "k=" + strings.Repeat("v", 9<<10)
	noErr(t, s.Publish("orders", message(map[string]string{"baggage": bag})))
	if h := natstest.Receive(t, got); h["Baggage"] != bag { // as go-micro spells it
		t.Errorf("the handler sees %d bytes of baggage, want %d", len(h["Baggage"]), len(bag))
	}
	s.next(t, "process orders")
}

// One trace follows an event from its publisher through a handler that publishes
// on to the handler of that.
func TestOneTraceThroughServices(t *testing.T) {
	t.Parallel()
	url := startServer(t)
	shop, payments, mail := newService(t, url), newService(t, url), newService(t, url)
	payments.subscribe(t, "orders.created", func(e broker.Event) error {
		return payments.Publish("invoices.paid", message(nil), broker.PublishContext(jsbroker.EventContext(e)))
	})
	mail.subscribe(t, "invoices.*", func(e broker.Event) error {
		_, span := mail.provider.Tracer("mail").Start(jsbroker.EventContext(e), "send mail")
		span.End()
		return nil
	})

	ctx, request := shop.provider.Tracer("shop").Start(context.Background(), "POST /orders")
	noErr(t, shop.Publish("orders.created", message(nil), broker.PublishContext(ctx)))
	request.End()

	created := shop.next(t, "publish orders.created")
	root := shop.next(t, "POST /orders")
	paid := payments.next(t, "publish invoices.paid")
	taking := payments.next(t, "process orders.created")
	inner := mail.next(t, "send mail")
	mailing := mail.next(t, "process invoices.*")
	wantRoot(t, root)
	wantChild(t, created, root)
	wantChild(t, taking, created)
	wantChild(t, paid, taking)
	wantChild(t, mailing, paid)
	wantChild(t, inner, mailing)

	for s, d := range map[sdktrace.ReadOnlySpan]string{created: "orders.created", taking: "orders.created", paid: "invoices.paid", mailing: "invoices.paid"} {
		got := attributes(s.Attributes())
		if got["messaging.destination.name"] != d || got["messaging.nats.stream.name"] != strings.ToUpper(strings.Split(d, ".")[0]) || got["messaging.nats.stream.sequence"] != int64(1) {
			t.Errorf("%s: %v", s.Name(), got)
		}
		if got["messaging.message.id"] == "" || got["messaging.message.body.size"] != int64(8) || "nats://"+net.JoinHostPort(fmt.Sprint(got["server.address"]), fmt.Sprint(got["server.port"])) != url {
			t.Errorf("%s: %v", s.Name(), got)
		}
	}
	if a, b := attributes(created.Attributes())["messaging.message.id"], attributes(taking.Attributes())["messaging.message.id"]; a != b {
		t.Errorf("the message id is %v when published and %v when handled", a, b)
	}
	got := attributes(mailing.Attributes())
	if got["messaging.destination.template"] != "invoices.*" || got["messaging.consumer.group.name"] != "workers" || got["messaging.nats.result"] != "ack" {
		t.Errorf("%v", got)
	}
}

// A client in another language writes traceparent in lower case.
func TestForeignPublisher(t *testing.T) {
	t.Parallel()
	url := startServer(t)
	s := newService(t, url)
	s.subscribe(t, "orders.created", func(broker.Event) error { return nil })
	_, js := natstest.Connect(t, url)

	_, err := js.PublishMsg(t.Context(), &nats.Msg{Subject: "orders.created", Header: nats.Header{"traceparent": {upstream}}, Data: []byte("x")})
	noErr(t, err)
	wantParent(t, s.next(t, "process orders.created"), upstreamTrace, upstreamSpan)

	_, err = js.PublishMsg(t.Context(), &nats.Msg{Subject: "orders.created", Data: []byte("x")})
	noErr(t, err)
	without := s.next(t, "process orders.created")
	wantRoot(t, without)
	if without.SpanContext().TraceID().String() == upstreamTrace {
		t.Error("a message without headers is in the trace of the one before")
	}
}

// On the wire there is one traceparent, in lower case, whatever was given.
func TestWire(t *testing.T) {
	t.Parallel()
	url := startServer(t)
	s := newService(t, url)
	_, js := natstest.Connect(t, url)
	for _, given := range []map[string]string{
		nil,
		{"traceparent": upstream},
		{"Traceparent": upstream, "traceparent": other, "TRACEPARENT": other, "tracestate": "k=stale", "Baggage": "tenant=a", "Micro-Id": "1"},
	} {
		before := maps.Clone(given)
		noErr(t, s.Publish("orders.created", message(given)))
		if !maps.Equal(given, before) {
			t.Errorf("the caller's header was changed: %v", given)
		}
		span := s.next(t, "publish orders.created")
		if given != nil {
			wantParent(t, span, upstreamTrace, upstreamSpan)
		}
		stream, err := js.Stream(t.Context(), "ORDERS")
		noErr(t, err)
		raw, err := stream.GetLastMsgForSubject(t.Context(), "orders.created")
		noErr(t, err)
		n := 0
		for k, vs := range raw.Header {
			switch strings.ToLower(k) {
			case "traceparent":
				n += len(vs)
				if k != "traceparent" || vs[0] != traceparentOf(span.SpanContext()) {
					t.Errorf("%s: %v, want the publish span's", k, vs)
				}
			case "tracestate":
				t.Errorf("a stale %s: %v", k, vs)
			case "baggage":
				if k != "baggage" || len(vs) != 1 || vs[0] != "tenant=a" {
					t.Errorf("%s: %v", k, vs)
				}
			}
		}
		if n != 1 {
			t.Errorf("%d traceparents on the wire: %v", n, raw.Header)
		}
	}
}

// A handler that knows nothing of contexts and passes on the header it was given
// stays in the trace, below its own process span.
func TestHandlerPassesHeadersOn(t *testing.T) {
	t.Parallel()
	url := startServer(t)
	s := newService(t, url)
	s.subscribe(t, "orders.created", func(e broker.Event) error {
		return s.Publish("invoices.paid", message(e.Message().Header))
	})
	noErr(t, s.Publish("orders.created", message(map[string]string{"traceparent": upstream})))
	created := s.next(t, "publish orders.created")
	paid := s.next(t, "publish invoices.paid")
	process := s.next(t, "process orders.created")
	wantParent(t, created, upstreamTrace, upstreamSpan)
	wantChild(t, process, created)
	wantChild(t, paid, process)
}

// Redeliveries are spans of their own below one publish, and each tells how its
// delivery ended.
func TestRedeliveries(t *testing.T) {
	t.Parallel()
	url := startServer(t)
	s := newService(t, url)
	s.subscribe(t, "orders.created", func(e broker.Event) error {
		switch jsbroker.NumDelivered(e) {
		case 1:
			return jsbroker.RetryAfter(time.Millisecond, &orderError{1})
		case 2:
			panicking()
		case 3:
			return jsbroker.RetryAfter(0, nil)
		}
		return jsbroker.Discard(fmt.Errorf("gone: %w", &orderError{2}))
	})
	noErr(t, s.Publish("orders.created", message(nil)))
	published := s.next(t, "publish orders.created")
	const ours = "*tracing_test.orderError"
	for i, want := range []struct{ result, errorType, exception string }{
		{"nak", ours, ours},
		{"nak", "panic", ours},
		{"nak", "*broker.retryError", "*broker.retryError"},
		{"term", ours, ours},
	} {
		process := s.next(t, "process orders.created")
		wantChild(t, process, published)
		got := attributes(process.Attributes())
		if got["messaging.nats.message.delivery_count"] != int64(i+1) || got["messaging.nats.result"] != want.result || got["error.type"] != want.errorType {
			t.Errorf("delivery %d: %v", i+1, got)
		}
		if process.Status().Description == "" || len(process.Events()) != 2 || process.Events()[0].Name != "stored" {
			t.Fatalf("delivery %d: status %+v, events %v", i+1, process.Status(), process.Events())
		}
		event := attributes(process.Events()[1].Attributes)
		if event["exception.type"] != want.exception {
			t.Errorf("delivery %d: %v", i+1, event)
		}
		if stack, ok := event["exception.stacktrace"].(string); ok != (i == 1) || ok && !strings.Contains(stack, "tracing_test.panicking") {
			t.Errorf("delivery %d: stack %q", i+1, stack)
		}
	}
}

func panicking() { panic(&orderError{3}) }

func TestDuplicateAndFailedPublish(t *testing.T) {
	t.Parallel()
	url := startServer(t)
	s := newService(t, url)
	for _, duplicate := range []bool{false, true} {
		noErr(t, s.Publish("orders.created", message(nil), jsbroker.MessageID("order-1")))
		span := s.next(t, "publish orders.created")
		got := attributes(span.Attributes())
		if got["messaging.nats.message.duplicate"] != duplicate || got["messaging.message.id"] != "order-1" || span.Status().Description != "" {
			t.Errorf("%v, status %+v", got, span.Status())
		}
	}
	err := s.Publish("orders.>", message(nil))
	if !errors.Is(err, jsbroker.ErrInvalidTopic) {
		t.Fatalf("err = %v", err)
	}
	span := s.next(t, "publish orders.>")
	if got := attributes(span.Attributes())["error.type"]; got != "invalid_topic" || span.Status().Description != err.Error() {
		t.Errorf("error.type = %v, status %+v", got, span.Status())
	}
}

// The trace goes on to whoever handles the dead letter.
func TestDeadLetterIsTraced(t *testing.T) {
	t.Parallel()
	url := startServer(t)
	s := newService(t, url, jsbroker.WithDeadLetter("dead.letters"),
		jsbroker.WithConsumerConfig(jetstream.ConsumerConfig{MaxDeliver: 1}))
	undertaker := newService(t, url)
	undertaker.subscribe(t, "dead.letters", func(broker.Event) error { return nil })
	s.subscribe(t, "orders.created", func(broker.Event) error { return &orderError{1} })
	noErr(t, s.Publish("orders.created", message(nil)))
	process := s.next(t, "process orders.created")
	wantChild(t, process, s.next(t, "publish orders.created"))
	var found bool
	for _, e := range process.Events() {
		if e.Name == "dead_letter" {
			found = true
			expect(t, e.Attributes, map[string]any{"messaging.nats.dead_letter.topic": "dead.letters"})
		}
	}
	if !found {
		t.Errorf("events %v", process.Events())
	}
	if got := attributes(process.Attributes())["messaging.nats.result"]; got != "term" {
		t.Errorf("result = %v", got)
	}
	dead := s.next(t, "publish dead.letters")
	wantChild(t, dead, process)
	wantChild(t, undertaker.next(t, "process dead.letters"), dead)
}

// A subscription's context with a span in it: every message of a client without
// headers starts a trace of its own.
func TestSubscribeContextIsNoParent(t *testing.T) {
	t.Parallel()
	url := startServer(t)
	s := newService(t, url)
	ctx, startup := s.provider.Tracer("test").Start(context.Background(), "startup")
	defer startup.End()
	s.subscribe(t, "orders.created", func(broker.Event) error { return nil }, broker.SubscribeContext(ctx))
	_, js := natstest.Connect(t, url)
	seen := map[trace.TraceID]bool{startup.SpanContext().TraceID(): true}
	for range 3 {
		_, err := js.Publish(t.Context(), "orders.created", []byte("x"))
		noErr(t, err)
		process := s.next(t, "process orders.created")
		wantRoot(t, process)
		if id := process.SpanContext().TraceID(); seen[id] {
			t.Errorf("trace %v again", id)
		} else {
			seen[id] = true
		}
	}
}
