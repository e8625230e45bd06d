// Command traced is three go-micro services, each a process of its own, and one
// trace through all of them. Their handlers have no tracing code.
//
//	orders --orders.created--> payments --payments.taken--> shipping --shipping.sent--> orders
//
//	docker run --rm -p 16686:16686 -p 4318:4318 jaegertracing/all-in-one:1.76.0
//	go run ./examples/traced
//
// It says where the trace can be seen. OTEL_EXPORTER_OTLP_ENDPOINT names another
// collector. NATS_URL names the server, else one is embedded. To run a service by
// itself, name it: go run ./examples/traced payments
package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"os/exec"
	"os/signal"
	"syscall"

	"go-micro.dev/v5"
	"go-micro.dev/v5/broker"
	"go-micro.dev/v5/client"
	"go-micro.dev/v5/registry"
	"go-micro.dev/v5/server"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"

	jsbroker "go-micro-jetstream/broker"
	"go-micro-jetstream/broker/wrapper"
	_ "go-micro-jetstream/examples/internal/microtls"
	"go-micro-jetstream/examples/internal/natsserver"
	"go-micro-jetstream/tracing"
)

const endpoint = "OTEL_EXPORTER_OTLP_ENDPOINT"

// Order is what travels.
type Order struct {
	ID string `json:"id"`
}

// services are what each listens to, and what it publishes then.
var services = map[string]struct{ from, to string }{
	"orders":   {"shipping.sent", ""},
	"payments": {"orders.created", "payments.taken"},
	"shipping": {"payments.taken", "shipping.sent"},
}

func main() {
	run := runAll
	if len(os.Args) > 1 {
		run = func() error { return runOne(os.Args[1]) }
	}
	if err := run(); err != nil {
		log.Fatal(err)
	}
}

func runOne(name string) error {
	s, ok := services[name]
	if !ok {
		return fmt.Errorf("no service %q: orders, payments or shipping", name)
	}
	// The exporter reads this variable. Its own default is https.
	_ = os.Setenv(endpoint, cmp.Or(os.Getenv(endpoint), "http://localhost:4318"))
	exporter, err := otlptracehttp.New(context.Background())
	if err != nil {
		return err
	}
	tp := sdktrace.NewTracerProvider(sdktrace.WithBatcher(exporter),
		sdktrace.WithResource(resource.NewSchemaless(attribute.String("service.name", name))))
	otel.SetTracerProvider(tp)
	// Without this line each service has traces of its own.
	otel.SetTextMapPropagator(propagation.NewCompositeTextMapPropagator(propagation.TraceContext{}, propagation.Baggage{}))

	b := jsbroker.NewBroker(broker.Addrs(os.Getenv("NATS_URL")), jsbroker.WithHooks(tracing.New()))
	service := micro.NewService(
		micro.Name(name),
		micro.Address("127.0.0.1:0"),
		micro.Broker(b),
		micro.Registry(registry.NewMemoryRegistry()),
		micro.WrapSubscriber(wrapper.Subscriber(b)),
		micro.WrapClient(wrapper.Client()),
		// First the broker, which ends the last spans, then their exporter.
		micro.AfterStop(func() error { return errors.Join(b.Disconnect(), tp.Shutdown(context.Background())) }),
	)
	_ = service.Client().Init(client.ContentType("application/json"))
	arrived := make(chan trace.TraceID, 1)
	handle := func(ctx context.Context, order *Order) error {
		if s.to != "" {
			return micro.NewEvent(s.to, service.Client()).Publish(ctx, order)
		}
		arrived <- trace.SpanContextFromContext(ctx).TraceID()
		return nil
	}
	if err := micro.RegisterSubscriber(s.from, service.Server(), handle, server.SubscriberQueue(name)); err != nil {
		return err
	}
	if name != "orders" {
		return service.Run()
	}
	if err := service.Start(); err != nil {
		return err
	}
	if err := micro.NewEvent("orders.created", service.Client()).Publish(context.Background(), &Order{"4711"}); err != nil {
		return err
	}
	id := <-arrived
	fmt.Printf("order 4711 has been paid for and sent. With Jaeger on this machine, its trace is at\n  http://localhost:16686/trace/%s\n", id)
	return service.Stop()
}

// runAll runs each service as a process, until the order is back.
func runAll() error {
	url, stop, err := natsserver.Open()
	if err != nil {
		return err
	}
	defer stop()
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer cancel()
	start := func(name string) *exec.Cmd {
		cmd := exec.CommandContext(ctx, os.Args[0], name)
		cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
		cmd.Env = append(os.Environ(), "NATS_URL="+url)
		cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
		err = errors.Join(err, cmd.Start())
		return cmd
	}
	shipping, payments, orders := start("shipping"), start("payments"), start("orders")
	if err != nil {
		return err
	}
	err = orders.Wait()
	cancel() // and the others export their part
	_, _ = shipping.Process.Wait()
	_, _ = payments.Process.Wait()
	return err
}
