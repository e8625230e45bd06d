package broker_test

import (
	"context"
	"testing"

	"github.com/nats-io/nats.go/jetstream"
	"go-micro.dev/v5/broker"

	jsbroker "go-micro-jetstream/broker"
	"go-micro-jetstream/internal/natstest"
)

func TestJetStream(t *testing.T) {
	t.Parallel()
	s := natstest.Start(t, natstest.Limited(natstest.NoPublish("$JS.API.STREAM.LIST")))
	b := jsbroker.NewBroker(broker.Addrs(natstest.URL(s, "limited:pw")), broker.Logger(natstest.Quiet()))
	ask := func(ctx context.Context, js jetstream.JetStream) error {
		for range js.ListStreams(ctx).Info() {
			t.Error("a stream")
		}
		<-ctx.Done()
		return ctx.Err()
	}
	wantError(t, jsbroker.JetStream(nilContext, b, "STREAM.LIST", ask), jsbroker.ErrNotConnected, "Connect")
	wantError(t, jsbroker.JetStream(nilContext, broker.NewMemoryBroker(), "STREAM.LIST", ask), jsbroker.ErrForeign)
	noErr(t, b.Connect())
	defer func() { _ = b.Disconnect() }()
	// Not a timeout: the refusal is recognised.
	wantError(t, jsbroker.JetStream(testContext(t), b, "STREAM.LIST", ask), jsbroker.ErrPermission)
	noErr(t, jsbroker.JetStream(testContext(t), b, "INFO", func(ctx context.Context, js jetstream.JetStream) error {
		_, err := js.AccountInfo(ctx)
		return err
	}))
	// What is not there yet has a way out.
	wantError(t, jsbroker.JetStream(testContext(t), b, "STREAM.INFO.ORDERS", func(ctx context.Context, js jetstream.JetStream) error {
		_, err := js.Stream(ctx, "ORDERS")
		return err
	}), jetstream.ErrStreamNotFound, "first Publish or Subscribe", "nats stream ls")
	noErr(t, b.Publish("orders.created", &broker.Message{}))
	wantError(t, jsbroker.JetStream(testContext(t), b, "CONSUMER.INFO.ORDERS.payments", func(ctx context.Context, js jetstream.JetStream) error {
		_, err := js.Consumer(ctx, "ORDERS", "payments")
		return err
	}), jetstream.ErrConsumerNotFound, "first Subscribe", "nats consumer ls")
}

func TestDeadLetterTopic(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		b    broker.Broker
		want string
	}{
		{jsbroker.NewBroker(jsbroker.WithDeadLetter("dead")), "dead"},
		{jsbroker.NewBroker(), ""},
		{jsbroker.NewBroker(jsbroker.WithBatchSize(-1)), ""},
		{broker.NewMemoryBroker(), ""},
	} {
		if got := jsbroker.DeadLetterTopic(c.b); got != c.want {
			t.Errorf("%q, want %q", got, c.want)
		}
	}
}
