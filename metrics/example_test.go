package metrics_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go-micro.dev/v5/broker"
	"go-micro.dev/v5/logger"

	jsbroker "go-micro-jetstream/broker"
	"go-micro-jetstream/examples/natsserver"
	"go-micro-jetstream/metrics"
)

// connect is NewBroker with this hook and Connect, with a nats-server for this
// example alone. What it returns second ends both.
func connect(hook jsbroker.Hooks) (b broker.Broker, done func()) {
	nats, err := natsserver.Start()
	must(err)
	b = jsbroker.NewBroker(
		broker.Addrs(nats.URL()),
		broker.Logger(logger.NewLogger(logger.WithOutput(io.Discard))),
		jsbroker.WithClientName("shop"),
		jsbroker.WithHooks(hook),
	)
	must(b.Connect()) // reports what New could not do, too
	return b, func() {
		must(b.Disconnect())
		nats.Stop()
	}
}

// must is for what does not fail here. Programs have something better to do.
func must(err error) {
	if err != nil {
		panic(err)
	}
}

// show prints the lines about a metric that Prometheus would get.
func show(reg prometheus.Gatherer, name string) {
	// EnableOpenMetrics: exemplars need it.
	handler := promhttp.HandlerFor(reg, promhttp.HandlerOpts{EnableOpenMetrics: true})
	answer := httptest.NewRecorder()
	handler.ServeHTTP(answer, httptest.NewRequest(http.MethodGet, "/metrics", http.NoBody))
	for line := range strings.Lines(answer.Body.String()) {
		if strings.HasPrefix(line, name) {
			fmt.Print(line)
		}
	}
}

// A broker whose metrics are kept in a registry, for promhttp to serve.
func ExampleNew() {
	reg := prometheus.NewRegistry()
	b, done := connect(metrics.New(metrics.WithRegisterer(reg)))
	defer done()

	must(b.Publish("orders.created", &broker.Message{Body: []byte("4711")}))
	show(reg, "micro_broker_published_total")
	show(reg, "micro_broker_connected")
	// Output:
	// micro_broker_published_total{topic="orders.created"} 1
	// micro_broker_connected{broker="shop"} 1
}

// Two brokers for two clusters in one process: a label tells them apart.
func ExampleWithRegisterer() {
	reg := prometheus.NewRegistry()
	for _, cluster := range []string{"eu", "us"} {
		b, done := connect(metrics.New(metrics.WithRegisterer(
			prometheus.WrapRegistererWith(prometheus.Labels{"cluster": cluster}, reg),
		)))
		defer done()
		must(b.Publish("orders.created", &broker.Message{Body: []byte("4711")}))
	}
	show(reg, "micro_broker_published_total")
	// Output:
	// micro_broker_published_total{cluster="eu",topic="orders.created"} 1
	// micro_broker_published_total{cluster="us",topic="orders.created"} 1
}

// Topics that are generated cannot fill the memory of Prometheus, as they share
// a series from some number on.
func ExampleWithMaxTopics() {
	reg := prometheus.NewRegistry()
	b, done := connect(metrics.New(metrics.WithRegisterer(reg), metrics.WithMaxTopics(1)))
	defer done()

	for _, topic := range []string{"orders.created", "orders.4711.paid", "orders.4712.paid"} {
		must(b.Publish(topic, &broker.Message{Body: []byte("a")}))
	}
	show(reg, "micro_broker_published_total")
	// Output:
	// micro_broker_published_total{topic="orders.created"} 1
	// micro_broker_published_total{topic="other"} 2
}

// Topics with an id in them have one series for each kind.
func ExampleWithTopicLabel() {
	reg := prometheus.NewRegistry()
	b, done := connect(metrics.New(metrics.WithRegisterer(reg), metrics.WithTopicLabel(func(topic string) string {
		if tokens := strings.Split(topic, "."); len(tokens) == 3 {
			tokens[1] = "*" // the id
			return strings.Join(tokens, ".")
		}
		return topic
	})))
	defer done()

	for _, topic := range []string{"orders.created", "orders.4711.paid", "orders.4712.paid"} {
		must(b.Publish(topic, &broker.Message{Body: []byte("a")}))
	}
	show(reg, "micro_broker_published_total")
	// Output:
	// micro_broker_published_total{topic="orders.*.paid"} 2
	// micro_broker_published_total{topic="orders.created"} 1
}

// An objective of 250 ms is measured exactly where it is a bound.
func ExampleWithDurationBuckets() {
	reg := prometheus.NewRegistry()
	b, done := connect(metrics.New(metrics.WithRegisterer(reg), metrics.WithDurationBuckets(0.05, 0.25, 1)))
	defer done()

	_, err := b.Subscribe("orders.created", func(broker.Event) error { return nil }, broker.Queue("payments"))
	must(err)
	show(reg, "micro_broker_handler_duration_seconds_bucket")
	// Output:
	// micro_broker_handler_duration_seconds_bucket{queue="payments",topic="orders.created",le="0.05"} 0
	// micro_broker_handler_duration_seconds_bucket{queue="payments",topic="orders.created",le="0.25"} 0
	// micro_broker_handler_duration_seconds_bucket{queue="payments",topic="orders.created",le="1"} 0
	// micro_broker_handler_duration_seconds_bucket{queue="payments",topic="orders.created",le="+Inf"} 0
}

