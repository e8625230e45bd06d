package hand

import (
	"slices"
	"time"

	"github.com/nats-io/nats.go"

	"go-micro-jetstream/broker/internal/pinned"
	"go-micro-jetstream/broker/internal/wire"
)

// What a hand does for a consumer that serves one subscriber at a time. The caller holds the
// lock.

// holds reports whether nothing may be started.
func (h *Hand) holds() bool { return h.pin != nil && h.pin.Holds(time.Now()) }

// notePin notes the pin that a message from the inbox has brought, or that the server does
// not know the former one, or that a request has ended.
func (h *Hand) notePin(m *nats.Msg, former string, ended bool, now time.Time) {
	if h.pin == nil {
		return
	}
	if ended {
		h.pin.Spend(now)
	}
	switch pin := h.pull.Pin(); {
	case pin == former:
	case pin != "":
		cs, first := h.consumer.Load(), uint64(0)
		if meta, err := wire.ParseMetadata(m.Reply); err == nil {
			first = meta.ConsumerSequence
		}
		h.pin.Turn(pinned.Grant{Pin: pin, First: first, TTL: cs.Config.PinnedTTL, Wait: cs.AckWait() + MissingGrace}, now)
	default:
		h.pin.Doubt(former)
	}
}

// abandon gives up the requests under way.
func (h *Hand) abandon() {
	h.pull.Abandon()
	if h.pin != nil {
		h.pin.Spend(time.Now())
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
