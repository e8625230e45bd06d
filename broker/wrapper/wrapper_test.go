package wrapper_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"go-micro.dev/v5/broker"
	"go-micro.dev/v5/client"
	"go-micro.dev/v5/logger"
	"go-micro.dev/v5/metadata"
	"go-micro.dev/v5/registry"
	"go-micro.dev/v5/server"
	"go-micro.dev/v5/server/grpc"
	"go.opentelemetry.io/otel/propagation"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"

	jsbroker "go-micro-jetstream/broker"
	"go-micro-jetstream/broker/wrapper"
	"go-micro-jetstream/internal/natstest"
	"go-micro-jetstream/tracing"
)

// Order is exported because go-micro asks for that.
type Order struct{ ID string }

// service is a go-micro server and client with the wrappers, and what its broker
// tells hooks.
type service struct {
	t       *testing.T
	broker  broker.Broker
	server  server.Server
	client  client.Client
	tracer  trace.Tracer
	ended   chan sdktrace.ReadOnlySpan
	handled chan jsbroker.Handled
	panics  chan jsbroker.Panicked
	dead    chan jsbroker.DeadLettered
}

func quiet() logger.Logger { return natstest.Quiet() }

func noErr(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// ended hands over spans as they end.
type ended chan sdktrace.ReadOnlySpan

func (ended) OnStart(context.Context, sdktrace.ReadWriteSpan) {}
func (c ended) OnEnd(s sdktrace.ReadOnlySpan)                 { c <- s }
func (ended) Shutdown(context.Context) error                  { return nil }
func (ended) ForceFlush(context.Context) error                { return nil }

type newServer func(...server.Option) server.Server

func newService(t *testing.T, build newServer, opts ...broker.Option) *service {
	t.Helper()
	s := &service{
		t: t, ended: make(chan sdktrace.ReadOnlySpan, 100), handled: make(chan jsbroker.Handled, 100),
		panics: make(chan jsbroker.Panicked, 100), dead: make(chan jsbroker.DeadLettered, 100),
	}
	provider := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(ended(s.ended)))
	s.tracer = provider.Tracer("the user's own")
	s.broker = jsbroker.NewBroker(append([]broker.Option{
		broker.Addrs(natstest.Start(t).ClientURL()), broker.Logger(quiet()),
		jsbroker.WithHooks(
			tracing.New(tracing.WithTracerProvider(provider), tracing.WithPropagator(propagation.TraceContext{})),
			jsbroker.Hooks{
				Handled:      func(_ context.Context, e jsbroker.Handled) { s.handled <- e },
				Panicked:     func(_ context.Context, e jsbroker.Panicked) { s.panics <- e },
				DeadLettered: func(_ context.Context, e jsbroker.DeadLettered) { s.dead <- e },
			},
		),
	}, opts...)...)
	s.wire(build, s.broker)
	return s
}

// wire makes server and client around a broker.
func (s *service) wire(build newServer, b broker.Broker) {
	reg := registry.NewMemoryRegistry()
	s.server = build(
		server.Name("shop"), server.Address("127.0.0.1:0"), server.Broker(b), server.Registry(reg), server.WithLogger(quiet()),
		server.WrapSubscriber(wrapper.Subscriber(b)),
		server.WrapSubscriber(wrapper.Subscriber(b)), // once more changes nothing
	)
	s.client = wrapper.Client()(client.NewClient(client.Broker(b), client.Registry(reg), client.ContentType("application/json")))
}

func (s *service) subscribe(topic string, handler any, opts ...server.SubscriberOption) {
	s.t.Helper()
	opts = append(opts, server.SubscriberQueue("shop"))
	noErr(s.t, s.server.Subscribe(s.server.NewSubscriber(topic, handler, opts...)))
}

func (s *service) start() {
	s.t.Helper()
	noErr(s.t, s.server.Start())
	s.t.Cleanup(func() {
		noErr(s.t, s.server.Stop())
		_ = s.broker.Disconnect()
	})
}

func (s *service) publish(ctx context.Context, topic string) {
	s.t.Helper()
	noErr(s.t, s.client.Publish(ctx, s.client.NewMessage(topic, &Order{"1"})))
}

