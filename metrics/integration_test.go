package metrics_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"
	"go-micro.dev/v5/broker"
	"go.opentelemetry.io/otel/trace"

	jsbroker "go-micro-jetstream/broker"
	"go-micro-jetstream/internal/natstest"
	"go-micro-jetstream/metrics"
)

// smallMessages lets a server refuse a body of 1<<17 bytes.
func smallMessages(o *server.Options) { o.MaxPayload = 1 << 16 }

// observed signals events after the metrics have seen them. Ends run in the
// reverse order of installation, all others in that order: hence two hooks.
type observed struct {
	handled    chan jsbroker.Handled
	ended      chan jsbroker.SubscriptionEnd
	backoff    chan jsbroker.Backoff
	connection chan jsbroker.ConnectionChanged
}

func newBroker(t *testing.T, url string, m jsbroker.Hooks, more ...broker.Option) (broker.Broker, observed) {
	t.Helper()
	o := observed{
		handled:    make(chan jsbroker.Handled, 100),
		ended:      make(chan jsbroker.SubscriptionEnd, 100),
		backoff:    make(chan jsbroker.Backoff, 100),
		connection: make(chan jsbroker.ConnectionChanged, 100),
	}
	before := jsbroker.Hooks{
		Handled:         func(_ context.Context, e jsbroker.Handled) { o.handled <- e },
		SubscriptionEnd: func(_ context.Context, e jsbroker.SubscriptionEnd) { o.ended <- e },
	}
	after := jsbroker.Hooks{
		Backoff:           func(_ context.Context, e jsbroker.Backoff) { o.backoff <- e },
		ConnectionChanged: func(_ context.Context, e jsbroker.ConnectionChanged) { o.connection <- e },
		// A tracing hook, as far as metrics can see one, installed last.
		PublishStart: func(ctx context.Context, _ jsbroker.PublishStart) context.Context {
			return sampled(ctx, trace.FlagsSampled)
		},
		HandleStart: func(ctx context.Context, _ jsbroker.HandleStart) context.Context {
			return sampled(ctx, trace.FlagsSampled)
		},
	}
	b := jsbroker.NewBroker(append([]broker.Option{
		broker.Addrs(url),
		broker.Logger(natstest.Quiet()),
		jsbroker.WithClientName("shop"),
		jsbroker.WithFetchWait(time.Second),
		jsbroker.WithNATSOptions(nats.ReconnectWait(20 * time.Millisecond)),
		jsbroker.WithHooks(before, m, after),
	}, more...)...)
	if err := b.Connect(); err != nil {
		t.Fatalf("connect: %v", err)
	}
	t.Cleanup(func() { _ = b.Disconnect() })
	return b, o
}

// scraped returns the samples of the OpenMetrics exposition.
func scraped(t *testing.T, reg *prometheus.Registry) (map[string]float64, string) {
	t.Helper()
	text := string(scrape(t, reg, openMetrics))
	samples := map[string]float64{}
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "#") {
			continue
		}
		line, _, _ = strings.Cut(line, " # ") // the exemplar
		i := strings.LastIndexByte(strings.TrimSpace(line), ' ')
		v, err := strconv.ParseFloat(strings.TrimSpace(line[i+1:]), 64)
		if err != nil {
			t.Fatalf("sample %q: %v", line, err)
		}
		samples[line[:i]] = v
	}
	return samples, text
}

func wantScraped(t *testing.T, reg *prometheus.Registry, expected map[string]float64) string {
	t.Helper()
	samples, text := scraped(t, reg)
	for series, want := range expected {
		if got, ok := samples[series]; !ok {
			t.Errorf("no series %s", series)
		} else if got != want {
			t.Errorf("%s is %v, want %v", series, got, want)
		}
	}
	return text
}

