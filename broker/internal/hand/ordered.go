package hand

import (
	"time"

	"go-micro-jetstream/broker/internal/consumers"
	"go-micro-jetstream/broker/internal/delivery"
)

// What is different in a hand with an order.

const (
	// maxHeld is how many messages a subscription with an order has in hand at most,
	// those that are being handled included. It is as much as the default
	// MaxAckPending lets the server deliver.
	maxHeld = 1000
	// maxHeldBytes bounds the weight of what waits, headers included.
	maxHeldBytes = 16 << 20
	// KeyBatch is how many keys are asked for at a time.
	KeyBatch = 32
	// MissingGrace is how much longer than the ack wait the later messages of a key wait
	// for one that expired in hand. By then the server has delivered it again, here or
	// to another replica.
	MissingGrace = 5 * time.Second
)

// crowding is how a subscription with an order finds out that there is no room for more.
type crowding struct {
	room  chan struct{} // tells the worker that fetches that there is room again; nil: without an order
	short bool          // that worker waits for room
	full  bool          // the log has said that nothing can be started or fetched
}

// startable reports whether a worker that has nothing to do finds something.
func (h *Hand) startable() bool {
	message, key := h.queue.Startable()
	return key || message && !h.holds()
}

// first takes the message that is to be handled next, or returns nil.
func (h *Hand) first() *Delivery {
	if h.holds() {
		return nil
	}
	d := h.queue.Take()
	if d == nil && h.crowding.short && h.spare() > 0 {
		h.crowding.short = false
		select {
		case h.crowding.room <- struct{}{}:
		default:
		}
	}
	return d
}

// Roomy returns the channel that tells when there is room for more messages again. It is
// nil without an order.
func (h *Hand) Roomy() <-chan struct{} { return h.crowding.room }

// Quick is how long a handler may take to count as quick.
const Quick = 50 * time.Millisecond

// inAll returns how many messages are in hand, those that are being handled included.
func (h *Hand) inAll() int { return h.queue.Len() + h.busy() }

// bound returns how many messages may be in hand. A key that is stuck holds as many. It
// must not hold everything that the consumer may have pending, as nothing would tell
// that from an idle stream, and other replicas would get nothing.
func bound(cs *consumers.Consumer) int {
	if n := cs.Config.MaxAckPending; n > 0 {
		return max(min(maxHeld, n*3/4), 1)
	}
	return maxHeld
}

// spare returns how many messages may still be asked for.
func (h *Hand) spare() int {
	most, weight := bound(h.consumer.Load()), maxHeldBytes
	if h.holds() { // what the former active subscription had in hand comes on top
		most, weight = most+maxHeld, 2*weight
	}
	if h.queue.Bytes() >= weight {
		return 0
	}
	return most - h.inAll() - h.pull.Open()
}

// Crowd is what a subscription with an order has in hand.
type Crowd struct {
	Messages int  // not started, or to be handled again
	Keys     int  // that these are of
	Full     bool // nothing more is fetched until a key goes on
}

// crowd returns what is in hand, and whether there is something to say about it:
// fetching has come to a stand, or goes on after that. It goes on when half of the room
// is free, so that the log is not full of this.
func (h *Hand) crowd() (c Crowd, changed bool) {
	o := &h.crowding
	switch {
	case !o.full && !h.holds() && h.spare() < 1 && h.pull.Open() == 0 && !h.startable():
		o.full, changed = true, true
	case o.full && 2*h.inAll() < bound(h.consumer.Load()):
		o.full, changed = false, true
	}
	c.Full = o.full
	c.Messages, c.Keys = h.queue.Held()
	return c, changed
}

// refused takes a message out that is not handled for this reason. It returns other
// messages for which the reason holds, too.
func (h *Hand) refused(d *Delivery, why *delivery.Refusal) (also []*Delivery) {
	wait := time.Duration(0)
	if why == delivery.Expired {
		wait = h.consumer.Load().AckWait() + MissingGrace
	}
	return h.queue.Refuse(d, wait, h.expiry(time.Now()))
}

// expiry returns a function that reports whether a waiting message has expired at that
// time. If it has, the function also notes that the server owes it.
func (h *Hand) expiry(now time.Time) func(d *Delivery) bool {
	cs := h.consumer.Load()
	return func(d *Delivery) bool {
		if !d.Expired(cs, now.Sub(d.Received)) || cs.IsLast(d.Served()) {
			return false
		}
		h.ledger.Owe(cs, d.Meta, d.Deliveries())
		return true
	}
}
