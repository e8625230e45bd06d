package client

import (
	"fmt"
	"log/slog"
	"time"
)

// Close flushes what is still to be sent, drains the subscriptions and closes the
// connection. It waits for the client's last callback. When the server does not answer,
// each of the steps ends after [CloseTimeout]. Before Dial, and after a Dial that could
// not connect, it does nothing. It is called once. Where another client is being made,
// that ends with its attempt to connect, which may outlast Close.
func (c *Conn) Close() {
	nc := c.NATS()
	if nc == nil {
		return
	}
	alreadyClosed := nc.IsClosed()
	url := c.URL()
	c.expect()
	if c.Up() {
		// Acks first: a drain does not say whether they were sent.
		if err := nc.FlushTimeout(CloseTimeout); err != nil {
			c.Line(slog.LevelWarn, fmt.Sprintf("flush before closing: %v", err))
		}
		if err := nc.Drain(); err == nil {
			c.awaitClosed()
		}
	}
	nc.Close()
	c.awaitClosed()
	if !alreadyClosed {
		c.Line(slog.LevelInfo, "disconnected from "+url)
	}
}

// awaitClosed waits for the client's last callback, but not for long: a callback of the
// user may be what waits for Close.
func (c *Conn) awaitClosed() {
	wait := time.NewTimer(CloseTimeout)
	defer wait.Stop()
	select {
	case <-c.closed:
	case <-wait.C:
	}
}
