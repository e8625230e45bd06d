package consume

import (
	"fmt"

	"github.com/nats-io/nats.go"

	"go-micro-jetstream/broker/internal/backoff"
	"go-micro-jetstream/broker/internal/hand"
	"go-micro-jetstream/broker/internal/wire"
)

// report gives strays back, and tells the observer of the other arrivals. Strays come
// because somebody has changed the consumer's filter. They are not for this handler but
// for whoever looks into that, so they come back slowly.
func (s *Subscription) report(a hand.Arrivals) {
	for _, d := range a.Strays {
		body := s.Consumer().NakBody(d.Meta.NumDelivered, backoff.Max)
		_ = s.cfg.Conn.NATS().Publish(d.Msg.Reply, body)
	}
	if a.Foreign != nil {
		const text = "dropped a message that is no delivery and came to the inbox, with the reply subject %q: whoever sent it may publish to the inboxes of others%s"
		if more, ok := s.lines.Allow(text); ok {
			s.log.Warn(fmt.Sprintf(text, wire.Shorten(a.Foreign.Reply), more))
		}
	}
	if len(a.Unpinned) > 0 {
		s.withdraw(a.Unpinned)
	}
	if a.Messages > 0 {
		s.cfg.Observer.Fetched(a.Messages, a.Bytes, a.Last.Meta.Pending)
	}
}

// collect takes in a message from the inbox, or nil, and all that are behind it.
func (s *Subscription) collect(m *nats.Msg) hand.Arrivals {
	a := s.hand.Collect(m)
	s.report(a)
	return a
}

// takeRest takes in what has come, and reports whether more may.
func (s *Subscription) takeRest() (more bool) {
	s.collect(nil)
	return s.hand.Expects()
}
