package broker_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go-micro.dev/v5/broker"

	jsbroker "go-micro-jetstream/broker"
	"go-micro-jetstream/examples/natsserver"
)

// With slow and uneven handlers, a replica takes one message at a time and leaves
// the others to those that are free.
func ExampleWithBatchSize() {
	fetched := make(chan int, 3)
	b, done := connect(
		jsbroker.WithBatchSize(1),
		jsbroker.WithHooks(jsbroker.Hooks{
			Fetched: func(_ context.Context, e jsbroker.Fetched) { fetched <- e.Messages },
		}),
	)
	defer done()

	for _, film := range []string{"Metropolis", "Nosferatu", "Vampyr"} {
		must(b.Publish("films.added", message(film)))
	}
	_, err := b.Subscribe("films.added", ignore, broker.Queue("transcoding"))
	must(err)
	fmt.Println(<-fetched, <-fetched, <-fetched)
	// Output: 1 1 1
}

// Large messages are fetched as memory allows. Without this option the three
// would come in one batch.
func ExampleWithFetchBytes() {
	fetched := make(chan int, 3)
	b, done := connect(
		jsbroker.WithFetchBytes(64<<10),
		jsbroker.WithHooks(jsbroker.Hooks{
			Fetched: func(_ context.Context, e jsbroker.Fetched) { fetched <- e.Messages },
		}),
	)
	defer done()

	for range 3 {
		must(b.Publish("scans.made", &broker.Message{Body: make([]byte, 40<<10)}))
	}
	_, err := b.Subscribe("scans.made", ignore, broker.Queue("archive"))
	must(err)
	fmt.Println(<-fetched, <-fetched, <-fetched)
	// Output: 1 1 1
}

// A server that has died without a word is noticed within about a second. What
// arrives is delivered at once, however long the server would have waited.
func ExampleWithFetchWait() {
	b, done := connect(jsbroker.WithFetchWait(time.Second))
	defer done()

	alarms := make(chan string)
	_, err := b.Subscribe("alarms.raised", func(e broker.Event) error {
		alarms <- string(e.Message().Body)
		return nil
	}, broker.Queue("on-call"))
	must(err)
	must(b.Publish("alarms.raised", message("smoke")))
	fmt.Println(<-alarms)
	// Output: smoke
}

// The name by which operators find a service in the server's list of connections
// and in the metrics of the connection.
func ExampleWithClientName() {
	b, done := connect(
		jsbroker.WithClientName("payments"),
		jsbroker.WithHooks(jsbroker.Hooks{
			ConnectionChanged: func(_ context.Context, e jsbroker.ConnectionChanged) {
				fmt.Println(e.ClientName, e.State)
			},
		}),
	)
	defer done()
	_ = b
	// Output:
	// payments connected
	// payments closed
}

// Handlers that wait for something else, and need no order, wait side by side.
func ExampleWithConcurrency() {
	b, done := connect(jsbroker.WithConcurrency(3))
	defer done()

	var together, handled sync.WaitGroup
	together.Add(3)
	handled.Add(3)
	_, err := b.Subscribe("mails.due", func(broker.Event) error {
		defer handled.Done()
		together.Done()
		together.Wait() // until three of these handlers run
		return nil
	}, broker.Queue("postman"))
	must(err)
	for range 3 {
		must(b.Publish("mails.due", message("to: all")))
	}
	handled.Wait()
	fmt.Println("three at a time")
	// Output: three at a time
}

// One subscription of a broker whose others keep the order.
func ExampleConcurrency() {
	b, done := connect()
	defer done()

	var together, handled sync.WaitGroup
	together.Add(2)
	handled.Add(2)
	_, err := b.Subscribe("thumbnails.missing", func(broker.Event) error {
		defer handled.Done()
		together.Done()
		together.Wait()
		return nil
	}, broker.Queue("thumbnails"), jsbroker.Concurrency(2))
	must(err)
	must(b.Publish("thumbnails.missing", message("1.jpg")))
	must(b.Publish("thumbnails.missing", message("2.jpg")))
	handled.Wait()
	fmt.Println("two at a time")
	// Output: two at a time
}

// A limit of deliveries for messages that can never succeed, and a bound on what
// all replicas together have under way. The broker adds the rest.
func ExampleWithConsumerConfig() {
	exhausted := make(chan jsbroker.Exhausted, 1)
	b, done := connect(
		jsbroker.WithConsumerConfig(jetstream.ConsumerConfig{
			AckWait:       time.Minute,
			MaxDeliver:    3,
			MaxAckPending: 100,
		}),
		jsbroker.WithHooks(jsbroker.Hooks{
			Exhausted: func(_ context.Context, e jsbroker.Exhausted) { exhausted <- e },
		}),
	)
	defer done()

	_, err := b.Subscribe("orders.created", func(broker.Event) error {
		return jsbroker.RetryAfter(0, errors.New("no such customer"))
	}, broker.Queue("payments"))
	must(err)
	must(b.Publish("orders.created", message("4711")))
	e := <-exhausted
	fmt.Printf("after %d deliveries: %v\n", e.NumDelivered, e.Cause)
	// Output: after 3 deliveries: no such customer
}

