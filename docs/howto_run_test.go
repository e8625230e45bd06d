package docs_test

import (
	"context"
	"errors"
	"log"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	natsd "github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"
	"go-micro.dev/v5/broker"

	jsbroker "go-micro-jetstream/broker"
	"go-micro-jetstream/examples/natsserver"
	"go-micro-jetstream/internal/natstest"
)

// Run a server inside your program
func TestServerInside(t *testing.T) {
	embedded, err := natsserver.Start()
	if err != nil {
		log.Fatal(err)
	}
	defer embedded.Stop()
	b := jsbroker.NewBroker(broker.Addrs(embedded.URL()))
	connect(t, b)
	must(t, b.Publish("orders.created", &broker.Message{}))
	_ = func() (*natsserver.Server, error) { // compiled, and not run: port 4222 is one for all
		embedded, err := natsserver.Start(func(o *natsd.Options) {
			o.Port, o.StoreDir = 4222, "nats-data"
		})
		return embedded, err
	}
	// The same, with a port and a directory that are free.
	dir := t.TempDir()
	for n := range uint64(2) {
		kept, err := natsserver.Start(func(o *natsd.Options) { o.StoreDir = dir })
		must(t, err)
		again := connect(t, jsbroker.NewBroker(broker.Addrs(kept.URL())))
		must(t, again.Publish("orders.created", &broker.Message{}))
		_, js := natstest.Connect(t, kept.URL())
		if stored := natstest.StreamInfo(t, js, "ORDERS").State.Msgs; stored != n+1 {
			t.Errorf("%d messages, want %d", stored, n+1)
		}
		must(t, again.Disconnect())
		kept.Stop()
	}
}

// Give each service its own copy
func TestFanOut(t *testing.T) {
	with := begin(t)
	url := with.url
	b := jsbroker.NewBroker(broker.Addrs(url), jsbroker.WithStreamConfig(jetstream.StreamConfig{
		Retention: jetstream.InterestPolicy,
	}))
	connect(t, b)
	for _, queue := range []string{"payments", "shipping"} {
		_, err := b.Subscribe("orders.created", with.handler, broker.Queue(queue))
		must(t, err)
	}
	must(t, b.Publish("orders.created", with.msg))
	natstest.Receive(t, with.got)
	natstest.Receive(t, with.got)
}

// Replay what was stored
func TestReplay(t *testing.T) {
	with := begin(t, jsbroker.WithStreamConfig(jetstream.StreamConfig{Retention: jetstream.LimitsPolicy}))
	b, handler := with.b, with.handler
	sub, err := b.Subscribe("orders.created", handler, broker.Queue("payments"))
	must(t, err)
	must(t, b.Publish("orders.created", with.msg))
	natstest.Receive(t, with.got)
	must(t, sub.Unsubscribe())
	{
		yesterday := time.Now().Add(-24 * time.Hour)
		_, err := b.Subscribe("orders.created", handler, broker.Queue("recount"),
			jsbroker.ConsumerConfig(jetstream.ConsumerConfig{
				DeliverPolicy: jetstream.DeliverByStartTimePolicy,
				OptStartTime:  &yesterday,
			}))
		must(t, err)
	}
	natstest.Receive(t, with.got)
}

// Keep a stream from filling the disk
func TestBoundedStream(t *testing.T) {
	with := begin(t)
	url := with.url
	b := jsbroker.NewBroker(broker.Addrs(url), jsbroker.WithStreamConfig(jetstream.StreamConfig{
		Retention: jetstream.WorkQueuePolicy,
		MaxBytes:  10 << 30,
		Discard:   jetstream.DiscardNew,
	}))
	connect(t, b)
	must(t, b.Publish("orders.created", with.msg))
	cfg := natstest.StreamInfo(t, with.js, "ORDERS").Config
	cfg.MaxBytes = 200
	natstest.UpdateStream(t, with.js, cfg)
	var err error
	for range 10 {
		err = errors.Join(err, b.Publish("orders.created", with.msg))
	}
	if !errors.Is(err, jsbroker.ErrStreamFull) {
		t.Fatalf("got %v", err)
	}
}

// Use streams that Terraform manages
func TestExistingStreams(t *testing.T) {
	with := begin(t)
	url := with.url
	b := jsbroker.NewBroker(broker.Addrs(url), jsbroker.WithExistingStreams())
	connect(t, b)
	if err := b.Publish("orders.created", with.msg); !errors.Is(err, jsbroker.ErrStreamNotFound) {
		t.Fatalf("got %v", err)
	}
	hcl := fromPage(t, "Use streams that Terraform manages", "hcl")
	if !strings.Contains(hcl, `"ORDERS"`) || !strings.Contains(hcl, `["orders.>"]`) {
		t.Fatalf("another stream is in\n%s", hcl)
	}
	natstest.MakeStream(t, with.js, jetstream.StreamConfig{Name: "ORDERS", Subjects: []string{"orders.>"}, Retention: jetstream.WorkQueuePolicy})
	must(t, b.Publish("orders.created", with.msg))
}

