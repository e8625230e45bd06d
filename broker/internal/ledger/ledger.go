// Package ledger remembers what has become of the messages of a subscription. It
// recognises second deliveries, and knows where a consumer for new messages begins when
// it is made again.
package ledger

import (
	"slices"

	"go-micro-jetstream/broker/internal/consumers"
	"go-micro-jetstream/broker/internal/wire"
)

// remembered is how many messages a subscription remembers that are to be delivered
// again, or have had their last delivery.
const remembered = 1024

// maxFailing is for how many messages a subscription remembers how often they have failed.
// A message that is forgotten begins with no failures: it has more tries, not fewer.
const maxFailing = 1 << 14

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

// Fate is what has become of a message.
type Fate int

// The fates.
const (
	Open       Fate = iota // not settled for good, as far as the ledger remembers
	Acked                  // its handler, or somebody else, has acked it
	Terminated             // it was discarded, or is a dead letter
	Spent                  // it has had all deliveries, counted with the retries that were made here
)

// Ledger is the ledger of one subscription. Its memory is bounded. It has no lock: only
// one goroutine at a time may use it.
type Ledger struct {
	acked, terminated memory
	spent             recent                   // had all their deliveries here, of which the server knows some
	last              uint64                   // the highest stream sequence that a handler got, or the one before the first
	copies            uint64                   // first deliveries below this stream sequence may be second ones, too
	owed              map[uint64]struct{}      // stream sequences; see Owe
	owedFrom          uint64                   // the lowest that owed had no room for; 0: none
	failures          map[wire.Identity]uint64 // see Failed
	epoch             uint32                   // see Epoch
	reached           uint64                   // the highest sequence of the consumer that has come
}

// New returns the ledger of a consumer that begins behind this stream sequence.
func New(floor uint64) Ledger { return Ledger{last: floor} }

// Epoch says how often the stream was replaced by another one, whose sequences begin
// again with 1.
func (l *Ledger) Epoch() uint32 { return l.epoch }

// Came notes that a delivery has come.
func (l *Ledger) Came(m wire.Metadata) { l.reached = max(l.reached, m.ConsumerSequence) }

// Misses reports whether deliveries up to this sequence of the consumer have not come.
// Other replicas may have them.
func (l *Ledger) Misses(delivered uint64) bool { return l.reached < delivered }

// Started notes that a handler gets a delivery. It returns how often the message has failed
// here, as far as that is remembered.
func (l *Ledger) Started(m wire.Metadata) (failures uint64) {
	l.last = max(l.last, m.StreamSequence)
	return l.failures[m.Identity()]
}

// Ack notes that a message was acked.
func (l *Ledger) Ack(cs *consumers.Consumer, m wire.Metadata) {
	l.acked.add(cs, m.Identity())
	l.close(m)
}

// Term notes that a message was terminated.
func (l *Ledger) Term(cs *consumers.Consumer, m wire.Metadata) {
	l.terminated.add(cs, m.Identity())
	l.close(m)
}

// close ends what was noted while a message was not settled.
func (l *Ledger) close(m wire.Metadata) {
	delete(l.failures, m.Identity())
	delete(l.owed, m.StreamSequence)
}

// Failed notes how often a message that comes again has failed here.
func (l *Ledger) Failed(m wire.Metadata, failures uint64) {
	if l.failures == nil {
		l.failures = map[wire.Identity]uint64{}
	}
	if _, known := l.failures[m.Identity()]; !known && len(l.failures) >= maxFailing {
		for id := range l.failures { // any
			delete(l.failures, id)
			break
		}
	}
	l.failures[m.Identity()] = failures
}

// Owe notes that a message is to be delivered again after so many deliveries: its handler
// has failed or acks later, or it was skipped. If the subscription loses its own consumer
// for new messages, the next one begins there. If the message was settled before, it was
// delivered again because an operator wants that, so the settlement counts no more.
func (l *Ledger) Owe(cs *consumers.Consumer, m wire.Metadata, deliveries uint64) {
	id := m.Identity()
	l.acked.forget(id)
	l.terminated.forget(id)
	if !cs.Ephemeral || !cs.GoesOn() || m.StreamSequence == 0 {
		return // the stream, or the server, knows what is left
	}
	if cs.IsLast(deliveries) {
		return // it is never delivered again
	}
	if len(l.owed) >= remembered {
		// Some may have left the stream, and will never be settled.
		l.owedFrom = l.ResumeAt()
		clear(l.owed)
	}
	if l.owed == nil {
		l.owed = map[uint64]struct{}{}
	}
	l.owed[m.StreamSequence] = struct{}{}
}

// Spend notes that a message has had all the deliveries that the server makes, counted
// with the retries that were made here. The server has counted served of them.
func (l *Ledger) Spend(cs *consumers.Consumer, m wire.Metadata, served uint64) {
	if !cs.IsLast(served) {
		l.spent.add(m.Identity())
	}
}

// ResumeAt returns the lowest stream sequence that is to be delivered again, or else the
// one behind everything that was started.
func (l *Ledger) ResumeAt() uint64 {
	n := l.last + 1
	if l.owedFrom > 0 {
		n = min(n, l.owedFrom)
	}
	for sequence := range l.owed {
		n = min(n, sequence)
	}
	return n
}

// MayRepeat reports whether a delivery may be the second one of its message. A consumer
// that was made again counts from 1.
func (l *Ledger) MayRepeat(m wire.Metadata) bool {
	return m.NumDelivered > 1 || m.StreamSequence < l.copies && m.StreamSequence > 0
}

// Fate returns what has become of a message.
func (l *Ledger) Fate(m wire.Metadata) Fate {
	switch id := m.Identity(); {
	case l.acked.has(id):
		return Acked
	case l.terminated.has(id):
		return Terminated
	case l.spent.has(id):
		return Spent
	}
	return Open
}

// ExpectCopies prepares for the first deliveries of a consumer that was made again. What
// was acked to the former one in vain is among them. What is in hand was delivered by the
// former one, too, up to this stream sequence.
func (l *Ledger) ExpectCopies(cs *consumers.Consumer, inHand uint64) {
	l.reached = 0
	if cs.Replays() { // the copies are wanted, and so are their retries
		l.acked, l.terminated = memory{}, memory{}
		return
	}
	l.copies = max(l.last, inHand) + 1
}

// StartAnew forgets everything that is about another stream, where sequences begin
// again with 1.
func (l *Ledger) StartAnew() {
	l.last, l.copies, l.owedFrom = 0, 0, 0
	l.acked, l.terminated = memory{}, memory{}
	clear(l.failures)
	clear(l.owed)
	l.epoch++
}
