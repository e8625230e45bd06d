package dashboards_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"go-micro.dev/v5/broker"
	"go.opentelemetry.io/otel/propagation"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"

	jsbroker "go-micro-jetstream/broker"
	"go-micro-jetstream/internal/natstest"
	"go-micro-jetstream/metrics"
	"go-micro-jetstream/tracing"
)

// shop is two live brokers on a nats-server and one registry.
type shop struct {
	reg    *prometheus.Registry
	traces *sdktrace.TracerProvider
	srv    *natstest.Restartable
	events *journal
	main   broker.Broker // dead letters, redeliveries
	plain  broker.Broker // neither, and a subscription without a queue
	rounds int
}

// journal remembers what has happened.
type journal struct {
	mu      sync.Mutex
	seen    map[string]int
	changed chan struct{}
}

func (j *journal) add(format string, args ...any) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.seen[fmt.Sprintf(format, args...)]++
	close(j.changed)
	j.changed = make(chan struct{})
}

// await waits until something has happened n times.
func (j *journal) await(t *testing.T, n int, what string) {
	t.Helper()
	deadline := time.After(natstest.Patience)
	for {
		j.mu.Lock()
		got, changed := j.seen[what], j.changed
		j.mu.Unlock()
		if got >= n {
			return
		}
		select {
		case <-changed:
		case <-deadline:
			t.Fatalf("%q has happened %d times, want %d", what, got, n)
		}
	}
}

// hooks write into the journal after the metrics have counted. Ends run in the
// reverse order of installation, all others in that order: hence two.
func (j *journal) hooks(broker string) (before, after jsbroker.Hooks) {
	before = jsbroker.Hooks{
		Handled: func(_ context.Context, e jsbroker.Handled) {
			j.add("%s handled %s, delivery %d: %s", broker, e.MessageID, e.NumDelivered, e.Result)
		},
	}
	after = jsbroker.Hooks{
		DeadLettered: func(_ context.Context, e jsbroker.DeadLettered) {
			if e.Err != nil {
				j.add("%s refused dead letter %s", broker, e.MessageID)
			} else {
				j.add("%s dead letter %s", broker, e.MessageID)
			}
		},
		Exhausted: func(_ context.Context, e jsbroker.Exhausted) { j.add("%s exhausted %s", broker, e.MessageID) },
		Backoff: func(_ context.Context, e jsbroker.Backoff) {
			if e.Delay > 0 {
				j.add("%s backs off", broker)
			} else {
				j.add("%s recovered", broker)
			}
		},
		ConnectionChanged: func(_ context.Context, e jsbroker.ConnectionChanged) { j.add("%s %s", broker, e.State) },
	}
	return before, after
}

const (
	ordersPattern = "orders.*"
	ordersTopic   = "orders.created"
	deadTopic     = "dead.orders"
	parcelsTopic  = "parcels.packed"
	auditTopic    = "audit.log"
)