// spans returns the spans of these names, each of which ends once.
func (s *service) spans(names ...string) map[string]sdktrace.ReadOnlySpan {
	s.t.Helper()
	got := map[string]sdktrace.ReadOnlySpan{}
	for range names {
		span := natstest.Receive(s.t, s.ended)
		got[span.Name()] = span
	}
	for _, name := range names {
		if got[name] == nil {
			s.t.Fatalf("no span %q", name)
		}
	}
	return got
}

// both runs a test with each of go-micro's servers.
func both(t *testing.T, test func(t *testing.T, build newServer)) {
	for name, build := range map[string]newServer{"rpc": server.NewServer, "grpc": grpc.NewServer} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, build)
		})
	}
}

func TestHandlersFindTheConsumerSpan(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, build newServer) {
		s := newService(t, build)
		tenants := make(chan string, 1)
		s.subscribe("orders.created", func(ctx context.Context, o *Order) error {
			tenant, _ := metadata.Get(ctx, "Tenant") // is still there
			tenants <- tenant
			ctx, span := s.tracer.Start(ctx, "charge")
			defer span.End()
			return s.client.Publish(ctx, s.client.NewMessage("invoices.paid", o))
		})
		s.subscribe("invoices.paid", func(context.Context, *Order) error { return nil })
		s.start()
		ctx, request := s.tracer.Start(metadata.NewContext(context.Background(), metadata.Metadata{"Tenant": "a"}), "request")
		s.publish(ctx, "orders.created")
		request.End()
		chain := []string{"request", "publish orders.created", "process orders.created", "charge", "publish invoices.paid", "process invoices.paid"}
		got := s.spans(chain...)
		for i, name := range chain[1:] {
			span, parent := got[name], got[chain[i]]
			if span.Parent().SpanID() != parent.SpanContext().SpanID() || span.SpanContext().TraceID() != parent.SpanContext().TraceID() {
				t.Errorf("%s has parent %v, want %s", name, span.Parent().SpanID(), parent.Name())
			}
		}
		if tenant := natstest.Receive(t, tenants); tenant != "a" {
			t.Errorf("the handler sees tenant %q", tenant)
		}
	})
}

var errNoSuchAddress = errors.New("no such address")

func TestErrorsReachTheBrokerAsTheyAre(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, build newServer) {
		s := newService(t, build, jsbroker.WithDeadLetter("dead-letters.orders"))
		s.subscribe("orders", func(ctx context.Context, _ *Order) error {
			switch jsbroker.NumDelivered(wrapper.Event(ctx)) {
			case 1:
				return jsbroker.RetryAfter(time.Millisecond, errNoSuchAddress)
			case 2:
				panicking()
			}
			return jsbroker.Discard(errNoSuchAddress)
		})
		s.start()
		s.publish(context.Background(), "orders")
		first := natstest.Receive(t, s.handled)
		if first.Result != jsbroker.ResultNak || first.Delay != time.Millisecond || first.Panicked || !errors.Is(first.Err, errNoSuchAddress) {
			t.Errorf("RetryAfter: %+v", first)
		}
		second := natstest.Receive(t, s.handled)
		if second.Result != jsbroker.ResultNak || second.Delay < time.Second || !second.Panicked {
			t.Errorf("panic: %+v", second)
		}
		if p := natstest.Receive(t, s.panics).Err; p.Value != "a bug" || !strings.Contains(string(p.Stack), "wrapper_test.panicking") {
			t.Errorf("panic %v at\n%s", p.Value, p.Stack)
		}
		third := natstest.Receive(t, s.handled)
		if third.Result != jsbroker.ResultTerm || !errors.Is(third.Err, errNoSuchAddress) {
			t.Errorf("Discard: %+v", third)
		}
		if d := natstest.Receive(t, s.dead); d.Err != nil || d.Cause.Error() != "no such address" {
			t.Errorf("dead letter: %+v", d)
		}
	})
}

func panicking() { panic("a bug") }

// Two are the handlers of one topic.
type Two struct {
	First, Second func(ctx context.Context) error
}

// HandleFirst runs first.
func (h *Two) HandleFirst(ctx context.Context, _ *Order) error { return h.First(ctx) }

// HandleSecond runs second.
func (h *Two) HandleSecond(ctx context.Context, _ *Order) error { return h.Second(ctx) }

// addressError panics as a nil pointer.
type addressError struct{ address string }