// One topic whose handler calls a slow partner, in a service whose others are quick.
func ExampleConsumerConfig() {
	b, done := connect(jsbroker.WithConsumerConfig(jetstream.ConsumerConfig{AckWait: 10 * time.Second}))
	defer done()

	handled := make(chan string)
	_, err := b.Subscribe("invoices.due", func(e broker.Event) error {
		handled <- string(e.Message().Body)
		return nil
	}, broker.Queue("billing"), jsbroker.ConsumerConfig(jetstream.ConsumerConfig{
		AckWait:    5 * time.Minute,
		MaxDeliver: 20,
	}))
	must(err)
	must(b.Publish("invoices.due", message("4711")))
	fmt.Println("billed", <-handled)
	// Output: billed 4711
}

// What is given up goes to a topic of its own, with the reason in its headers.
func ExampleWithDeadLetter() {
	b, done := connect(
		jsbroker.WithConsumerConfig(jetstream.ConsumerConfig{MaxDeliver: 2}),
		jsbroker.WithDeadLetter("dead-letters.orders"),
	)
	defer done()

	letters := make(chan broker.Message)
	_, err := b.Subscribe("dead-letters.orders", func(e broker.Event) error {
		letters <- *e.Message()
		return nil
	}, broker.Queue("undertaker"))
	must(err)
	_, err = b.Subscribe("orders.created", func(broker.Event) error {
		return jsbroker.RetryAfter(0, errors.New("no such customer"))
	}, broker.Queue("payments"))
	must(err)
	must(b.Publish("orders.created", message("4711")))
	letter := <-letters
	fmt.Printf("%s of %s: %s, %s deliveries\n", letter.Body, letter.Header["Micro-Dead-Letter-Topic"],
		letter.Header["Micro-Dead-Letter-Reason"], letter.Header["Micro-Dead-Letter-Deliveries"])
	// Output: 4711 of orders.created: no such customer, 2 deliveries
}

// Fan-out: on an Interest stream each queue gets every message.
func ExampleWithStreamConfig() {
	b, done := connect(jsbroker.WithStreamConfig(jetstream.StreamConfig{
		Retention: jetstream.InterestPolicy,
		MaxBytes:  1 << 20,
		Discard:   jetstream.DiscardNew, // ErrStreamFull, rather than that old messages vanish
	}))
	defer done()

	var handled sync.WaitGroup
	for _, queue := range []string{"payments", "audit"} {
		handled.Add(1)
		_, err := b.Subscribe("orders.created", func(e broker.Event) error {
			defer handled.Done()
			fmt.Println(queue, string(e.Message().Body))
			return nil
		}, broker.Queue(queue))
		must(err)
	}
	must(b.Publish("orders.created", message("4711")))
	handled.Wait()
	// Unordered output:
	// audit 4711
	// payments 4711
}

// Streams named by the rules of a house.
func ExampleWithStreamName() {
	b, done := connect(
		jsbroker.WithStreamName(func(topic string) string {
			domain, _, _ := strings.Cut(topic, ".")
			return "shop-" + domain
		}),
		jsbroker.WithHooks(jsbroker.Hooks{
			Published: func(_ context.Context, e jsbroker.Published) { fmt.Println(e.Stream) },
		}),
	)
	defer done()

	must(b.Publish("orders.created", message("4711")))
	// Output: shop-orders
}

// Credentials, certificates and the policy of reconnection are options of the
// NATS client.
func ExampleWithNATSOptions() {
	s, err := natsserver.Start(func(o *server.Options) { o.Authorization = "secret" })
	must(err)
	defer s.Stop()

	b := jsbroker.NewBroker(
		broker.Addrs(s.URL()), quiet(),
		jsbroker.WithNATSOptions(nats.Token("secret"), nats.ReconnectWait(500*time.Millisecond)),
	)
	fmt.Println(b.Connect())
	fmt.Println(b.Disconnect())
	// Output:
	// <nil>
	// <nil>
}

