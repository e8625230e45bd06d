// Command fanout shows how to deliver every message to several services, once to
// each: with an Interest stream and a queue per service. On a WorkQueue stream, the
// default, each message goes to one queue only, and a second queue is refused.
//
//	go run ./examples/fanout 2>/dev/null  # without go-micro's log
//
// NATS_URL is the address of the server. Without it, the program starts one.
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
	_ "go-micro-jetstream/examples/microtls"
	"go-micro-jetstream/examples/natsserver"
)

// topic begins with a token that nobody else uses, so it gets a stream of its own.
// With orders.created, a server that is in use might already have the stream, which
// would keep its retention.
const topic = "fanout-demo.orders"

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

	// The configuration applies only when the broker creates the stream. An existing
	// stream keeps its own: change its retention with the NATS tools.
	b := jsbroker.NewBroker(broker.Addrs(url), jsbroker.WithStreamConfig(jetstream.StreamConfig{
		Retention: jetstream.InterestPolicy, // keeps a message until every queue has acked it
	}))
	if err := b.Connect(); err != nil {
		return err
	}

	// Subscribe before publishing: an Interest stream drops a message that no queue is
	// there for. A queue counts from its first Subscribe on, even while none of its
	// replicas is running.
	got := make(chan string)
	for _, queue := range []string{"billing", "shipping"} {
		for replica := range 2 { // the replicas share the messages of their queue
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
