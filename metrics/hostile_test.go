package metrics_test

import (
	"bufio"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"
	"go-micro.dev/v5/broker"

	jsbroker "go-micro-jetstream/broker"
	"go-micro-jetstream/internal/natstest"
	"go-micro-jetstream/metrics"
)

// hostile is a client that writes what it likes, without a library that checks it.
type hostile struct {
	address string
	conn    net.Conn
	r       *rand.Rand

	mu      sync.Mutex
	replies []string // reply subjects that it has seen
}

// write sends a frame. The server closes the connection at many of them.
func (h *hostile) write(frame []byte) {
	for range 3 {
		if h.conn == nil && !h.dial() {
			return
		}
		_ = h.conn.SetWriteDeadline(time.Now().Add(natstest.Patience))
		if _, err := h.conn.Write(frame); err == nil {
			return
		}
		_ = h.conn.Close()
		h.conn = nil
	}
}

func (h *hostile) dial() bool {
	conn, err := net.Dial("tcp", h.address)
	if err != nil {
		return false
	}
	h.conn = conn
	go func() { // what the server says is of no interest
		in := bufio.NewReader(conn)
		for _, err := in.ReadString('\n'); err == nil; _, err = in.ReadString('\n') {
		}
	}()
	_, err = conn.Write([]byte("CONNECT {\"verbose\":false,\"headers\":true,\"no_responders\":true}\r\nPING\r\n"))
	return err == nil
}

// saw keeps a reply subject: an inbox of the broker.
func (h *hostile) saw(m *nats.Msg) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.replies) > 100 {
		h.replies = h.replies[50:]
	}
	if m.Reply != "" && !strings.HasPrefix(m.Reply, "$JS.ACK") {
		h.replies = append(h.replies, m.Reply)
	}
}

func (h *hostile) reply() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.replies) == 0 {
		return "orders.x"
	}
	return h.replies[h.r.IntN(len(h.replies))]
}

func pick(r *rand.Rand, of ...string) string { return of[r.IntN(len(of))] }

// noise is a string of bytes that stands on one line.
func noise(r *rand.Rand, n int) string {
	b := make([]byte, n)
	for i := range b {
		for b[i] = byte(r.UintN(256)); strings.IndexByte(" \t\r\n", b[i]) >= 0; {
			b[i] = byte(r.UintN(256))
		}
	}
	return string(b)
}

// subject is one that the stream takes in, or an inbox of the broker.
func (h *hostile) subject() string {
	r := h.r
	switch r.IntN(10) {
	case 0:
		return h.reply()
	case 1:
		return "orders." + strings.ReplaceAll(noise(r, 1+r.IntN(8)), "\x7f", "x")
	case 2:
		return "orders." + strings.Repeat("s", 1+r.IntN(900))
	case 3:
		return "orders." + strconv.Itoa(r.IntN(1<<30)) // another one each time
	}
	return "orders"
}

// answers is where an answer is wanted. The server acknowledges what a stream has stored
// to any subject, also to one of the API, and would delete the stream. Whoever may publish there can acknowledge the
// messages of others, so the consumer's own subjects are left out: nothing can tell such
// an acknowledgement from ours.
func (h *hostile) answers(subject string) string {
	if strings.HasPrefix(subject, "orders") {
		return pick(h.r, "", "", "", "$JS.ACK", "_INBOX.x", h.reply())
	}
	return pick(h.r, "", "", "$JS.ACK", "$JS.ACK.x", "$JS.ACK.ORDERS.other.1.1.1.1.1", "$JS.API.STREAM.PURGE.ORDERS",
		"$JS.API.STREAM.DELETE.ORDERS", "$JS.API.CONSUMER.DELETE.ORDERS.q", "$JS.ACK.a.b.c.d.e.f.g.h.i.j.k", "_INBOX.x", h.reply())
}

// value is one that some code looks at.
func (h *hostile) value() string {
	r := h.r
	return pick(r, "", "0", "-1", "18446744073709551615", "99999999999999999999", "NaN", "404", "100", "503",
		"00-0123456789abcdef0123456789abcdef-0123456789abcdef-01", "00-"+noise(r, 32)+"-0123456789abcdef-01", "application/json",
		strings.Repeat("v", r.IntN(30000)), noise(r, r.IntN(50)), "<script>alert(1)</script>", "1s", "all")
}

