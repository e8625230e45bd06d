package pull

import (
	"encoding/json"
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"go-micro-jetstream/broker/internal/asset"
	"go-micro-jetstream/broker/internal/consumers"
	"go-micro-jetstream/broker/internal/link"
	"go-micro-jetstream/broker/internal/wire"
	"go-micro-jetstream/internal/natstest"
)

// The server ends each request that has a byte bound with a status. One that was served
// in full is no reason to begin anew with small requests.
func TestEndsOfRequests(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, status, description, pending, pendingBytes string
		open, bytes                                      int
		short                                            bool
	}{
		{"in full, with bytes to spare", "409", "Batch Completed", "0", "700", 300, 300, false},
		{"bytes used up", "409", "Message Size Exceeds MaxBytes", "40", "5", 260, 995, true},
		{"expired", "408", "Request Timeout", "250", "900", 50, 100, true},
		{"with a number that no server sends", "408", "Request Timeout", "18446744073709551615", "9223372036854775808", 0, 0, true},
		{"of a server that does not say", "408", "Request Timeout", "", "", 0, 0, true},
		{"heartbeat", "100", "Idle Heartbeat", "", "", 300, 1000, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			p := Pull{first: 6, latest: 7, open: 300, bytes: 1000, got: 10}
			m := nats.NewMsg("_INBOX.x.6")
			m.Header.Set("Status", tt.status)
			m.Header.Set("Description", tt.description)
			if tt.pending != "" {
				m.Header.Set("Nats-Pending-Messages", tt.pending)
				m.Header.Set("Nats-Pending-Bytes", tt.pendingBytes)
			}
			delivery, err := p.Accept(m)
			if delivery || err != nil && !errors.Is(err, wire.ErrBatchDone) {
				t.Fatalf("delivery %v, %v", delivery, err)
			}
			if p.open != tt.open || p.bytes != tt.bytes || p.short != tt.short {
				t.Errorf("open %d, bytes %d, short %v; want %d, %d, %v", p.open, p.bytes, p.short, tt.open, tt.bytes, tt.short)
			}
		})
	}
}

// A status of a request that was given up says nothing about those under way.
func TestStatusOfAnEarlierRequestIsIgnored(t *testing.T) {
	t.Parallel()
	for _, subject := range []string{"_INBOX.x.5", "_INBOX.x.no-number", "_INBOX"} {
		p := Pull{first: 6, latest: 7, open: 300}
		m := nats.NewMsg(subject)
		m.Header.Set("Status", "409")
		m.Header.Set("Description", "Consumer Deleted")
		if delivery, err := p.Accept(m); delivery || err != nil || p.open != 300 {
			t.Errorf("%s: delivery %v, error %v, open %d", subject, delivery, err, p.open)
		}
	}
}

// A message beyond the byte bound is fetched alone. If it is beyond the consumer's own
// bound, that is an error.
func TestMessageBeyondTheByteBoundIsFetchedAlone(t *testing.T) {
	t.Parallel()
	p := Pull{first: 1, latest: 1, open: 10, bytes: 1000, conn: connect(t).conn, maxBytes: 1000, batch: newBatchSizer(0)}
	status := nats.NewMsg("_INBOX.x.1")
	status.Header.Set("Status", "409")
	status.Header.Set("Description", "Message Size Exceeds MaxBytes")
	if _, err := p.Accept(status); !errors.Is(err, wire.ErrBatchDone) {
		t.Fatal(err)
	}
	cs := &consumers.Consumer{Name: "c", Stream: &asset.Stream{Name: "s"}, Config: jetstream.ConsumerConfig{MaxRequestMaxBytes: 5000}}
	r, ok := p.Request(cs, 0)
	if !ok || r.body.Batch != 1 || r.body.MaxBytes != 5000 {
		t.Fatalf("%v, %+v", ok, r.body)
	}
	status.Subject = "_INBOX.x.2"
	if _, err := p.Accept(status); !errors.Is(err, jetstream.ErrMaxBytesExceeded) {
		t.Error(err)
	}
	if _, err := p.Accept(&nats.Msg{Subject: "orders", Reply: "$JS.ACK"}); err != nil || p.single {
		t.Error("the next request is for a single message as well")
	}
}

// The server's names of the fields; without a bound it takes the request for one that
// has none, and without a heartbeat for one that wants none.
func TestRequestBody(t *testing.T) {
	t.Parallel()
	for want, body := range map[string]requestBody{
		`{"batch":10,"expires":5000000000}`:                                               {Batch: 10, Expires: minWait},
		`{"batch":1,"expires":30000000000,"max_bytes":1024,"idle_heartbeat":15000000000}`: {Batch: 1, Expires: maxWait, MaxBytes: 1024, Heartbeat: heartbeat(maxWait, 1000)},
	} {
		if got, err := json.Marshal(body); err != nil || string(got) != want {
			t.Errorf("got %s, %v, want %s", got, err, want)
		}
	}
}

// testConn is a connection that tells when it is up again.
type testConn struct {
	conn *link.Conn
	up   chan string
}

func connect(t *testing.T) testConn {
	t.Helper()
	s := natstest.Start(t)
	c := testConn{up: make(chan string, 100)}
	c.conn = link.New(link.Config{
		Servers: []string{s.ClientURL()},
		Options: []nats.Option{nats.ReconnectWait(time.Millisecond)},
		Log:     slog.New(slog.DiscardHandler),
		Events:  link.Events{Up: func(url string) { c.up <- url }},
	})
	if err := c.conn.Dial(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.conn.Close)
	c.await(t)
	return c
}

func (c testConn) await(t *testing.T) {
	t.Helper()
	natstest.Receive(t, c.up)
}

