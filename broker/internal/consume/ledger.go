package consume

import (
	"slices"

	"go-micro-jetstream/broker/internal/consumers"
	"go-micro-jetstream/broker/internal/wire"
)

// remembered is how many messages a subscription remembers that are to be delivered
// again, or have had their last delivery.
const remembered = 1024

// recent are the messages that something has happened to last.
type recent struct {
	ring []wire.Identity
	next int
}

func (r *recent) add(id wire.Identity) {
	if len(r.ring) < remembered {
		r.ring = append(r.ring, id)
		return
	}
	r.ring[r.next] = id
	r.next = (r.next + 1) % remembered
}

func (r *recent) has(id wire.Identity) bool { return slices.Contains(r.ring, id) }

// ledger knows what has become of messages. It recognises second deliveries, and knows
// where a consumer for new messages begins when it is made again. It has no lock.
type ledger struct {
	acked, terminated memory
	spent             recent              // had all their deliveries here, of which the server knows some
	last              uint64              // the highest stream sequence that a handler got, or the one before the first
	copies            uint64              // first deliveries below this stream sequence may be second ones, too
	owed              map[uint64]struct{} // stream sequences; see owe
	owedFrom          uint64              // the lowest that owed had no room for; 0: none
	snoozed           map[wire.Identity]uint64
	epoch             uint32 // see place
	reached           uint64 // the highest sequence of the consumer that has come
}

// settle notes an acknowledgement of the consumer's delivery.
func (l *ledger) settle(cs *consumers.Consumer, d *Delivery, r Result) {
	switch r {
	case Ack:
		l.acked.add(cs, d.Meta.Identity())
	case Term:
		l.terminated.add(cs, d.Meta.Identity())
	default:
		l.owe(cs, d)
		return
	}
	delete(l.snoozed, d.Meta.Identity())
	if d.owed || l.mayRepeat(d) {
		delete(l.owed, d.Meta.StreamSequence)
	}
}

// snooze notes that a delivery is not to count. Of the messages that are snoozed, as
// many are remembered as others. Another replica does not know.
func (l *ledger) snooze(d *Delivery) {
	if l.snoozed == nil {
		l.snoozed = map[wire.Identity]uint64{}
	}
	for id := range l.snoozed {
		if len(l.snoozed) < remembered {
			break
		}
		delete(l.snoozed, id)
	}
	l.snoozed[d.Meta.Identity()] = d.snoozes + 1
}

// owe notes that a message is to be delivered again: its handler has failed or acks
// later, or it was skipped. If the subscription loses its own consumer for new
// messages, the next one begins there. If the message was settled before, it was
// delivered again because an operator wants that, so the settlement counts no more.
func (l *ledger) owe(cs *consumers.Consumer, d *Delivery) {
	id := d.Meta.Identity()
	l.acked.forget(id)
	l.terminated.forget(id)
	if !cs.Ephemeral || !cs.GoesOn() || d.Meta.StreamSequence == 0 {
		return // the stream, or the server, knows what is left
	}
	if cs.IsLast(d.Deliveries()) {
		return // it is never delivered again
	}
	if len(l.owed) >= remembered {
		// Some may have left the stream, and will never be settled.
		l.owedFrom = l.lowestOwed(l.last + 1)
		clear(l.owed)
	}
	if l.owed == nil {
		l.owed = map[uint64]struct{}{}
	}
	l.owed[d.Meta.StreamSequence] = struct{}{}
	d.owed = true
}

// spend notes that a message has had all the deliveries that the server makes, counted
// with the retries that were made here.
func (l *ledger) spend(cs *consumers.Consumer, d *Delivery) {
	if !cs.IsLast(d.served()) {
		l.spent.add(d.Meta.Identity())
	}
}

// lowestOwed returns the lowest stream sequence that is to be delivered again, or n if
// there is none below it.
func (l *ledger) lowestOwed(n uint64) uint64 {
	if l.owedFrom > 0 {
		n = min(n, l.owedFrom)
	}
	for sequence := range l.owed {
		n = min(n, sequence)
	}
	return n
}

// started notes that a handler gets a delivery.
func (l *ledger) started(d *Delivery) {
	l.last = max(l.last, d.Meta.StreamSequence)
	d.snoozes = l.snoozed[d.Meta.Identity()]
}

// mayRepeat reports whether a delivery may be the second one of its message. A consumer
// that was made again counts from 1.
func (l *ledger) mayRepeat(d *Delivery) bool {
	return d.Meta.NumDelivered > 1 || d.Meta.StreamSequence < l.copies && d.Meta.StreamSequence > 0
}

// repeated returns why a delivery of a message that was settled for good is not
// handled, or nil.
func (l *ledger) repeated(d *Delivery) *refusal {
	switch id := d.Meta.Identity(); {
	case l.acked.has(id):
		return handled
	case l.terminated.has(id):
		return terminated
	case l.spent.has(id):
		return spent
	}
	return nil
}

// expectCopies prepares for the first deliveries of a consumer that was made again.
// What was acked to the former one in vain is among them.
func (l *ledger) expectCopies(cs *consumers.Consumer, waiting []*Delivery) {
	l.reached = 0
	if cs.Replays() { // the copies are wanted, and so are their retries
		l.acked, l.terminated = memory{}, memory{}
		return
	}
	l.copies = l.last + 1
	for _, d := range waiting { // of the former consumer
		l.copies = max(l.copies, d.Meta.StreamSequence+1)
	}
}

// startAnew forgets everything that is about another stream, where sequences begin
// again with 1.
func (l *ledger) startAnew() {
	l.last, l.copies, l.owedFrom = 0, 0, 0
	l.acked, l.terminated = memory{}, memory{}
	clear(l.snoozed)
	clear(l.owed)
	l.epoch++
}
