package metrics_test

import (
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"go-micro.dev/v5/broker"
	"go-micro.dev/v5/logger"

	jsbroker "go-micro-jetstream/broker"
	"go-micro-jetstream/internal/natstest"
	"go-micro-jetstream/metrics"
)

// newServer returns the registry of a collector.
func newServer(t *testing.T, b broker.Broker, opts ...metrics.ServerOption) *prometheus.Registry {
	t.Helper()
	s, err := metrics.NewServer(b, opts...)
	if err != nil {
		t.Fatal(err)
	}
	reg := prometheus.NewPedanticRegistry()
	reg.MustRegister(s)
	return reg
}

// connected returns a broker and a client of a user's own.
func connected(t *testing.T, url string, opts ...broker.Option) (broker.Broker, jetstream.JetStream) {
	t.Helper()
	b := jsbroker.NewBroker(append([]broker.Option{broker.Addrs(url), broker.Logger(natstest.Quiet())}, opts...)...)
	if err := b.Connect(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Disconnect() })
	nc, err := nats.Connect(url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	return b, js
}

func publish(t *testing.T, b broker.Broker, topic string, n int) {
	t.Helper()
	for range n {
		if err := b.Publish(topic, &broker.Message{Body: []byte("a")}); err != nil {
			t.Fatal(err)
		}
	}
}

// The collector sees what no subscription of the process tells: a queue that nobody
// subscribes to, limits, a pause, dead letters that nobody reads.
func TestServer(t *testing.T) {
	t.Parallel()
	srv := natstest.Start(t)
	b, js := connected(t, srv.ClientURL(), jsbroker.WithDeadLetter("dead.orders"))
	natstest.MakeStream(t, js, jetstream.StreamConfig{Name: "ORDERS", Subjects: []string{"orders.>"}, MaxMsgs: 10, MaxBytes: 1 << 20, Discard: jetstream.DiscardNew, Retention: jetstream.InterestPolicy})
	until := time.Now().Add(time.Hour)
	natstest.MakeConsumer(t, js, "ORDERS", jetstream.ConsumerConfig{Durable: "billing", FilterSubject: "orders.*", AckPolicy: jetstream.AckExplicitPolicy, MaxAckPending: 7, PauseUntil: &until})
	natstest.MakeConsumer(t, js, "ORDERS", jetstream.ConsumerConfig{Durable: "pushed", DeliverSubject: "elsewhere", AckPolicy: jetstream.AckExplicitPolicy})
	// As the broker names the consumer of the second topic of a queue.
	second := func(topic string) {
		sub, err := b.Subscribe(topic, func(broker.Event) error { return nil }, broker.Queue("two-topics"))
		if err != nil {
			t.Fatal(err)
		}
		if err := sub.Unsubscribe(); err != nil {
			t.Fatal(err)
		}
	}
	second("orders.a")
	second("orders.b")
	publish(t, b, "orders.created", 8)
	publish(t, b, "dead.orders", 2)
	publish(t, b, "dead.parcels", 1) // of somebody else, in the same stream

	reg := newServer(t, b)
	want(t, reg, map[string]float64{
		`micro_broker_server_up{}`:                                                     1,
		`micro_broker_server_truncated{}`:                                              0,
		`micro_broker_server_errors_total{reason="permission"}`:                        0,
		`micro_broker_stream_messages{stream="ORDERS"}`:                                8,
		`micro_broker_stream_max_messages{stream="ORDERS"}`:                            10,
		`micro_broker_stream_max_bytes{stream="ORDERS"}`:                               1 << 20,
		`micro_broker_stream_consumers{stream="ORDERS"}`:                               4,
		`micro_broker_stream_info{discard="new",retention="interest",stream="ORDERS"}`: 1,
		`micro_broker_stream_messages{stream="DEAD"}`:                                  3,
		`micro_broker_stream_dead_letters{stream="DEAD",topic="dead.orders"}`:          2,

		`micro_broker_consumer_pending{consumer="billing",queue="billing",stream="ORDERS",topic="orders.*"}`:                        8,
		`micro_broker_consumer_ack_pending{consumer="billing",queue="billing",stream="ORDERS",topic="orders.*"}`:                    0,
		`micro_broker_consumer_max_ack_pending{consumer="billing",queue="billing",stream="ORDERS",topic="orders.*"}`:                7,
		`micro_broker_consumer_waiting{consumer="billing",queue="billing",stream="ORDERS",topic="orders.*"}`:                        0,
		`micro_broker_consumer_redelivered{consumer="billing",queue="billing",stream="ORDERS",topic="orders.*"}`:                    0,
		`micro_broker_consumer_delivered_total{consumer="billing",queue="billing",stream="ORDERS",topic="orders.*"}`:                0,
		`micro_broker_consumer_paused{consumer="billing",queue="billing",stream="ORDERS",topic="orders.*"}`:                         1,
		`micro_broker_consumer_paused_until_timestamp_seconds{consumer="billing",queue="billing",stream="ORDERS",topic="orders.*"}`: float64(until.UnixMilli()) / 1000,
		`micro_broker_consumer_paused{consumer="pushed",queue="pushed",stream="ORDERS",topic=""}`:                                   0,
		`micro_broker_consumer_paused{consumer="two-topics",queue="two-topics",stream="ORDERS",topic="orders.a"}`:                   0,
	})
	all := values(t, reg)
	for name, value := range all {
		// The second topic of the queue has a consumer of another name.
		if strings.HasPrefix(name, "micro_broker_consumer_paused{") && strings.Contains(name, `queue="two-topics"`) && strings.Contains(name, `topic="orders.b"`) {
			return
		}
		if strings.HasPrefix(name, "micro_broker_stream_oldest") && time.Since(time.UnixMilli(int64(value*1000))) > natstest.Patience {
			t.Errorf("%s is %v", name, value)
		}
	}
	t.Errorf("no second topic of the queue two-topics in %v", all)
}

