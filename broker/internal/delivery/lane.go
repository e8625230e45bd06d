package delivery

import (
	"time"

	"go-micro-jetstream/broker/internal/keyorder"
	"go-micro-jetstream/broker/internal/wire"
)

// What a delivery tells an order by key; see [keyorder.Message].

// Unkey says that the message has no key, and why. It is for the function that is asked for it.
func (r *Record) Unkey(err error) { r.unkeyed = &err }

// KeyErr returns what Unkey was called with, or nil.
func (r *Record) KeyErr() error {
	if r.unkeyed == nil {
		return nil
	}
	return *r.unkeyed
}

// Place returns where the message is in the order of the stream.
func (r *Record) Place() keyorder.Place {
	return keyorder.Place{Epoch: r.Epoch, Sequence: r.Meta.StreamSequence}
}

// Weight returns how many bytes the message has, headers included.
func (r *Record) Weight() int { return wire.Weight(r.Msg) }

// Keyless reports whether nobody knows the key of the message; see Unkey.
func (r *Record) Keyless() bool { return r.unkeyed != nil }

// AskAgain has the key of the message asked for again.
func (r *Record) AskAgain() { r.unkeyed = nil }

// Renew has the delivery begin now.
func (r *Record) Renew(now time.Time) {
	r.Extended -= now.Sub(r.Received)
	r.Received = now
}
