// Command deadletter shows what becomes of messages that cannot be handled: a
// go-micro service that retries some, gives up others, and looks at what it has
// given up.
//
//	go run ./examples/deadletter 2>/dev/null  # without go-micro's log
//
// NATS_URL names the server, else one is embedded.
package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"go-micro.dev/v5"
	"go-micro.dev/v5/broker"
	"go-micro.dev/v5/metadata"
	"go-micro.dev/v5/registry"
	"go-micro.dev/v5/server"

	jsbroker "go-micro-jetstream/broker"
	"go-micro-jetstream/broker/wrapper"
	_ "go-micro-jetstream/examples/internal/microtls"
	"go-micro-jetstream/examples/natsserver"
)

// The topics are of this program only: a server that has been in use may have a
// consumer for orders.created, whose settings would be used as they are.
const (
	topic = "deadletter-demo.orders"
	dead  = "dead-letters.deadletter-demo"
)

// Order is what the service handles.
type Order struct {
	ID     string `json:"id"`
	Amount int    `json:"amount"`
}

func charge(ctx context.Context, order *Order) error {
	fmt.Printf("order %s over %d: delivery %d\n", order.ID, order.Amount, jsbroker.NumDelivered(wrapper.Event(ctx)))
	switch {
	case order.Amount < 0: // it will never get better
		return jsbroker.Discard(errors.New("negative amount"))
	case order.Amount > 1000: // until MaxDeliver
		return jsbroker.RetryAfter(10*time.Millisecond, errors.New("limit exceeded"))
	}
	fmt.Printf("order %s charged\n", order.ID)
	return nil
}

func main() {
	if err := run(); err != nil {
		log.Fatal(err)
	}
}

func run() error {
	// Interrupted, it still stops the server, which removes its directory.
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer cancel()
	url, stop, err := natsserver.Open()
	if err != nil {
		return err
	}
	defer stop()

	b := jsbroker.NewBroker(
		broker.Addrs(url),
		jsbroker.WithConsumerConfig(jetstream.ConsumerConfig{MaxDeliver: 3}),
		jsbroker.WithDeadLetter(dead),
	)
	service := micro.NewService(
		micro.Name("payments"),
		micro.Address("127.0.0.1:0"),
		micro.Broker(b),
		micro.Registry(registry.NewMemoryRegistry()),
		micro.WrapSubscriber(wrapper.Subscriber(b)), // or Discard and RetryAfter are errors like others
		micro.AfterStop(b.Disconnect),
	)
	// Somebody must look at them: a person, a ticket system, a repair job. The
	// original body and headers are there, and why, where from and how often.
	buried := make(chan string)
	bury := func(ctx context.Context, order *Order) error {
		h, _ := metadata.FromContext(ctx)
		buried <- fmt.Sprintf("order %s is a dead letter: given up by %s, %s, deliveries: %s, reason: %s", order.ID, h["Micro-Dead-Letter-Queue"],
			h["Micro-Dead-Letter-Topic"], h["Micro-Dead-Letter-Deliveries"], h["Micro-Dead-Letter-Reason"])
		return nil
	}
	err = errors.Join(
		micro.RegisterSubscriber(topic, service.Server(), charge, server.SubscriberQueue("payments")),
		micro.RegisterSubscriber(dead, service.Server(), bury, server.SubscriberQueue("undertaker")),
	)
	if err != nil {
		return err
	}
	if err := service.Start(); err != nil {
		return err
	}
	created := micro.NewEvent(topic, service.Client())
	for _, order := range []*Order{{"1", 20}, {"2", -5}, {"3", 5000}} {
		if err := created.Publish(ctx, order); err != nil {
			return err
		}
	}
	for range 2 {
		select {
		case line := <-buried:
			fmt.Println(line)
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return service.Stop()
}
