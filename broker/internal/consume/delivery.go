package consume

import (
	"go-micro-jetstream/broker/internal/delivery"
	"go-micro-jetstream/broker/internal/hand"
)

// What the observer and the handler get is documented in the packages below.
type (
	// Delivery is a message that was fetched.
	Delivery = hand.Delivery
	// Crowd is what keeps a subscription from fetching because of stuck keys.
	Crowd = hand.Crowd
	// Result is how a delivery was settled.
	Result = delivery.Result
	// SkipReason is why a delivery is not handled.
	SkipReason = delivery.SkipReason
)

// The results; see package delivery.
const (
	Ack  = delivery.Ack
	Nak  = delivery.Nak
	Term = delivery.Term
	None = delivery.None
)
