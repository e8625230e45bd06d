package consume

import (
	"fmt"
	"time"

	"go-micro-jetstream/broker/internal/consumers"
)

// checkInterval is how often the keeper looks at what is in hand.
func (h *inHand) checkInterval(cs *consumers.Consumer) time.Duration {
	return min(keepAliveInterval(cs), h.pace.Floor())
}

// takeStranded takes out what waits behind handlers that hang. It takes nothing while a request is under way:
// the server would deliver it here again. It leaves in hand what another subscriber must
// not get, and what the server would not deliver again. The caller holds the lock.
func (h *inHand) takeStranded() (ds []*Delivery) {
	now, cs := time.Now(), h.consumer.Load()
	if cs.Ephemeral || h.pin != nil || h.s.Stopped() || !h.pull.Lapsed(now) || !h.s.cfg.Conn.Up() {
		return nil
	}
	oldest, waits := h.oldest()
	if !waits || !h.pace.Hangs(oldest, now) {
		return nil
	}
	goes := func(d *Delivery) bool {
		last := cs.Limit > 0 && d.Deliveries() >= cs.Limit
		return !last && !cs.Expired(d.served(), now.Sub(d.Received)-d.extended)
	}
	kept := h.waiting[:0]
	for _, d := range h.waiting {
		if goes(d) {
			ds = append(ds, d)
		} else {
			kept = append(kept, d)
		}
	}
	clear(h.waiting[len(kept):])
	h.waiting = kept
	if h.order != nil {
		ds = append(h.order.lanes.Strand(now, goes), ds...)
	}
	if len(ds) > 0 {
		h.pull.Abandon() // the size of the next batch is not learned from these
	}
	return ds
}

// oldest returns since when a message waits for a worker.
func (h *inHand) oldest() (since time.Time, waits bool) {
	if len(h.waiting) > 0 {
		return h.waiting[0].Received, true
	}
	if h.order != nil {
		if d, ready := h.order.lanes.First(); ready {
			return d.Received, true
		}
	}
	return since, false
}

// keyHangs reports whether the user's function for keys runs for so long that nothing
// more is fetched. How quick handlers are says nothing about it.
func (h *inHand) keyHangs() bool {
	return !h.order.asked.IsZero() && time.Since(h.order.asked) >= h.pace.Floor()
}

// giveStrandedBack naks what waits behind handlers that hang. They keep their own
// messages.
func (s *Subscription) giveStrandedBack() {
	ds := s.hand.stranded()
	if len(ds) == 0 {
		return
	}
	const text = "gave %d messages back that waited here: no handler was started for %v, which is much longer than usual, so those that run may hang%s%s"
	if more, ok := s.lines.Allow(text); ok {
		counts := ""
		if s.Consumer().Limit > 0 {
			counts = "; for MaxDeliver each of them has had a delivery"
		}
		s.log.Warn(fmt.Sprintf(text, len(ds), time.Since(ds[0].Received).Round(time.Second), counts, more))
	}
	for _, d := range ds {
		_ = d.send(Nak, 0, true)
	}
}
