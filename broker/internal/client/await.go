package client

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
)

// changes wakes those that wait for a change of the connection's state. It is ready
// after the first wake.
type changes struct {
	next atomic.Pointer[chan struct{}]
}

// wake closes the channel of those that wait, and replaces it.
func (c *changes) wake() {
	next := make(chan struct{})
	if last := c.next.Swap(&next); last != nil {
		close(*last)
	}
}

// Changed returns a channel that is closed when the connection is lost or restored next,
// or closed. To miss no change, call it before you look at the state.
func (c *Conn) Changed() <-chan struct{} { return *c.changes.next.Load() }

// awaitPoll is how often Await looks at the connection by itself. The client calls back
// about its states on one goroutine, and a callback of the user may hold that up.
const awaitPoll = 50 * time.Millisecond

// Await waits until the connection is up. It returns the context's error if that ends
// first, and nats.ErrConnectionClosed if the connection does not come back.
func (c *Conn) Await(ctx context.Context) error {
	poll := time.NewTicker(awaitPoll)
	defer poll.Stop()
	for {
		changed := c.Changed()
		switch { // the context before each question, as the client may take its time
		case ctx.Err() != nil:
			return ctx.Err()
		case c.Up():
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case c.Over():
			return nats.ErrConnectionClosed
		}
		select {
		case <-changed:
		case <-poll.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Wake wakes those that wait for a change of the connection, as a new connection does.
func (c *Conn) Wake() { c.changes.wake() }
