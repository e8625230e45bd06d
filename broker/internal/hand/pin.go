package hand

import (
	"slices"
	"time"

	"go-micro-jetstream/broker/internal/pinned"
)

// What a hand does for a consumer that serves one subscriber at a time. The caller holds the
// lock.

// holds reports whether nothing may be started.
func (h *Hand) holds() bool { return h.pin != nil && h.pin.Holds(time.Now()) }

// notePin notes the pin that a delivery has brought, or that the server does not know the
// former one.
func (h *Hand) notePin(former string, now time.Time) {
	if h.pin == nil {
		return
	}
	switch pin := h.pull.Pin(); {
	case pin != "":
		h.pin.Turn(pin, now, h.consumer.Load().AckWait()+MissingGrace)
	case former != "":
		h.pin.Doubt(former)
	}
}

// lose drops what is not started: another subscription is active, and gets it.
func (h *Hand) lose(pin string) {
	h.pull.Lose(pin)
	h.pin.Lose(pinned.Left{Waiting: len(h.drop()), Running: h.busy()})
}

// sign returns a message whose ack deadline is to be extended only to show that there is
// somebody who works. It returns nil if nothing is in hand.
func (h *Hand) sign() (sign *Delivery) {
	now := time.Now()
	for _, d := range h.running {
		if d != nil && !d.Settled() && now.Sub(d.Received) <= h.cfg.MaxAckExtension {
			return d
		}
	}
	cs := h.consumer.Load()
	h.queue.All(func(d *Delivery, _ bool) {
		if !cs.Expired(d.Served(), now.Sub(d.Received)-d.Extended) && !d.Settled() {
			sign = d
		}
	})
	return sign
}

// sequences returns the stream sequences of what is in hand and not settled.
func (h *Hand) sequences() map[uint64]struct{} {
	all := map[uint64]struct{}{}
	for _, d := range h.unhandled() {
		all[d.Meta.StreamSequence] = struct{}{}
	}
	for _, d := range h.running {
		if d != nil && !d.Settled() {
			all[d.Meta.StreamSequence] = struct{}{}
		}
	}
	return all
}

// handles reports whether a handler runs.
func (h *Hand) handles() bool {
	return slices.ContainsFunc(h.running, func(d *Delivery) bool { return d != nil })
}
