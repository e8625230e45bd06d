package hand

import (
	"slices"
	"time"

	"go-micro-jetstream/broker/internal/consumers"
	"go-micro-jetstream/broker/internal/keyorder"
)

// What a hand does otherwise with an order. The caller holds the lock, except for Nudge.

const (
	// maxHeld is how many messages a subscription with an order has in hand at most,
	// those that are being handled included. It is as much as the default
	// MaxAckPending lets the server deliver.
	maxHeld = 1000
	// maxHeldBytes bounds the weight of what waits, headers included.
	maxHeldBytes = 16 << 20
	// KeyBatch is how many keys are asked for at a time.
	KeyBatch = 32
	// missingGrace is how much longer than the ack wait the later messages of a key wait
	// for one that expired in hand. By then the server has delivered it again, here or
	// to another replica.
	missingGrace = 5 * time.Second
)

// ordered is the order by key, and what leads to it. It has no lock: that of Hand
// guards it.
type ordered struct {
	lanes *keyorder.Order[*Delivery]

	keying []*Delivery // messages whose keys are being asked for, in order
	asked  time.Time   // when that has begun; zero: nobody asks
	full   bool        // nothing could be started, and no more be fetched, and it was said

	room    chan struct{} // tells the worker that fetches that there is room again
	waiting bool          // it waits for that

	timer *time.Timer // calls Nudge; nil until something waits for a time
	set   time.Time   // for when
}

func newOrdered() *ordered {
	return &ordered{lanes: keyorder.New[*Delivery](), room: make(chan struct{}, 1)}
}

// all calls f with every message that waits, in no order. unwatched says that it waits
// behind a handler that hangs.
func (o *ordered) all(now time.Time, f func(d *Delivery, unwatched bool)) {
	o.lanes.All(now, f)
	for _, d := range o.keying {
		f(d, true)
	}
}

// empty takes out everything that waits, and returns it with the messages whose keys are
// not known, in the order of the stream. What is being handled is no longer in any lane.
func (o *ordered) empty(unkeyed []*Delivery) []*Delivery {
	ds := slices.Concat(unkeyed, o.keying, o.lanes.Empty())
	o.keying = nil // whoever asks for their keys finds out
	keyorder.Sort(ds)
	return ds
}

// startable reports whether a worker that has nothing to do finds something: a message
// to handle, or one whose key is to be asked for.
func (h *Hand) startable() bool {
	if h.order == nil {
		return len(h.waiting) > 0 && !h.holds()
	}
	h.elapse(time.Now())
	return h.order.lanes.Ready() && !h.holds() || len(h.waiting) > 0 && len(h.order.keying) == 0
}

// first takes the message that is to be handled next, or returns nil.
func (h *Hand) first() *Delivery {
	if h.holds() {
		return nil
	}
	if h.order == nil {
		if len(h.waiting) == 0 {
			return nil
		}
		return h.pop()
	}
	now := time.Now()
	h.elapse(now)
	d, _ := h.order.lanes.Take(now)
	if h.order.lanes.Ready() {
		h.Nudge()
	}
	if d == nil && h.order.waiting && h.spare() > 0 {
		h.order.waiting = false
		select {
		case h.order.room <- struct{}{}:
		default:
		}
	}
	return d
}

// Roomy returns what tells that there is room again, if there may be none.
func (h *Hand) Roomy() <-chan struct{} {
	if h.order == nil {
		return nil
	}
	return h.order.room
}

// elapse lets messages go on that have waited for a time, and sets the timer for the
// next ones.
func (h *Hand) elapse(now time.Time) {
	if unkeyed := h.order.lanes.Elapse(now); len(unkeyed) > 0 {
		for _, d := range unkeyed {
			d.unkeyed = nil
		}
		h.waiting = append(unkeyed, h.waiting...)
	}
	h.schedule(now)
}

// schedule has Nudge called when the next wait ends.
func (h *Hand) schedule(now time.Time) {
	due := h.order.lanes.Due()
	switch {
	case due.IsZero() || due.Equal(h.order.set):
		return
	case h.order.timer == nil:
		h.order.timer = time.AfterFunc(due.Sub(now), h.Nudge)
	default:
		h.order.timer.Reset(due.Sub(now))
	}
	h.order.set = due
}

// Nudge wakes a worker that has nothing to do.
func (h *Hand) Nudge() {
	select {
	case h.wake <- struct{}{}:
	default: // one is being woken
	}
}

// backlog returns how many messages wait to be handled. Those behind one that is to be
// handled again do not count: a worker without work asks for others.
func (h *Hand) backlog() int {
	n := len(h.waiting)
	if h.order != nil {
		n += len(h.order.keying) + h.order.lanes.Held() - h.order.lanes.Blocked()
	}
	return n
}

// idleBacklog is backlog for a worker that finds nothing to start. What waits behind
// quick handlers counts, as it is soon done. What waits behind slow ones does not: other
// keys must not wait for them.
func (h *Hand) idleBacklog() int {
	if h.order == nil || time.Since(h.order.lanes.Moved()) > Quick {
		return 0
	}
	return h.backlog()
}

// Quick is within which time handlers are quick.
const Quick = 50 * time.Millisecond

// inAll returns how many messages are in hand.
func (h *Hand) inAll() int {
	return len(h.waiting) + len(h.order.keying) + h.order.lanes.Held() + h.busy()
}

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
	if h.order.lanes.Bytes() >= weight {
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
	o := h.order
	switch {
	case !o.full && !h.holds() && h.spare() < 1 && h.pull.Open() == 0 && !h.startable():
		o.full, changed = true, true
	case o.full && 2*h.inAll() < bound(h.consumer.Load()):
		o.full, changed = false, true
	}
	return Crowd{Messages: o.lanes.Held(), Keys: o.lanes.Keys(), Full: o.full}, changed
}

// refused ends a message that was taken and is not handled. It returns those that are
// not handled for the same reason.
func (h *Hand) refused(d *Delivery, why *Refusal) (also []*Delivery) {
	if h.order == nil {
		return nil
	}
	now, cs := time.Now(), h.consumer.Load()
	wait := time.Duration(0)
	if why == Expired {
		wait = cs.AckWait() + missingGrace
	}
	also = h.order.lanes.Drop(d, now, wait, func(d *Delivery) bool { return h.lost(cs, d, now) })
	h.elapse(now)
	if h.order.lanes.Ready() {
		h.Nudge()
	}
	return also
}

// lost reports whether a message that waits has expired, and notes that it is delivered
// again.
func (h *Hand) lost(cs *consumers.Consumer, d *Delivery, now time.Time) bool {
	if !cs.Expired(d.served(), now.Sub(d.Received)-d.extended) || cs.IsLast(d.served()) {
		return false
	}
	h.ledger.Owe(cs, d.Meta, d.Deliveries())
	return true
}

// unhandled returns everything that is in hand and that no handler has, in no order.
func (h *Hand) unhandled() []*Delivery {
	ds := slices.Clone(h.waiting)
	if h.order != nil {
		h.order.all(time.Now(), func(d *Delivery, _ bool) { ds = append(ds, d) })
	}
	return ds
}

// highest returns the highest stream sequence of what no handler has.
func (h *Hand) highest() (n uint64) {
	for _, d := range h.unhandled() {
		n = max(n, d.Meta.StreamSequence)
	}
	return n
}

// drop takes out everything that is not started. The caller holds the lock.
func (h *Hand) drop() (ds []*Delivery) {
	if ds = h.waiting; h.order != nil {
		ds = h.order.empty(ds)
	}
	h.waiting, h.room = nil, nil
	return ds
}
