package consume

import (
	"go-micro-jetstream/broker/internal/backoff"
)

// arrivals are what a look into the inbox has brought.
type arrivals struct {
	messages int
	bytes    int
	last     *Delivery   // the last of the messages
	strays   []*Delivery // messages that were not subscribed to
	alive    bool        // the server has given a sign of life
	err      error       // the request under way has failed
}

// report gives strays back, and tells the observer of the other arrivals. Strays come
// because somebody has changed the consumer's filter. They are not for this handler but
// for whoever looks into that, so they come back slowly.
func (s *Subscription) report(a arrivals) {
	for _, d := range a.strays {
		body := s.Consumer().NakBody(d.Meta.NumDelivered, backoff.Max)
		_ = s.cfg.Conn.NATS().Publish(d.Msg.Reply, body)
	}
	if a.messages > 0 {
		s.cfg.Observer.Fetched(a.messages, a.bytes, a.last.Meta.Pending)
	}
}
