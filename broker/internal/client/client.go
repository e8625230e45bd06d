package client

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"go-micro-jetstream/broker/internal/backoff"
	"go-micro-jetstream/broker/internal/natsopts"
)

// client is one client of nats.go. Usually it is the only one of a Conn. It is replaced
// when it has closed by itself, which nats.go does after errors that it does not know.
type client struct {
	nc     *nats.Conn
	js     jetstream.JetStream
	number uint64 // a later one has a higher number
}

// redials are the replacements of clients. One goroutine at a time uses them: the one
// that dials, and the callback of the client that it has made.
type redials struct {
	inRow  uint64 // without a client that lasted
	latest time.Time
	made   uint64 // clients so far
}

// pause counts a replacement and returns how long to wait before it.
func (r *redials) pause(now time.Time) time.Duration {
	if now.Sub(r.latest) > 2*backoff.Max { // the last client has lasted
		r.inRow = 0
	}
	r.inRow, r.latest = r.inRow+1, now
	return backoff.Delay(r.inRow)
}

// connect makes a client and has everybody use it. Callbacks wait until that is done.
func (c *Conn) connect(o nats.Options) error {
	ready := &readiness{done: make(chan struct{})}
	defer close(ready.done)
	c.setCallbacks(&o, ready)
	failed := natsopts.Protect(&o, c.userCode())
	nc, err := o.Connect()
	if fault := failed(); fault != nil && (err != nil || nc.IsConnected()) {
		if nc != nil {
			nc.Close()
		}
		return fault
	}
	if err != nil {
		return err
	}
	js, err := jetstream.NewWithAPIPrefix(nc, c.prefix, jetstream.WithDefaultTimeout(APITimeout))
	if err != nil {
		nc.Close()
		return err
	}
	c.redials.made++
	next := &client{nc: nc, js: js, number: c.redials.made}
	for _, l := range c.listeners.moveTo(next) {
		// If the client has closed again, the next one gets the subscription.
		_ = l.on(next)
	}
	c.client.Store(next)
	ready.ok = true
	return nil
}

// readiness tells the callbacks of a client whether it is in use.
type readiness struct {
	done chan struct{}
	ok   bool // set before done is closed
}

// wait waits until it is known.
func (r *readiness) wait() (ok bool) {
	<-r.done
	return r.ok
}

// limitReached reports whether the client has closed because the user wants that:
// without reconnects, after so many of them, or after a refusal of the credentials.
func (c *Conn) limitReached(nc *nats.Conn) bool {
	err := nc.LastError()
	switch {
	case !c.options.AllowReconnect:
		return true
	case errors.Is(err, nats.ErrNoServers):
		return c.options.MaxReconnect >= 0
	}
	return !c.options.IgnoreAuthErrorAbort && (errors.Is(err, nats.ErrAuthorization) || errors.Is(err, nats.ErrAuthExpired) ||
		errors.Is(err, nats.ErrAuthRevoked) || errors.Is(err, nats.ErrAccountAuthExpired))
}

// Over reports whether the connection is closed and does not come back.
func (c *Conn) Over() bool {
	nc := c.NATS()
	return nc != nil && nc.IsClosed() && (c.expected.Load() || c.limitReached(nc))
}

// replace is for a client that has closed although nobody wanted that: another one takes
// its place.
func (c *Conn) replace(nc *nats.Conn) {
	_ = c.inbox.reset() // the reason is that of the close
	err := cmp.Or(nc.LastError(), nats.ErrConnectionClosed)
	more, ok := c.lines.Allow("replace")
	if c.lossSaid = ok; ok {
		c.Line(slog.LevelWarn, fmt.Sprintf("the client has closed the connection, dialling again: %v%s", err, more))
	}
	c.events.Down(err)
	go c.redial()
}

// redial makes another client after a pause. The client itself goes on to try if no
// server answers. A Close meanwhile ends it.
func (c *Conn) redial() {
	over := false
	defer func() {
		if over {
			return
		}
		if r := recover(); r != nil { // user code, such as a dialer
			c.Line(slog.LevelError, fmt.Sprintf("dialling again panicked: %v\n%s", r, debug.Stack()))
		}
		go c.redial() // also after a runtime.Goexit of user code
	}()
	timer := time.NewTimer(c.redials.pause(time.Now()))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-c.closing:
		over = true
		c.end()
		return
	}
	o := c.options
	o.RetryOnFailedConnect = true
	if err := c.connect(o); err != nil {
		c.Line(slog.LevelWarn, fmt.Sprintf("dialling again: %v", err))
		return
	}
	over = true
	if c.expected.Load() { // Close may have missed this client
		c.NATS().Close()
	}
}

// expect notes that the end is our own doing.
func (c *Conn) expect() {
	if c.expected.CompareAndSwap(false, true) {
		close(c.closing)
	}
}

// end closes the channel of Closed.
func (c *Conn) end() { c.endOnce.Do(func() { close(c.closed) }) }

// userCode is where to tell of user code that fails.
func (c *Conn) userCode() natsopts.Log { return natsopts.Log{Lines: &c.lines, Line: c.Line} }
