package broker

import "time"

// keepAlive extends the ack deadline of everything in hand, so that neither a
// slow handler nor the messages that wait behind it are delivered a second time
// while work goes on. It runs on a timer of its own as long as there is
// something in hand, three times per AckWait, so that one lost extension does
// no harm.
func (s *subscription) keepAlive() {
	s.mu.Lock()
	s.keeping = false
	if s.abandoned {
		s.mu.Unlock()
		return
	}
	// With all workers busy, nobody else empties the inbox. What fails comes
	// again with the next request.
	var a arrivals
	if !s.fetching && !s.isStopped() {
		a = s.takeIn(s.arrived())
	}
	s.mu.Unlock()
	s.report(a)

	s.mu.Lock()
	defer s.mu.Unlock()
	connected := s.conn.link.connected() // which waits for an attempt to connect
	now := time.Now()
	inHand := len(s.waiting) > 0
	for i := range s.waiting {
		// What is past its deadline is delivered to somebody else. It must not pass
		// for fresh again, but be skipped.
		it := &s.waiting[i]
		meta, _ := parseMetadata(it.msg.Reply)
		if connected && !s.consumer.expired(meta.numDelivered, now.Sub(it.received)-it.extended) {
			s.extend(it, now)
		}
	}
	for _, e := range s.running {
		if e == nil {
			continue
		}
		inHand = true
		if connected && !e.settled.Load() {
			s.extend(&e.item, now)
		}
	}
	if inHand {
		s.armKeeper()
	}
}

// armKeeper starts the timer if it does not run: what arrives later must not
// put it off. The caller holds s.mu.
func (s *subscription) armKeeper() {
	if s.keeping {
		return
	}
	s.keeping = true
	if wait := s.consumer.ackWait() / 3; s.keeper == nil {
		s.keeper = time.AfterFunc(wait, s.keepAlive)
	} else {
		s.keeper.Reset(wait)
	}
}

// extend tells the server that a message is still being worked on. The caller
// holds s.mu.
func (s *subscription) extend(it *item, now time.Time) {
	age := now.Sub(it.received)
	if age > s.cfg.maxAckExtension {
		return
	}
	if s.conn.nc.Publish(it.msg.Reply, waitBody) == nil {
		it.extended = age
	}
}
