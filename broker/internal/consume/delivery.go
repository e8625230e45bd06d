package consume

import (
	"go-micro-jetstream/broker/internal/delivery"
	"go-micro-jetstream/broker/internal/hand"
)

// Delivery, and the other types that the observer and the handler get, are those of the
// packages below.
type (
	Delivery   = hand.Delivery
	Crowd      = hand.Crowd
	Result     = delivery.Result
	SkipReason = delivery.SkipReason
)

// The results; see package delivery.
const (
	Ack  = delivery.Ack
	Nak  = delivery.Nak
	Term = delivery.Term
	None = delivery.None
)
