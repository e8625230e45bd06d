package docs_test

import (
	"errors"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"go-micro.dev/v5"
	"go-micro.dev/v5/broker"
	"go-micro.dev/v5/registry"
	"go-micro.dev/v5/server"

	jsbroker "go-micro-jetstream/broker"
	"go-micro-jetstream/broker/wrapper"
	"go-micro-jetstream/internal/natstest"
)

// Deliver a message later
func TestDeliverLater(t *testing.T) {
	with := begin(t)
	b, ctx, msg := with.b, with.ctx, with.msg
	waiting := func() uint64 { return natstest.StreamInfo(t, with.js, "REMINDERS-later").State.Msgs }
	{
		err := b.Publish("reminders.due", msg, jsbroker.DeliverAfter(24*time.Hour), jsbroker.MessageID("reminder-4711"))
		must(t, err)
	}
	if n := waiting(); n != 1 {
		t.Fatalf("%d messages wait, want 1", n)
	}
	err := jsbroker.CancelDelivery(ctx, b, "reminders.due", "reminder-4711")
	if errors.Is(err, jsbroker.ErrNotScheduled) {
		slog.Info("too late: it is delivered, or due just now")
	}
	must(t, err)
	if n := waiting(); n != 0 {
		t.Fatalf("%d messages wait, want none", n)
	}
}

// Give a message a time to live
func TestTimeToLive(t *testing.T) {
	with := begin(t)
	b, msg := with.b, with.msg
	err := b.Publish("codes.sent", msg, jsbroker.TTL(10*time.Minute))
	must(t, err)
	if ttl := natstest.LastMessage(t, with.js, "CODES", "codes.sent").Header.Get("Nats-TTL"); ttl != "10m0s" && ttl != "600s" && ttl != "600" {
		t.Fatalf("the time to live is %q", ttl)
	}
}

// Publish once, however often you try
func TestPublishOnce(t *testing.T) {
	with := begin(t)
	b, msg := with.b, with.msg
	for range 3 {
		err := b.Publish("orders.created", msg, jsbroker.MessageID("order-created-4711"))
		must(t, err)
	}
	if n := natstest.StreamInfo(t, with.js, "ORDERS").State.Msgs; n != 1 {
		t.Fatalf("%d messages, want 1", n)
	}
}

// Publish many messages quickly
func TestPublishMany(t *testing.T) {
	with := begin(t)
	orders := make([]*broker.Message, 1000)
	for i := range orders {
		orders[i] = &broker.Message{Header: map[string]string{"Id": fmt.Sprint(i)}}
	}
	must(t, importOrders(with.b, orders))
	must(t, with.b.Disconnect())
	if n := natstest.StreamInfo(t, with.js, "ORDERS").State.Msgs; n != 1000 {
		t.Fatalf("%d messages, want 1000", n)
	}
}

func importOrders(b broker.Broker, orders []*broker.Message) error {
	for _, order := range orders {
		err := b.Publish("orders.imported", order, jsbroker.Async(func(err error) {
			if err != nil {
				slog.Error("not stored, or the outcome is unknown", "order", order.Header["Id"], "error", err)
			}
		}))
		if err != nil {
			return err // this one was not sent
		}
	}
	return nil
}

// Tell failures of Publish apart
func TestFailuresOfPublish(t *testing.T) {
	with := begin(t, jsbroker.WithStreamConfig(jetstream.StreamConfig{MaxMsgs: 1, Discard: jetstream.DiscardNew}))
	b, msg := with.b, with.msg
	for _, want := range []error{nil, jsbroker.ErrStreamFull} {
		err := b.Publish("orders.created", msg)
		switch {
		case err == nil:
			// stored
		case errors.Is(err, jsbroker.ErrPublishUnknown):
			// stored or not: publish again, with the id of the PublishError
		case errors.Is(err, jsbroker.ErrNotConnected), errors.Is(err, jsbroker.ErrStreamFull):
			// not stored: try again later
		default:
			// not stored, and waiting will not help; the text says why
			slog.Error("cannot publish", "reason", jsbroker.Reason(err), "error", err)
		}
		if !errors.Is(err, want) {
			t.Fatalf("got %v, want %v", err, want)
		}
	}
}

// Order is what go-micro services of these tests publish and handle.
type Order struct{ ID string }

// newService returns a go-micro service, which runs until the end of the test once start
// is called.
func newService(t *testing.T, b broker.Broker) (service micro.Service, start func()) {
	t.Helper()
	reg := registry.NewMemoryRegistry()
	service = micro.NewService(
		micro.Name("payments"), micro.Broker(b), micro.Registry(reg), micro.HandleSignal(false),
		micro.Server(server.NewServer(server.Name("payments"), server.Broker(b), server.Registry(reg),
			server.Address("127.0.0.1:0"), server.WithLogger(natstest.Quiet()))),
	)
	return service, func() {
		must(t, service.Start())
		t.Cleanup(func() { _ = service.Stop() })
	}
}

// Publish with options from a go-micro service
func TestPublishFromGoMicro(t *testing.T) {
	with := begin(t)
	ctx := with.ctx
	service, _ := newService(t, with.b)
	for range 2 {
		event := micro.NewEvent("orders.created", service.Client())
		err := event.Publish(ctx, &Order{ID: "4711"},
			wrapper.PublishOptions(jsbroker.MessageID("order-4711"), jsbroker.DeliverAfter(time.Hour)))
		must(t, err)
	}
	if n := natstest.StreamInfo(t, with.js, "ORDERS-later").State.Msgs; n != 1 {
		t.Fatalf("%d messages wait, want 1", n)
	}
}
