package broker

import (
	"slices"
	"time"
)

// rememberedAcks is how many acknowledged messages a subscription remembers:
// more than an outage of the connection can take the acks of, or a batch can
// hold back.
const rememberedAcks = 1024

// messageIdentity tells a message from all others of its consumer; the time, from one
// of the same number in a stream that was made again.
type messageIdentity struct {
	sequence uint64
	storedAt int64
}

func (m *metadata) identity() messageIdentity { return messageIdentity{m.streamSequence, m.storedAt} }

// acked are the messages that were acknowledged last.
type acked struct {
	ring []messageIdentity
	next int
}

func (a *acked) add(id messageIdentity) {
	if len(a.ring) < rememberedAcks {
		a.ring = append(a.ring, id)
		return
	}
	a.ring[a.next] = id
	a.next = (a.next + 1) % rememberedAcks
}

// repeated returns why a message that was delivered before is not to be handled,
// if the subscription has acknowledged it or is working on it: an ack was lost
// with a connection, or the server does not wait as long as this side believes,
// since an operator has shortened the consumer's AckWait. The caller holds s.mu.
func (s *subscription) repeated(e *event) error {
	id := e.meta.identity()
	if slices.Contains(s.acked.ring, id) {
		return errHandled
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
