// Package keyorder keeps messages in order by key: those of one key are handled one
// after the other, and different keys do not wait for each other.
package keyorder

import (
	"container/heap"
	"slices"
	"time"
)

// maxSpare is how many lanes are kept to be used again, and how many messages such a lane
// may have room for.
const maxSpare = 64

// Order has the messages of one key handled one after the other, in the order of the
// stream. Each key has a lane. A message that is to be handled again stays in the lane,
// and those behind it wait. Lanes do not wait for each other.
//
// It has no lock: only one goroutine at a time may use it. It has no clock either:
// whoever uses it says what time it is, and calls Elapse when Due says so.
type Order[M Message[M]] struct {
	lanes map[uint64]*lane[M] // those that have anything
	spare []*lane[M]
	first *lane[M] // the lanes whose next message can be started, in a row
	last  *lane[M]
	waits laneHeap[M] // the lanes that wait for a time

	held    int // messages in lanes, but for those that are being handled
	bytes   int // their weight
	blocked int // those of them that are in lanes that wait for a time

	moved time.Time // when a message was last started
}

// New returns an order without messages.
func New[M Message[M]]() *Order[M] {
	return &Order[M]{lanes: map[uint64]*lane[M]{}}
}

// Ready reports whether a message can be started.
func (o *Order[M]) Ready() bool { return o.first != nil }

// First returns the message that would be started first.
func (o *Order[M]) First() (first M, ready bool) {
	switch l := o.first; {
	case l == nil:
		return first, false
	case l.repeats():
		return l.again, true
	default:
		return l.waiting[0], true
	}
}

// Keys returns how many keys have messages, those that are being handled included.
func (o *Order[M]) Keys() int { return len(o.lanes) }

// Held returns how many messages there are, but for those that are being handled.
func (o *Order[M]) Held() int { return o.held }

// Bytes returns the weight of the messages that Held counts.
func (o *Order[M]) Bytes() int { return o.bytes }

// Blocked returns how many of the messages that Held counts wait for a time: for the
// retry of one before them, or for one that the server delivers again.
func (o *Order[M]) Blocked() int { return o.blocked }

// Moved returns when a message was last started.
func (o *Order[M]) Moved() time.Time { return o.moved }

// Due returns when Elapse is to be called, or the zero time.
func (o *Order[M]) Due() (due time.Time) {
	if len(o.waits) > 0 {
		due = o.waits[0].due
	}
	return due
}

// Insert takes a message into the lane of its key. Later deliveries of a message go
// behind the earlier ones.
func (o *Order[M]) Insert(d M, key uint64, now time.Time) {
	l := o.lanes[key]
	if l == nil {
		l = o.newLane(key)
	}
	d.Seat().lane = l
	at := len(l.waiting)
	for at > 0 && l.waiting[at-1].Place().Compare(d.Place()) > 0 { // which is rare
		at--
	}
	l.waiting = slices.Insert(l.waiting, at, d)
	if cap(l.waiting) > cap(l.room) {
		l.room = l.waiting
	}
	o.count(l, 1, d)
	l.has(d.Place())
	switch {
	case !l.runs() && !o.queued(l):
		o.advance(l, now)
	case l.runs() && l.running.Hangs(now):
		o.detach(l, now)
	}
}

// count changes the number of messages that a lane holds.
func (o *Order[M]) count(l *lane[M], n int, d M) {
	o.held += n
	o.bytes += n * d.Weight()
	if l.index > 0 {
		o.blocked += n
	}
}

func (o *Order[M]) newLane(key uint64) (l *lane[M]) {
	if n := len(o.spare); n > 0 {
		l, o.spare = o.spare[n-1], o.spare[:n-1]
	} else {
		l = &lane[M]{}
	}
	l.key = key
	o.lanes[key] = l
	return l
}

// queued reports whether a lane is in the row of those that are ready.
func (o *Order[M]) queued(l *lane[M]) bool { return l.next != nil || o.last == l }