// The life of a service, against a real server.
func TestBroker(t *testing.T) {
	s := natstest.Start(t, smallMessages)
	m, reg := newHooks(t)
	b, seen := newBroker(t, s.ClientURL(), m)
	publish := func(topic, body string, opts ...broker.PublishOption) error {
		return b.Publish(topic, &broker.Message{Body: []byte(body)}, opts...)
	}

	release := make(chan struct{})
	sub, err := b.Subscribe("orders.*", func(e broker.Event) error {
		again := jsbroker.NumDelivered(e) > 1
		switch string(e.Message().Body) {
		case "fails once":
			if !again {
				return jsbroker.RetryAfter(10*time.Millisecond, errBoom)
			}
		case "panics once":
			if !again {
				panic("oops")
			}
		case "is discarded":
			return jsbroker.Discard(errBoom)
		case "blocks":
			<-release
		}
		return nil
	}, broker.Queue("billing"))
	if err != nil {
		t.Fatal(err)
	}
	// From the moment Subscribe has returned.
	subscribed := maps.Clone(zeroSeries)
	subscribed["micro_broker_max_ack_pending"+ordersLabels] = 10000
	subscribed["micro_broker_concurrency"+ordersLabels] = 1
	wantScraped(t, reg, subscribed)

	for _, body := range []string{"succeeds", "fails once", "panics once", "is discarded"} {
		if err := publish("orders.created", body); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 { // the second is a duplicate
		if err := publish("orders.created", "succeeds", jsbroker.MessageID("4711")); err != nil {
			t.Fatal(err)
		}
	}
	if err := publish("orders.created", strings.Repeat("x", 1<<17)); !errors.Is(err, jsbroker.ErrMessageTooLarge) {
		t.Fatalf("publish: %v", err)
	}
	if err := publish("orders.*", "to a pattern"); !errors.Is(err, jsbroker.ErrInvalidTopic) {
		t.Fatalf("publish: %v", err)
	}
	if _, err := b.Subscribe("orders.*", func(broker.Event) error { return nil }, broker.Queue("shipping")); !errors.Is(err, jsbroker.ErrWorkQueueConflict) {
		t.Fatalf("subscribe with a second queue: %v", err)
	}

	for range 7 { // five messages, two of them twice
		natstest.Receive(t, seen.handled)
	}
	text := wantScraped(t, reg, map[string]float64{
		`micro_broker_published_total{topic="orders.created"}`:                                 6,
		`micro_broker_duplicates_total{topic="orders.created"}`:                                1,
		`micro_broker_publish_errors_total{reason="message_too_large",topic="orders.created"}`: 1,
		`micro_broker_publish_errors_total{reason="invalid_topic",topic="other"}`:              1,
		`micro_broker_publish_duration_seconds_count{topic="orders.created"}`:                  7,
		`micro_broker_subscribe_errors_total{reason="workqueue_conflict",topic="orders.*"}`:    1,
		`micro_broker_fetched_total` + ordersLabels:                                            7,
		handledTotal(jsbroker.ResultAck):                                                       4,
		handledTotal(jsbroker.ResultNak):                                                       2,
		handledTotal(jsbroker.ResultTerm):                                                      1,
		handledTotal(jsbroker.ResultNone):                                                      0,
		`micro_broker_handler_errors_total` + ordersLabels:                                     2,
		`micro_broker_discarded_total` + ordersLabels:                                          1,
		`micro_broker_end_to_end_seconds_count` + ordersLabels:                                 5,
		`micro_broker_handler_panics_total` + ordersLabels:                                     1,
		`micro_broker_redelivered_total` + ordersLabels:                                        2,
		`micro_broker_handler_duration_seconds_count` + ordersLabels:                           7,
		`micro_broker_delivery_lag_seconds_count` + ordersLabels:                               5,
		`micro_broker_in_flight` + ordersLabels:                                                0,
		`micro_broker_pending` + ordersLabels:                                                  0,
		`micro_broker_active_subscriptions` + ordersLabels:                                     1,
		`micro_broker_backoffs_total` + ordersLabels:                                           0,
		`micro_broker_connected{broker="shop"}`:                                                1,
		`micro_broker_reconnects_total{broker="shop"}`:                                         0,
	})
	for _, series := range []string{
		`micro_broker_handler_duration_seconds_bucket{queue="billing",topic="orders.*"`,
		`micro_broker_delivery_lag_seconds_bucket{queue="billing",topic="orders.*"`,
		`micro_broker_publish_duration_seconds_bucket{topic="orders.created"`,
	} {
		if !exemplarLine(series, sampledTraceID).MatchString(text) {
			t.Errorf("no exemplar on %s}", series)
		}
	}

	// A handler that blocks is in flight; one that has not started is given
	// Of two messages, one is being handled when the subscription ends, and
	// settled afterwards; the other one is given back unhandled.
	for range 2 {
		if err := publish("orders.created", "blocks"); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, reg, `micro_broker_in_flight`+ordersLabels, 1)
	if err := sub.Unsubscribe(); err != nil {
		t.Fatal(err)
	}
	wantScraped(t, reg, map[string]float64{`micro_broker_in_flight` + ordersLabels: 1})
	close(release)
	natstest.Receive(t, seen.ended)
	wantGone(t, reg, gauges...)
	samples, _ := scraped(t, reg)
	if got := samples[handledTotal(jsbroker.ResultAck)]; got != 5 {
		t.Errorf("%v acked, want 5", got)
	}
	// Whether it had left the server yet is a matter of timing.
	if returned := samples[`micro_broker_returned_total`+ordersLabels]; returned > 1 {
		t.Errorf("%v returned, want at most 1", returned)
	}

	if err := b.Disconnect(); err != nil {
		t.Fatal(err)
	}
	wantScraped(t, reg, map[string]float64{`micro_broker_connected{broker="shop"}`: 0})
}

// A broker whose client has given up is down, until it is disconnected: the next one
// has its series.
func TestGaugeOfABrokerThatGaveUp(t *testing.T) {
	h, reg := newHooks(t)
	for range 3 {
		s := natstest.Start(t)
		b, o := newBroker(t, s.ClientURL(), h, jsbroker.WithNATSOptions(nats.NoReconnect()))
		want(t, reg, map[string]float64{`micro_broker_connected{broker="shop"}`: 1})
		natstest.Stop(s)
		natstest.Await(t, o.connection, "closed", func(e jsbroker.ConnectionChanged) bool { return e.State == jsbroker.StateClosed })
		if err := b.Disconnect(); err != nil {
			t.Fatal(err)
		}
		want(t, reg, map[string]float64{`micro_broker_connected{broker="shop"}`: 0})
	}
	wantGone(t, reg, `micro_broker_connected{broker="shop-2"}`)
}

// eventually waits for a gauge that no event announces.
func eventually(t *testing.T, reg *prometheus.Registry, series string, want float64) {
	t.Helper()
	natstest.Eventually(t, fmt.Sprintf("%s is %v", series, want), func() bool { return values(t, reg)[series] == want })
}

// An outage shows while it lasts and leaves its marks.
func TestOutage(t *testing.T) {
	s := natstest.StartRestartable(t)
	m, reg := newHooks(t)
	b, seen := newBroker(t, s.ClientURL(), m)
	if _, err := b.Subscribe("orders.*", func(broker.Event) error { return nil }, broker.Queue("billing")); err != nil {
		t.Fatal(err)
	}

	s.Stop()
	natstest.Await(t, seen.connection, "loss of the connection", func(e jsbroker.ConnectionChanged) bool { return e.State == jsbroker.StateDisconnected })
	natstest.Await(t, seen.backoff, "second failure", func(e jsbroker.Backoff) bool { return e.Attempt >= 2 })
	samples, _ := scraped(t, reg)
	if samples[`micro_broker_connected{broker="shop"}`] != 0 || samples[`micro_broker_backoff_seconds`+ordersLabels] < 1 {
		t.Errorf("connected %v, backoff %v during an outage", samples[`micro_broker_connected{broker="shop"}`], samples[`micro_broker_backoff_seconds`+ordersLabels])
	}

	s.Start(t)
	natstest.Await(t, seen.connection, "reconnection", func(e jsbroker.ConnectionChanged) bool { return e.State == jsbroker.StateReconnected })
	natstest.Await(t, seen.backoff, "recovery", func(e jsbroker.Backoff) bool { return e.Delay == 0 })
	wantScraped(t, reg, map[string]float64{
		`micro_broker_connected{broker="shop"}`:        1,
		`micro_broker_reconnects_total{broker="shop"}`: 1,
		`micro_broker_backoff_seconds` + ordersLabels:  0,
	})

	samples, _ = scraped(t, reg)
	failures := 0.0
	for series, v := range samples {
		if ok, _ := path.Match(`micro_broker_fetch_errors_total{*}`, series); ok {
			failures += v
		}
	}
	if got := samples[`micro_broker_backoffs_total`+ordersLabels]; got != failures || got < 2 {
		t.Errorf("%v backoffs, %v failed fetches: want as many, and at least 2", got, failures)
	}
}

// Two brokers in one process, each with its own hook, one registry.
func TestBrokersShareARegistry(t *testing.T) {
	s := natstest.Start(t)
	reg := prometheus.NewPedanticRegistry()
	var brokers []broker.Broker
	for range 2 {
		b, _ := newBroker(t, s.ClientURL(), newHooksOn(t, reg))
		if _, err := b.Subscribe("orders.*", func(broker.Event) error { return nil }, broker.Queue("billing")); err != nil {
			t.Fatal(err)
		}
		brokers = append(brokers, b)
	}
	for i := range 10 {
		if err := brokers[i%2].Publish("orders.created", &broker.Message{Body: []byte(fmt.Sprint(i))}); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, reg, handledTotal(jsbroker.ResultAck), 10)
	wantScraped(t, reg, map[string]float64{
		`micro_broker_published_total{topic="orders.created"}`: 10,
		`micro_broker_active_subscriptions` + ordersLabels:     2,
		`micro_broker_connected{broker="shop"}`:                1,
		`micro_broker_connected{broker="shop-2"}`:              1,
	})
	if err := brokers[1].Disconnect(); err != nil {
		t.Fatal(err)
	}
	wantScraped(t, reg, map[string]float64{
		`micro_broker_active_subscriptions` + ordersLabels: 1,
		`micro_broker_connected{broker="shop"}`:            1,
		`micro_broker_connected{broker="shop-2"}`:          0,
	})
}

// A service must not start half blind.
func TestConnectReportsErr(t *testing.T) {
	reg := prometheus.NewRegistry()
	reg.MustRegister(prometheus.NewGauge(prometheus.GaugeOpts{Name: "micro_broker_connected"}))
	b := jsbroker.NewBroker(jsbroker.WithHooks(metrics.New(metrics.WithRegisterer(reg))))
	if err := b.Connect(); err == nil || !strings.Contains(err.Error(), "micro_broker_connected") {
		t.Errorf("Connect: %v", err)
	}
}
