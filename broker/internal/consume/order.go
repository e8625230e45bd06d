package consume

import (
	"cmp"
	"container/heap"
	"slices"
	"time"

	"go-micro-jetstream/broker/internal/wire"
)

const (
	// maxHeld is how many messages a subscription with an order has in hand at most,
	// those that are being handled included. It is as much as the default
	// MaxAckPending lets the server deliver.
	maxHeld = 1000
	// maxHeldBytes bounds the weight of what waits, headers included.
	maxHeldBytes = 16 << 20
	// missingGrace is how much longer than the ack wait the later messages of a key wait
	// for one that expired in hand. By then the server has delivered it again, here or
	// to another replica.
	missingGrace = 5 * time.Second
	// maxSpare is how many lanes are kept to be used again.
	maxSpare = 64
)

// order has the messages of one key handled one after the other, in the order of the
// stream. Each key has a lane. A message that is to be handled again stays in the lane,
// and those behind it wait. Lanes do not wait for each other.
//
// It has no lock: that of inHand guards it.
type order struct {
	lanes map[uint64]*lane // those that have anything
	spare []*lane
	first *lane // the lanes whose next message can be started, in a row
	last  *lane
	waits laneHeap // the lanes that wait for a time

	held    int // messages in lanes, but for those that are being handled
	bytes   int // their weight
	blocked int // those of them that are in lanes that wait for a time

	keying []*Delivery // messages whose keys are being asked for, in order
	asked  time.Time   // when that has begun; zero: nobody asks
	moved  time.Time   // when a message was last started
	full   bool        // nothing could be started, and no more be fetched, and it was said

	room    chan struct{} // tells the worker that fetches that there is room again
	waiting bool          // it waits for that

	timer *time.Timer // calls nudge; nil until something waits for a time
	set   time.Time   // for when
}

func newOrder() *order {
	return &order{lanes: map[uint64]*lane{}, room: make(chan struct{}, 1)}
}

// lane has the messages of one key. At any time it is in the row of lanes that are
// ready, or waits for a time, or has a message that is being handled.
type lane struct {
	key     uint64
	waiting []*Delivery // in the order of the stream
	room    []*Delivery // the array behind waiting, to be used again
	running *Delivery   // being handled; nil: none
	again   *Delivery   // to be handled again before the others; nil: none
	due     time.Time   // when
	missing []place     // messages that expired in hand and have not come again; in order
	given   time.Time   // when nobody waits for them any more
	next    *lane       // in the row
	index   int         // in the heap, from 1; 0: not there
}

// place is where a message is in the order.
type place struct {
	epoch    uint32 // how often the stream was replaced by another one
	sequence uint64
}

func placeOf(d *Delivery) place { return place{d.epoch, d.Meta.StreamSequence} }

func (p place) compare(q place) int {
	return cmp.Or(cmp.Compare(p.epoch, q.epoch), cmp.Compare(p.sequence, q.sequence))
}

// insert takes a message into the lane of its key. Later deliveries of a message go
// behind the earlier ones.
func (o *order) insert(d *Delivery, key uint64, now time.Time) {
	l := o.lanes[key]
	if l == nil {
		l = o.newLane(key)
	}
	d.lane = l
	at := len(l.waiting)
	for at > 0 && placeOf(l.waiting[at-1]).compare(placeOf(d)) > 0 { // which is rare
		at--
	}
	l.waiting = slices.Insert(l.waiting, at, d)
	if cap(l.waiting) > cap(l.room) {
		l.room = l.waiting
	}
	o.count(l, 1, d)
	if i, found := slices.BinarySearchFunc(l.missing, placeOf(d), place.compare); found {
		l.missing = slices.Delete(l.missing, i, i+1)
	}
	switch {
	case l.running == nil && !l.queued(o):
		o.advance(l, now)
	case l.running != nil && l.running.hangs(now):
		o.detach(l, now)
	}
}

