package hand

import (
	"time"
)

// takeStranded takes out what waits behind handlers that hang. It takes nothing while a request is under way:
// the server would deliver it here again. It leaves in hand what another subscriber must
// not get, and what the server would not deliver again. The caller holds the lock.
func (h *Hand) takeStranded() (ds []*Delivery) {
	now, cs := time.Now(), h.consumer.Load()
	if cs.Ephemeral || h.pin != nil || h.stopped() || !h.pull.Lapsed(now) || !h.cfg.Conn.Up() {
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
func (h *Hand) oldest() (since time.Time, waits bool) {
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
func (h *Hand) keyHangs() bool {
	return !h.order.asked.IsZero() && time.Since(h.order.asked) >= h.pace.Floor()
}
