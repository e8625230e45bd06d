package hand

import (
	"time"

	"go-micro-jetstream/broker/internal/wire"
)

// ending are the deliveries that are being settled, and since when. Something is done first
// that may take long, such as storing a dead letter. The handler may have returned. It has no
// lock.
type ending map[*Delivery]time.Time

// never is when a key goes on behind a message that is being settled: the end of that
// says more.
const never = 24 * time.Hour

func (e ending) has(d *Delivery) bool {
	_, ok := e[d]
	return ok
}

// extensions returns those whose ack deadlines are to be extended, for as long as those of
// handlers are.
func (e ending) extensions(now time.Time, longest time.Duration) (due []extension) {
	for d, since := range e {
		if now.Sub(since) <= longest {
			due = append(due, extension{d: d, before: d.Extended})
			d.Extended = now.Sub(d.Received)
		}
	}
	return due
}

// settling begins to extend the ack deadline of a delivery that is being settled, at once:
// it may be about to pass. With an order its key waits for the outcome.
func (h *Hand) settling(d *Delivery) {
	h.end(d)
	if h.cfg.MaxAckExtension > 0 && h.cfg.Conn.Up() {
		_ = h.cfg.Conn.NATS().Publish(d.Msg.Reply, wire.ProgressBody) // the keeper tries again
	}
}
