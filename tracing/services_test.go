package tracing_test

import (
	"context"
	"slices"
	"strings"
	"testing"

	"go-micro.dev/v5/broker"
	"go-micro.dev/v5/client"
	"go-micro.dev/v5/metadata"
	"go-micro.dev/v5/registry"
	"go-micro.dev/v5/server"
	otelwrapper "go-micro.dev/v5/wrapper/trace/opentelemetry"
	"go.opentelemetry.io/otel"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"

	jsbroker "go-micro-jetstream/broker"
	"go-micro-jetstream/broker/wrapper"
	"go-micro-jetstream/internal/natstest"
	"go-micro-jetstream/tracing"
)

// Shop is an RPC handler. It is exported because go-micro asks for that.
type Shop struct {
	publish func(ctx context.Context, topic string) error
}

// Buy knows nothing of tracing.
func (s *Shop) Buy(ctx context.Context, _, _ *Order) error { return s.publish(ctx, "orders.created") }

// instruments are what a service is observed with.
type instruments struct {
	hooks bool // this broker's tracing
	otel  bool // go-micro's OpenTelemetry wrappers of handlers and clients
	subs  bool // and of subscribers
	ours  bool // package wrapper
}

// party is one go-micro service with a broker of its own.
type party struct {
	broker broker.Broker
	server server.Server
	client client.Client
}

func (p *party) publish(ctx context.Context, topic string) error {
	return p.client.Publish(ctx, p.client.NewMessage(topic, &Order{1}))
}

func newParty(t *testing.T, name, url string, reg registry.Registry, tp *sdktrace.TracerProvider, with instruments) *party {
	t.Helper()
	quiet := natstest.Quiet()
	opts := []broker.Option{broker.Addrs(url), broker.Logger(quiet)}
	if with.hooks {
		opts = append(opts, jsbroker.WithHooks(tracing.New(tracing.WithTracerProvider(tp))))
	}
	p := &party{broker: jsbroker.NewBroker(opts...)}
	serverOpts := []server.Option{
		server.Name(name), server.Address("127.0.0.1:0"), server.Broker(p.broker), server.Registry(reg), server.WithLogger(quiet),
	}
	p.client = client.NewClient(client.Broker(p.broker), client.Registry(reg), client.WithLogger(quiet), client.ContentType("application/json"))
	if with.ours {
		serverOpts = append(serverOpts, server.WrapSubscriber(wrapper.Subscriber(p.broker)))
		p.client = wrapper.Client()(p.client)
	}
	if with.otel {
		serverOpts = append(serverOpts,
			server.WrapHandler(otelwrapper.NewHandlerWrapper(otelwrapper.WithTraceProvider(tp))))
		p.client = otelwrapper.NewClientWrapper(otelwrapper.WithTraceProvider(tp))(p.client)
	}
	if with.subs {
		serverOpts = append(serverOpts, server.WrapSubscriber(otelwrapper.NewSubscriberWrapper(otelwrapper.WithTraceProvider(tp))))
	}
	p.server = server.NewRPCServer(serverOpts...)
	return p
}

