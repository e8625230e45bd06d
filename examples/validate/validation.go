package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go-micro.dev/v5/broker"
	"go-micro.dev/v5/logger"

	jsbroker "go-micro-jetstream/broker"
	"go-micro-jetstream/examples/natsurl"
)

const (
	defaultURL = "nats://localhost:4222"
	topic      = "test.messages"
	queue      = "validation-queue"

	// runHeader identifies the run that a message belongs to. Its value begins with
	// the time at which the run started, in Unix seconds.
	runHeader = "Validation-Run"
	// leftBehind is the age of a run from which on its messages are leftovers. Before
	// that, the run may still be waiting for them.
	leftBehind = time.Minute
	// maxRetryDelay limits the random delay after which a message of another run is
	// delivered again. The delay must be random: the server serves two runs in turn,
	// so with a fixed delay each could receive the messages of the other for ever.
	maxRetryDelay = 200 * time.Millisecond
)

// validation is one run of the program.
type validation struct {
	url      string
	messages int
	out      io.Writer
	log      logger.Logger
}

// say prints one step.
func (v *validation) say(format string, args ...any) { fmt.Fprintf(v.out, format+"\n", args...) }

func (v *validation) run(ctx context.Context) error {
	var sub jsbroker.SubscriptionStart
	b := jsbroker.NewBroker(
		broker.Addrs(v.url),
		broker.Logger(v.log),
		jsbroker.WithClientName("validate"),
		jsbroker.WithHooks(jsbroker.Hooks{
			// Subscribe calls this before it returns. The event has the names that the
			// broker chose.
			SubscriptionStart: func(ctx context.Context, e jsbroker.SubscriptionStart) context.Context {
				sub = e
				return ctx
			},
		}),
	)
	if err := b.Connect(); err != nil {
		return natsurl.Explain(v.url, err)
	}
	defer func() { _ = b.Disconnect() }()
	v.say("Connected to NATS at %s", b.Address())

	exists, err := streamExists(ctx, v.url)
	if err != nil {
		return err
	}
	run := fmt.Sprintf("%d-%016x", time.Now().Unix(), rand.Uint64())
	received := make(chan string, v.messages)
	_, err = b.Subscribe(topic, receiver(run, received), broker.Queue(queue), broker.SubscribeContext(ctx))
	if err != nil {
		return cause(ctx, err)
	}
	verb := "Created"
	if exists {
		verb = "Using"
	}
	v.say("%s stream %s for topic %s", verb, sub.Stream, topic)
	v.say("Subscribed to topic %s with durable consumer %s", topic, sub.Consumer)

	v.say("Publishing test messages...")
	if err := v.exchange(ctx, b, run, sub.Stream, received); err != nil {
		return err
	}
	// Disconnect flushes the acknowledgements, so the run is done only after it.
	if err := b.Disconnect(); err != nil {
		return err
	}
	v.say("All %d messages received", v.messages)
	return nil
}

// exchange publishes the messages, and waits for each of them to arrive.
func (v *validation) exchange(ctx context.Context, b broker.Broker, run, stream string, received <-chan string) error {
	for i := 1; i <= v.messages; i++ {
		msg := &broker.Message{
			Header: map[string]string{runHeader: run},
			Body:   fmt.Appendf(nil, "Test message %d", i),
		}
		if err := b.Publish(topic, msg, broker.PublishContext(ctx)); err != nil {
			return cause(ctx, err)
		}
		v.say("Published message %d", i)
		// Waiting here, not at the end, keeps the printed lines in order.
		select {
		case text := <-received:
			if want := string(msg.Body); text != want {
				return fmt.Errorf("received %q, want %q", text, want)
			}
			v.say("Received message: %s", text)
		case <-ctx.Done():
			return fmt.Errorf("message %d is stored in stream %s but was not delivered: %w", i, stream, context.Cause(ctx))
		}
	}
	return nil
}

// receiver returns a handler that sends the messages of this run to the channel.
func receiver(run string, received chan<- string) broker.Handler {
	return func(e broker.Event) error {
		owner := e.Message().Header[runHeader]
		if owner == run {
			select {
			case received <- string(e.Message().Body):
			case <-jsbroker.EventContext(e).Done():
			}
			return nil
		}
		// Not ours. A message that an aborted run left behind is acked: nobody needs it.
		// Any other message belongs to somebody, so it is delivered again.
		start, _, _ := strings.Cut(owner, "-")
		if seconds, err := strconv.ParseInt(start, 10, 64); err == nil && time.Since(time.Unix(seconds, 0)) > leftBehind {
			return nil
		}
		return jsbroker.RetryAfter(rand.N(maxRetryDelay), errors.New("not a message of this run"))
	}
}

// streamExists asks the server whether the topic has a stream. It uses a plain NATS
// connection, because the broker does not tell whether it created the stream or
// found it.
func streamExists(ctx context.Context, url string) (bool, error) {
	nc, err := nats.Connect(url, nats.Name("validate-lookup"))
	if err != nil {
		return false, natsurl.Explain(url, err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		return false, err
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	_, err = js.StreamNameBySubject(ctx, topic)
	switch {
	case err == nil:
		return true, nil
	case errors.Is(err, jetstream.ErrStreamNotFound):
		return false, nil
	}
	return false, fmt.Errorf("look up the stream of %s: %w", topic, err)
}

// cause returns why the context was cancelled, if it was. err is then only a
// consequence.
func cause(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}