// Handlers that may run for hours keep their message for as long.
func ExampleWithMaxAckExtension() {
	b, done := connect(jsbroker.WithMaxAckExtension(12 * time.Hour))
	defer done()

	reports := make(chan uint64)
	_, err := b.Subscribe("reports.due", func(e broker.Event) error {
		// No other replica gets the message meanwhile.
		reports <- jsbroker.NumDelivered(e)
		return nil
	}, broker.Queue("reports"))
	must(err)
	must(b.Publish("reports.due", message("2026")))
	fmt.Println("delivery", <-reports)
	// Output: delivery 1
}

// A handler that does not end in time hears of it by its context, and its
// message comes again. The bound has to be shorter than what is granted by
// whoever stops the process.
func ExampleWithShutdownTimeout() {
	s, err := natsserver.Start()
	must(err)
	defer s.Stop()
	b := jsbroker.NewBroker(broker.Addrs(s.URL()), quiet(), jsbroker.WithShutdownTimeout(50*time.Millisecond))
	must(b.Connect())

	started, ended := make(chan bool), make(chan error)
	_, err = b.Subscribe("reports.due", func(e broker.Event) error {
		started <- true
		ctx := jsbroker.EventContext(e)
		<-ctx.Done()
		ended <- ctx.Err()
		return ctx.Err()
	}, broker.Queue("reports"))
	must(err)
	must(b.Publish("reports.due", message("2026")))
	<-started
	err = b.Disconnect()
	fmt.Println(errors.Is(err, jsbroker.ErrShutdownTimeout), <-ended)
	// Output: true context canceled
}

// Hooks of several kinds, each for itself.
func ExampleWithHooks() {
	size := make(chan string, 1)
	b, done := connect(jsbroker.WithHooks(
		jsbroker.Hooks{
			// A start may change the header; all later hooks have its context.
			PublishStart: func(ctx context.Context, e jsbroker.PublishStart) context.Context {
				e.Header["Tenant"] = "acme"
				return ctx
			},
		},
		jsbroker.Hooks{
			HandleStart: func(ctx context.Context, e jsbroker.HandleStart) context.Context {
				size <- fmt.Sprintf("%d bytes for %s", e.Size, e.Header["Tenant"])
				return ctx
			},
		},
	))
	defer done()

	_, err := b.Subscribe("orders.created", ignore, broker.Queue("payments"))
	must(err)
	must(b.Publish("orders.created", message("4711")))
	fmt.Println(<-size)
	// Output: 4 bytes for acme
}

// Streams are made by others: a topic that they have forgotten is an error, not a
// stream that nobody knows of.
func ExampleWithExistingStreams() {
	b, done := connect(jsbroker.WithExistingStreams())
	defer done()

	err := b.Publish("invoices.sent", message("4711"))
	fmt.Println(errors.Is(err, jsbroker.ErrStreamNotFound))
	// Output: true
}

// Consumers are made by others, too, each with the name of its queue.
func ExampleWithExistingConsumers() {
	b, done := connect(jsbroker.WithExistingConsumers())
	defer done()

	must(b.Publish("invoices.sent", message("4711")))
	_, err := b.Subscribe("invoices.sent", ignore, broker.Queue("archive"))
	fmt.Println(errors.Is(err, jsbroker.ErrConsumerNotFound))
	// Output: true
}

// Many accounts are worked on at a time, and each sees its events in order, also when
// one of them has to be tried again.
func ExampleSingleActive() {
	b, done := connect()
	defer done()

	settled := make(chan string)
	settle := func(e broker.Event) error {
		settled <- string(e.Message().Body)
		return nil
	}
	// Each replica does this, and one of them gets the messages.
	_, err := b.Subscribe("invoices.due", settle, broker.Queue("accounting"), jsbroker.SingleActive())
	must(err)
	for _, invoice := range []string{"first", "second"} {
		must(b.Publish("invoices.due", &broker.Message{Body: []byte(invoice)}))
	}
	fmt.Println(<-settled, <-settled)
	// Output: first second
}

func ExampleOrderBy() {
	b, done := connect()
	defer done()

	booked := make(chan string)
	account := func(e broker.Event) string { return e.Message().Header["Account"] }
	_, err := b.Subscribe("accounts.booked", func(e broker.Event) error {
		if string(e.Message().Body) == "deposit" && jsbroker.NumDelivered(e) == 1 {
			return jsbroker.RetryAfter(10*time.Millisecond, errors.New("ledger is busy"))
		}
		booked <- string(e.Message().Body)
		return nil
	}, broker.Queue("ledger"), jsbroker.OrderBy(account), jsbroker.Concurrency(10))
	must(err)
	for _, booking := range []string{"deposit", "withdrawal"} {
		must(b.Publish("accounts.booked", &broker.Message{Header: map[string]string{"Account": "7"}, Body: []byte(booking)}))
	}
	fmt.Println(<-booked, <-booked)
	// Output: deposit withdrawal
}