func openShop(t *testing.T) *shop {
	t.Helper()
	s := &shop{
		reg:    prometheus.NewPedanticRegistry(),
		srv:    natstest.StartRestartable(t, func(o *server.Options) { o.MaxPayload = 1 << 16 }),
		events: &journal{seen: map[string]int{}, changed: make(chan struct{})},
	}
	// For the annotation of restarts: process_start_time_seconds.
	s.reg.MustRegister(collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	s.traces = sdktrace.NewTracerProvider(sdktrace.WithSampler(sdktrace.AlwaysSample()))
	t.Cleanup(func() { _ = s.traces.Shutdown(context.Background()) })
	s.main = s.open(t, "shop", jsbroker.WithDeadLetter(deadTopic))
	s.plain = s.open(t, "depot", jsbroker.WithConsumerConfig(jetstream.ConsumerConfig{MaxDeliver: 1}))

	s.vault(t)

	subscribe := func(b broker.Broker, topic string, h broker.Handler, opts ...broker.SubscribeOption) {
		if _, err := b.Subscribe(topic, h, opts...); err != nil {
			t.Fatalf("subscribe: %v", err)
		}
	}
	subscribe(s.main, ordersPattern, s.handle, broker.Queue("billing"))
	subscribe(s.plain, parcelsTopic, s.handle, broker.Queue("depot"))
	subscribe(s.plain, auditTopic, s.handle)
	return s
}

// vault asks the server, and gives it something to say of each kind: a stream with
// limits, and a consumer that is paused.
func (s *shop) vault(t *testing.T) {
	t.Helper()
	asks, err := metrics.NewServer(s.main, metrics.ServerInterval(time.Second))
	if err != nil {
		t.Fatal(err)
	}
	s.reg.MustRegister(asks)
	if err := jsbroker.JetStream(t.Context(), s.main, "STREAM.CREATE.VAULT", func(_ context.Context, js jetstream.JetStream) error {
		natstest.MakeStream(t, js, jetstream.StreamConfig{Name: "VAULT", Subjects: []string{"vault"}, MaxMsgs: 1000, MaxBytes: 1 << 20, Retention: jetstream.WorkQueuePolicy})
		natstest.MakeStream(t, js, jetstream.StreamConfig{Name: "ARCHIVE", Subjects: []string{"archive"}, MaxMsgs: 1000})
		until := time.Now().Add(time.Hour)
		natstest.MakeConsumer(t, js, "VAULT", jetstream.ConsumerConfig{Durable: "guard", FilterSubject: "vault", AckPolicy: jetstream.AckExplicitPolicy, PauseUntil: &until})
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

// open connects one more broker.
func (s *shop) open(t *testing.T, name string, more ...broker.Option) broker.Broker {
	t.Helper()
	before, after := s.events.hooks(name)
	b := jsbroker.NewBroker(append([]broker.Option{
		broker.Addrs(s.srv.ClientURL()),
		broker.Logger(natstest.Quiet()),
		jsbroker.WithClientName(name),
		jsbroker.WithFetchWait(time.Second),
		jsbroker.WithNATSOptions(nats.ReconnectWait(20 * time.Millisecond)),
		jsbroker.WithHooks(before, metrics.New(metrics.WithRegisterer(s.reg)), tracing.New(tracing.WithTracerProvider(s.traces), tracing.WithPropagator(propagation.TraceContext{})), after),
	}, more...)...)
	if err := b.Connect(); err != nil {
		t.Fatalf("connect: %v", err)
	}
	t.Cleanup(func() { _ = b.Disconnect() })
	return b
}

var errBoom = errors.New("boom")

// handle does what the message says.
func (s *shop) handle(e broker.Event) error {
	again := jsbroker.NumDelivered(e) > 1
	switch string(e.Message().Body) {
	case "fail":
		return errBoom
	case "fail once":
		if !again {
			return jsbroker.RetryAfter(10*time.Millisecond, errBoom)
		}
	case "panic once":
		if !again {
			panic("oops")
		}
	case "discard":
		return jsbroker.Discard(errBoom)
	}
	return nil
}

// round brings the brokers into every state once.
func (s *shop) round(t *testing.T) {
	t.Helper()
	s.rounds++
	publish := func(b broker.Broker, topic, body string) string {
		id := fmt.Sprintf("%s %d", body, s.rounds)
		if err := b.Publish(topic, &broker.Message{Body: []byte(body)}, jsbroker.MessageID(id)); err != nil {
			t.Fatalf("publish: %v", err)
		}
		return id
	}
	publish(s.main, ordersTopic, "panic once")
	publish(s.main, ordersTopic, "fail once")
	publish(s.main, ordersTopic, "discard")
	for range 3 { // two duplicates
		publish(s.main, ordersTopic, "succeed")
	}
	publish(s.plain, parcelsTopic, "fail")
	publish(s.plain, auditTopic, "succeed")
	publish(s.main, "vault", "waits")
	if err := s.main.Publish(ordersTopic, &broker.Message{Body: []byte("later")}, jsbroker.DeliverAfter(time.Hour)); err != nil {
		t.Fatalf("publish: %v", err)
	}
	if err := s.main.Publish(ordersTopic, &broker.Message{Body: make([]byte, 1<<17)}); !errors.Is(err, jsbroker.ErrMessageTooLarge) {
		t.Fatalf("publish: %v", err)
	}
	if _, err := s.main.Subscribe(ordersPattern, s.handle, broker.Queue("another")); !errors.Is(err, jsbroker.ErrWorkQueueConflict) {
		t.Fatalf("subscribe: %v", err)
	}
	for _, what := range []string{
		"shop handled panic once %d, delivery 1: nak",
		"shop handled panic once %d, delivery 2: ack",
		"shop handled fail once %d, delivery 1: nak",
		"shop handled fail once %d, delivery 2: ack",
		"shop handled discard %d, delivery 1: term",
		"shop handled succeed %d, delivery 1: ack",
		"shop dead letter discard %d",
		"depot exhausted fail %d",
		"depot handled succeed %d, delivery 1: ack",
	} {
		s.events.await(t, 1, fmt.Sprintf(what, s.rounds))
	}
}

// outage takes the server away and gives it back.
func (s *shop) outage(t *testing.T) {
	t.Helper()
	s.srv.Stop()
	for _, name := range []string{"shop", "depot"} {
		s.events.await(t, 1, name+" disconnected")
		s.events.await(t, 1, name+" backs off")
	}
	s.srv.Start(t)
	for _, name := range []string{"shop", "depot"} {
		s.events.await(t, 1, name+" reconnected")
		s.events.await(t, 1, name+" recovered")
	}
}