// count changes the number of messages that a lane holds.
func (o *order) count(l *lane, n int, d *Delivery) {
	o.held += n
	o.bytes += n * wire.Weight(d.Msg)
	if l.index > 0 {
		o.blocked += n
	}
}

func (o *order) newLane(key uint64) (l *lane) {
	if n := len(o.spare); n > 0 {
		l, o.spare = o.spare[n-1], o.spare[:n-1]
	} else {
		l = &lane{}
	}
	l.key = key
	o.lanes[key] = l
	return l
}

// queued reports whether the lane is in the row of those that are ready.
func (l *lane) queued(o *order) bool { return l.next != nil || o.last == l }

// size returns how many messages the lane holds.
func (l *lane) size() int {
	n := len(l.waiting)
	if l.again != nil {
		n++
	}
	return n
}

// advance decides what a lane does next. None of its messages is being handled, and it
// is not in the row.
func (o *order) advance(l *lane, now time.Time) {
	if len(l.missing) > 0 && !now.Before(l.given) {
		l.missing = nil
	}
	switch {
	case l.again != nil && now.Before(l.due):
		o.await(l, l.due)
		return
	case l.again != nil:
	case len(l.missing) > 0 && (len(l.waiting) == 0 || placeOf(l.waiting[0]).compare(l.missing[0]) > 0):
		o.await(l, l.given)
		return
	case len(l.waiting) == 0:
		o.remove(l)
		return
	}
	o.wake(l)
	if o.last == nil {
		o.first = l
	} else {
		o.last.next = l
	}
	o.last = l
}

// await has a lane wait for a time.
func (o *order) await(l *lane, until time.Time) {
	l.due = until
	if l.index > 0 {
		heap.Fix(&o.waits, l.index-1)
		return
	}
	heap.Push(&o.waits, l)
	o.blocked += l.size()
}

// wake ends the wait of a lane.
func (o *order) wake(l *lane) {
	if l.index > 0 {
		heap.Remove(&o.waits, l.index-1)
		o.blocked -= l.size()
	}
}

func (o *order) remove(l *lane) {
	o.wake(l)
	delete(o.lanes, l.key)
	if len(o.spare) < maxSpare && cap(l.room) <= maxSpare {
		clear(l.room[:cap(l.room)])
		*l = lane{waiting: l.room[:0], room: l.room[:0]}
		o.spare = append(o.spare, l)
	}
}

// elapse ends the waits whose time has come. It returns the messages whose keys are to
// be asked for again.
func (o *order) elapse(now time.Time) (unkeyed []*Delivery) {
	for len(o.waits) > 0 && !now.Before(o.waits[0].due) {
		l := o.waits[0]
		if d := l.again; d != nil && d.unkeyed != nil { // its lane is its own
			o.count(l, -1, d)
			l.again, d.unkeyed, d.lane = nil, nil, nil
			unkeyed = append(unkeyed, d)
		} else if d != nil && d.handled && d.Settled() { // this very moment, by whoever has it
			o.count(l, -1, d)
			l.again = nil
		}
		o.advance(l, now)
	}
	return unkeyed
}

// next returns when the next wait ends, or the zero time.
func (o *order) next() (due time.Time) {
	if len(o.waits) > 0 {
		due = o.waits[0].due
	}
	return due
}

// take returns the message to be handled now, or nil. The lane's other messages wait
// until finish, drop or detach.
func (o *order) take(now time.Time) *Delivery {
	l := o.first
	if l == nil {
		return nil
	}
	if o.first, l.next = l.next, nil; o.first == nil {
		o.last = nil
	}
	d := l.again
	if d != nil {
		o.count(l, -1, d)
		l.again = nil
		if d.handled { // and not settled: whoever has it may still do that
			d = d.repeat()
		}
		d.renew(now)
	} else {
		d = l.pop()
		o.count(l, -1, d)
	}
	l.running, d.handled = d, true
	o.moved = now
	return d
}

