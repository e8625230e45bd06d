package link_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"go-micro-jetstream/broker/internal/fault"
	"go-micro-jetstream/broker/internal/link"
	"go-micro-jetstream/internal/natstest"
)

// reconnecting returns a connection and a channel that gets a value after each
// reconnect, when its own callback has returned.
func reconnecting(t *testing.T) (*link.Conn, *recorder, <-chan struct{}) {
	t.Helper()
	back := make(chan struct{}, 100)
	c, r := dialled(t, startServer(t), nats.ReconnectHandler(func(*nats.Conn) { back <- struct{}{} }))
	return c, r, back
}

func TestRestartOfTheServer(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	c, r := dialled(t, s)
	r.wantEvents(t, "up at")
	up, first := c.State()
	if !up || first == 0 || !c.Up() || c.Usable() != nil {
		t.Fatalf("up %v, %d, %v", up, first, c.Usable())
	}
	changed := c.Changed()
	s.Stop()
	receive(t, changed)
	r.wantEvents(t, "lost", "down")
	r.logged(t, "connection lost, reconnecting")
	if up, number := c.State(); up || number != 0 || c.Up() {
		t.Errorf("up: %v, number %d", up, number)
	}
	if err := c.Usable(); !errors.Is(err, fault.ErrConnectionLost) {
		t.Error(err)
	}
	if c.URL() != s.ClientURL() {
		t.Errorf("the server was %s, not %s", s.ClientURL(), c.URL())
	}
	short, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	err := c.Do(short, "INFO", func(context.Context) error {
		t.Error("a request is made while the connection is down")
		return nil
	})
	if !errors.Is(err, fault.ErrNotConnected) || !errors.Is(err, fault.ErrConnectionLost) || !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}

	waiters := make(chan error, 3)
	for range cap(waiters) {
		go func() { waiters <- c.Await(testContext(t)) }()
	}
	s.Start(t)
	for range cap(waiters) {
		if err := receive(t, waiters); err != nil {
			t.Error(err)
		}
	}
	r.wantEvents(t, "lost", "up at")
	r.logged(t, "reconnected to")
	if up, number := c.State(); !up || number == first || c.Usable() != nil {
		t.Errorf("up: %v, number %d after %d, %v", up, number, first, c.Usable())
	}
}

// A change of the state is seen before the event about it.
func TestChangedComesBeforeEvents(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	lost := make(chan bool, 1)
	var c *link.Conn
	var changed <-chan struct{}
	c = link.New(link.Config{Servers: []string{s.ClientURL()}, Options: []nats.Option{nats.NoReconnect()}, Events: link.Events{
		Up: func(string) { changed = c.Changed() },
		Lost: func() {
			select {
			case <-changed:
				lost <- true
			default:
				lost <- false
			}
		},
	}})
	if err := c.Dial(); err != nil {
		t.Fatal(err)
	}
	s.Stop()
	if !receive(t, lost) {
		t.Error("nobody was woken before Lost")
	}
	c.Close()
}

func TestClosedByTheClient(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	c, r := dialled(t, s, nats.NoReconnect())
	r.wantEvents(t, "up at")
	waiting := make(chan error, 1)
	s.Stop()
	receive(t, c.Closed())
	go func() { waiting <- c.Await(testContext(t)) }()
	if err := receive(t, waiting); !errors.Is(err, nats.ErrConnectionClosed) {
		t.Error(err)
	}
	if err := c.Do(testContext(t), "INFO", func(context.Context) error { return nil }); !errors.Is(err, fault.ErrNotConnected) {
		t.Error(err)
	}
	r.wantEvents(t, "lost", "closed")
	r.logged(t, "connection closed for good, its subscriptions end")
	if c.Expected() {
		t.Error("Close was not called")
	}
	c.Close()
	r.wantNoEvents(t)
}

// The user's callbacks come after the events, with one of the two about a loss.
func TestCallbacksOfTheUser(t *testing.T) {
	t.Parallel()
	for _, quiet := range []bool{false, true} {
		s := startServer(t)
		var r *recorder
		say := func(what string) nats.ConnHandler { return func(*nats.Conn) { r.record("user " + what) } }
		opts := []nats.Option{
			nats.ConnectHandler(say("connected")), nats.ReconnectHandler(say("reconnected")), nats.ClosedHandler(say("closed")),
			nats.DisconnectHandler(say("must not be called")),
			nats.DisconnectErrHandler(func(*nats.Conn, error) { r.record("user disconnected") }),
		}
		if quiet {
			opts = append(opts, nats.NoCallbacksAfterClientClose())
		}
		var c *link.Conn
		c, r = newConn(t, s, opts...)
		if err := c.Dial(); err != nil {
			t.Fatal(err)
		}
		r.wantEvents(t, "up at", "user connected")
		if err := c.NATS().ForceReconnect(); err != nil {
			t.Fatal(err)
		}
		r.wantEvents(t, "lost", "down", "user disconnected", "lost", "up at", "user reconnected")
		c.Close()
		r.logged(t, "disconnected from "+s.ClientURL())
		if quiet {
			r.wantEvents(t, "lost")
		} else {
			r.wantEvents(t, "user disconnected", "lost", "user closed")
		}
		r.wantNoEvents(t)
	}
}

// Not parallel: it counts the goroutines of the process.
func TestCloseLeavesNoGoroutine(t *testing.T) {
	s := startServer(t, limited("none", "none"))
	c, r := dialled(t, s, nats.UserInfo("limited", "pw"))
	r.wantEvents(t, "up at")
	reload(t, s, limited("none", "_INBOX.>")) // from now on a goroutine waits to reconnect
	r.wantEvents(t, "lost, deaf", "refused, deaf")
	if len(natstest.Goroutines()) == 0 {
		t.Error("there are none before Close: the test does not see them")
	}
	c.Close()
	receive(t, c.Closed())
	if !c.Expected() || c.Up() {
		t.Error("it is not closed")
	}
	eventually(t, "no goroutine is left", func() bool { return len(natstest.Goroutines()) == 0 })
}