// What is absent has no value that could be taken for one.
func TestServerLeavesOutWhatIsNot(t *testing.T) {
	t.Parallel()
	srv := natstest.Start(t)
	b, js := connected(t, srv.ClientURL())
	natstest.MakeStream(t, js, jetstream.StreamConfig{Name: "ORDERS", Subjects: []string{"orders.>"}})
	natstest.MakeConsumer(t, js, "ORDERS", jetstream.ConsumerConfig{Durable: "q", AckPolicy: jetstream.AckExplicitPolicy, MaxAckPending: -1})
	natstest.MakeConsumer(t, js, "ORDERS", jetstream.ConsumerConfig{Durable: "pushed", DeliverSubject: "elsewhere"})
	for name := range values(t, newServer(t, b)) {
		for _, absent := range []string{"_stream_max_", "_stream_oldest_", "_dead_letters", `_consumer_max_ack_pending{consumer="q"`, `_consumer_waiting{consumer="pushed"`, "_paused_until_"} {
			if strings.Contains(name, absent) {
				t.Errorf("%s exists", name)
			}
		}
	}
}

// However often the process is scraped, it asks once in an interval.
func TestServerAsksOncePerInterval(t *testing.T) {
	t.Parallel()
	srv := natstest.Start(t)
	b, js := connected(t, srv.ClientURL())
	natstest.MakeStream(t, js, jetstream.StreamConfig{Name: "ORDERS", Subjects: []string{"orders.>"}})
	for _, name := range []string{"a", "b", "c"} {
		natstest.MakeConsumer(t, js, "ORDERS", jetstream.ConsumerConfig{Durable: name, AckPolicy: jetstream.AckExplicitPolicy})
	}
	questions, err := js.Conn().SubscribeSync("$JS.API.>")
	if err != nil {
		t.Fatal(err)
	}
	if err := js.Conn().Flush(); err != nil {
		t.Fatal(err)
	}
	reg := newServer(t, b)
	var scrapes sync.WaitGroup
	for range 20 {
		scrapes.Go(func() { _, _ = reg.Gather() })
	}
	scrapes.Wait()
	natstest.Eventually(t, "an answer", func() bool { return values(t, reg)[`micro_broker_server_up{}`] == 1 })
	if err := js.Conn().Flush(); err != nil {
		t.Fatal(err)
	}
	asked := map[string]int{}
	for {
		m, err := questions.NextMsg(time.Millisecond)
		if err != nil {
			break
		}
		asked[m.Subject]++
	}
	if len(asked) != 3 || asked["$JS.API.STREAM.NAMES"] != 1 || asked["$JS.API.STREAM.INFO.ORDERS"] != 1 || asked["$JS.API.CONSUMER.LIST.ORDERS"] != 1 {
		t.Errorf("asked %v", asked)
	}
}

