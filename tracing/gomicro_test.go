package tracing_test

import (
	"context"
	"maps"
	"testing"

	"go-micro.dev/v5/client"
	"go-micro.dev/v5/metadata"
	"go-micro.dev/v5/registry"
	"go-micro.dev/v5/server"
	wrapper "go-micro.dev/v5/wrapper/trace/opentelemetry"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/trace"

	jsbroker "go-micro-jetstream/broker"
	"go-micro-jetstream/internal/natstest"
)

// go-micro's server makes metadata of the delivered header, its OpenTelemetry
// wrapper looks for the parent there with EqualFold in the order of the map and
// writes its own span back, and what the handler publishes carries all of it.
func TestGoMicroWrapper(t *testing.T) {
	restoreGlobals(t)
	otel.SetTextMapPropagator(w3c)
	for name, in := range map[string]map[string]string{
		"lower": {"traceparent": upstream},
		"title": {"Traceparent": upstream},
		"both":  {"traceparent": other, "Traceparent": upstream},
		"state": {"traceparent": upstream, "tracestate": "k=v", "baggage": "tenant=a"},
	} {
		t.Run(name, func(t *testing.T) {
			b := setup(t)
			for range 100 {
				header := maps.Clone(in)
				ctx := b.hooks.HandleStart(context.Background(), jsbroker.HandleStart{Delivery: delivery(), Header: header})
				process := trace.SpanFromContext(ctx)

				md := make(metadata.Metadata)
				maps.Copy(md, header)
				handler, sub := wrapper.StartSpanFromContext(
					metadata.NewContext(context.Background(), md), b.provider, "Sub from orders.created")
				if got := parentOf(sub); got != process.SpanContext().SpanID() {
					t.Fatalf("the wrapper's span has parent %v, want the process span %v; metadata %v", got, process.SpanContext().SpanID(), md)
				}

				// The handler publishes: its own span is in the metadata, as
				// Traceparent, beside what was delivered.
				out, _ := metadata.FromContext(handler)
				outgoing := map[string]string(maps.Clone(out))
				published := b.publish(context.Background(), outgoing)
				if got := published.Parent().SpanID(); got != sub.SpanContext().SpanID() {
					t.Fatalf("the publish has parent %v, want the wrapper's %v; metadata %v", got, sub.SpanContext().SpanID(), out)
				}
				wantHeader(t, outgoing, published)
				if outgoing["tracestate"] != in["tracestate"] || outgoing["baggage"] != in["baggage"] {
					t.Fatalf("header %v", outgoing)
				}
				sub.End()
				b.hooks.Handled(ctx, jsbroker.Handled{Delivery: delivery(), Result: jsbroker.ResultAck})
			}
		})
	}
}

// Order is exported because go-micro asks for that.
type Order struct{ ID int }

// A service as go-micro users write it: its server, its client and its wrappers
// on both, and handlers that know contexts but no broker.
func TestGoMicroService(t *testing.T) {
	restoreGlobals(t)
	otel.SetTextMapPropagator(w3c)
	url := startServer(t)
	s := newService(t, url)
	quiet := natstest.Quiet()
	r := registry.NewMemoryRegistry()
	srv := server.NewRPCServer(
		server.Name("shop"), server.Address("127.0.0.1:0"), server.Broker(s.Broker), server.Registry(r), server.WithLogger(quiet),
		server.WrapSubscriber(wrapper.NewSubscriberWrapper(wrapper.WithTraceProvider(s.provider))),
	)
	c := wrapper.NewClientWrapper(wrapper.WithTraceProvider(s.provider))(
		client.NewClient(client.Broker(s.Broker), client.Registry(r), client.WithLogger(quiet), client.ContentType("application/json")))
	publish := func(ctx context.Context, topic string) error {
		return c.Publish(ctx, c.NewMessage(topic, &Order{1}))
	}
	noErr(t, srv.Subscribe(srv.NewSubscriber("orders.created", func(ctx context.Context, _ *Order) error {
		return publish(ctx, "invoices.paid")
	}, server.SubscriberQueue("shop"))))
	noErr(t, srv.Subscribe(srv.NewSubscriber("invoices.paid", func(context.Context, *Order) error {
		return nil
	}, server.SubscriberQueue("shop"))))
	noErr(t, srv.Start())
	defer func() { noErr(t, srv.Stop()) }()

	noErr(t, publish(metadata.NewContext(context.Background(), metadata.Metadata{"Traceparent": upstream}), "orders.created"))
	parent := s.next(t, "Pub to orders.created")
	wantParent(t, parent, upstreamTrace, upstreamSpan)
	for _, name := range []string{
		"publish orders.created", "process orders.created", "Sub from orders.created",
		"Pub to invoices.paid", "publish invoices.paid", "process invoices.paid", "Sub from invoices.paid",
	} {
		span := s.next(t, name)
		wantChild(t, span, parent)
		parent = span
	}
}

func parentOf(s trace.Span) trace.SpanID {
	return s.(interface{ Parent() trace.SpanContext }).Parent().SpanID()
}
