// Command traced runs three go-micro services, each in a process of its own, and
// shows one trace through all of them. The handlers contain no tracing code.
//
//	orders --orders.created--> payments --payments.taken--> shipping --shipping.sent--> orders
//
//	docker run --rm -p 16686:16686 -p 4318:4318 jaegertracing/all-in-one:1.76.0
//	go run ./examples/traced
//
// It prints where to see the trace. OTEL_EXPORTER_OTLP_ENDPOINT sets another
// collector. NATS_URL is the address of the NATS server. Without it, the program
// starts one.
package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log"
	"os"
	"os/exec"
	"os/signal"
	"syscall"

	"go-micro.dev/v5"
	"go-micro.dev/v5/broker"
	"go-micro.dev/v5/registry"
	"go-micro.dev/v5/server"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/propagation"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"

	jsbroker "go-micro-jetstream/broker"
	"go-micro-jetstream/broker/wrapper"
	_ "go-micro-jetstream/examples/microtls"
	"go-micro-jetstream/examples/natsserver"
	"go-micro-jetstream/tracing"
)

// Order is what the services send to each other.
type Order struct {
	ID string `json:"id"`
}

// routes says, for each service, which topic it subscribes to and which topic it
// then publishes to.
var routes = map[string]struct{ from, to string }{
	"orders":   {"shipping.sent", ""},
	"payments": {"orders.created", "payments.taken"},
	"shipping": {"payments.taken", "shipping.sent"},
}

func main() {
	// Any other name would start a service that has no route.
	if len(os.Args) > 1 && routes[os.Args[1]].from == "" {
		fmt.Fprintln(os.Stderr, "usage: traced [orders | payments | shipping]\n\nWithout a name it starts all three, and sends an order through them.")
		os.Exit(2)
	}
	if err := run(); err != nil {
		log.Fatal(err)
	}
}

func run() (err error) {
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer cancel()
	url, stop, err := natsserver.Open()
	if err != nil {
		return err
	}
	defer stop()
	if len(os.Args) > 1 { // one of the processes started below
		service, _, err := newService(ctx, os.Args[1], url, "")
		if err != nil {
			return err
		}
		return service.Run()
	}
	for _, name := range []string{"payments", "shipping"} {
		cmd := exec.Command(os.Args[0], name)
		cmd.Env = append(os.Environ(), "NATS_URL="+url)
		cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
		if err := cmd.Start(); err != nil {
			return err
		}
		defer func() {
			_ = cmd.Process.Signal(os.Interrupt) // makes it export its last spans and exit
			err = errors.Join(err, cmd.Wait())
		}()
	}
	number := rand.Text() // no other run has used it
	orders, arrived, err := newService(ctx, "orders", url, number)
	if err != nil {
		return err
	}
	if err := orders.Start(); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, orders.Stop()) }()
	if err := micro.NewEvent("orders.created", orders.Client()).Publish(ctx, &Order{number}); err != nil {
		return err
	}
	select {
	case id := <-arrived:
		fmt.Printf("order %s has been paid for and sent. With Jaeger on this machine, its trace is at\n  http://localhost:16686/trace/%s\n", number, id)
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// newService returns a service that runs until ctx is cancelled. When the order with
// this number has come to its end at the service, the channel receives the id of its
// trace.
func newService(ctx context.Context, name, url, number string) (micro.Service, <-chan trace.TraceID, error) {
	// The exporter and its resource read these variables.
	err := errors.Join(os.Setenv("OTEL_SERVICE_NAME", name),
		os.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", cmp.Or(os.Getenv("OTEL_EXPORTER_OTLP_ENDPOINT"), "http://localhost:4318")))
	if err != nil {
		return nil, nil, err
	}
	exporter, err := otlptracehttp.New(ctx)
	if err != nil {
		return nil, nil, err
	}
	tp := sdktrace.NewTracerProvider(sdktrace.WithBatcher(exporter))
	otel.SetTracerProvider(tp)
	otel.SetTextMapPropagator(propagation.TraceContext{}) // without it, each service would start traces of its own

	b := jsbroker.NewBroker(broker.Addrs(url), jsbroker.WithHooks(tracing.New()))
	service := micro.NewService(micro.Name(name), micro.Context(ctx), micro.Broker(b), micro.Registry(registry.NewMemoryRegistry()),
		micro.WrapSubscriber(wrapper.Subscriber(b)), micro.WrapClient(wrapper.Client()),
		// The broker ends the last spans, so it is stopped before the exporter.
		micro.AfterStop(func() error { return errors.Join(b.Disconnect(), tp.Shutdown(context.Background())) }))
	ended := make(chan trace.TraceID, 1)
	handle := func(ctx context.Context, order *Order) error {
		if to := routes[name].to; to != "" {
			return micro.NewEvent(to, service.Client()).Publish(ctx, order)
		}
		if order.ID == number { // not an order left by another run
			select {
			case ended <- trace.SpanContextFromContext(ctx).TraceID():
			default: // a redelivery
			}
		}
		return nil
	}
	err = micro.RegisterSubscriber(routes[name].from, service.Server(), handle, server.SubscriberQueue(name))
	return service, ended, err
}
