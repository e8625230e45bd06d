package client

import (
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"go-micro-jetstream/broker/internal/backoff"
	"go-micro-jetstream/broker/internal/fault"
	"go-micro-jetstream/broker/internal/wire"
)

// inbox knows whether the server lets answers arrive, and when to ask it again.
type inbox struct {
	deaf      atomic.Pointer[error] // why no answer can arrive; nil: it can
	hastening atomic.Bool           // see reconnectNow

	mu       sync.Mutex
	awaiting bool      // a reconnect is to come
	latest   time.Time // when the latest one was
	refusals uint64    // in a row
}

// refuse notes that no answer can arrive until there is another connection.
func (i *inbox) refuse(why error) { i.deaf.Store(&why) }

// reset notes that the connection is lost: on the next one the server is asked again.
// It returns why no answer could arrive, or nil if it could.
func (i *inbox) reset() (was error) {
	if err := i.deaf.Swap(nil); err != nil {
		return *err
	}
	return nil
}

// deafness returns why no answer can arrive, or nil if it can.
func (i *inbox) deafness() error {
	if err := i.deaf.Load(); err != nil {
		return *err
	}
	return nil
}

// begin counts a refusal and returns the pause before a reconnect. It reports false if
// one is to come anyway. After a begin that reports true the caller calls end, or the
// connection is over.
func (i *inbox) begin(now time.Time) (pause time.Duration, ok bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.awaiting {
		return 0, false
	}
	if now.Sub(i.latest) > 2*backoff.Max {
		i.refusals = 0 // the server has permitted the inbox meanwhile
	}
	i.refusals++
	i.awaiting = true
	return backoff.Delay(i.refusals), true
}

// end notes that the reconnect comes now.
func (i *inbox) end(now time.Time) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.awaiting, i.latest = false, now
}

// noInbox is the error of a connection whose user may not subscribe to its inbox.
func noInbox(violation error) error {
	return fmt.Errorf("%w: no answer can arrive, as the user may not subscribe to its inbox: %w", fault.ErrPermission, violation)
}

// AboutInbox reports whether a permission violation is about a subscription to an inbox:
// the server refuses it, or has ended it because the permission was taken away. The
// inboxes for publishes, for the client's requests and for fetches have one prefix, so
// that there is no permission for one of them alone.
func (c *Conn) AboutInbox(violation error) bool {
	subject, ok := wire.RefusedSubject(violation, wire.SubscriptionViolation)
	prefix := nats.InboxPrefix
	if c.options.InboxPrefix != "" {
		prefix = c.options.InboxPrefix + "."
	}
	return ok && strings.HasPrefix(subject, prefix)
}

// Deafen notes that no answer can arrive until there is another connection, and sees to
// that. [Conn.Deaf] returns why.
func (c *Conn) Deafen(why error) {
	c.inbox.refuse(why)
	c.events.Lost()
	c.regain()
}
