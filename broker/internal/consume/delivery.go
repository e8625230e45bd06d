package consume

import (
	"go-micro-jetstream/broker/internal/delivery"
	"go-micro-jetstream/broker/internal/hand"
)

// What the observer and the handler get.
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
