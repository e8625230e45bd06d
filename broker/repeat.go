package broker

import (
	"slices"
	"time"
)

// remembered is how many messages a subscription remembers that it has settled for
// good: more than an outage of the connection can take the acks of, or a batch can
// hold back.
const remembered = 1024

// messageIdentity tells a message from all others of its consumer; the time, from one
// of the same number in a stream that was made again.
type messageIdentity struct {
	sequence uint64
	storedAt int64
}

func (m *metadata) identity() messageIdentity { return messageIdentity{m.streamSequence, m.storedAt} }

// latest are the messages that something has happened to last.
type latest struct {
	ring []messageIdentity
	next int
}

func (l *latest) add(id messageIdentity) {
	if len(l.ring) < remembered {
		l.ring = append(l.ring, id)
		return
	}
	l.ring[l.next] = id
	l.next = (l.next + 1) % remembered
}

// forget leaves a gap in the place of a message.
func (l *latest) forget(id messageIdentity) {
	for i := range l.ring {
		if l.ring[i] == id {
			l.ring[i] = messageIdentity{}
		}
	}
}

// remember notes what has become of a message. The caller holds s.mu.
func (s *subscription) remember(e *event, r Result) {
	switch {
	case r == ResultAck:
		s.acked.add(e.meta.identity())
	case r == ResultTerm:
		s.terminated.add(e.meta.identity())
	case r == ResultNak || !e.settled.Load():
		s.owe(e)
		return
	}
	if e.owed || s.mayRepeat(e) {
		delete(s.owed, e.meta.streamSequence)
	}
}

// owe notes that a message is to be delivered again: its handler failed or will
// ack later, or it was skipped. If the subscription's own consumer for new messages
// is lost, the next one begins there. If it was settled once and comes again all the
// same, as an operator wants it to, that counts no more. The caller holds s.mu.
func (s *subscription) owe(e *event) {
	id := e.meta.identity()
	s.acked.forget(id)
	s.terminated.forget(id)
	cs := s.consumer
	if !cs.ephemeral || !cs.goesOn() || e.meta.streamSequence == 0 {
		return // see resumeAt, or the stream has what is left
	}
	if cs.isLast(max(e.meta.numDelivered, e.skipped)) {
		return // and never is
	}
	if len(s.owed) >= remembered {
		// Some may have left the stream, and will never be settled.
		s.owedFrom = s.lowestOwed(s.last + 1)
		clear(s.owed)
	}
	if s.owed == nil {
		s.owed = map[uint64]struct{}{}
	}
	s.owed[e.meta.streamSequence] = struct{}{}
	e.owed = true
}

// lowestOwed returns the lowest sequence that is to be delivered again, or n if
// there is none below it.
func (s *subscription) lowestOwed(n uint64) uint64 {
	if s.owedFrom > 0 {
		n = min(n, s.owedFrom)
	}
	for sequence := range s.owed {
		n = min(n, sequence)
	}
	return n
}

// resumeAt returns where in the stream a consumer for new messages that is made
// again begins: with what runs or is to be delivered again, or else behind all that
// was started. What others have of a shared one only the server has known. It
// delivers once more what was settled since; the latest of that are recognised.
func (s *subscription) resumeAt() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.consumer.ephemeral {
		return s.consumer.floor + 1
	}
	n := s.lowestOwed(s.last + 1)
	for _, e := range s.running {
		if e != nil && e.meta.streamSequence > 0 {
			n = min(n, e.meta.streamSequence)
		}
	}
	return n
}

// expectCopies prepares for the first deliveries of a consumer that was made again,
// or is about to be: what was acked to the former one in vain is among them.
func (s *subscription) expectCopies(cs *consumer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if cs.replays() { // then they are wanted, and so are their retries
		s.acked, s.terminated = latest{}, latest{}
		return
	}
	s.again = s.last + 1
	for _, it := range s.waiting { // of the former consumer
		if m, err := parseMetadata(it.msg.Reply); err == nil {
			s.again = max(s.again, m.streamSequence+1)
		}
	}
}

// mayRepeat reports whether a delivery may be the second of its message: a consumer
// that was made again counts from 1. The caller holds s.mu.
func (s *subscription) mayRepeat(e *event) bool {
	return e.meta.numDelivered > 1 || e.meta.streamSequence < s.again && e.meta.streamSequence > 0
}

// repeated returns why a message that may have been delivered before is not to be handled,
// if the subscription has settled it for good or is working on it: an ack was lost
// with a connection, or the server does not wait as long as this side believes,
// since an operator has shortened the consumer's AckWait. The caller holds s.mu.
func (s *subscription) repeated(e *event) error {
	id := e.meta.identity()
	switch {
	case slices.Contains(s.acked.ring, id):
		return errHandled
	case slices.Contains(s.terminated.ring, id):
		return errTerminated
	}
	for _, r := range s.running {
		// Past the bound of the extension a handler counts as hanging.
		if r != nil && !r.failed && r.meta.identity() == id && time.Since(r.received) < s.cfg.maxAckExtension {
			r.skipped = max(r.skipped, e.meta.numDelivered)
			return errBeingHandled
		}
	}
	return nil
}

// deliveries is how often the event's message has been delivered as far as the
// subscription knows: more often than the event tells if later deliveries were
// skipped as it was being handled.
func (s *subscription) deliveries(e *event) uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return max(e.meta.numDelivered, e.skipped)
}

// fail is the end of the skipping: what is delivered after the decision to give
// the message back is no part of that, but a delivery like others.
func (s *subscription) fail(e *event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e.failed = true
}
