package hand

import (
	"time"

	"go-micro-jetstream/broker/internal/keyorder"
	"go-micro-jetstream/broker/internal/wire"
)

// What a delivery tells the queue; see [queue.Message]. The caller holds the
// lock of Hand.

// Seat is for the order by key.
func (d *Delivery) Seat() *keyorder.Seat[*Delivery] { return &d.seat }

// Place returns where the message is in the order of the stream.
func (d *Delivery) Place() keyorder.Place {
	return keyorder.Place{Epoch: d.epoch, Sequence: d.Meta.StreamSequence}
}

// Weight returns how many bytes the message has, headers included.
func (d *Delivery) Weight() int { return wire.Weight(d.Msg) }

// Keyless reports whether nobody knows the key of the message; see Unkey.
func (d *Delivery) Keyless() bool { return d.unkeyed != nil }

// AskAgain has the key of the message asked for again.
func (d *Delivery) AskAgain() { d.unkeyed = nil }

// Repeat returns the delivery as it is handled again without the server.
func (d *Delivery) Repeat() *Delivery {
	again := &Delivery{
		Msg: d.Msg, Meta: d.Meta, Received: d.Received, Context: d.hand.context,
		hand: d.hand, extended: d.extended, epoch: d.epoch, unkeyed: d.unkeyed,
	}
	again.Meta.NumDelivered = d.Deliveries() + 1
	again.retries = uint32(again.Meta.NumDelivered - d.served())
	return again
}

// Renew has the delivery begin now.
func (d *Delivery) Renew(now time.Time) {
	d.extended -= now.Sub(d.Received)
	d.Received = now
}

// Hangs reports whether the ack deadline of a delivery that is being handled is no
// longer extended.
func (d *Delivery) Hangs(now time.Time) bool {
	return now.Sub(d.Received) > d.hand.cfg.MaxAckExtension
}
