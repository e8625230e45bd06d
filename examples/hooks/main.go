// Command hooks shows how to write a hook: an audit log with one line of JSON for
// every message published and every delivery handled. Like metrics and tracing, it
// uses only the public API of the broker.
//
//	go run ./examples/hooks 2>/dev/null  # without go-micro's log
//
// The program publishes one order. The first delivery of the order fails, the second
// one succeeds and publishes an invoice. The lines may appear out of order: a
// message can be handled before its Publish has returned.
//
// NATS_URL is the address of the server. Without it, the program starts one.
package main

import (
	"context"
	"crypto/rand"
	"errors"
	"io"
	"log"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"go-micro.dev/v5/broker"

	jsbroker "go-micro-jetstream/broker"
	_ "go-micro-jetstream/examples/microtls"
	"go-micro-jetstream/examples/natsserver"
)

// actorHeader is the header that says who caused a message.
const actorHeader = "Audit-Actor"

// actorKey is the context key of the actor's name.
type actorKey struct{}

// auditLog returns the hook. Hooks run on the goroutine that does the work, so w
// must be fast: a file is fine, a database across the network is not.
func auditLog(w io.Writer) jsbroker.Hooks {
	audit := slog.New(slog.NewJSONHandler(w, nil))
	actor := func(ctx context.Context) slog.Attr {
		name, _ := ctx.Value(actorKey{}).(string)
		return slog.String("actor", name)
	}
	return jsbroker.Hooks{
		// A start hook may set headers. It returns the context of its operation.
		PublishStart: func(ctx context.Context, e jsbroker.PublishStart) context.Context {
			if name, ok := ctx.Value(actorKey{}).(string); ok {
				e.Header[actorHeader] = name
			}
			return ctx
		},
		HandleStart: func(ctx context.Context, e jsbroker.HandleStart) context.Context {
			return context.WithValue(ctx, actorKey{}, e.Header[actorHeader])
		},
		// The matching end hook receives that context.
		Published: func(ctx context.Context, e jsbroker.Published) {
			audit.LogAttrs(ctx, slog.LevelInfo, "published", actor(ctx), slog.String("topic", e.Topic),
				slog.String("id", e.MessageID), slog.Uint64("sequence", e.Sequence), slog.String("failed", e.Reason))
		},
		Handled: func(ctx context.Context, e jsbroker.Handled) {
			audit.LogAttrs(ctx, slog.LevelInfo, "handled", actor(ctx), slog.String("topic", e.Subject), slog.String("queue", e.Queue),
				slog.String("id", e.MessageID), slog.Uint64("delivery", e.NumDelivered), slog.String("result", string(e.Result)))
		},
	}
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
	b := jsbroker.NewBroker(broker.Addrs(url), jsbroker.WithHooks(auditLog(os.Stdout)))
	if err := b.Connect(); err != nil {
		return err
	}
	// The number is new in every run. If two runs used the same message id, the stream
	// would drop the second message as a duplicate.
	number := rand.Text()
	done := make(chan error, 1)
	_, err = b.Subscribe("orders.created", func(e broker.Event) error {
		if jsbroker.NumDelivered(e) == 1 {
			return jsbroker.RetryAfter(0, errors.New("the till is locked"))
		}
		order := string(e.Message().Body)
		// The context carries the actor on to the message that this handler publishes.
		err := b.Publish("invoices.sent", &broker.Message{}, broker.PublishContext(jsbroker.EventContext(e)), jsbroker.MessageID("invoice-"+order))
		if order == number { // not an order left by another run
			done <- err
		}
		return err
	}, broker.Queue("payments"))
	if err != nil {
		return err
	}
	alice := context.WithValue(ctx, actorKey{}, "alice")
	err = b.Publish("orders.created", &broker.Message{Body: []byte(number)}, broker.PublishContext(alice), jsbroker.MessageID("order-"+number))
	if err != nil {
		return err
	}
	select {
	case err = <-done:
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	if err != nil {
		return err
	}
	return b.Disconnect() // waits for the last line of the log
}
