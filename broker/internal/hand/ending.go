package hand

import (
	"time"

	"go-micro-jetstream/broker/internal/wire"
)

// ending has the deliveries that are about to be terminated, and since when. Something
// that may take long is done first, such as storing a dead letter. The handler may have
// returned meanwhile. The caller holds the lock of the hand.
type ending map[*Delivery]time.Time

// never is how long a key waits for a message in ending: what is done first always ends,
// and lets the key go on.
const never = 24 * time.Hour

func (e ending) has(d *Delivery) bool {
	_, ok := e[d]
	return ok
}

// extensions returns the deliveries whose ack deadlines are to be extended, and marks
// them. Longest is for how long that is done, as for messages that are being handled.
func (e ending) extensions(now time.Time, longest time.Duration) (due []extension) {
	for d, since := range e {
		if now.Sub(since) <= longest {
			due = append(due, extension{d: d, before: d.Extended})
			d.Extended = now.Sub(d.Received)
		}
	}
	return due
}

// beginEnding extends the ack deadline of a delivery at once, since it may be about to
// pass, and has the keeper go on with that. With an order its key waits for the outcome.
// It takes the lock.
func (h *Hand) beginEnding(d *Delivery) {
	h.addEnding(d)
	if h.cfg.MaxAckExtension > 0 && h.cfg.Conn.Up() {
		_ = h.cfg.Conn.NATS().Publish(d.Msg.Reply, wire.ProgressBody) // the keeper tries again
	}
}
