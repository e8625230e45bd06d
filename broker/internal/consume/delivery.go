package consume

import "go-micro-jetstream/broker/internal/hand"

// The types of package hand that the observer and the handler get.
type (
	Delivery   = hand.Delivery
	Result     = hand.Result
	SkipReason = hand.SkipReason
	Crowd      = hand.Crowd
)

// The results; see package hand.
const (
	Ack  = hand.Ack
	Nak  = hand.Nak
	Term = hand.Term
	None = hand.None
)
