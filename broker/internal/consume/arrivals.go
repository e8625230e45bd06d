package consume

import (
	"fmt"

	"github.com/nats-io/nats.go"

	"go-micro-jetstream/broker/internal/backoff"
	"go-micro-jetstream/broker/internal/consumers"
	"go-micro-jetstream/broker/internal/wire"
)

// arrivals are what a look into the inbox has brought.
type arrivals struct {
	messages int
	bytes    int
	last     *Delivery   // the last of the messages
	strays   []*Delivery // messages that were not subscribed to
	unpinned []*Delivery // messages of a consumer that serves all its subscribers now
	foreign  *nats.Msg   // the last message that no consumer has delivered
	turned   bool        // the subscription has become active, or is no longer
	dropped  int         // messages that were dropped for that
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
	if a.foreign != nil {
		const text = "dropped a message that is no delivery and came to the inbox, with the reply subject %q: whoever sent it may publish to the inboxes of others%s"
		if more, ok := s.lines.Allow(text); ok {
			s.log.Warn(fmt.Sprintf(text, wire.Shorten(a.foreign.Reply), more))
		}
	}
	if a.turned {
		s.turned(a.dropped)
	}
	if len(a.unpinned) > 0 {
		s.withdraw(a.unpinned)
	}
	if a.messages > 0 {
		s.cfg.Observer.Fetched(a.messages, a.bytes, a.last.Meta.Pending)
	}
}

// isForeign reports whether a message in the inbox is neither a delivery nor a status.
// Anybody who may publish to the inbox can send one, with any reply subject. An answer
// to that would have the rights of this client: it could purge a stream. So only
// acknowledgement subjects are ever answered, and for a message that was not subscribed
// to only those of the subscription's own consumer.
func isForeign(m *nats.Msg, topic string, cs *consumers.Consumer) bool {
	if m.Reply == "" {
		return len(m.Data) > 0 || m.Header.Get("Status") == ""
	}
	if !wire.Covers(topic, m.Subject) {
		return !wire.Acknowledges(m.Reply, cs.Stream.Name, cs.Name)
	}
	_, err := wire.ParseMetadata(m.Reply)
	return err != nil
}
