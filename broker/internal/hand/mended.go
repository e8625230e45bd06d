package hand

import "go-micro-jetstream/broker/internal/consumers"

// What a hand does when its consumer was mended. The caller holds the lock.

// adopt is Mended.
func (h *Hand) adopt(m consumers.Mended) {
	former := h.consumer.Load()
	switch {
	case m.Remade:
		h.ledger.ExpectCopies(former, h.highest())
	case m.Another:
		h.ledger.ExpectCopies(m.Consumer, h.highest())
	}
	if !m.Consumer.Stream.Created.Equal(former.Stream.Created) {
		h.ledger.StartAnew()
		h.queue.Forget()
	}
	now := m.Consumer
	if former.Snoozes { // so what is in hand here may have been snoozed
		now = now.Snoozing()
	}
	h.consumer.Store(now)
	h.extendSooner(former, now)
}

// lowest is ResumeAt.
func (h *Hand) lowest() uint64 {
	if cs := h.consumer.Load(); !cs.Ephemeral {
		return cs.Floor + 1
	}
	n := h.ledger.ResumeAt()
	for _, d := range h.running {
		if d != nil && d.Meta.StreamSequence > 0 {
			n = min(n, d.Meta.StreamSequence)
		}
	}
	if h.queue.ByKey() { // later ones of other keys may have been started
		for _, d := range h.unhandled() {
			if d.Meta.StreamSequence > 0 {
				n = min(n, d.Meta.StreamSequence)
			}
		}
	}
	return n
}

// unhandled returns everything that is in hand and that no handler has, in no order.
func (h *Hand) unhandled() (ds []*Delivery) {
	h.queue.All(func(d *Delivery, _ bool) { ds = append(ds, d) })
	return ds
}

// highest returns the highest stream sequence of what no handler has.
func (h *Hand) highest() (n uint64) {
	for _, d := range h.unhandled() {
		n = max(n, d.Meta.StreamSequence)
	}
	return n
}
