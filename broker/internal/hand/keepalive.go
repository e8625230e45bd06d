package hand

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

// checkInterval is how often the keeper looks at what is in hand.
func (h *Hand) checkInterval(cs *consumers.Consumer) time.Duration {
	return min(keepAliveInterval(cs), h.pace.Floor())
}

// arm starts the keeper if it does not run: what arrives later must not put it off.
// The caller holds the lock.
func (h *Hand) arm() {
	if h.armed || h.extending {
		return
	}
	h.armed = true
	if wait := h.checkInterval(h.consumer.Load()); h.keeper == nil {
		h.keeper = time.AfterFunc(wait, h.cfg.KeepAlive)
	} else {
		h.keeper.Reset(wait)
	}
}

// extendSooner has ack deadlines extended in time where the ack wait has become shorter.
// The caller holds the lock.
func (h *Hand) extendSooner(former, now *consumers.Consumer) {
	if h.armed && now.AckWait() < former.AckWait() {
		h.keeper.Reset(h.checkInterval(now))
	}
}

// Extend extends the ack deadline of everything in hand. Neither the message of a
// slow handler nor those that wait behind it are then delivered a second time while
// work goes on. It is called after BeginExtending.
func (h *Hand) Extend() {
	var due []extension
	if h.cfg.Conn.Up() { // which waits for an attempt to connect
		due = h.extensions()
	}
	unsent := due[:0]
	for _, x := range due {
		// Whatever is settled meanwhile must not be extended: that would replace the
		// delay of a nak.
		if !x.d.Settled() && h.cfg.Conn.NATS().Publish(x.d.Msg.Reply, wire.ProgressBody) != nil {
			unsent = append(unsent, x)
		}
	}
	h.extended(unsent)
}

// extendAll is extensions for callers that hold the lock. Waiting messages whose deadline
// has passed are left out.
func (h *Hand) extendAll() (due []extension) {
	now, cs := time.Now(), h.consumer.Load()
	extend := func(d *Delivery) {
		if age := now.Sub(d.Received); age <= h.cfg.MaxAckExtension {
			due = append(due, extension{d: d, before: d.Extended})
			d.Extended = age
		}
	}
	for _, d := range h.running {
		if d != nil && !d.Taken() {
			extend(d)
		}
	}
	due = append(due, h.ending.extensions(now, h.cfg.MaxAckExtension)...)
	h.queue.All(func(d *Delivery, unwatched bool) {
		switch {
		// A message past its deadline is delivered to somebody else. It must not pass
		// for fresh again, but be skipped.
		case d.Expired(cs, now.Sub(d.Received)), h.ending.has(d):
		case unwatched:
			extend(d)
		default: // however long its key is stuck
			due = append(due, extension{d: d, before: d.Extended})
			d.Extended = now.Sub(d.Received)
		}
	})
	return due
}