var lookedAt = []string{
	"Status", "Description", "Nats-Msg-Id", "Nats-Pending-Messages", "Nats-Pending-Bytes", "Nats-Last-Consumer",
	"Nats-Expected-Stream", "Nats-Expected-Last-Sequence", "Nats-Rollup", "Nats-TTL", "Nats-Schedule", "Nats-Marker-Reason",
	"Nats-Sequence", "traceparent", "Traceparent", "TRACEPARENT", "tracestate", "baggage", "Content-Type", "content-type",
	"Micro-Topic", "Micro-Id", "Micro-Dead-Letter-Hops", "Micro-Dead-Letter-Reason", "Micro-Dead-Letter-Redriven", ":path",
}

func (h *hostile) headers() string {
	r := h.r
	var b strings.Builder
	b.WriteString(pick(r, "NATS/1.0\r\n", "NATS/1.0\r\n", "NATS/1.0\r\n", "NATS/1.0 409 Consumer Deleted\r\n", "NATS/1.0 100\r\n",
		"NATS/1.0 503\r\n", "NATS/1.0 409 "+noise(r, 200)+"\r\n", "NATS/1.0 "+noise(r, 3)+"\r\n", "NATS/9\r\n", ""))
	switch r.IntN(6) {
	case 0: // many of them
		for i := range r.IntN(9000) {
			fmt.Fprintf(&b, "%03x:\r\n", i)
		}
	case 1:
		fmt.Fprintf(&b, "%s: %s\r\n", noise(r, 1+r.IntN(20)), noise(r, r.IntN(100)))
	case 2: // the same one many times
		for range r.IntN(1000) {
			b.WriteString("k: v\r\n")
		}
	default:
		for range r.IntN(6) {
			fmt.Fprintf(&b, "%s: %s\r\n", lookedAt[r.IntN(len(lookedAt))], h.value())
		}
	}
	b.WriteString(pick(r, "\r\n", "\r\n", "\r\n", "\r\n", "\n", ""))
	return b.String()
}

// frame is a message as it stands on the wire.
func (h *hostile) frame() []byte {
	body := h.r.IntN(64)
	if h.r.IntN(50) == 0 {
		body = h.r.IntN(1 << 18)
	}
	headers, subject := h.headers(), h.subject()
	if h.r.IntN(4) == 0 {
		return fmt.Appendf(nil, "PUB %s %s %d\r\n%s\r\n", subject, h.answers(subject), body, strings.Repeat("b", body))
	}
	return fmt.Appendf(nil, "HPUB %s %s %d %d\r\n%s%s\r\n", subject, h.answers(subject), len(headers), len(headers)+body, headers, strings.Repeat("b", body))
}

// goodWorks counts the proper messages that are handled.
type goodWorks struct {
	mu    sync.Mutex
	times map[string]int
}

// handle does with others' messages what handlers do: it acks, fails, discards, panics.
func (g *goodWorks) handle(e broker.Event) error {
	body := string(e.Message().Body)
	if !strings.HasPrefix(body, "good ") {
		switch len(body) % 8 {
		case 0:
			return jsbroker.Discard(fmt.Errorf("cannot read %q", body))
		case 1:
			return jsbroker.RetryAfter(time.Hour, fmt.Errorf("cannot read %q", body))
		case 2:
			if jsbroker.NumDelivered(e) == 1 {
				panic(body)
			}
		}
		return nil
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.times[body]++
	return nil
}

func (g *goodWorks) missing(n int) (missing int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for i := range n {
		if g.times[fmt.Sprint("good ", i)] == 0 {
			missing++
		}
	}
	return missing
}

func heap() uint64 {
	runtime.GC()
	runtime.GC() // what has a finalizer is gone after the second
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// series is how many series the metrics have.
func series(t *testing.T, reg *prometheus.Registry) (n int) {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Error(err)
	}
	for _, f := range families {
		n += len(f.Metric)
	}
	return n
}

// hostileTime is for how long each seed runs. HOSTILE_SEED has one seed run, for looking
// into what it has found.
const hostileTime = 4 * time.Second

// A publisher that sends anything it likes costs a bounded amount of memory, log lines,
// series and goroutines, and proper messages are all handled, once each.
func TestHostilePublisherKeepsItsBounds(t *testing.T) {
	seeds := []uint64{1, 2, rand.Uint64()}
	if s, err := strconv.ParseUint(os.Getenv("HOSTILE_SEED"), 10, 64); err == nil {
		seeds = []uint64{s}
	}
	for _, seed := range seeds {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) { attack(t, seed) })
	}
}

