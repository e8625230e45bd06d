package client

import (
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"go-micro-jetstream/broker/internal/fault"
)

const (
	// limitWait is how long to wait for the client's word about a refusal that it knows of.
	limitWait = time.Second
	// limitWaitAgain is that where the client has given its word about an earlier one,
	// which it goes on to remember: mostly it means that one. A refusal that is missed is
	// noticed later, as nothing comes: see [Listener.AgainAfter].
	limitWaitAgain = limitWait / 10
)

// MoreRoom is the way out of fault.ErrSubscriptionLimit.
const MoreRoom = "raise max_subscriptions of the server, or subs of the account or user, or spread the subscriptions over several brokers"

// refusals count what the server has refused because the connection has as many
// subscriptions as it may. The server does not say which one it means. The zero value is
// ready; it is safe for concurrent use.
type refusals struct {
	times atomic.Uint64
}

// confirm returns fault.ErrSubscriptionLimit if the server refuses what was subscribed
// since there were so many refusals. It returns nil if the server cannot be asked.
func (c *Conn) confirm(nc *nats.Conn, before uint64) error {
	answered := c.Up() && nc.FlushTimeout(LookUpTimeout) == nil
	if !answered {
		return nil
	}
	// The refusal comes before the answer to the flush. The client remembers it at once
	// and calls back a moment later. It may also be an earlier one that it remembers.
	if !errors.Is(nc.LastError(), nats.ErrMaxSubscriptionsExceeded) {
		return nil
	}
	wait := limitWait
	if before > 0 {
		wait = limitWaitAgain
	}
	for until := time.Now().Add(wait); c.refusals.times.Load() == before; time.Sleep(time.Millisecond) {
		if time.Now().After(until) || c.expected.Load() {
			return nil
		}
	}
	return fmt.Errorf("%w: the server permits no more than %d on this connection: %s: %w",
		fault.ErrSubscriptionLimit, nc.NumSubscriptions()-1, MoreRoom, nats.ErrMaxSubscriptionsExceeded)
}

// SubscriptionsRefused returns how often the server has refused a subscription because
// there are too many.
func (c *Conn) SubscriptionsRefused() uint64 { return c.refusals.times.Load() }