// Without permission the log says so once, a metric says so, and all else works.
func TestServerWithoutPermission(t *testing.T) {
	t.Parallel()
	srv := natstest.Start(t, natstest.Limited(natstest.NoPublish("$JS.API.CONSUMER.LIST.>")))
	_, js := connected(t, natstest.URL(srv, "admin:admin"))
	for _, name := range []string{"ORDERS", "PARCELS"} {
		natstest.MakeStream(t, js, jetstream.StreamConfig{Name: name, Subjects: []string{strings.ToLower(name)}})
	}
	log := natstest.NewLog()
	b, _ := connected(t, natstest.URL(srv, "limited:pw"), broker.Logger(log), jsbroker.WithExistingStreams(), jsbroker.WithStreamName(strings.ToUpper))
	reg := newServer(t, b, metrics.ServerStreams("ORDERS", "PARCELS", "ORDERS"), metrics.ServerInterval(time.Second))
	natstest.Eventually(t, "both streams are refused", func() bool {
		return values(t, reg)[`micro_broker_server_errors_total{reason="permission"}`] == 2
	})
	publish(t, b, "orders", 1)
	natstest.Eventually(t, "the next answer", func() bool { return values(t, reg)[`micro_broker_stream_messages{stream="ORDERS"}`] == 1 })
	want(t, reg, map[string]float64{
		`micro_broker_server_up{}`:                              0,
		`micro_broker_server_errors_total{reason="permission"}`: 2, // not asked again
		`micro_broker_stream_messages{stream="PARCELS"}`:        0,
	})
	if lines := log.With("no permission"); len(lines) != 1 || !strings.Contains(lines[0].Text, "$JS.API.CONSUMER.LIST.ORDERS") {
		t.Errorf("lines: %v", lines)
	}
}

// A user who may do no more than the documentation of NewServer says gets all of
// it: of named streams, of all streams, and with answers that replicas share.
func TestServerNeedsItsPermissionsOnly(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		options    []metrics.ServerOption
		pub, hears []string
	}{
		"named streams": {[]metrics.ServerOption{metrics.ServerStreams("ORDERS")}, nil, []string{"_INBOX.>"}},
		"all streams":   {nil, []string{"$JS.API.STREAM.NAMES"}, []string{"_INBOX.>"}},
		"shared":        {[]metrics.ServerOption{metrics.ServerShared("metrics.server")}, []string{"$JS.API.STREAM.NAMES"}, []string{"_INBOX.>", "metrics.server.*"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			srv := natstest.Start(t, natstest.Limited(server.Permissions{
				Publish:   &server.SubjectPermission{Allow: append(c.pub, "$JS.API.INFO", "$JS.API.STREAM.INFO.ORDERS", "$JS.API.CONSUMER.LIST.ORDERS")},
				Subscribe: &server.SubjectPermission{Allow: c.hears},
			}))
			_, js := connected(t, natstest.URL(srv, "admin:admin"))
			natstest.MakeStream(t, js, jetstream.StreamConfig{Name: "ORDERS", Subjects: []string{"orders"}})
			natstest.MakeConsumer(t, js, "ORDERS", jetstream.ConsumerConfig{Durable: "billing", AckPolicy: jetstream.AckExplicitPolicy, MaxAckPending: 7})
			log := natstest.NewLog()
			b, _ := connected(t, natstest.URL(srv, "limited:pw"), broker.Logger(log), jsbroker.WithExistingStreams())
			reg := newServer(t, b, c.options...)
			natstest.Eventually(t, "all is known", func() bool {
				all := values(t, reg)
				return all[`micro_broker_server_up{}`] == 1 && all[`micro_broker_stream_consumers{stream="ORDERS"}`] == 1 &&
					all[`micro_broker_consumer_max_ack_pending{consumer="billing",queue="billing",stream="ORDERS",topic=""}`] == 7
			})
			want(t, reg, map[string]float64{`micro_broker_server_errors_total{reason="permission"}`: 0})
			if lines := log.With("ermission"); len(lines) > 0 {
				t.Errorf("lines: %v", lines)
			}
		})
	}
}

// badLogger does what it should not, instead of writing the line about permissions.
type badLogger struct {
	logger.Logger
	do      func()
	entered chan struct{}
}

func (l badLogger) Log(level logger.Level, v ...any) {
	if !strings.Contains(fmt.Sprint(v...), "no permission to ask") {
		l.Logger.Log(level, v...)
		return
	}
	l.entered <- struct{}{}
	l.do()
}

