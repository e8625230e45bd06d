package metrics_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go-micro.dev/v5/broker"

	jsbroker "go-micro-jetstream/broker"
	"go-micro-jetstream/internal/natstest"
	"go-micro-jetstream/metrics"
)

// Topics with everything that a subject may hold are labels as they are. One that is no
// UTF-8 is refused, and where it comes from others, it is handled and is no label.
func TestStrangeTopics(t *testing.T) {
	t.Parallel()
	h, reg := newHooks(t)
	b, js := connected(t, natstest.Start(t).ClientURL(), jsbroker.WithHooks(h))
	start := `orders.<script/src="1"&\{}='` + "`é"
	long := start + strings.Repeat("x", 255-len(start))
	handled := make(chan string, 10)
	if _, err := b.Subscribe("orders.>", func(e broker.Event) error { handled <- e.Topic(); return nil }, broker.Queue("q")); err != nil {
		t.Fatal(err)
	}
	if err := b.Publish(long, &broker.Message{Body: []byte("a")}); err != nil {
		t.Fatal(err)
	}
	if got := natstest.Receive(t, handled); got != long {
		t.Errorf("handled %q, want %q", got, long)
	}
	const invalid = "orders.\xff\xfe"
	if err := b.Publish(invalid, &broker.Message{Body: []byte("a")}); !errors.Is(err, jsbroker.ErrInvalidTopic) {
		t.Errorf("publish to %q: %v", invalid, err)
	}
	// Others do not ask this broker.
	if _, err := js.Publish(t.Context(), invalid, []byte("a")); err != nil {
		t.Fatal(err)
	}
	natstest.Receive(t, handled)
	want(t, reg, map[string]float64{
		"micro_broker_published_total{topic=\"" + long + "\"}":                    1,
		`micro_broker_publish_errors_total{reason="invalid_topic",topic="other"}`: 1,
		`micro_broker_fetched_total{queue="q",topic="orders.>"}`:                  2,
	})
	escaped := strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(long)
	if text := string(scrape(t, reg, openMetrics)); !strings.Contains(text, `micro_broker_published_total{topic="`+escaped+`"} 1.0`) {
		t.Errorf("the scrape lacks the topic %s", escaped)
	}
}

// Ten thousand topics have as many series as a hundred, and none is forgotten.
func TestTenThousandTopics(t *testing.T) {
	t.Parallel()
	h, reg := newHooks(t)
	b, _ := connected(t, natstest.Start(t).ClientURL(), jsbroker.WithHooks(h))
	const n = 10_000
	var done sync.WaitGroup
	for i := range n {
		done.Add(1)
		err := b.Publish(fmt.Sprintf("orders.%d", i), &broker.Message{Body: []byte("a")}, jsbroker.Async(func(err error) {
			if err != nil {
				t.Error(err)
			}
			done.Done()
		}))
		if err != nil {
			t.Fatal(err)
		}
	}
	done.Wait()
	topics, total := 0, 0.0
	for name, v := range values(t, reg) {
		if strings.HasPrefix(name, "micro_broker_published_total{") {
			topics++
			total += v
		}
	}
	if topics != 101 || total != n {
		t.Errorf("%d topics with %v messages, want 101 with %d", topics, total, n)
	}
}

// A scrape that is never read to its end holds up nothing: neither other scrapes nor
// the broker.
func TestScrapeThatHangs(t *testing.T) {
	t.Parallel()
	h, reg := newHooks(t)
	b, _ := connected(t, natstest.Start(t).ClientURL(), jsbroker.WithHooks(h))
	for i := range 1000 { // more than the buffers of a connection hold
		subscribe(h, jsbroker.Subscription{Topic: fmt.Sprintf("parcels.%d", i), Queue: "q"})
	}
	began := make(chan struct{}, 10)
	handler := promhttp.HandlerFor(reg, promhttp.HandlerOpts{DisableCompression: true})
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		began <- struct{}{}
		handler.ServeHTTP(w, r)
	}))
	t.Cleanup(srv.Close)
	var hanging []net.Conn
	for range 3 {
		c, err := net.Dial("tcp", srv.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: a\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		natstest.Receive(t, began)
		if _, err := c.Read(make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		hanging = append(hanging, c)
	}
	defer func() {
		for _, c := range hanging {
			_ = c.Close()
		}
	}()
	handled := make(chan struct{}, 1)
	sub, err := b.Subscribe("orders", func(broker.Event) error { handled <- struct{}{}; return nil }, broker.Queue("q"))
	if err != nil {
		t.Fatal(err)
	}
	publish(t, b, "orders", 1)
	natstest.Receive(t, handled)
	if err := sub.Unsubscribe(); err != nil {
		t.Error(err)
	}
	resp, err := http.Get(srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(resp.Body)
	if err != nil || !strings.Contains(string(text), `micro_broker_published_total{topic="orders"} 1`) {
		t.Errorf("%d bytes, %v", len(text), err)
	}
}

// Two brokers of one process, each with a collector, on two servers.
func TestTwoServers(t *testing.T) {
	t.Parallel()
	reg := prometheus.NewPedanticRegistry()
	for i, cluster := range []string{"a", "b"} {
		b, _ := connected(t, natstest.Start(t).ClientURL())
		publish(t, b, "orders", i+1)
		s, err := metrics.NewServer(b)
		if err != nil {
			t.Fatal(err)
		}
		r := prometheus.WrapRegistererWith(prometheus.Labels{"cluster": cluster}, reg)
		if err := r.Register(s); err != nil {
			t.Fatal(err)
		}
		second, err := metrics.NewServer(b)
		if err != nil {
			t.Fatal(err)
		}
		if err := r.Register(second); !errors.As(err, &prometheus.AlreadyRegisteredError{}) {
			t.Errorf("a second one on the same registry: %v", err)
		}
	}
	want(t, reg, map[string]float64{
		`micro_broker_stream_messages{cluster="a",stream="ORDERS"}`: 1,
		`micro_broker_stream_messages{cluster="b",stream="ORDERS"}`: 2,
	})
}