func (l *lane) pop() *Delivery {
	d := l.waiting[0]
	l.waiting[0] = nil
	if l.waiting = l.waiting[1:]; len(l.waiting) == 0 {
		l.waiting = l.room[:0]
	}
	return d
}

// drop ends a message that was taken and is not handled. One that has expired is
// delivered again, so the later ones of its key wait for it, and those that have expired
// with it are dropped as well: drop returns them.
func (o *order) drop(d *Delivery, now time.Time, wait time.Duration, expired func(*Delivery) bool) (also []*Delivery) {
	l := d.lane
	if l.running = nil; wait > 0 {
		also = o.lose(l, d, now.Add(wait), expired)
	}
	o.advance(l, now)
	return also
}

// lose notes that a message, and whatever else in the lane has expired, is delivered
// again.
func (o *order) lose(l *lane, d *Delivery, until time.Time, expired func(*Delivery) bool) (also []*Delivery) {
	l.given = until
	l.miss(d)
	also = o.sift(l, expired)
	for _, other := range also {
		l.miss(other)
	}
	for _, other := range l.waiting { // the second delivery of one of them may be here
		if i, found := slices.BinarySearchFunc(l.missing, placeOf(other), place.compare); found {
			l.missing = slices.Delete(l.missing, i, i+1)
		}
	}
	return also
}

// sift takes those out of a lane that have expired.
func (o *order) sift(l *lane, expired func(*Delivery) bool) (gone []*Delivery) {
	kept := l.waiting[:0]
	for _, d := range l.waiting {
		if expired(d) {
			o.count(l, -1, d)
			gone = append(gone, d)
		} else {
			kept = append(kept, d)
		}
	}
	clear(l.waiting[len(kept):])
	l.waiting = kept
	return gone
}

func (l *lane) miss(d *Delivery) {
	if i, found := slices.BinarySearchFunc(l.missing, placeOf(d), place.compare); !found {
		l.missing = slices.Insert(l.missing, i, placeOf(d))
	}
}

// finish ends the handling of a message. One that is not settled is handled again when
// it is due, unless somebody settles it first.
func (o *order) finish(d *Delivery, now, due time.Time) {
	l := d.lane
	if l == nil || l.running != d {
		return // its lane has gone on without it
	}
	l.running = nil
	if !d.Settled() {
		o.again(l, d, due)
	}
	o.advance(l, now)
}

// again has a message handled again before the others of its lane.
func (o *order) again(l *lane, d *Delivery, due time.Time) {
	l.again, l.due = d, due
	o.count(l, 1, d)
}

// keep has a message that has failed handled again when it is due. It returns false if
// its lane has gone on without it.
func (o *order) keep(d, again *Delivery, now, due time.Time) bool {
	l := d.lane
	switch {
	case l != nil && l.running == d: // finish follows
		o.again(l, again, due)
	case l != nil && l.again == d:
		l.again, l.due = again, due
		o.reconsider(l, now)
	default:
		return false
	}
	return true
}

// settled notes that a message was settled which its handler had left unsettled.
func (o *order) settled(d *Delivery, now time.Time) {
	if l := d.lane; l != nil && l.again == d {
		o.count(l, -1, d)
		l.again = nil
		o.reconsider(l, now)
	}
}

// reconsider is advance for a lane that may be in the row.
func (o *order) reconsider(l *lane, now time.Time) {
	if l.running != nil {
		return
	}
	if !l.queued(o) {
		o.advance(l, now)
		return
	}
	// Rare: its time has come, and nobody has taken it yet.
	row := o.first
	o.first, o.last = nil, nil
	for row != nil {
		other := row
		row, other.next = other.next, nil
		o.advance(other, now)
	}
}