// configured runs a server with a configuration.
func configured(t *testing.T, conf string) *natsd.Server {
	t.Helper()
	file := filepath.Join(t.TempDir(), "nats.conf")
	must(t, os.WriteFile(file, []byte(conf), 0o600))
	o, err := natsd.ProcessConfigFile(file)
	must(t, err)
	o.Host, o.Port, o.JetStream, o.StoreDir, o.NoSigs, o.NoLog = "127.0.0.1", natsd.RANDOM_PORT, true, t.TempDir(), true, true
	return natstest.Run(t, o)
}

// Keep two environments apart
func TestTwoEnvironments(t *testing.T) {
	s := configured(t, fromPage(t, "Keep two environments apart", "text"))
	got := make(chan string, 10)
	var brokers []broker.Broker
	for _, env := range []string{"staging", "production"} {
		b := connect(t, jsbroker.NewBroker(broker.Addrs(natstest.URL(s, env+":secret"))))
		_, err := b.Subscribe("orders.created", func(broker.Event) error {
			got <- env
			return nil
		}, broker.Queue("payments"))
		must(t, err)
		brokers = append(brokers, b)
	}
	for i, env := range []string{"staging", "production"} {
		must(t, brokers[i].Publish("orders.created", &broker.Message{}))
		if by := natstest.Receive(t, got); by != env {
			t.Fatalf("%s got it, want %s", by, env)
		}
	}
}

// Grant only what is needed
func TestPermissions(t *testing.T) {
	s := configured(t, fromPage(t, "Grant only what is needed", "text"))
	b := connect(t, jsbroker.NewBroker(broker.Addrs(natstest.URL(s, "shop:secret"))))
	must(t, b.Publish("orders.created", &broker.Message{}))
	if err := b.Publish("payments.taken", &broker.Message{}); !errors.Is(err, jsbroker.ErrPermission) || !strings.Contains(err.Error(), "PAYMENTS") {
		t.Fatalf("got %v", err)
	}
}

// Use the streams of a hub from a leaf node
func TestLeafNode(t *testing.T) {
	hub := natstest.StartHub(t)
	leaf := natstest.StartLeaf(t, hub, natstest.LeafAddress(hub))
	url := leaf.ClientURL()
	b := jsbroker.NewBroker(broker.Addrs(url), jsbroker.WithDomain("hub"))
	connect(t, b)
	must(t, b.Publish("orders.created", &broker.Message{}))
	_, js := natstest.Connect(t, hub.ClientURL())
	if n := natstest.StreamInfo(t, js, "ORDERS").State.Msgs; n != 1 {
		t.Fatalf("%d messages at the hub", n)
	}
}

// Pause a queue
func TestPause(t *testing.T) {
	with := begin(t)
	b, ctx := with.b, with.ctx
	_, err := b.Subscribe("orders.created", with.handler, broker.Queue("payments"))
	must(t, err)
	{
		err := jsbroker.JetStream(ctx, b, "CONSUMER.PAUSE.ORDERS.payments", func(ctx context.Context, js jetstream.JetStream) error {
			_, err := js.PauseConsumer(ctx, "ORDERS", "payments", time.Now().Add(time.Hour))
			return err
		})
		must(t, err)
	}
	must(t, b.Publish("orders.created", with.msg))
	natstest.Eventually(t, "the queue is paused, and the message waits", func() bool { // the server counts after its answer
		info := natstest.ConsumerInfo(t, with.js, "ORDERS", "payments")
		return info.Paused && info.NumPending == 1
	})
	must(t, jsbroker.Health(ctx, b)) // a subscriber of a paused queue is well
	_, err = with.js.ResumeConsumer(ctx, "ORDERS", "payments")
	must(t, err)
	natstest.Receive(t, with.got)
}

// Look into a queue
func TestLookIntoQueue(t *testing.T) {
	with := begin(t)
	b, ctx := with.b, with.ctx
	end := make(chan struct{})
	_, err := b.Subscribe("orders.created", func(e broker.Event) error {
		err := with.handler(e)
		<-end
		return err
	}, broker.Queue("payments"))
	must(t, err)
	must(t, b.Publish("orders.created", with.msg))
	natstest.Receive(t, with.got)
	defer close(end)
	{
		var info *jetstream.ConsumerInfo
		err := jsbroker.JetStream(ctx, b, "CONSUMER.INFO.ORDERS.payments", func(ctx context.Context, js jetstream.JetStream) error {
			c, err := js.Consumer(ctx, "ORDERS", "payments")
			if err == nil {
				info = c.CachedInfo()
			}
			return err
		})
		if err == nil {
			slog.Info("payments", "waiting", info.NumPending, "in hand", info.NumAckPending)
		}
		must(t, err)
		if info.NumAckPending != 1 {
			t.Fatalf("%d messages are in hand", info.NumAckPending)
		}
	}
}
