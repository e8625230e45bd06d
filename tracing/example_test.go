package tracing_test

import (
	"context"
	"fmt"

	"go-micro.dev/v5/broker"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/propagation"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"

	jsbroker "go-micro-jetstream/broker"
	"go-micro-jetstream/tracing"
)

// A service that handles orders and publishes invoices, all in one trace.
func ExampleNew() {
	provider := sdktrace.NewTracerProvider() // with an exporter, such as otlptracehttp
	defer func() { _ = provider.Shutdown(context.Background()) }()
	otel.SetTracerProvider(provider)
	otel.SetTextMapPropagator(propagation.NewCompositeTextMapPropagator(
		propagation.TraceContext{}, propagation.Baggage{})) // without it, traces end here

	b := jsbroker.NewBroker(broker.Addrs("localhost:4222"), jsbroker.WithHooks(tracing.New()))
	if err := b.Connect(); err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = b.Disconnect() }()
	_, err := b.Subscribe("orders.created", func(e broker.Event) error {
		ctx := jsbroker.EventContext(e) // has the span "process orders.created"
		return b.Publish("invoices.created", e.Message(), broker.PublishContext(ctx))
	}, broker.Queue("billing"))
	if err != nil {
		fmt.Println(err)
	}
}

// Reading the trace context of a message by hand, in whatever case it came.
func ExampleHeaderCarrier() {
	header := map[string]string{
		"Traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
	}
	carrier := tracing.HeaderCarrier(header)
	ctx := propagation.TraceContext{}.Extract(context.Background(), carrier)
	propagation.TraceContext{}.Inject(ctx, carrier)
	fmt.Println(header)
	// Output: map[traceparent:00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01]
}
