package link_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"go-micro-jetstream/broker/internal/fault"
	"go-micro-jetstream/broker/internal/link"
)

func TestDialRefusesBadOptions(t *testing.T) {
	t.Parallel()
	wrong := errors.New("wrong")
	c := link.New(link.Config{Servers: []string{"nats://127.0.0.1:1"}, Options: []nats.Option{nil, func(*nats.Options) error { return wrong }}})
	err := c.Dial()
	if !errors.Is(err, fault.ErrInvalidConfig) || !errors.Is(err, wrong) || !strings.Contains(err.Error(), "WithNATSOptions") {
		t.Error(err)
	}
	c.Close()
}

func TestDialWithoutServer(t *testing.T) {
	t.Parallel()
	c := link.New(link.Config{Servers: []string{"nats://user:secret@127.0.0.1:1"}})
	if err := c.Dial(); !errors.Is(err, nats.ErrNoServers) {
		t.Error(err)
	}
	if up, number := c.State(); up || number != 0 {
		t.Errorf("up: %v, number %d", up, number)
	}
	if err := c.Usable(); !errors.Is(err, fault.ErrConnectionLost) {
		t.Error(err)
	}
	if url := c.URL(); url == "" || strings.Contains(url, "secret") {
		t.Error(url)
	}
	c.Close()
}

func TestDialWithoutJetStream(t *testing.T) {
	t.Parallel()
	s := startServer(t, func(o *server.Options) { o.JetStream = false })
	c, r := newConn(t, s)
	if err := c.Dial(); !errors.Is(err, fault.ErrJetStreamUnavailable) {
		t.Error(err)
	}
	receive(t, c.Closed())
	if !c.Expected() || !c.NATS().IsClosed() {
		t.Error("the connection is still there")
	}
	r.wantEvents(t, "up at", "lost")
	r.wantNoEvents(t)
}

func TestDialWithoutInbox(t *testing.T) {
	t.Parallel()
	s := startServer(t, limited("none", "_INBOX.>"))
	c, _ := newConn(t, s, nats.UserInfo("limited", "pw"))
	began := time.Now()
	if err := c.Dial(); !errors.Is(err, fault.ErrPermission) || !strings.Contains(err.Error(), "nats.CustomInboxPrefix") {
		t.Error(err)
	}
	if took := time.Since(began); took >= link.APITimeout {
		t.Errorf("that took %v", took)
	}
	mine, _ := newConn(t, s, nats.UserInfo("limited", "pw"), nats.CustomInboxPrefix("_MINE"))
	if err := mine.Dial(); err != nil {
		t.Error(err)
	}
	for subject, want := range map[string]bool{"_MINE.x": true, "_INBOX.x": false, "_MINEx": false} {
		if mine.AboutInbox(errors.New(`nats: permissions violation: Permissions Violation for Subscription to "`+subject+`"`)) != want {
			t.Errorf("about inbox with %s: %v", subject, !want)
		}
	}
}

// A user may lack permission for the look-up that Dial makes, and need it for nothing.
func TestDialWithoutPermissionForTheLookUp(t *testing.T) {
	t.Parallel()
	s := startServer(t, limited("$JS.API.INFO", "none"))
	_, r := dialled(t, s, nats.UserInfo("limited", "pw"))
	r.logged(t, "could not verify that JetStream is enabled")
}

// Dial does not wait for a server that is to come, and no answer is lost when it does.
func TestDialBeforeTheServer(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	s.Stop()
	c, r := dialled(t, s, nats.RetryOnFailedConnect(true), nats.ReconnectWait(10*time.Millisecond))
	if err := c.Usable(); !errors.Is(err, fault.ErrConnectionLost) {
		t.Error(err)
	}
	if limit, ok := c.Accepts(1 << 20); !ok {
		t.Errorf("before it is known: %d", limit)
	}
	result := make(chan error, 1)
	go func() { result <- c.Await(testContext(t)) }()
	s.Start(t)
	if err := receive(t, result); err != nil {
		t.Error(err)
	}
	r.wantEvents(t, "up at")
	r.wantNoEvents(t)
	if err := c.CheckVersion(); err != nil {
		t.Error(err)
	}
}

func TestName(t *testing.T) {
	t.Parallel()
	for want, opts := range map[string][]nats.Option{"ours": nil, "theirs": {nats.Name("theirs")}} {
		if name := link.New(link.Config{Name: "ours", Options: opts}).Name(); name != want {
			t.Errorf("%q instead of %q", name, want)
		}
	}
}

func TestAccepts(t *testing.T) {
	t.Parallel()
	s := startServer(t, func(o *server.Options) { o.MaxPayload = 1000 })
	c, _ := dialled(t, s)
	for size, want := range map[int]bool{0: true, 1000: true, 1001: false} {
		if limit, ok := c.Accepts(size); ok != want || limit != 1000 {
			t.Errorf("%d bytes: %v, limit %d", size, ok, limit)
		}
	}
}
