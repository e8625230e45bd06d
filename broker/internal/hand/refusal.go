package hand

import (
	"time"

	"go-micro-jetstream/broker/internal/delivery"
	"go-micro-jetstream/broker/internal/ledger"
	"go-micro-jetstream/broker/internal/wire"
)

// refusal returns why a message is not to be handled, or nil. The caller holds the lock.
func (h *Hand) refusal(d *Delivery) *delivery.Refusal {
	if wire.IsDeleteMarker(d.Msg) {
		return delivery.Marker
	}
	if h.ledger.MayRepeat(d.Meta) {
		if why := h.repeated(d); why != nil {
			return why
		}
	}
	// The server is delivering it to somebody else, unless this was the last delivery.
	// Then the server accepts an ack all the same.
	cs := h.consumer.Load()
	if d.Expired(cs, d.Waited) && !cs.IsLast(d.Served()) {
		h.ledger.Owe(cs, d.Meta, d.Deliveries())
		return delivery.Expired
	}
	return nil
}

// repeated returns why a delivery that may be the second one of its message is not to
// be handled, or nil. Second deliveries come when an ack was lost with a connection,
// or when an operator has shortened the consumer's AckWait, so that the server does
// not wait as long as this side believes. The caller holds the lock.
func (h *Hand) repeated(d *Delivery) *delivery.Refusal {
	switch h.ledger.Fate(d.Meta) {
	case ledger.Acked:
		return delivery.Handled
	case ledger.Terminated:
		return delivery.Terminated
	case ledger.Spent:
		return delivery.Spent
	case ledger.Open:
	}
	id := d.Meta.Identity()
	for _, r := range h.running {
		// When its deadline is no longer extended, a handler counts as hanging.
		if r != nil && !r.Failed && r.Meta.Identity() == id && time.Since(r.Received) < h.cfg.MaxAckExtension {
			r.Skip(d.Meta.NumDelivered)
			return delivery.BeingHandled
		}
	}
	return nil
}
