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
	"go-micro-jetstream/examples/internal/natsurl"
)

const (
	defaultURL = "nats://localhost:4222"
	topic      = "test.messages"
	queue      = "validation-queue"

	// runHeader tells the messages of one run from those of others. Its value
	// begins with the time, in seconds.
	runHeader = "Validation-Run"
	// A message of another run that is older than this was left behind; a
	// younger one may still be waited for.
	leftBehind = time.Minute
	// giveBack bounds the random time after which a message that is not for us
	// comes again, perhaps to whom it is for. With a fixed time, two runs can
	// swap each other's messages for ever: the server serves them in turn.
	giveBack = 200 * time.Millisecond
)

// validation is one run.
type validation struct {
	url      string
	messages int
	out      io.Writer
	log      logger.Logger
}

func (v *validation) say(format string, args ...any) { fmt.Fprintf(v.out, format+"\n", args...) }

func (v *validation) run(ctx context.Context) error {
	var sub jsbroker.SubscriptionStart
	b := jsbroker.NewBroker(
		broker.Addrs(v.url),
		broker.Logger(v.log),
		jsbroker.WithClientName("validate"),
		jsbroker.WithHooks(jsbroker.Hooks{
			// Subscribe calls it before it returns: the broker's choice of names.
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
	for i := 1; i <= v.messages; i++ {
		msg := &broker.Message{
			Header: map[string]string{runHeader: run},
			Body:   fmt.Appendf(nil, "Test message %d", i),
		}
		if err := b.Publish(topic, msg, broker.PublishContext(ctx)); err != nil {
			return cause(ctx, err)
		}
		v.say("Published message %d", i)
		// Waiting here rather than at the end keeps the lines in order.
		select {
		case text := <-received:
			if want := string(msg.Body); text != want {
				return fmt.Errorf("received %q, want %q", text, want)
			}
			v.say("Received message: %s", text)
		case <-ctx.Done():
			return fmt.Errorf("message %d is stored in stream %s but was not delivered: %w", i, sub.Stream, context.Cause(ctx))
		}
	}
	// Disconnect flushes the acknowledgements: only then is it all done.
	if err := b.Disconnect(); err != nil {
		return err
	}
	v.say("All %d messages received", v.messages)
	return nil
}

// receiver makes the handler, which passes on the messages of this run.
func receiver(run string, received chan<- string) broker.Handler {
	return func(e broker.Event) error {
		of := e.Message().Header[runHeader]
		if of == run {
			select {
			case received <- string(e.Message().Body):
			case <-jsbroker.EventContext(e).Done():
			}
			return nil
		}
		// Not ours. What an aborted run has left is of no use to anybody; all
		// else is for somebody, who gets it back.
		begun, _, _ := strings.Cut(of, "-")
		if seconds, err := strconv.ParseInt(begun, 10, 64); err == nil && time.Since(time.Unix(seconds, 0)) > leftBehind {
			return nil
		}
		return jsbroker.RetryAfter(rand.N(giveBack), errors.New("not a message of this run"))
	}
}

// streamExists asks the server by a plain connection: the broker makes the
// stream when it needs one, and does not say which it was.
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

// cause prefers the reason why the context has ended to what that led to.
func cause(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}
