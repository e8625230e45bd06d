// Command deadletter shows what happens to messages that cannot be handled. It is a
// go-micro service that retries some messages, gives up others, and then reads the
// ones it gave up from the dead-letter topic.
//
//	go run ./examples/deadletter 2>/dev/null  # without go-micro's log
//
// NATS_URL is the address of the server. Without it, the program starts one.
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
	_ "go-micro-jetstream/examples/microtls"
	"go-micro-jetstream/examples/natsserver"
)

// Only this program uses these topics. With orders.created, a server that is in use
// might already have a consumer, and its settings would apply instead of ours.
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
	case order.Amount < 0: // no retry can help
		return jsbroker.Discard(errors.New("negative amount"))
	case order.Amount > 1000: // retried until MaxDeliver
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
	// On Ctrl-C, run still returns, so that the embedded server removes its directory.
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
		micro.WrapSubscriber(wrapper.Subscriber(b)), // without it, Discard and RetryAfter are ordinary errors
		micro.AfterStop(b.Disconnect),
	)
	// Somebody has to look at dead letters: a person, a ticket system, a repair job. A
	// dead letter has the body and headers of the original message. More headers say
	// why it was given up, where it came from, and how often it was delivered.
	letters := make(chan string)
	inspect := func(ctx context.Context, order *Order) error {
		h, _ := metadata.FromContext(ctx)
		letters <- fmt.Sprintf("order %s is a dead letter: given up by %s, %s, deliveries: %s, reason: %s", order.ID, h["Micro-Dead-Letter-Queue"],
			h["Micro-Dead-Letter-Topic"], h["Micro-Dead-Letter-Deliveries"], h["Micro-Dead-Letter-Reason"])
		return nil
	}
	err = errors.Join(
		micro.RegisterSubscriber(topic, service.Server(), charge, server.SubscriberQueue("payments")),
		micro.RegisterSubscriber(dead, service.Server(), inspect, server.SubscriberQueue("undertaker")),
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
		case line := <-letters:
			fmt.Println(line)
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return service.Stop()
}
