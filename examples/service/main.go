// Command service is a go-micro service to start from: it handles orders, answers
// Prometheus at /metrics and Kubernetes at /livez and /readyz, and ends in order
// on SIGTERM.
//
//	go run ./examples/service
//
// NATS_URL names the server, else one is embedded. HTTP_ADDR is where it answers.
package main

import (
	"cmp"
	"context"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go-micro.dev/v5"
	"go-micro.dev/v5/broker"
	"go-micro.dev/v5/server"

	jsbroker "go-micro-jetstream/broker"
	"go-micro-jetstream/broker/wrapper"
	_ "go-micro-jetstream/examples/internal/microtls"
	"go-micro-jetstream/examples/internal/natsserver"
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
	url, stop, err := natsserver.Open()
	if err != nil {
		return err
	}
	defer stop()

	var ready readiness
	b := jsbroker.NewBroker(broker.Addrs(url), jsbroker.WithHooks(metrics.New(), ready.hooks()))
	service := micro.NewService(
		micro.Name("payments"),
		micro.Address("127.0.0.1:0"),
		micro.Broker(b),
		micro.WrapSubscriber(wrapper.Subscriber(b)),
		micro.AfterStop(b.Disconnect), // Stop then waits for running handlers
	)
	service.Init()
	if err := micro.RegisterSubscriber("orders.created", service.Server(), charge, server.SubscriberQueue("payments")); err != nil {
		return err
	}

	l, err := net.Listen("tcp", cmp.Or(os.Getenv("HTTP_ADDR"), "127.0.0.1:2112"))
	if err != nil {
		return err
	}
	http.Handle("/metrics", promhttp.Handler())
	// An outage of NATS is no reason to be killed: the broker reconnects.
	http.HandleFunc("/livez", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	http.Handle("/readyz", &ready)
	go func() { log.Print(http.Serve(l, nil)) }()
	fmt.Printf("answering at http://%s\n", l.Addr())
	return service.Run()
}

// readiness is a hook that knows whether the service gets its messages. go-micro
// starts a service whose subscription has failed, and tries again later.
type readiness struct {
	connected  atomic.Bool
	subscribed atomic.Int32
}

func (r *readiness) hooks() jsbroker.Hooks {
	return jsbroker.Hooks{
		ConnectionChanged: func(_ context.Context, e jsbroker.ConnectionChanged) {
			r.connected.Store(e.State == jsbroker.StateConnected || e.State == jsbroker.StateReconnected)
		},
		SubscriptionStart: func(ctx context.Context, _ jsbroker.SubscriptionStart) context.Context {
			r.subscribed.Add(1)
			return ctx
		},
		SubscriptionEnd: func(context.Context, jsbroker.SubscriptionEnd) { r.subscribed.Add(-1) },
	}
}

func (r *readiness) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	switch {
	case !r.connected.Load():
		http.Error(w, "not connected to NATS", http.StatusServiceUnavailable)
	case r.subscribed.Load() == 0:
		http.Error(w, "not subscribed", http.StatusServiceUnavailable)
	default:
		fmt.Fprintln(w, "ok")
	}
}
