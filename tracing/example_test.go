package tracing_test

import (
	"context"
	"fmt"
	"io"

	"go-micro.dev/v5/broker"
	"go-micro.dev/v5/logger"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/propagation"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	jsbroker "go-micro-jetstream/broker"
	"go-micro-jetstream/examples/natsserver"
	"go-micro-jetstream/tracing"
)

// connect is NewBroker with this hook and Connect, with a nats-server for this
// example alone. What it returns second ends both.
func connect(hook jsbroker.Hooks) (b broker.Broker, done func()) {
	nats, err := natsserver.Start()
	must(err)
	b = jsbroker.NewBroker(
		broker.Addrs(nats.URL()),
		broker.Logger(logger.NewLogger(logger.WithOutput(io.Discard))),
		jsbroker.WithHooks(hook),
	)
	must(b.Connect())
	return b, func() {
		must(b.Disconnect()) // all spans have ended
		nats.Stop()
	}
}

// must is for what does not fail here. Programs have something better to do.
func must(err error) {
	if err != nil {
		panic(err)
	}
}

// handle has a message published and handled, and waits until it is.
func handle(b broker.Broker) {
	handled := make(chan bool)
	_, err := b.Subscribe("orders.created", func(broker.Event) error {
		handled <- true
		return nil
	}, broker.Queue("payments"))
	must(err)
	must(b.Publish("orders.created", &broker.Message{Body: []byte("4711")}))
	<-handled
}

// A service that handles orders and publishes invoices, all in one trace. The
// provider and the propagator are global, as the SDK's set-up leaves them.
func ExampleNew() {
	spans := tracetest.NewSpanRecorder() // in a service: an exporter, such as otlptracehttp
	provider := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans))
	defer useGlobals(provider, propagation.TraceContext{})()

	b, done := connect(tracing.New())
	_, err := b.Subscribe("orders.created", func(e broker.Event) error {
		ctx := jsbroker.EventContext(e) // has the span "process orders.created"
		return b.Publish("invoices.created", e.Message(), broker.PublishContext(ctx))
	}, broker.Queue("billing"))
	must(err)
	invoices := make(chan bool)
	_, err = b.Subscribe("invoices.created", func(broker.Event) error {
		invoices <- true
		return nil
	}, broker.Queue("mail"))
	must(err)
	must(b.Publish("orders.created", &broker.Message{Body: []byte("4711")}))
	<-invoices
	done()

	traces := map[trace.TraceID]bool{}
	for _, span := range spans.Ended() {
		traces[span.SpanContext().TraceID()] = true
	}
	fmt.Println(len(spans.Ended()), "spans,", len(traces), "trace")
	// Output: 4 spans, 1 trace
}

// useGlobals is otel.SetTracerProvider and otel.SetTextMapPropagator. What it
// returns sets those from before again.
func useGlobals(tp trace.TracerProvider, p propagation.TextMapPropagator) (reset func()) {
	oldProvider, oldPropagator := otel.GetTracerProvider(), otel.GetTextMapPropagator()
	otel.SetTracerProvider(tp)
	otel.SetTextMapPropagator(p) // without it, traces end with the service
	return func() {
		otel.SetTracerProvider(oldProvider)
		otel.SetTextMapPropagator(oldPropagator)
	}
}

// A provider of the broker's own: with another sampler, for one.
func ExampleWithTracerProvider() {
	spans := tracetest.NewSpanRecorder()
	provider := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans), sdktrace.WithSampler(sdktrace.AlwaysSample()))
	b, done := connect(tracing.New(
		tracing.WithTracerProvider(provider),
		tracing.WithPropagator(propagation.TraceContext{}),
	))
	handle(b)
	done()
	for _, span := range spans.Ended() {
		fmt.Println(span.SpanKind(), span.Name())
	}
	// Unordered output:
	// producer publish orders.created
	// consumer process orders.created
}

// Nothing is propagated, on purpose: each service has traces of its own.
func ExampleWithPropagator() {
	spans := tracetest.NewSpanRecorder()
	b, done := connect(tracing.New(
		tracing.WithTracerProvider(sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans))),
		tracing.WithPropagator(propagation.NewCompositeTextMapPropagator()),
	))
	handle(b)
	done()
	for _, span := range spans.Ended() {
		fmt.Println(span.Name(), "has a parent:", span.Parent().IsValid())
	}
	// Unordered output:
	// publish orders.created has a parent: false
	// process orders.created has a parent: false
}

// A message that may wait for hours is handled in a trace of its own, with a link
// to the span that published it.
func ExampleWithLinks() {
	spans := tracetest.NewSpanRecorder()
	b, done := connect(tracing.New(
		tracing.WithTracerProvider(sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans))),
		tracing.WithPropagator(propagation.TraceContext{}),
		tracing.WithLinks(),
	))
	handle(b)
	done()
	for _, span := range spans.Ended() {
		fmt.Println(span.Name(), "has", len(span.Links()), "links")
	}
	// Unordered output:
	// publish orders.created has 0 links
	// process orders.created has 1 links
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