// Whatever the user's logger does, the process goes on, and so do the questions.
func TestServerBesideABadLogger(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	t.Cleanup(func() { close(release) })
	for name, do := range map[string]func(){
		"panics": func() { panic("no log") }, "ends its goroutine": runtime.Goexit, "hangs": func() { <-release },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			srv := natstest.Start(t, natstest.Limited(natstest.NoPublish("$JS.API.CONSUMER.LIST.>")))
			log := badLogger{Logger: natstest.Quiet(), do: do, entered: make(chan struct{}, 100)}
			b, _ := connected(t, natstest.URL(srv, "limited:pw"), broker.Logger(log))
			publish(t, b, "orders", 1)
			reg := newServer(t, b, metrics.ServerInterval(time.Second))
			_ = values(t, reg)
			natstest.Receive(t, log.entered)
			for n := range 3 {
				publish(t, b, "orders", 1)
				natstest.Eventually(t, "the next answer", func() bool {
					return values(t, reg)[`micro_broker_stream_messages{stream="ORDERS"}`] == float64(n+2)
				})
			}
		})
	}
}

// The number of series is bounded, whatever is on the server.
func TestServerLimits(t *testing.T) {
	t.Parallel()
	srv := natstest.Start(t)
	b, js := connected(t, srv.ClientURL())
	for _, name := range []string{"A", "B", "C"} {
		natstest.MakeStream(t, js, jetstream.StreamConfig{Name: name, Subjects: []string{name}})
		for _, durable := range []string{"x", "y", "z"} {
			natstest.MakeConsumer(t, js, name, jetstream.ConsumerConfig{Durable: durable})
		}
	}
	got := values(t, newServer(t, b, metrics.ServerLimits(2, 4)))
	streams, consumers := 0, 0
	for name := range got {
		if strings.HasPrefix(name, "micro_broker_stream_messages{") {
			streams++
		}
		if strings.HasPrefix(name, "micro_broker_consumer_pending{") {
			consumers++
		}
	}
	if streams != 2 || consumers != 4 || got[`micro_broker_server_truncated{}`] != 1 {
		t.Errorf("%d streams, %d consumers, %v", streams, consumers, got)
	}
}

// An outage shows in micro_broker_server_up, and a scrape does not wait for its end.
func TestServerInAnOutage(t *testing.T) {
	t.Parallel()
	srv := natstest.StartRestartable(t)
	b := jsbroker.NewBroker(broker.Addrs(srv.ClientURL()), broker.Logger(natstest.Quiet()), jsbroker.WithNATSOptions(nats.ReconnectWait(20*time.Millisecond)))
	reg := newServer(t, b, metrics.ServerInterval(time.Second))
	want(t, reg, map[string]float64{`micro_broker_server_up{}`: 0}) // not connected yet
	if err := b.Connect(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = b.Disconnect() }()
	publish(t, b, "orders", 3)
	natstest.Eventually(t, "the first answer", func() bool { return values(t, reg)[`micro_broker_stream_messages{stream="ORDERS"}`] == 3 })
	srv.Stop()
	natstest.Eventually(t, "the outage", func() bool { return values(t, reg)[`micro_broker_server_up{}`] == 0 })
	want(t, reg, map[string]float64{`micro_broker_stream_messages{stream="ORDERS"}`: 3}) // the last that is known
	srv.Start(t)
	natstest.Eventually(t, "the end of the outage", func() bool { return values(t, reg)[`micro_broker_server_up{}`] == 1 })
}

func TestNewServerRefuses(t *testing.T) {
	t.Parallel()
	own := jsbroker.NewBroker()
	for _, c := range []struct {
		name string
		b    broker.Broker
		opt  metrics.ServerOption
		want error
	}{
		{"no broker", nil, nil, jsbroker.ErrForeign},
		{"another broker", broker.NewMemoryBroker(), nil, jsbroker.ErrForeign},
		{"a short interval", own, metrics.ServerInterval(time.Millisecond), jsbroker.ErrInvalidConfig},
		{"no streams", own, metrics.ServerLimits(0, 1), jsbroker.ErrInvalidConfig},
		{"no consumers", own, metrics.ServerLimits(1, -1), jsbroker.ErrInvalidConfig},
	} {
		if _, err := metrics.NewServer(c.b, c.opt); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
	}
}

// How many messages wait because of DeliverAfter is the size of the stream where they
// wait.
func TestServerSeesWhatWaits(t *testing.T) {
	t.Parallel()
	b, _ := connected(t, natstest.Start(t).ClientURL())
	publish(t, b, "orders.created", 1)
	for range 3 {
		if err := b.Publish("orders.created", &broker.Message{Body: []byte("a")}, jsbroker.DeliverAfter(time.Hour)); err != nil {
			t.Fatal(err)
		}
	}
	want(t, newServer(t, b), map[string]float64{
		`micro_broker_stream_messages{stream="ORDERS"}`:       1,
		`micro_broker_stream_messages{stream="ORDERS-later"}`: 3,
	})
}
