package broker_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"go-micro.dev/v5/broker"

	jsbroker "go-micro-jetstream/broker"
	"go-micro-jetstream/internal/natstest"
)

// Where the server takes everything in and never answers, each call returns within its
// bound, and what could not be done is an error.
func TestCallsReturnWhereNobodyAnswers(t *testing.T) {
	if testing.Short() {
		t.Skip("takes the ten seconds of a Subscribe, and more")
	}
	t.Parallel()
	s := startServer(t)
	p := natstest.StartProxy(t, s)
	b := newBroker(t, s, broker.Addrs(p.URL()), jsbroker.WithShutdownTimeout(time.Second), jsbroker.WithDeadLetter("dead"),
		jsbroker.WithConsumerConfig(jetstream.ConsumerConfig{MaxDeliver: 5}))
	events := make(chan broker.Event, 10)
	sub := subscribe(t, b, "orders", func(e broker.Event) error {
		events <- e
		return nil
	}, broker.Queue("q"), broker.DisableAutoAck(), jsbroker.Concurrency(3))
	publish(t, b, "dead", "the stream of dead letters is there")
	var got []broker.Event
	for range 3 {
		publish(t, b, "orders", "x")
		got = append(got, receive(t, events))
	}
	short, cancel := context.WithTimeout(context.Background(), 500*time.Millisecond)
	defer cancel()
	p.Stall()
	ended := make(chan string, 20)
	calls := map[string]struct {
		call  func() error
		fails bool
	}{
		"Publish":                   {func() error { return b.Publish("orders", message("x")) }, true},
		"Publish with a deadline":   {func() error { return b.Publish("orders", message("x"), broker.PublishContext(short)) }, true},
		"Publish later":             {func() error { return b.Publish("orders", message("x"), jsbroker.DeliverAfter(time.Hour)) }, true},
		"Subscribe":                 {func() error { _, err := b.Subscribe("orders.more", ignore); return err }, true},
		"Unsubscribe":               {sub.Unsubscribe, false},
		"Health":                    {func() error { return jsbroker.Health(context.Background(), b) }, true},
		"Health with a deadline":    {func() error { return jsbroker.Health(short, b) }, true},
		"CancelDelivery":            {func() error { return jsbroker.CancelDelivery(context.Background(), b, "orders", "id") }, true},
		"CancelDelivery, deadline":  {func() error { return jsbroker.CancelDelivery(short, b, "orders", "id") }, true},
		"Redrive":                   {func() error { _, err := jsbroker.Redrive(context.Background(), b, "dead"); return err }, true},
		"Redrive with a deadline":   {func() error { _, err := jsbroker.Redrive(short, b, "dead"); return err }, true},
		"JetStream":                 {func() error { return streamsOf(context.Background(), b) }, true},
		"JetStream with a deadline": {func() error { return streamsOf(short, b) }, true},
		"Ack":                       {got[0].Ack, false},
		"Nak":                       {func() error { return jsbroker.Nak(got[1], time.Second) }, false},
		"Terminate":                 {func() error { return jsbroker.Terminate(got[2], "bad") }, true},
		"Address":                   {func() error { _ = b.Address(); return nil }, false},
	}
	for name, c := range calls {
		go func() {
			if err := c.call(); c.fails && err == nil {
				t.Errorf("%s: no error", name)
			}
			ended <- name
		}()
	}
	waiting := map[string]bool{}
	for name := range calls {
		waiting[name] = true
	}
	for deadline := time.After(2 * patience); len(waiting) > 0; {
		select {
		case name := <-ended:
			delete(waiting, name)
		case <-deadline:
			t.Fatalf("have not returned: %v", waiting)
		}
	}
	if err := b.Disconnect(); err != nil && !errors.Is(err, jsbroker.ErrShutdownTimeout) {
		t.Error(err)
	}
}

// streamsOf asks the server as a user does.
func streamsOf(ctx context.Context, b broker.Broker) error {
	return jsbroker.JetStream(ctx, b, "STREAM.INFO.ORDERS", func(ctx context.Context, js jetstream.JetStream) error {
		_, err := js.Stream(ctx, "ORDERS")
		return err
	})
}