func (e *addressError) Error() string { return "no such address: " + e.address }

func TestSeveralHandlersOfOneTopic(t *testing.T) {
	t.Parallel()
	always := func(err error) func(context.Context) error { return func(context.Context) error { return err } }
	panics := func(context.Context) error { panic("a bug") }
	other := errors.New("try later")
	discard, snooze := jsbroker.Discard(errNoSuchAddress), jsbroker.Snooze(time.Minute)
	both(t, func(t *testing.T, build newServer) {
		for name, test := range map[string]struct {
			handlers Two
			result   jsbroker.Result
			delay    time.Duration // exactly, if not 0
			errs     []string
			panicked bool
		}{
			"one is content":              {Two{always(nil), always(discard)}, jsbroker.ResultTerm, 0, []string{"no such address"}, false},
			"both discard":                {Two{always(discard), always(discard)}, jsbroker.ResultTerm, 0, []string{"no such address"}, false},
			"one wants it again":          {Two{always(discard), always(other)}, jsbroker.ResultNak, 0, []string{"no such address", "try later"}, false},
			"one wants it at a time":      {Two{always(jsbroker.RetryAfter(time.Hour, other)), always(discard)}, jsbroker.ResultNak, time.Hour, []string{"no such address", "try later"}, false},
			"one panics, one discards":    {Two{panics, always(discard)}, jsbroker.ResultNak, 0, []string{"a bug", "no such address"}, true},
			"one discards a nil pointer":  {Two{always(jsbroker.Discard((*addressError)(nil))), always(other)}, jsbroker.ResultNak, 0, []string{"try later"}, false},
			"both snooze":                 {Two{always(snooze), always(snooze)}, jsbroker.ResultNak, time.Minute, nil, false},
			"one snoozes, one is content": {Two{always(snooze), always(nil)}, jsbroker.ResultNak, time.Minute, nil, false},
			"one snoozes, one fails":      {Two{always(other), always(snooze)}, jsbroker.ResultNak, time.Minute, []string{"try later"}, false},
			"one snoozes, one discards":   {Two{always(discard), always(snooze)}, jsbroker.ResultNak, time.Minute, []string{"no such address"}, false},
			"both succeed, says go-micro": {Two{always(nil), always(nil)}, jsbroker.ResultAck, 0, nil, false},
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				s := newService(t, build)
				s.subscribe("orders", &test.handlers)
				s.start()
				s.publish(context.Background(), "orders")
				h := natstest.Receive(t, s.handled)
				if h.Result != test.result || h.Panicked != test.panicked || test.delay > 0 && h.Delay != test.delay {
					t.Errorf("%+v", h)
				}
				if (h.Err == nil) != (len(test.errs) == 0) {
					t.Errorf("the error is %v", h.Err)
				}
				for _, text := range test.errs {
					if h.Err == nil || !strings.Contains(h.Err.Error(), text) {
						t.Errorf("the error is %v, without %q", h.Err, text)
					}
				}
			})
		}
	})
}

// With server.DisableAutoAck the handler has the event that it is to
// acknowledge.
func TestAckThroughTheEvent(t *testing.T) {
	t.Parallel()
	s := newService(t, server.NewServer)
	s.subscribe("orders.created", func(ctx context.Context, _ *Order) error {
		e := wrapper.Event(ctx)
		if e.Topic() != "orders.created" {
			t.Errorf("topic %q", e.Topic())
		}
		return e.Ack()
	}, server.DisableAutoAck())
	s.start()
	s.publish(context.Background(), "orders.created")
	if h := natstest.Receive(t, s.handled); h.Result != jsbroker.ResultAck || h.Err != nil {
		t.Errorf("%+v", h)
	}
}

// A handler that heeds its context ends when Disconnect gives it up.
func TestTheContextEndsWithTheBroker(t *testing.T) {
	t.Parallel()
	s := newService(t, server.NewServer, jsbroker.WithShutdownTimeout(0))
	began, ended := make(chan struct{}), make(chan error, 1)
	s.subscribe("orders", func(ctx context.Context, _ *Order) error {
		close(began)
		<-ctx.Done()
		ended <- ctx.Err()
		return ctx.Err()
	})
	s.start()
	s.publish(context.Background(), "orders")
	natstest.Receive(t, began)
	if err := s.broker.Disconnect(); !errors.Is(err, jsbroker.ErrShutdownTimeout) {
		t.Fatalf("Disconnect: %v", err)
	}
	if err := natstest.Receive(t, ended); !errors.Is(err, context.Canceled) {
		t.Errorf("the context ended with %v", err)
	}
}

