package broker_test

import (
	"context"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"

	jsbroker "go-micro-jetstream/broker"
)

// How many orders there are, asked on the broker's own connection.
func ExampleJetStream() {
	b, done := connect()
	defer done()
	must(b.Publish("orders.created", message("4711")))

	err := jsbroker.JetStream(context.Background(), b, "STREAM.INFO.ORDERS", func(ctx context.Context, js jetstream.JetStream) error {
		stream, err := js.Stream(ctx, "ORDERS")
		if err != nil {
			return err
		}
		fmt.Println(stream.CachedInfo().State.Msgs)
		return nil
	})
	must(err)
	// Output: 1
}

func ExampleDeadLetterTopic() {
	b := jsbroker.NewBroker(jsbroker.WithDeadLetter("dead-letters.orders"))
	fmt.Println(jsbroker.DeadLetterTopic(b))
	// Output: dead-letters.orders
}