// detach lets a lane go on whose handler hangs, if the message was delivered once more.
func (o *order) detach(l *lane, now time.Time) {
	if len(l.waiting) == 0 || l.waiting[0].Meta.Identity() != l.running.Meta.Identity() {
		return
	}
	l.running.lane, l.running = nil, nil
	o.advance(l, now)
}

// relieve looks after the lanes whose handlers hang: they go on if the message was
// delivered once more. Otherwise another replica has it, and what has expired behind it
// is dropped.
func (o *order) relieve(now time.Time, expired func(*Delivery) bool) (gone []*Delivery) {
	for _, l := range o.lanes {
		if l.running != nil && l.running.hangs(now) {
			gone = append(gone, o.sift(l, expired)...)
			o.detach(l, now)
		}
	}
	return gone
}

// all calls f with every message that waits, in no order. unwatched says that it waits
// behind a handler that hangs.
func (o *order) all(now time.Time, f func(d *Delivery, unwatched bool)) {
	for _, l := range o.lanes {
		hangs := l.running != nil && l.running.hangs(now)
		if l.again != nil {
			f(l.again, false)
		}
		for _, d := range l.waiting {
			f(d, hangs)
		}
	}
	for _, d := range o.keying {
		f(d, true)
	}
}

// empty takes out everything that waits, and returns it with the messages whose keys are
// not known, in the order of the stream. What is being handled is no longer in any lane.
func (o *order) empty(unkeyed []*Delivery) []*Delivery {
	ds := slices.Concat(unkeyed, o.keying)
	o.keying = nil // whoever asks for their keys finds out
	for _, l := range o.lanes {
		ds = append(ds, l.waiting...)
		if l.again != nil {
			ds = append(ds, l.again)
		}
		if l.running != nil {
			l.running.lane = nil
		}
	}
	for _, d := range ds {
		d.lane = nil
	}
	slices.SortFunc(ds, func(a, b *Delivery) int { return placeOf(a).compare(placeOf(b)) })
	clear(o.lanes)
	o.first, o.last, o.waits = nil, nil, nil
	o.held, o.bytes, o.blocked = 0, 0, 0
	return ds
}

// forget drops what is known of messages that expired, as another stream has none of
// them.
func (o *order) forget(now time.Time) {
	for _, l := range o.lanes {
		l.missing = nil
		if l.index > 0 && l.again == nil {
			o.advance(l, now)
		}
	}
}

// laneHeap has the lane first whose wait ends first.
type laneHeap []*lane

func (h laneHeap) Len() int           { return len(h) }
func (h laneHeap) Less(i, j int) bool { return h[i].due.Before(h[j].due) }

func (h laneHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i+1, j+1
}

func (h *laneHeap) Push(x any) {
	l := x.(*lane)
	l.index = len(*h) + 1
	*h = append(*h, l)
}

func (h *laneHeap) Pop() any {
	n := len(*h) - 1
	l := (*h)[n]
	(*h)[n] = nil
	*h = (*h)[:n]
	l.index = 0
	return l
}

// repeat returns the delivery as it is handled again without the server. The caller
// holds the lock.
func (d *Delivery) repeat() *Delivery {
	again := &Delivery{
		Msg: d.Msg, Meta: d.Meta, Received: d.Received, Context: d.sub.deliveryContext,
		sub: d.sub, extended: d.extended, epoch: d.epoch, lane: d.lane, unkeyed: d.unkeyed,
	}
	again.Meta.NumDelivered = d.Deliveries() + 1
	again.retries = uint32(again.Meta.NumDelivered - d.served())
	return again
}

// renew has the delivery begin now. The caller holds the lock.
func (d *Delivery) renew(now time.Time) {
	d.extended -= now.Sub(d.Received)
	d.Received = now
}

// hangs reports whether the ack deadline of a delivery that is being handled is no
// longer extended.
func (d *Delivery) hangs(now time.Time) bool {
	return now.Sub(d.Received) > d.sub.cfg.MaxAckExtension
}
