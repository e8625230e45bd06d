package consume

import (
	"time"

	"go-micro-jetstream/broker/internal/consumers"
	"go-micro-jetstream/broker/internal/wire"
)

// extension is a delivery whose ack deadline is being extended.
type extension struct {
	d      *Delivery
	before time.Duration // its mark before that
}

// keepAliveInterval is how often ack deadlines are extended: three times per ack wait,
// so that one lost extension does no harm.
func keepAliveInterval(cs *consumers.Consumer) time.Duration { return cs.AckWait() / 3 }

// keepAlive extends the ack deadline of everything in hand. Neither the message of a
// slow handler nor those that wait behind it are then delivered a second time while
// work goes on. It runs on a timer of its own as long as something is in hand.
func (h *inHand) keepAlive() {
	a, ok := h.beginExtending()
	if !ok {
		return
	}
	h.s.giveStrandedBack()
	var due []extension
	if h.s.cfg.Conn.Up() { // which waits for an attempt to connect
		due = h.extensions()
	}
	unsent := due[:0]
	for _, x := range due {
		// Whatever is settled meanwhile must not be extended: that would replace the
		// delay of a nak.
		if !x.d.Settled() && h.s.cfg.Conn.NATS().Publish(x.d.Msg.Reply, wire.ProgressBody) != nil {
			unsent = append(unsent, x)
		}
	}
	h.extended(unsent)
	h.s.report(a)
	for _, d := range h.relieve() {
		h.s.skip(d, expired)
	}
}