// Quantiles become rough, and a subscription costs a third less.
func ExampleWithFewerBuckets() {
	reg := prometheus.NewRegistry()
	b, done := connect(metrics.New(metrics.WithRegisterer(reg), metrics.WithFewerBuckets()))
	defer done()

	_, err := b.Subscribe("orders.created", func(broker.Event) error { return nil }, broker.Queue("payments"))
	must(err)
	show(reg, "micro_broker_handler_duration_seconds_bucket")
	// Output:
	// micro_broker_handler_duration_seconds_bucket{queue="payments",topic="orders.created",le="0.005"} 0
	// micro_broker_handler_duration_seconds_bucket{queue="payments",topic="orders.created",le="0.05"} 0
	// micro_broker_handler_duration_seconds_bucket{queue="payments",topic="orders.created",le="0.25"} 0
	// micro_broker_handler_duration_seconds_bucket{queue="payments",topic="orders.created",le="1"} 0
	// micro_broker_handler_duration_seconds_bucket{queue="payments",topic="orders.created",le="5"} 0
	// micro_broker_handler_duration_seconds_bucket{queue="payments",topic="orders.created",le="30"} 0
	// micro_broker_handler_duration_seconds_bucket{queue="payments",topic="orders.created",le="300"} 0
	// micro_broker_handler_duration_seconds_bucket{queue="payments",topic="orders.created",le="+Inf"} 0
}

// Where native histograms are scraped, the classic buckets need not exist.
func ExampleWithNativeHistogramsOnly() {
	reg := prometheus.NewRegistry()
	b, done := connect(metrics.New(metrics.WithRegisterer(reg), metrics.WithNativeHistogramsOnly()))
	defer done()

	_, err := b.Subscribe("orders.created", func(broker.Event) error { return nil }, broker.Queue("payments"))
	must(err)
	show(reg, "micro_broker_handler_duration_seconds_bucket")
	// Output:
	// micro_broker_handler_duration_seconds_bucket{queue="payments",topic="orders.created",le="+Inf"} 0
}

// Three orders wait, and nobody subscribes to the queue: only the server knows.
func ExampleNewServer() {
	reg := prometheus.NewRegistry()
	b, done := connect(metrics.New(metrics.WithRegisterer(reg)))
	defer done()
	server, err := metrics.NewServer(b)
	must(err)
	reg.MustRegister(server)

	for range 3 {
		must(b.Publish("orders.created", &broker.Message{Body: []byte("4711")}))
	}
	must(jsbroker.JetStream(context.Background(), b, "CONSUMER.CREATE.ORDERS.payments", func(ctx context.Context, js jetstream.JetStream) error {
		_, err := js.CreateConsumer(ctx, "ORDERS", jetstream.ConsumerConfig{Durable: "payments", FilterSubject: "orders.created"})
		return err
	}))
	show(reg, "micro_broker_consumer_pending")
	show(reg, "micro_broker_stream_messages")
	// Output:
	// micro_broker_consumer_pending{consumer="payments",queue="payments",stream="ORDERS",topic="orders.created"} 3
	// micro_broker_stream_messages{stream="ORDERS"} 3
}

// With many replicas, each of which asks, a longer interval spares the server.
func ExampleServerInterval() {
	reg := prometheus.NewRegistry()
	b, done := connect(jsbroker.Hooks{})
	defer done()
	server, err := metrics.NewServer(b, metrics.ServerInterval(30*time.Second))
	must(err)
	reg.MustRegister(server)

	show(reg, "micro_broker_server_up")
	// Output: micro_broker_server_up 1
}

// Replicas share the answers: each hears what another one has asked.
func ExampleServerShared() {
	b, done := connect(jsbroker.Hooks{})
	defer done()
	must(b.Publish("orders.created", &broker.Message{Body: []byte("4711")}))
	for range 3 { // in three processes
		server, err := metrics.NewServer(b, metrics.ServerShared("metrics.server"))
		must(err)
		reg := prometheus.NewRegistry()
		reg.MustRegister(server)
		show(reg, "micro_broker_stream_messages")
	}
	// Output:
	// micro_broker_stream_messages{stream="ORDERS"} 1
	// micro_broker_stream_messages{stream="ORDERS"} 1
	// micro_broker_stream_messages{stream="ORDERS"} 1
}

// A user who may not list streams names them.
func ExampleServerStreams() {
	reg := prometheus.NewRegistry()
	b, done := connect(jsbroker.Hooks{})
	defer done()
	server, err := metrics.NewServer(b, metrics.ServerStreams("ORDERS"))
	must(err)
	reg.MustRegister(server)

	must(b.Publish("orders.created", &broker.Message{Body: []byte("4711")}))
	must(b.Publish("parcels.packed", &broker.Message{Body: []byte("4711")}))
	show(reg, "micro_broker_stream_messages")
	// Output: micro_broker_stream_messages{stream="ORDERS"} 1
}

// A limit of one stream: there is another one.
func ExampleServerLimits() {
	reg := prometheus.NewRegistry()
	b, done := connect(jsbroker.Hooks{})
	defer done()
	server, err := metrics.NewServer(b, metrics.ServerLimits(1, 10))
	must(err)
	reg.MustRegister(server)

	must(b.Publish("orders.created", &broker.Message{Body: []byte("4711")}))
	must(b.Publish("parcels.packed", &broker.Message{Body: []byte("4711")}))
	show(reg, "micro_broker_server_truncated")
	// Output: micro_broker_server_truncated 1
}

// What the collector asks is asked only when somebody scrapes.
func ExampleServer() {
	b, done := connect(jsbroker.Hooks{})
	defer done()
	server, err := metrics.NewServer(b)
	must(err)

	reg := prometheus.NewRegistry()
	reg.MustRegister(server)
	must(b.Publish("orders.created", &broker.Message{Body: []byte("4711")}))
	show(reg, "micro_broker_stream_consumers")
	// Output: micro_broker_stream_consumers{stream="ORDERS"} 0
}
