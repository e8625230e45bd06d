// Package queue holds the messages that wait to be handled: all in the order of the
// stream, or those of one key one after the other.
package queue

import (
	"slices"
	"time"

	"go-micro-jetstream/broker/internal/keyorder"
)

// Message is what a [Queue] knows of the messages in it. A pointer type has these methods.
type Message[M comparable] interface {
	keyorder.Message[M]
	// AskAgain has the key of a message asked for again that has had none.
	AskAgain()
}

// Queue holds the messages that wait. It has no lock: the caller's guards it. Only Wake
// and Nudge are safe for concurrent use.
type Queue[M Message[M]] struct {
	waiting []M                // in order; with an order by key, those whose keys are not known
	room    []M                // the array behind waiting, to be used again
	lanes   *keyorder.Order[M] // nil: all messages have one order

	keying []M       // messages whose keys are being asked for, in order
	asked  time.Time // when that has begun; zero: nobody asks

	wake  chan struct{}
	timer *time.Timer // calls Nudge; nil until something waits for a time
	set   time.Time   // for when
}

// New returns an empty queue, with or without an order by key.
func New[M Message[M]](byKey bool) Queue[M] {
	q := Queue[M]{wake: make(chan struct{}, 1)}
	if byKey {
		q.lanes = keyorder.New[M]()
	}
	return q
}

// ByKey reports whether there is an order by key.
func (q *Queue[M]) ByKey() bool { return q.lanes != nil }

// Wake tells a worker that has nothing to do that it may have.
func (q *Queue[M]) Wake() <-chan struct{} { return q.wake }

// Nudge wakes a worker that has nothing to do.
func (q *Queue[M]) Nudge() {
	select {
	case q.wake <- struct{}{}:
	default: // one is being woken
	}
}

// nudgeIfReady wakes a worker if there is something for it.
func (q *Queue[M]) nudgeIfReady() {
	if q.lanes.Ready() {
		q.Nudge()
	}
}

// Add puts a message behind the others.
func (q *Queue[M]) Add(d M) {
	if q.waiting = append(q.waiting, d); cap(q.waiting) > cap(q.room) {
		q.room = q.waiting
	}
}

// pop takes the first of the waiting messages.
func (q *Queue[M]) pop() (d M) {
	var none M
	d, q.waiting[0] = q.waiting[0], none
	if q.waiting = q.waiting[1:]; len(q.waiting) == 0 {
		q.waiting = q.room[:0]
	}
	return d
}

// Shrink gives the memory back if nothing waits.
func (q *Queue[M]) Shrink() {
	if len(q.waiting) == 0 {
		q.waiting, q.room = nil, nil
	}
}

// Startable reports what a worker that has nothing to do finds: a message to handle, or
// one whose key is to be asked for.
func (q *Queue[M]) Startable() (message, key bool) {
	if q.lanes == nil {
		return len(q.waiting) > 0, false
	}
	q.elapse(time.Now())
	return q.lanes.Ready(), len(q.waiting) > 0 && q.asked.IsZero()
}

// Take takes the message that is to be handled next, or returns the zero value.
func (q *Queue[M]) Take() (d M) {
	if q.lanes == nil {
		if len(q.waiting) > 0 {
			d = q.pop()
		}
		return d
	}
	now := time.Now()
	q.elapse(now)
	d, _ = q.lanes.Take(now)
	q.nudgeIfReady()
	return d
}

// Len returns how many messages wait, those that wait behind others of their key and for
// their keys included.
func (q *Queue[M]) Len() int {
	n := len(q.waiting)
	if q.lanes != nil {
		n += len(q.keying) + q.lanes.Held()
	}
	return n
}

// Held returns how many messages are known by their keys, and how many keys these are.
func (q *Queue[M]) Held() (messages, keys int) { return q.lanes.Held(), q.lanes.Keys() }

// Bytes returns the weight of what waits and is known by its key.
func (q *Queue[M]) Bytes() int { return q.lanes.Bytes() }

// Backlog returns how many messages wait to be handled. Those behind one that is to be
// handled again do not count: a worker without work asks for others.
func (q *Queue[M]) Backlog() int {
	n := q.Len()
	if q.lanes != nil {
		n -= q.lanes.Blocked()
	}
	return n
}

// IdleBacklog is Backlog for a worker that finds nothing to start. What waits behind
// quick handlers counts, as it is soon done. What waits behind slow ones does not: other
// keys must not wait for them.
func (q *Queue[M]) IdleBacklog(quick time.Duration) int {
	if q.lanes == nil || time.Since(q.lanes.Moved()) > quick {
		return 0
	}
	return q.Backlog()
}

// First returns the message that has waited for a worker for the longest time.
func (q *Queue[M]) First() (d M, waits bool) {
	switch {
	case len(q.waiting) > 0:
		return q.waiting[0], true
	case q.lanes != nil:
		return q.lanes.First()
	}
	return d, false
}

// All calls f with every message that waits, in no order. unwatched says that its ack
// deadline is extended only for so long: it waits for no other one of its key, or behind
// one that hangs.
func (q *Queue[M]) All(f func(d M, unwatched bool)) {
	for _, d := range q.waiting {
		f(d, true)
	}
	if q.lanes == nil {
		return
	}
	q.lanes.All(time.Now(), f)
	for _, d := range q.keying {
		f(d, true)
	}
}

// Empty takes out everything that waits, in the order of the stream if there is an order
// by key. What is being handled is no longer in the queue.
func (q *Queue[M]) Empty() (ds []M) {
	if ds = q.waiting; q.lanes != nil {
		ds = slices.Concat(ds, q.keying, q.lanes.Empty())
		q.keying = nil // Sorted finds out
		keyorder.Sort(ds)
	}
	q.waiting, q.room = nil, nil
	return ds
}

// Strand takes out the messages that wait for a worker, except those that do not go.
func (q *Queue[M]) Strand(now time.Time, goes func(d M) bool) (ds []M) {
	kept := q.waiting[:0]
	for _, d := range q.waiting {
		if goes(d) {
			ds = append(ds, d)
		} else {
			kept = append(kept, d)
		}
	}
	clear(q.waiting[len(kept):])
	q.waiting = kept
	if q.lanes != nil {
		ds = append(q.lanes.Strand(now, goes), ds...)
	}
	return ds
}

// Sort puts what waits into the order of the stream.
func (q *Queue[M]) Sort() {
	if q.lanes == nil {
		keyorder.Sort(q.waiting)
	}
}

// End stops the timer when nothing is in hand any more.
func (q *Queue[M]) End() {
	if q.timer != nil {
		q.timer.Stop()
	}
}