// Wrappers before this one keep what they have put into the context, their
// deadline included, and what they make of an error counts if it is none.
func TestAnotherWrapperOutside(t *testing.T) {
	t.Parallel()
	s := newService(t, func(opts ...server.Option) server.Server {
		type key struct{}
		outer := func(next server.SubscriberFunc) server.SubscriberFunc {
			return func(ctx context.Context, msg server.Message) error {
				ctx, cancel := context.WithTimeout(context.WithValue(ctx, key{}, "kept"), time.Hour)
				defer cancel()
				_ = next(ctx, msg)
				return nil
			}
		}
		inner := func(next server.SubscriberFunc) server.SubscriberFunc {
			return func(ctx context.Context, msg server.Message) error {
				if _, ok := ctx.Deadline(); !ok || ctx.Value(key{}) != "kept" || !trace.SpanContextFromContext(ctx).IsValid() {
					t.Error("the context has lost something")
				}
				return next(ctx, msg)
			}
		}
		return server.NewServer(slices.Concat([]server.Option{server.WrapSubscriber(outer)}, opts, []server.Option{server.WrapSubscriber(inner)})...)
	})
	s.subscribe("orders", func(context.Context, *Order) error { return jsbroker.Discard(nil) })
	s.start()
	s.publish(context.Background(), "orders")
	if h := natstest.Receive(t, s.handled); h.Result != jsbroker.ResultAck || h.Err != nil {
		t.Errorf("%+v", h)
	}
}

// With another broker the wrappers do nothing, and a panic is go-micro's.
func TestOtherBrokers(t *testing.T) {
	t.Parallel()
	s := &service{t: t, broker: broker.NewMemoryBroker()}
	s.wire(server.NewServer, s.broker)
	got := make(chan broker.Event, 10)
	s.subscribe("orders", func(ctx context.Context, _ *Order) error {
		got <- wrapper.Event(ctx)
		if ctx.Done() != nil {
			t.Error("the context is not go-micro's")
		}
		return nil
	})
	s.start()
	s.publish(context.Background(), "orders")
	if e := natstest.Receive(t, got); e != nil {
		t.Errorf("event %v", e)
	}
}

// Only the very map of a running delivery finds its event.
func TestTheFinder(t *testing.T) {
	t.Parallel()
	b := jsbroker.NewBroker(broker.Addrs(natstest.Start(t).ClientURL()), broker.Logger(quiet()),
		jsbroker.WithConsumerConfig(jetstream.ConsumerConfig{BackOff: []time.Duration{500 * time.Millisecond}, MaxDeliver: 9}))
	find := jsbroker.EventFinder(b)
	if find(nil) != nil || find(map[string]string{}) != nil {
		t.Fatal("found an event for a map of nobody's")
	}
	if foreign := jsbroker.EventFinder(broker.NewMemoryBroker()); foreign(map[string]string{}) != nil {
		t.Fatal("found an event of another kind of broker")
	}
	noErr(t, b.Connect())
	defer func() { _ = b.Disconnect() }()
	type found struct {
		same   bool
		header map[string]string
	}
	got := make(chan found, 1)
	_, err := b.Subscribe("orders", func(e broker.Event) error {
		if jsbroker.NumDelivered(e) == 1 {
			return errors.New("without a word on what it really was")
		}
		header := e.Message().Header
		f := found{find(header) == e, header}
		jsbroker.SetHandlerError(e, errors.New("counts only if there is one"))
		jsbroker.SetHandlerError(e, nil)
		jsbroker.SetHandlerError(nil, errNoSuchAddress)
		e.Message().Header = nil
		got <- f
		return nil
	}, broker.Queue("q"))
	noErr(t, err)
	noErr(t, b.Publish("orders", &broker.Message{Body: []byte("x")}))
	f := natstest.Receive(t, got)
	if !f.same {
		t.Error("the event was not found while its handler ran")
	}
	noErr(t, b.Disconnect())
	if e := find(f.header); e != nil {
		t.Errorf("found %v after its handler", e)
	}
}