// advance decides what a lane does next. None of its messages is being handled, and it
// is not in the row.
func (o *Order[M]) advance(l *lane[M], now time.Time) {
	if len(l.missing) > 0 && !now.Before(l.given) {
		l.missing = nil
	}
	switch {
	case l.repeats() && now.Before(l.due):
		o.await(l, l.due)
		return
	case l.repeats():
	case len(l.missing) > 0 && (len(l.waiting) == 0 || l.waiting[0].Place().Compare(l.missing[0]) > 0):
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
func (o *Order[M]) await(l *lane[M], until time.Time) {
	l.due = until
	if l.index > 0 {
		heap.Fix(&o.waits, l.index-1)
		return
	}
	heap.Push(&o.waits, l)
	o.blocked += l.size()
}

// wake ends the wait of a lane.
func (o *Order[M]) wake(l *lane[M]) {
	if l.index > 0 {
		heap.Remove(&o.waits, l.index-1)
		o.blocked -= l.size()
	}
}

func (o *Order[M]) remove(l *lane[M]) {
	o.wake(l)
	delete(o.lanes, l.key)
	if len(o.spare) < maxSpare && cap(l.room) <= maxSpare {
		clear(l.room[:cap(l.room)])
		*l = lane[M]{waiting: l.room[:0], room: l.room[:0]}
		o.spare = append(o.spare, l)
	}
}

// Elapse ends the waits whose time has come. It returns the messages whose keys are to
// be asked for again. They are in the order no more.
func (o *Order[M]) Elapse(now time.Time) (keyless []M) {
	for len(o.waits) > 0 && !now.Before(o.waits[0].due) {
		l := o.waits[0]
		switch d := l.again; {
		case !l.repeats():
		case d.Keyless(): // its lane is its own
			o.forgo(l)
			d.Seat().lane = nil
			keyless = append(keyless, d)
		case d.Seat().handled && d.Settled(): // this very moment, by whoever has it
			o.forgo(l)
		}
		o.advance(l, now)
	}
	return keyless
}

// forgo takes out the message that is to be handled again.
func (o *Order[M]) forgo(l *lane[M]) {
	var none M
	o.count(l, -1, l.again)
	l.again = none
}

// Take returns the message to be handled now, if there is one. The lane's other messages
// wait until Finish or Drop.
func (o *Order[M]) Take(now time.Time) (d M, ready bool) {
	l := o.first
	if l == nil {
		return d, false
	}
	if o.first, l.next = l.next, nil; o.first == nil {
		o.last = nil
	}
	if l.repeats() {
		d = l.again
		o.forgo(l)
		if d.Seat().handled { // and not settled: whoever has it may still do that
			d = d.Repeat()
		}
		d.Renew(now)
	} else {
		d = l.pop()
		o.count(l, -1, d)
	}
	l.running, *d.Seat() = d, Seat[M]{lane: l, handled: true}
	o.moved = now
	return d, true
}

// Drop ends a message that was taken and is not handled. One that has expired is
// delivered again. For so long the later ones of its key wait for it, and those that have
// expired with it are dropped as well: Drop returns them.
func (o *Order[M]) Drop(d M, now time.Time, wait time.Duration, expired func(M) bool) (also []M) {
	var none M
	l := d.Seat().lane
	if l.running = none; wait > 0 {
		also = o.lose(l, d, now.Add(wait), expired)
	}
	o.advance(l, now)
	return also
}

// lose notes that a message, and whatever else in the lane has expired, is delivered
// again.
func (o *Order[M]) lose(l *lane[M], d M, until time.Time, expired func(M) bool) (also []M) {
	l.given = until
	l.miss(d.Place())
	also = o.sift(l, expired)
	for _, other := range also {
		l.miss(other.Place())
	}
	for _, other := range l.waiting { // the second delivery of one of them may be here
		l.has(other.Place())
	}
	return also
}

// sift takes those out of a lane that have expired.
func (o *Order[M]) sift(l *lane[M], expired func(M) bool) (gone []M) {
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

// Finish ends the handling of a message. One that is not settled is handled again when
// it is due, unless somebody settles it first.
func (o *Order[M]) Finish(d M, now, due time.Time) {
	l := d.Seat().lane
	if l == nil || l.running != d {
		return // its lane has gone on without it
	}
	var none M
	l.running = none
	if !d.Settled() {
		o.again(l, d, due)
	}
	o.advance(l, now)
}

// again has a message handled again before the others of its lane.
func (o *Order[M]) again(l *lane[M], d M, due time.Time) {
	l.again, l.due = d, due
	d.Seat().lane = l
	o.count(l, 1, d)
}

// Keep has a message that has failed handled again when it is due, as the repetition that
// Repeat has returned for it. It returns false if its lane has gone on without it.
func (o *Order[M]) Keep(d, again M, now, due time.Time) bool {
	l := d.Seat().lane
	switch {
	case l != nil && l.running == d: // Finish follows
		o.again(l, again, due)
	case l != nil && l.again == d:
		l.again, l.due = again, due
		again.Seat().lane = l
		o.reconsider(l, now)
	default:
		return false
	}
	return true
}

// Postpone changes when a message is handled again that its handler has left unsettled.
func (o *Order[M]) Postpone(d M, now, due time.Time) {
	if l := d.Seat().lane; l != nil && l.again == d {
		l.due = due
		o.reconsider(l, now)
	}
}

// Settled notes that a message was settled which its handler had left unsettled.
func (o *Order[M]) Settled(d M, now time.Time) {
	if l := d.Seat().lane; l != nil && l.again == d {
		o.forgo(l)
		o.reconsider(l, now)
	}
}

// reconsider is advance for a lane that may be in the row.
func (o *Order[M]) reconsider(l *lane[M], now time.Time) {
	if l.runs() {
		return
	}
	if !o.queued(l) {
		o.advance(l, now)
		return
	}
	// Rare: its time has come, and nobody has taken it yet.
	for _, other := range o.emptyRow() {
		o.advance(other, now)
	}
}

// emptyRow takes all lanes out of the row.
func (o *Order[M]) emptyRow() (row []*lane[M]) {
	for l := o.first; l != nil; {
		next := l.next
		l.next = nil
		row = append(row, l)
		l = next
	}
	o.first, o.last = nil, nil
	return row
}

// detach lets a lane go on whose handler hangs, if the message was delivered once more.
func (o *Order[M]) detach(l *lane[M], now time.Time) {
	if len(l.waiting) == 0 || l.waiting[0].Place() != l.running.Place() {
		return
	}
	var none M
	l.running.Seat().lane, l.running = nil, none
	o.advance(l, now)
}

// Relieve looks after the lanes whose handlers hang: they go on if the message was
// delivered once more. Otherwise another replica has it, and what has expired behind it
// is dropped.
func (o *Order[M]) Relieve(now time.Time, expired func(M) bool) (gone []M) {
	for _, l := range o.lanes {
		if l.runs() && l.running.Hangs(now) {
			gone = append(gone, o.sift(l, expired)...)
			o.detach(l, now)
		}
	}
	return gone
}

// Strand takes out the lanes whose next message could be started, and returns their
// messages in the order of the stream. A lane stays whole, so that the order of its key is
// kept: it is left if one of its messages must stay, or was handled here before.
func (o *Order[M]) Strand(now time.Time, goes func(M) bool) (ds []M) {
	for _, l := range o.emptyRow() {
		if l.repeats() || len(l.missing) > 0 || slices.ContainsFunc(l.waiting, func(d M) bool { return !goes(d) }) {
			o.advance(l, now)
			continue
		}
		for _, d := range l.waiting {
			o.count(l, -1, d)
			d.Seat().lane = nil
			ds = append(ds, d)
		}
		clear(l.waiting)
		l.waiting = l.waiting[:0]
		o.remove(l)
	}
	Sort(ds)
	return ds
}

// All calls f with every message that Held counts, in no order. unwatched says that it
// waits behind a handler that hangs.
func (o *Order[M]) All(now time.Time, f func(d M, unwatched bool)) {
	for _, l := range o.lanes {
		hangs := l.runs() && l.running.Hangs(now)
		if l.repeats() {
			f(l.again, false)
		}
		for _, d := range l.waiting {
			f(d, hangs)
		}
	}
}

// Empty takes out every message that Held counts, and returns them in no order. What is
// being handled is no longer in any lane.
func (o *Order[M]) Empty() (ds []M) {
	for _, l := range o.lanes {
		ds = append(ds, l.waiting...)
		if l.repeats() {
			ds = append(ds, l.again)
		}
		if l.runs() {
			l.running.Seat().lane = nil
		}
	}
	for _, d := range ds {
		d.Seat().lane = nil
	}
	clear(o.lanes)
	o.first, o.last, o.waits = nil, nil, nil
	o.held, o.bytes, o.blocked = 0, 0, 0
	return ds
}

// Forget drops what is known of messages that expired, as another stream has none of
// them.
func (o *Order[M]) Forget(now time.Time) {
	for _, l := range o.lanes {
		l.missing = nil
		if l.index > 0 && !l.repeats() {
			o.advance(l, now)
		}
	}
}

// Sort sorts messages in the order of the stream. Deliveries of the same message keep
// theirs.
func Sort[M interface{ Place() Place }](ds []M) {
	slices.SortStableFunc(ds, func(a, b M) int { return a.Place().Compare(b.Place()) })
}
