package hand

import "time"

// takeStranded takes out what waits behind handlers that hang. It takes nothing while a request is under way:
// the server would deliver it here again. It leaves in hand what another subscriber must
// not get, and what the server would not deliver again. The caller holds the lock.
func (h *Hand) takeStranded() (ds []*Delivery) {
	now, cs := time.Now(), h.consumer.Load()
	if cs.Ephemeral || h.pin != nil || h.stopped() || !h.pull.Lapsed(now) || !h.cfg.Conn.Up() {
		return nil
	}
	oldest, waits := h.queue.First()
	if !waits || !h.pace.Hangs(oldest.Received, now) {
		return nil
	}
	goes := func(d *Delivery) bool {
		last := cs.Limit > 0 && d.Deliveries() >= cs.Limit && (cs.ByServer || !cs.Snoozes)
		return !last && !d.Expired(cs, now.Sub(d.Received))
	}
	ds = h.queue.Strand(now, goes)
	if len(ds) > 0 {
		h.pull.Abandon() // the size of the next batch is not learned from these
	}
	return ds
}

// keyHangs reports whether the user's function for keys runs for so long that nothing
// more is fetched. How quick handlers are says nothing about it.
func (h *Hand) keyHangs() bool {
	since, asking := h.queue.Asking()
	return asking && time.Since(since) >= h.pace.Floor()
}
