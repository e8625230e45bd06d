package hand

import (
	"slices"
	"time"
)

// What a hand does for a consumer that serves one subscriber at a time. The caller holds the
// lock.

// holds reports whether nothing may be started.
func (h *Hand) holds() bool { return h.pin != nil && h.pin.Holds(time.Now()) }

// notePin finds out whether the subscription has become active, or is no longer. With the
// latter it drops what is in hand and not started: whoever is active now gets it.
func (h *Hand) notePin(now time.Time) (turned bool, dropped int) {
	if h.pin == nil {
		return false, 0
	}
	cs, pin := h.consumer.Load(), h.pull.Pin()
	turned = h.pin.Turn(pin, now, cs.Config.PinnedTTL, cs.AckWait()+missingGrace)
	if turned && pin == "" {
		dropped = len(h.queue.Empty())
	}
	return turned, dropped
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
