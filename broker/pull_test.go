package broker

import (
	"errors"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// The server ends each request that has a byte bound with a status: one that was
// served in full is no reason to begin anew with small ones.
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
		{"of a server that does not say", "408", "Request Timeout", "", "", 0, 0, true},
		{"heartbeat", "100", "Idle Heartbeat", "", "", 300, 1000, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			p := pull{first: 6, seq: 7, open: 300, bytes: 1000, got: 10}
			m := nats.NewMsg("_INBOX.x.6")
			m.Header.Set("Status", tt.status)
			m.Header.Set("Description", tt.description)
			if tt.pending != "" {
				m.Header.Set("Nats-Pending-Messages", tt.pending)
				m.Header.Set("Nats-Pending-Bytes", tt.pendingBytes)
			}
			delivery, err := p.accept(m)
			if delivery || err != nil && !errors.Is(err, errBatchDone) {
				t.Fatalf("delivery %v, %v", delivery, err)
			}
			if p.open != tt.open || p.bytes != tt.bytes || p.short != tt.short {
				t.Errorf("open %d, bytes %d, short %v; want %d, %d, %v", p.open, p.bytes, p.short, tt.open, tt.bytes, tt.short)
			}
		})
	}
}

// busyPull has requests under way, and may make another one.
func busyPull(t *testing.T, opts ...nats.Option) *pull {
	t.Helper()
	s, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: -1, NoSigs: true})
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(s.Shutdown)
	nc, err := nats.Connect(s.ClientURL(), opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	p := &pull{nc: nc, link: &link{nc: nc}, batch: batchSizer{size: maxBatch}, open: 240, got: 20}
	_, p.madeOn = p.link.state()
	return p
}

// The server refuses requests beyond MaxWaiting, so a small one is for one at a time.
func TestNoEarlyRequestWhereFewMayWait(t *testing.T) {
	t.Parallel()
	p := busyPull(t)
	for most, want := range map[int]bool{0: true, 1: false, severalWaiting - 1: false, severalWaiting: true} {
		if p.early(&consumer{cfg: jetstream.ConsumerConfig{MaxWaiting: most}}, 10) != want {
			t.Errorf("with MaxWaiting %d early is %v, want %v", most, !want, want)
		}
	}
	if p.open = 0; !p.early(&consumer{cfg: jetstream.ConsumerConfig{MaxWaiting: 1}}, 10) {
		t.Error("not early although no request is under way")
	}
}

// After a reconnect the requests that were under way are dead. One more must not
// make them count as alive: nothing would be asked for until it was silent for long.
func TestNoEarlyRequestBesideThoseOfALostConnection(t *testing.T) {
	t.Parallel()
	back := make(chan struct{}, 1)
	p := busyPull(t, nats.ReconnectWait(time.Millisecond), nats.ReconnectHandler(func(*nats.Conn) { back <- struct{}{} }))
	if !p.early(&consumer{}, 10) {
		t.Fatal("not early on the connection that the requests were made on")
	}
	if err := p.nc.ForceReconnect(); err != nil {
		t.Fatal(err)
	}
	awaitBack(t, back)
	if p.early(&consumer{}, 10) {
		t.Error("early although they were lost with their connection")
	}
}

// What is asked for while the connection is down goes out on the next one, and dies with
// that: also if nobody has looked in between.
func TestRequestMadeWhileDownDiesWithTheNextConnection(t *testing.T) {
	t.Parallel()
	back := make(chan struct{}, 1)
	p := busyPull(t, nats.ReconnectWait(time.Millisecond), nats.ReconnectHandler(func(*nats.Conn) { back <- struct{}{} }))
	p.abandon()
	reconnect := func() {
		if err := p.nc.ForceReconnect(); err != nil {
			t.Fatal(err)
		}
	}
	reconnect()
	if err := p.request(&consumer{name: "c", stream: &stream{name: "s"}}, 0); err != nil {
		t.Fatal(err)
	}
	awaitBack(t, back)
	reconnect()
	awaitBack(t, back)
	if !p.outlived() {
		t.Error("the connection that has the request was lost, and it counts as alive")
	}
}

func awaitBack(t *testing.T, back <-chan struct{}) {
	t.Helper()
	select {
	case <-back:
	case <-time.After(20 * time.Second):
		t.Fatal("no reconnect")
	}
}

// The waits of idle subscriptions end together, so that a thousand of them do not
// wake the process a thousand times.
func TestIdleWaitsEndTogether(t *testing.T) {
	t.Parallel()
	born := time.Now()
	p := pull{clock: born, idle: 1}
	for _, at := range []time.Duration{0, time.Millisecond, 999 * time.Millisecond, time.Second, 4321 * time.Millisecond} {
		wait := p.nextWait(born.Add(at))
		if end := at + wait; end%together != 0 {
			t.Errorf("begun after %v it ends after %v", at, end)
		}
		if wait > maxWait || wait <= maxWait-together {
			t.Errorf("begun after %v it takes %v", at, wait)
		}
	}
	if p.idle = 0; p.nextWait(born.Add(time.Millisecond)) != minWait {
		t.Error("a wait after messages is not minWait")
	}
	if p.idle, p.fixedWait = 1, 7*time.Second; p.nextWait(born.Add(time.Millisecond)) != p.fixedWait {
		t.Error("the user's wait is not kept")
	}
}
