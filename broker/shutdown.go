package broker

import (
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go-micro.dev/v5/logger"
)

// shutdown is a Disconnect under way.
type shutdown struct {
	conn  *connection
	ended bool          // the client had closed before
	id    atomic.Uint64 // the goroutine that it runs on, and hooks with it
	done  chan struct{}
	err   error // valid once done is closed
}

// Disconnect stops all subscriptions, waits for running handlers and publishes
// within [WithShutdownTimeout], flushes acknowledgements and closes the
// connection. A second caller waits for the first and gets the same result.
// Called from inside a handler, a hook that Disconnect waits for, or [Async]'s
// done, it returns nil at once and completes when that has returned. Past the bound it closes the
// connection all the same and returns [ErrShutdownTimeout] with the number of
// handlers that still run, whose messages are delivered again after AckWait, and
// of publishes without an answer, and the hook that still runs. It adds at most some
// seconds to the bound when the server does not answer.
func (b *jetstreamBroker) Disconnect() error {
	b.mu.Lock()
	for b.dialing != nil {
		dialing := b.dialing
		b.mu.Unlock()
		<-dialing
		b.mu.Lock()
	}
	sd := b.closing
	if sd == nil {
		c := b.conn.Load()
		if c == nil {
			b.mu.Unlock()
			return nil
		}
		sd = &shutdown{conn: c, ended: c.nc.IsClosed(), done: make(chan struct{})}
		b.closing = sd
		go sd.run(b, b.cfg.Load().shutdownTimeout)
	}
	b.mu.Unlock()
	if sd.calledFromHandler() {
		return nil
	}
	<-sd.done
	if sd.ended {
		b.states.await(sd.conn.toldLast(), closeTimeout)
	}
	return sd.err
}

// calledFromHandler reports whether the calling goroutine is one that the
// shutdown waits for: that of a handler, of a hook, or of [Async]'s done.
func (sd *shutdown) calledFromHandler() bool {
	id := goroutineID()
	if id != 0 && id == sd.id.Load() || !sd.ended && sd.conn.broker.states.runsOn(id) || sd.conn.completions.runsOn(id) {
		return true
	}
	for _, s := range sd.conn.subscriptions() {
		if s.runsOn(id) {
			return true
		}
	}
	return false
}

func (sd *shutdown) run(b *jetstreamBroker, bound time.Duration) {
	c := sd.conn
	sd.id.Store(goroutineID())
	until := time.Now().Add(bound)
	timeout := time.NewTimer(bound)
	defer timeout.Stop()

	c.mu.Lock()
	c.noSubs = true
	c.mu.Unlock()
	subs := c.subscriptions()
	stopAll(subs)
	running, expired := 0, false
	for _, s := range subs {
		select {
		case <-s.done:
			continue
		default:
		}
		if !expired {
			select {
			case <-s.done:
				continue
			case <-timeout.C:
				expired = true
			}
		}
		s.abandon()
		running += s.runningHandlers()
	}
	// Handlers may have published until now.
	for _, ended := range [...]<-chan struct{}{c.subscribes.close(), c.publishes.close()} {
		if expired {
			break
		}
		select {
		case <-ended:
		case <-timeout.C:
			expired = true
		}
	}
	publishing := c.publishes.inside()
	b.conn.Store(nil)
	c.close()
	var left []string
	// Where the client has closed before, a hook may be dealing with that in this call.
	if !sd.ended && !b.states.await(c.toldLast(), max(time.Until(until), closeTimeout)) {
		left = append(left, "a hook of ConnectionChanged still running")
	}
	if running > 0 {
		left = append(left, fmt.Sprintf("%d handlers still running, whose messages are delivered again after AckWait", running))
	}
	if publishing > 0 {
		left = append(left, fmt.Sprintf("%d publishes without an answer, whose callers are told, or whose done still runs", publishing))
	}
	if len(left) > 0 {
		sd.err = fmt.Errorf("jetstream: disconnect: %w after %v: %s", ErrShutdownTimeout, bound, strings.Join(left, "; "))
	}
	b.mu.Lock()
	b.closing = nil
	b.mu.Unlock()
	close(sd.done)
}

// stopAll stops the subscriptions, all at a time: each waits for the server, for
// a while if that does not answer.
func stopAll(subs []*subscription) {
	var stopping sync.WaitGroup
	for _, s := range subs {
		stopping.Go(func() {
			if !s.stop() { // another one is at it
				s.awaitReturned()
			}
		})
	}
	stopping.Wait()
}

// close flushes what is still to be sent and closes the connection.
func (c *connection) close() {
	alreadyClosed := c.nc.IsClosed()
	url := c.serverURL()
	c.expected.Store(true)
	if c.link.connected() {
		// Acks first: a drain gives no word on whether they were sent.
		if err := c.nc.FlushTimeout(closeTimeout); err != nil {
			c.logf(logger.WarnLevel, "flush before closing: %v", err)
		}
		if err := c.nc.Drain(); err == nil {
			c.awaitClosed()
		}
	}
	c.nc.Close()
	c.awaitClosed()
	c.acks.close()
	if !alreadyClosed {
		c.logf(logger.InfoLevel, "disconnected from %s", url)
	}
	c.tell(StateClosed, url, nil)
}

// awaitClosed waits until the client has called back for the last time. It does not
// wait long: what the user has it call back may be what waits for Disconnect.
func (c *connection) awaitClosed() {
	wait := time.NewTimer(closeTimeout)
	defer wait.Stop()
	select {
	case <-c.closed:
	case <-wait.C:
	}
}