// A's RPC handler publishes, B's subscriber handles that and publishes, C's
// handles that: one trace, and no tracing code in any of them.
func TestOneTraceAcrossServices(t *testing.T) {
	restoreGlobals(t)
	otel.SetTextMapPropagator(w3c)
	const (
		call       = "shop.Shop.Buy client"
		serve      = "shop.Shop.Buy server"
		pubCreated = "Pub to orders.created client"
		created    = "publish orders.created producer"
		processing = "process orders.created consumer"
		subCreated = "Sub from orders.created server"
		pubPaid    = "Pub to invoices.paid client"
		paid       = "publish invoices.paid producer"
		mailing    = "process invoices.paid consumer"
		subPaid    = "Sub from invoices.paid server"
	)
	ofHooks := []string{created, processing, paid, mailing}
	ofWrappers := []string{call, serve, pubCreated, subCreated, pubPaid, subPaid}
	ofRPC := []string{call, serve, pubCreated, pubPaid}
	ofHooksAndRPC := []string{call, serve, pubCreated, created, processing, pubPaid, paid, mailing}
	all := []string{call, serve, pubCreated, created, processing, subCreated, pubPaid, paid, mailing, subPaid}
	for name, test := range map[string]struct {
		with instruments
		want []string // each the child of the one before
	}{
		"this broker's tracing":             {instruments{hooks: true}, ofHooks},
		"this broker's, with its wrappers":  {instruments{hooks: true, ours: true}, ofHooks},
		"go-micro's wrappers":               {instruments{otel: true, subs: true}, ofWrappers},
		"go-micro's, for RPC alone":         {instruments{otel: true}, ofRPC},
		"go-micro's wrappers and ours":      {instruments{otel: true, subs: true, ours: true}, ofWrappers},
		"both":                              {instruments{hooks: true, otel: true, subs: true}, all},
		"both, go-micro's for RPC alone":    {instruments{hooks: true, otel: true}, ofHooksAndRPC},
		"both, for RPC alone, with ours":    {instruments{hooks: true, otel: true, ours: true}, ofHooksAndRPC},
		"both, with this broker's wrappers": {instruments{hooks: true, otel: true, subs: true, ours: true}, all},
	} {
		t.Run(name, func(t *testing.T) {
			url, reg := startServer(t), registry.NewMemoryRegistry()
			spans := make(ended, 100)
			tp := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans))
			mailed := make(chan struct{}, 1)
			shop, payments, mail := newParty(t, "shop", url, reg, tp, test.with), newParty(t, "payments", url, reg, tp, test.with), newParty(t, "mail", url, reg, tp, test.with)
			noErr(t, shop.server.Handle(shop.server.NewHandler(&Shop{shop.publish})))
			noErr(t, payments.server.Subscribe(payments.server.NewSubscriber("orders.created", func(ctx context.Context, _ *Order) error {
				return payments.publish(ctx, "invoices.paid")
			}, server.SubscriberQueue("payments"))))
			noErr(t, mail.server.Subscribe(mail.server.NewSubscriber("invoices.paid", func(context.Context, *Order) error {
				mailed <- struct{}{}
				return nil
			}, server.SubscriberQueue("mail"))))
			nc, _ := natstest.Connect(t, url)
			parties := []*party{mail, payments, shop}
			for _, p := range parties {
				noErr(t, p.server.Start())
			}
			wire := natstest.Listen(t, nc, "orders.created", "invoices.paid") // the streams are there
			// The caller's trace comes from a proxy before it, say.
			ctx := metadata.NewContext(t.Context(), metadata.Metadata{"Traceparent": upstream})
			noErr(t, shop.client.Call(ctx, shop.client.NewRequest("shop", "Shop.Buy", &Order{1}), &Order{}))
			natstest.Receive(t, mailed)
			for _, p := range slices.Backward(parties) {
				noErr(t, p.server.Stop())
				noErr(t, p.broker.Disconnect()) // all its spans have ended then
			}
			close(spans)
			got := map[string]sdktrace.ReadOnlySpan{}
			n := 0
			for s := range spans {
				got[s.Name()+" "+s.SpanKind().String()] = s
				n++
			}
			parent := upstreamSpan
			for _, name := range test.want {
				s := got[name]
				if s == nil {
					t.Fatalf("no span %q among %d", name, n)
				}
				wantParent(t, s, upstreamTrace, parent)
				parent = s.SpanContext().SpanID().String()
				if s.Status().Description != "" {
					t.Errorf("%s: %+v", name, s.Status())
				}
			}
			if n != len(test.want) {
				t.Errorf("%d spans, want %d", n, len(test.want))
			}
			for _, publishes := range [][]string{{created, pubCreated}, {paid, pubPaid}} {
				last := got[publishes[0]]
				if last == nil { // no span of this broker's
					last = got[publishes[1]]
				}
				m := natstest.Receive(t, wire)
				var keys []string
				for k := range m.Header {
					if strings.EqualFold(k, "traceparent") {
						keys = append(keys, k)
					}
				}
				want := []string{"00-" + upstreamTrace + "-" + last.SpanContext().SpanID().String() + "-01"}
				if len(keys) != 1 || !slices.Equal(m.Header["traceparent"], want) {
					t.Errorf("%s travels with %v, want one traceparent, %s", m.Subject, m.Header, want)
				}
			}
			if len(wire) > 0 {
				t.Errorf("also published: %v", <-wire)
			}
		})
	}
}
