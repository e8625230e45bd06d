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

// remember notes that a message was settled for good. The caller holds s.mu.
func (s *subscription) remember(e *event, r Result) {
	switch r {
	case ResultAck:
		s.acked.add(e.meta.identity())
	case ResultTerm:
		s.terminated.add(e.meta.identity())
	}
}

// repeated returns why a message that was delivered before is not to be handled,
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