func attack(t *testing.T, seed uint64) {
	t.Helper()
	s := natstest.Start(t, func(o *server.Options) { o.MaxPayload = 1 << 19 })
	nc, js := natstest.Connect(t, s.ClientURL(), nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}))
	reg, log := prometheus.NewRegistry(), natstest.NewLog()
	b := jsbroker.NewBroker(broker.Addrs(s.ClientURL()), broker.Logger(log), jsbroker.WithHooks(metrics.New(metrics.WithRegisterer(reg))))
	if err := b.Connect(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Disconnect() })
	g := &goodWorks{times: map[string]int{}}
	for topic, queue := range map[string]string{"orders": "q", "orders.>": "wide"} {
		if _, err := b.Subscribe(topic, g.handle, broker.Queue(queue)); err != nil {
			t.Fatal(err)
		}
	}
	h := &hostile{address: s.Addr().String(), r: rand.New(rand.NewPCG(seed, 0))}
	defer func() {
		if h.conn != nil {
			_ = h.conn.Close()
		}
	}()
	for _, subject := range []string{"$JS.API.CONSUMER.MSG.NEXT.>", "orders", "orders.>"} {
		if _, err := nc.Subscribe(subject, h.saw); err != nil {
			t.Fatal(err)
		}
	}
	sent, good := 0, 0
	defer func() {
		if !t.Failed() {
			return
		}
		t.Logf("%d hostile messages, %d proper ones, %d of them not handled; to look into it: HOSTILE_SEED=%d", sent, good, g.missing(good), seed)
		for _, queue := range []string{"q", "wide"} {
			t.Logf("%+v", natstest.ConsumerInfo(t, js, "ORDERS", queue))
		}
		for _, line := range log.Lines() {
			t.Log(line)
		}
	}()
	publish := func() {
		if err := b.Publish(pick(h.r, "orders", "orders.good"), &broker.Message{Body: fmt.Append(nil, "good ", good)}); err != nil {
			t.Errorf("a proper message: %v", err)
		}
		good++
	}
	publish()
	natstest.Eventually(t, "the first message is handled", func() bool { return g.missing(good) == 0 })
	goroutines, before, first, began := len(natstest.Goroutines()), heap(), series(t, reg), time.Now()
	var peak uint64
	for time.Since(began) < hostileTime {
		h.write(h.frame())
		if sent++; sent%50 == 0 {
			publish()
		}
		if sent%1000 == 0 {
			peak = max(peak, heap())
		}
	}
	for range 10 {
		publish()
	}
	natstest.Eventually(t, "all proper messages are handled", func() bool { return g.missing(good) == 0 })
	took := time.Since(began)
	peak = max(peak, heap())
	g.mu.Lock()
	for body, n := range g.times {
		if n != 1 {
			t.Errorf("%q was handled %d times", body, n)
		}
	}
	g.mu.Unlock()
	t.Logf("%d hostile messages and %d proper ones in %v, heap %d to %d MiB, %d lines, %d to %d series",
		sent, good, took, before>>20, peak>>20, len(log.Lines()), first, series(t, reg))
	if grown := int64(peak) - int64(before); grown > 128<<20 { // with the server, which is in this process
		t.Errorf("the heap has grown by %d MiB", grown>>20)
	}
	// Two subscriptions, and a dozen kinds of lines, one each in a second.
	if n, most := len(log.Lines()), 30*(2+int(took/time.Second)); n > most {
		t.Errorf("%d log lines in %v, want at most %d", n, took, most)
	}
	if n := series(t, reg); n > 2*first {
		t.Errorf("%d series, %d before", n, first)
	}
	natstest.Eventually(t, "no goroutine is left over", func() bool { return len(natstest.Goroutines()) <= goroutines+8 })
}
