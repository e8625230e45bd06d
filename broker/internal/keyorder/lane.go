package keyorder

import (
	"cmp"
	"slices"
	"time"
)

// Place is where a message is in the order of the stream.
type Place struct {
	Epoch    uint32 // how often the stream was replaced by another one
	Sequence uint64 // in the stream
}

// Compare is negative if p comes before q, and 0 if they are the same place.
func (p Place) Compare(q Place) int {
	return cmp.Or(cmp.Compare(p.Epoch, q.Epoch), cmp.Compare(p.Sequence, q.Sequence))
}

// Message is what an [Order] knows of the messages in it. A pointer type has these
// methods.
type Message[M comparable] interface {
	comparable
	// Seat returns the same seat each time. Only the order uses what is in it.
	Seat() *Seat[M]
	Place() Place
	Weight() int // in bytes
	Settled() bool
	// Hangs reports whether a message that is being handled counts as hanging: its ack
	// deadline is no longer extended, so that the server delivers it once more.
	Hangs(now time.Time) bool
	// Keyless reports whether nobody knows the key of the message. Such a message has a
	// lane of its own. When it is to be handled again, its key is asked for again.
	Keyless() bool
	// Repeat returns the message as one that is handled once more without the server.
	Repeat() M
	// Renew has the message begin now.
	Renew(now time.Time)
}

// Seat is where a message is in an [Order].
type Seat[M comparable] struct {
	lane    *lane[M] // nil: it is in none
	handled bool     // a handler has the message, or had it
}

// lane has the messages of one key. At any time it is in the row of lanes that are
// ready, or waits for a time, or has a message that is being handled.
type lane[M comparable] struct {
	key     uint64
	waiting []M       // in the order of the stream
	room    []M       // the array behind waiting, to be used again
	running M         // being handled; see runs
	again   M         // to be handled again before the others; see repeats
	due     time.Time // when
	missing []Place   // of messages that expired in hand and have not come again; in order
	given   time.Time // when nobody waits for them any more
	next    *lane[M]  // in the row
	index   int       // in the heap, from 1; 0: not there
}

// runs reports whether a message of the lane is being handled.
func (l *lane[M]) runs() bool {
	var none M
	return l.running != none
}

// repeats reports whether a message is to be handled again.
func (l *lane[M]) repeats() bool {
	var none M
	return l.again != none
}

// size returns how many messages the lane holds.
func (l *lane[M]) size() int {
	n := len(l.waiting)
	if l.repeats() {
		n++
	}
	return n
}

// pop takes the first of the waiting messages.
func (l *lane[M]) pop() M {
	d := l.waiting[0]
	clear(l.waiting[:1])
	if l.waiting = l.waiting[1:]; len(l.waiting) == 0 {
		l.waiting = l.room[:0]
	}
	return d
}

// miss notes that a message is to come again.
func (l *lane[M]) miss(p Place) {
	if i, found := slices.BinarySearchFunc(l.missing, p, Place.Compare); !found {
		l.missing = slices.Insert(l.missing, i, p)
	}
}

// has notes that a message is here: it is missed no more.
func (l *lane[M]) has(p Place) {
	if i, found := slices.BinarySearchFunc(l.missing, p, Place.Compare); found {
		l.missing = slices.Delete(l.missing, i, i+1)
	}
}

// laneHeap has the lane first whose wait ends first.
type laneHeap[M comparable] []*lane[M]

func (h laneHeap[M]) Len() int           { return len(h) }
func (h laneHeap[M]) Less(i, j int) bool { return h[i].due.Before(h[j].due) }

func (h laneHeap[M]) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i+1, j+1
}

func (h *laneHeap[M]) Push(x any) {
	l := x.(*lane[M])
	l.index = len(*h) + 1
	*h = append(*h, l)
}

func (h *laneHeap[M]) Pop() any {
	n := len(*h) - 1
	l := (*h)[n]
	(*h)[n] = nil
	*h = (*h)[:n]
	l.index = 0
	return l
}
