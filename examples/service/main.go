// Command service is a go-micro service to start from. It handles orders, serves
// /metrics for Prometheus, /livez and /readyz for Kubernetes, and a page at /live that
// shows what it does now, and shuts down cleanly on SIGTERM.
//
//	go run ./examples/service
//
// NATS_URL is the address of the NATS server. Without it, the program starts one.
// HTTP_ADDR is the address that it serves HTTP on. The default, 127.0.0.1:2112, is a
// loopback address: in a pod set HTTP_ADDR=:2112, or neither Kubernetes nor
// Prometheus can reach it.
package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"slices"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go-micro.dev/v5"
	"go-micro.dev/v5/broker"
	"go-micro.dev/v5/health"
	"go-micro.dev/v5/server"

	jsbroker "go-micro-jetstream/broker"
	"go-micro-jetstream/broker/wrapper"
	"go-micro-jetstream/dashboards/live"
	_ "go-micro-jetstream/examples/microtls"
	"go-micro-jetstream/examples/natsserver"
	"go-micro-jetstream/metrics"
)

// Order is what the service handles.
type Order struct {
	ID string `json:"id"`
}

func charge(_ context.Context, order *Order) error {
	fmt.Println("charging order", order.ID)
	return nil
}

func main() {
	if err := run(); err != nil {
		log.Fatal(err)
	}
}

func run() error {
	// With -h, go-micro exits the process, so no deferred function runs and an embedded
	// server would leave its directory behind. Hence this comes before the server.
	if slices.Contains(os.Args[1:], "-h") || slices.Contains(os.Args[1:], "--help") {
		micro.NewService(micro.Name("payments")).Init() // prints the flags
		return nil
	}
	// go-micro listens for signals only in Run. A signal may arrive before that.
	signalled, stopSignals := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stopSignals()
	url, stop, err := natsserver.Open()
	if err != nil {
		return err
	}
	defer stop()

	// A failed subscription does not keep go-micro from starting the service: it tries
	// again later. Until then the service is not ready.
	var subscribed atomic.Bool
	probe := jsbroker.Hooks{SubscriptionStart: func(ctx context.Context, _ jsbroker.SubscriptionStart) context.Context {
		subscribed.Store(true)
		return ctx
	}}
	page := live.New()
	b := jsbroker.NewBroker(broker.Addrs(url), jsbroker.WithHooks(metrics.New(), page.Hooks(), probe))
	ctx, fail := context.WithCancelCause(signalled)
	defer fail(nil)
	service := micro.NewService(micro.Name("payments"), micro.Context(ctx), micro.Broker(b),
		micro.WrapSubscriber(wrapper.Subscriber(b)), // passes on the errors and contexts of handlers
		micro.AfterStop(b.Disconnect))               // waits for running handlers
	service.Init()
	err = micro.RegisterSubscriber("orders.created", service.Server(), charge, server.SubscriberQueue("payments"))
	if err != nil {
		return err
	}

	health.Register("broker", func(ctx context.Context) error { return jsbroker.Health(ctx, b) })
	health.Register("subscription", func(context.Context) error {
		if !subscribed.Load() {
			return errors.New("no subscription to orders.created yet")
		}
		return nil
	})
	// The service is alive even while NATS is down: the broker reconnects by itself.
	http.Handle("/livez", health.LiveHandler())
	http.Handle("/readyz", health.ReadyHandler())
	http.Handle("/metrics", promhttp.Handler())
	http.Handle("/live", page) // shows subjects and error texts: not for the public
	l, err := net.Listen("tcp", cmp.Or(os.Getenv("HTTP_ADDR"), "127.0.0.1:2112"))
	if err != nil {
		return err
	}
	httpServer := &http.Server{ReadHeaderTimeout: 10 * time.Second}
	go func() { fail(httpServer.Serve(l)) }() // if Serve fails, Run returns
	fmt.Printf("answering at http://%s\n", l.Addr())
	if err := service.Run(); err != nil || signalled.Err() != nil {
		return err
	}
	return context.Cause(ctx)
}