func (c testConn) reconnect(t *testing.T) {
	t.Helper()
	if err := c.conn.NATS().ForceReconnect(); err != nil {
		t.Fatal(err)
	}
}

// busyPull has requests under way, and may make another one.
func busyPull(t *testing.T) (*Pull, testConn) {
	t.Helper()
	c := connect(t)
	p := &Pull{conn: c.conn, mailbox: mailbox{inbox: "inbox"}, batch: batchSizer{size: maxBatch}, open: 240, got: 20}
	_, p.madeOn = c.conn.State()
	return p, c
}

// The server refuses requests beyond MaxWaiting. With a small one there is one request
// at a time.
func TestNoEarlyRequestWhereFewMayWait(t *testing.T) {
	t.Parallel()
	p, _ := busyPull(t)
	consumer := func(maxWaiting int) *consumers.Consumer {
		return &consumers.Consumer{Config: jetstream.ConsumerConfig{MaxWaiting: maxWaiting}}
	}
	for most, want := range map[int]bool{0: true, 1: false, severalWaiting - 1: false, severalWaiting: true} {
		if p.Early(consumer(most), 10) != want {
			t.Errorf("with MaxWaiting %d early is %v, want %v", most, !want, want)
		}
	}
	if p.open = 0; !p.Early(consumer(1), 10) {
		t.Error("not early although no request is under way")
	}
}

// After a reconnect the requests that were under way are dead. One more must not
// make them count as alive: nothing would be asked for until it was silent for long.
func TestNoEarlyRequestBesideThoseOfALostConnection(t *testing.T) {
	t.Parallel()
	p, c := busyPull(t)
	if !p.Early(&consumers.Consumer{}, 10) {
		t.Fatal("not early on the connection that the requests were made on")
	}
	c.reconnect(t)
	c.await(t)
	if p.Early(&consumers.Consumer{}, 10) {
		t.Error("early although they were lost with their connection")
	}
}

// A request made while the connection is down goes out on the next one, and dies with
// that: also if nobody has looked in between.
func TestRequestMadeWhileDownDiesWithTheNextConnection(t *testing.T) {
	t.Parallel()
	p, c := busyPull(t)
	p.Abandon()
	c.reconnect(t)
	r, ok := p.Request(&consumers.Consumer{Name: "c", Stream: &asset.Stream{Name: "s"}}, 0)
	if !ok {
		t.Fatal("no request")
	}
	if err := p.Send(r); err != nil {
		t.Fatal(err)
	}
	c.await(t)
	c.reconnect(t)
	c.await(t)
	if !p.Outlived() {
		t.Error("the connection that has the request was lost, and it counts as alive")
	}
}

// The waits of idle subscriptions end together, so that a thousand of them do not
// wake the process a thousand times.
func TestIdleWaitsEndTogether(t *testing.T) {
	t.Parallel()
	for _, age := range []time.Duration{0, time.Millisecond, 999 * time.Millisecond, time.Second, 4321 * time.Millisecond} {
		wait := idleWait(age)
		if end := age + wait; end%waitStep != 0 {
			t.Errorf("begun after %v it ends after %v", age, end)
		}
		if wait > maxWait || wait <= maxWait-waitStep {
			t.Errorf("begun after %v it takes %v", age, wait)
		}
	}
	p := Pull{}
	if p.nextWait(time.Now()) != minWait {
		t.Error("a wait after messages is not minWait")
	}
	if p.idle, p.fixedWait = 1, 7*time.Second; p.nextWait(time.Now()) != p.fixedWait {
		t.Error("the user's wait is not kept")
	}
}

func TestBatchFollowsTheHandlers(t *testing.T) {
	t.Parallel()
	began := time.Now()
	after := func(n int, d time.Duration) int {
		b := newBatchSizer(0)
		b.arrived(began)
		b.handled(n, true, began.Add(d))
		return b.next()
	}
	if n := after(minBatch, time.Millisecond); n != batchGrowth*minBatch {
		t.Errorf("quick handlers: %d, want it to grow step by step", n)
	}
	if n := after(minBatch, time.Second); n != minBatch {
		t.Errorf("slow handlers: %d, want the smallest", n)
	}
	b := batchSizer{size: maxBatch}
	b.handled(5, false, began)
	if n := b.next(); n != minBatch {
		t.Errorf("without a backlog: %d, want the smallest", n)
	}
	b = batchSizer{size: maxBatch}
	b.weigh(batchBytes / 3)
	if n := b.next(); n != 3 {
		t.Errorf("large messages: %d, want what weighs %d bytes", n, batchBytes)
	}
	b.weigh(2 * batchBytes)
	if n := b.next(); n != 1 {
		t.Errorf("messages that weigh too much: %d, want 1", n)
	}
	b = newBatchSizer(7)
	b.handled(7, true, began)
	b.reset()
	if b.next() != 7 || b.early(0) {
		t.Errorf("a fixed size is %d, early %v", b.next(), b.early(0))
	}
}

func TestSilenceCountsFromTheRequestAndWhatCameSince(t *testing.T) {
	now := time.Now()
	p := &Pull{asked: requestBody{Expires: maxWait, Heartbeat: 15 * time.Second}, made: now}
	if d := p.Silence(now); d != 20*time.Second {
		t.Errorf("%v after the request", d)
	}
	if d := p.Silence(now.Add(15 * time.Second)); d != 5*time.Second {
		t.Errorf("%v after 15 s without a word", d)
	}
	p.Heard(now.Add(15 * time.Second))
	if d := p.Silence(now.Add(16 * time.Second)); d != 19*time.Second {
		t.Errorf("%v, one second after a heartbeat", d)
	}
	if d := p.Silence(now.Add(time.Hour)); d != leastSilence {
		t.Errorf("%v after an hour", d)
	}
}
