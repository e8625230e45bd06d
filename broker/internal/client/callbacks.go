package client

import (
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/nats-io/nats.go"

	"go-micro-jetstream/broker/internal/wire"
)

// A client calls these one after the other, on one goroutine. The last is onClose. A client
// that takes its place is made after that.

// onConnect comes once for each client. With nats.RetryOnFailedConnect it comes after
// Dial, and wakes those that wait since then. No answer is lost: there was no connection
// before. For a client that takes another one's place it is a reconnect.
func (c *Conn) onConnect(nc *nats.Conn) {
	if c.client.Load().number > 1 {
		c.onReconnect(nc)
		return
	}
	c.arrivedAt(nc)
	c.changes.wake()
	c.events.Up(c.URL())
}

func (c *Conn) onDisconnect(nc *nats.Conn, err error) {
	if c.expected.Load() || nc.IsClosed() {
		return // onClose follows
	}
	// A disconnect without an error is that of regain, and this is its reason.
	if reason := c.inbox.reset(); err == nil {
		err = reason
	}
	c.signal()
	// Where the connection comes and goes many times a second, one line stands for many
	// losses. A loss without a line gets none about its end either.
	more, ok := c.lines.Allow("lost")
	if c.lossSaid = ok; ok {
		c.Line(slog.LevelWarn, fmt.Sprintf("connection lost, reconnecting: %v%s", err, more))
	}
	c.events.Down(err)
}

func (c *Conn) onReconnect(nc *nats.Conn) {
	c.arrivedAt(nc)
	url := c.URL()
	c.signal()
	if c.lossSaid {
		c.Line(slog.LevelInfo, "reconnected to "+url)
	}
	c.events.Up(url)
}

func (c *Conn) onClose(nc *nats.Conn) {
	c.signal()
	if !c.expected.Load() && !c.limitReached(nc) {
		c.replace(nc)
		return
	}
	c.end() // before the event: who hears of it may connect again
	if c.expected.Load() {
		return
	}
	err := nc.LastError()
	c.Line(slog.LevelError, fmt.Sprintf("connection closed for good, its subscriptions end: %v; call Connect and subscribe again", err))
	c.events.Closed(err)
}

// onAsyncError passes on permission violations. Without that they look like timeouts to
// whoever waits for an answer.
func (c *Conn) onAsyncError(nc *nats.Conn, sub *nats.Subscription, err error) {
	if c.expected.Load() {
		return
	}
	if errors.Is(err, nats.ErrMaxSubscriptionsExceeded) {
		c.refusals.times.Add(1)
		c.events.Crowded()
	}
	if errors.Is(err, nats.ErrPermissionViolation) {
		if c.AboutInbox(err) {
			c.Deafen(noInbox(err))
		}
		c.events.Refused(err)
	}
	if more, ok := c.lines.Allow("async"); ok {
		var attrs []any
		if sub != nil {
			attrs = append(attrs, "subject", sub.Subject)
		}
		c.Line(slog.LevelWarn, fmt.Sprintf("%v%s", err, more), attrs...)
	}
}

// arrivedAt remembers the server and how much it accepts. After a loss the client does
// not say any more which server that was.
func (c *Conn) arrivedAt(nc *nats.Conn) {
	c.maxPayload.Store(nc.MaxPayload())
	if url := nc.ConnectedUrl(); url != "" {
		url = wire.WithoutCredentials(url)
		c.server.Store(&url)
	}
}

// signal wakes all that wait, and then says that answers are lost: who sends again
// looks at the connection first.
func (c *Conn) signal() {
	c.changes.wake()
	c.events.Lost()
}

// regain makes the client ask again for its inbox. The server does not say when it
// permits it again, and the client subscribes again only on a new connection. So there
// is a new one, after pauses that grow.
func (c *Conn) regain() {
	if !c.options.AllowReconnect { // the user wants none
		return
	}
	if pause, ok := c.inbox.begin(time.Now()); ok {
		go c.reconnectIn(pause)
	}
}

// reconnectNow is for a connection that may have its inbox again. One goroutine does it.
func (c *Conn) reconnectNow() {
	if !c.inbox.hastening.CompareAndSwap(false, true) {
		return
	}
	go func() {
		defer c.inbox.hastening.Store(false)
		c.reconnectIn(0)
	}()
}

// reconnectIn reconnects after a pause, or ends with the connection.
func (c *Conn) reconnectIn(pause time.Duration) {
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-c.closed:
		return
	}
	nc := c.NATS()
	// What the server has not read yet is lost with the connection: acks, for example.
	_ = nc.FlushTimeout(CloseTimeout)
	c.inbox.end(time.Now())
	if c.Deaf() != nil && !c.expected.Load() && nc.IsConnected() { // else there is a new one, or soon
		_ = nc.ForceReconnect()
	}
}

// setCallbacks puts our callbacks before those that the user has set. All of them wait
// until the client is ready, which is when everybody knows it.
func (c *Conn) setCallbacks(o *nats.Options, ready *readiness) {
	user := *o
	o.NoCallbacksAfterClientClose = false // Close waits for the last one
	silent := func() bool { return user.NoCallbacksAfterClientClose && c.expected.Load() }
	// after returns a callback that runs ours and then the user's.
	after := func(ours, users nats.ConnHandler) nats.ConnHandler {
		return func(nc *nats.Conn) {
			if !ready.wait() {
				return
			}
			ours(nc)
			if users != nil {
				users(nc)
			}
		}
	}
	o.ConnectedCB = after(c.onConnect, user.ConnectedCB)
	o.ReconnectedCB = after(c.onReconnect, user.ReconnectedCB)
	o.ClosedCB = after(c.onClose, func(nc *nats.Conn) {
		if user.ClosedCB != nil && !silent() {
			user.ClosedCB(nc)
		}
	})
	o.DisconnectedErrCB = func(nc *nats.Conn, err error) {
		if !ready.wait() {
			return
		}
		c.onDisconnect(nc, err)
		switch { // the client calls only one of the two as well
		case silent():
		case user.DisconnectedErrCB != nil:
			user.DisconnectedErrCB(nc, err)
		case user.DisconnectedCB != nil:
			user.DisconnectedCB(nc)
		}
	}
	o.AsyncErrorCB = func(nc *nats.Conn, sub *nats.Subscription, err error) {
		if !ready.wait() {
			return
		}
		c.onAsyncError(nc, sub, err)
		if user.AsyncErrorCB != nil {
			user.AsyncErrorCB(nc, sub, err)
		}
	}
}
