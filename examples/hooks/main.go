// Command hooks has a hook of its own: an audit log, a line of JSON for every
// message that was published and for every delivery that was handled. It needs
// nothing but the broker's public API, as metrics and tracing do.
//
//	go run ./examples/hooks 2>/dev/null  # without go-micro's log
//
// An order is handled twice, as the first time fails, and causes an invoice. A
// message may be handled before its Publish has returned.
//
// NATS_URL names the server, else one is embedded.
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
	_ "go-micro-jetstream/examples/internal/microtls"
	"go-micro-jetstream/examples/natsserver"
)

// actorHeader travels with each message: who has caused it.
const actorHeader = "Audit-Actor"

type actorKey struct{}

// auditLog makes the hook. Hooks run where the work is done, so what they write
// to must be quick: a file, not a database on the other side of the network.
func auditLog(w io.Writer) jsbroker.Hooks {
	audit := slog.New(slog.NewJSONHandler(w, nil))
	actor := func(ctx context.Context) slog.Attr {
		name, _ := ctx.Value(actorKey{}).(string)
		return slog.String("actor", name)
	}
	return jsbroker.Hooks{
		// A start may write headers and returns the context of its operation.
		PublishStart: func(ctx context.Context, e jsbroker.PublishStart) context.Context {
			if name, ok := ctx.Value(actorKey{}).(string); ok {
				e.Header[actorHeader] = name
			}
			return ctx
		},
		HandleStart: func(ctx context.Context, e jsbroker.HandleStart) context.Context {
			return context.WithValue(ctx, actorKey{}, e.Header[actorHeader])
		},
		// The end gets that context.
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
	// Interrupted, it still stops the server, which removes its directory.
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
	// An order of this run: what has the message id of another one is a
	// duplicate, and is not stored.
	number := rand.Text()
	done := make(chan error, 1)
	_, err = b.Subscribe("orders.created", func(e broker.Event) error {
		if jsbroker.NumDelivered(e) == 1 {
			return jsbroker.RetryAfter(0, errors.New("the till is locked"))
		}
		order := string(e.Message().Body)
		// With the context, the actor goes on to what this handler causes.
		err := b.Publish("invoices.sent", &broker.Message{}, broker.PublishContext(jsbroker.EventContext(e)), jsbroker.MessageID("invoice-"+order))
		if order == number { // and not one that another run has left
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
	return b.Disconnect() // after the last line of the log
}
