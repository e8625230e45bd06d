// Command fanout shows how several services get every message, each once: an
// Interest stream with a queue for each. (On the default WorkQueue stream a
// message has one taker, and a second queue is refused.)
//
//	go run ./examples/fanout 2>/dev/null  # without go-micro's log
//
// NATS_URL names the server, else one is embedded.
package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"os/signal"
	"syscall"

	"github.com/nats-io/nats.go/jetstream"
	"go-micro.dev/v5/broker"

	jsbroker "go-micro-jetstream/broker"
	_ "go-micro-jetstream/examples/internal/microtls"
	"go-micro-jetstream/examples/natsserver"
)

// topic has a first token of its own, and so a stream of its own: a server that has
// been in use may have one for orders, which would keep its retention.
const topic = "fanout-demo.orders"

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

	// The template counts when the stream is created. An existing one stays as it
	// is: change its retention with the NATS tools.
	b := jsbroker.NewBroker(broker.Addrs(url), jsbroker.WithStreamConfig(jetstream.StreamConfig{
		Retention: jetstream.InterestPolicy, // until every queue has acked it
	}))
	if err := b.Connect(); err != nil {
		return err
	}

	// Subscribe before publishing: an Interest stream does not keep what nobody
	// has asked for. Queues that have been there once are remembered.
	got := make(chan string)
	for _, queue := range []string{"billing", "shipping"} {
		for replica := range 2 { // they share the messages of their queue
			_, err := b.Subscribe(topic, func(e broker.Event) error {
				got <- fmt.Sprintf("%s got order %s, in replica %d", queue, e.Message().Body, replica+1)
				return nil
			}, broker.Queue(queue))
			if err != nil {
				return err
			}
		}
	}
	const orders = 3
	fmt.Printf("%d orders for two queues of two replicas each: every queue gets every order, one of its replicas handles it\n", orders)
	for n := range orders {
		if err := b.Publish(topic, &broker.Message{Body: fmt.Appendf(nil, "%d", n+1)}, broker.PublishContext(ctx)); err != nil {
			return err
		}
	}
	for range 2 * orders {
		select {
		case line := <-got:
			fmt.Println(line)
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return b.Disconnect()
}
