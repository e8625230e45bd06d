package hand

import (
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"go-micro-jetstream/broker/internal/consumers"
	"go-micro-jetstream/broker/internal/fault"
	"go-micro-jetstream/broker/internal/wire"
)

// Arrivals are what a look into the inbox has brought.
type Arrivals struct {
	Messages int
	Bytes    int
	Last     *Delivery   // the last of the messages
	Strays   []*Delivery // messages that were not subscribed to
	Unpinned []*Delivery // messages of a consumer that serves all its subscribers now
	Foreign  *nats.Msg   // the last message that no consumer has delivered
	Alive    bool        // the server has given a sign of life
	Err      error       // the request under way has failed
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

// takeIn is Collect for callers that hold the lock.
func (h *Hand) takeIn(m *nats.Msg) (a Arrivals) {
	now := time.Now()
	for ; m != nil; m = h.Poll() {
		cs := h.consumer.Load()
		if isForeign(m, h.cfg.Topic, cs) {
			a.Foreign = m
			continue
		}
		h.pull.Heard(now)
		former := h.pull.Pin()
		delivery, err := h.pull.Accept(m)
		h.notePin(m, former, err != nil, now)
		switch {
		case delivery:
			h.admit(m, now, cs, &a)
		case err == nil || errors.Is(err, wire.ErrBatchDone):
			a.Alive = true
			if h.pull.Idle() > 0 {
				h.queue.Shrink()
			}
		case errors.Is(err, jetstream.ErrMaxBytesExceeded):
			a.Err = fmt.Errorf("%w: the next message is larger than MaxRequestMaxBytes, %d, of consumer %s of stream %s: raise it", err, cs.Config.MaxRequestMaxBytes, cs.Name, cs.Stream.Name)
		default:
			a.Err = err
		}
	}
	if a.Messages > 0 {
		a.Alive = true
		h.pull.Arrived(now)
		h.fetching = false
		h.left.at = now
		h.arm()
	}
	return a
}

// admit takes in a delivery. A stray is not for this subscription: somebody has changed
// the consumer.
func (h *Hand) admit(m *nats.Msg, now time.Time, cs *consumers.Consumer, a *Arrivals) {
	d := h.newDelivery(m, now)
	switch {
	case h.pin != nil && h.pull.Lost(m): // whoever is active claims it
		return
	case h.pin != nil && m.Header.Get(wire.PinHeader) == "":
		a.Unpinned = append(a.Unpinned, d)
		a.Err = fmt.Errorf("%w: consumer %s of stream %s has been changed and serves all its subscribers", fault.ErrConsumerConflict, cs.Name, cs.Stream.Name)
		return
	case !wire.Covers(h.cfg.Topic, m.Subject):
		a.Strays = append(a.Strays, d)
		a.Err = fmt.Errorf("%w: consumer %s of stream %s has been changed and delivers %s", fault.ErrConsumerConflict, cs.Name, cs.Stream.Name, m.Subject)
		return
	}
	d.Epoch = h.ledger.Epoch()
	if h.pin != nil {
		h.pin.Delivered(m.Reply)
	}
	h.ledger.Came(d.Meta)
	h.queue.Add(d)
	h.left.pending = d.Meta.Pending
	if d.Meta.NumDelivered <= 1 {
		h.left.fresh = now
	}
	a.Last = d
	a.Messages++
	a.Bytes += m.Size()
}
