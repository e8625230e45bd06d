package hand

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"

	"go-micro-jetstream/broker/internal/delivery"
	"go-micro-jetstream/broker/internal/fault"
	"go-micro-jetstream/broker/internal/keyorder"
)

// Delivery is one delivery of one message. Its methods are safe for concurrent use.
type Delivery struct {
	delivery.Record
	hand *Hand
	seat keyorder.Seat[*Delivery]
}

func (h *Hand) newDelivery(m *nats.Msg, received time.Time) *Delivery {
	d := &Delivery{hand: h}
	d.Init(h.context, m, received)
	return d
}

// Settle sends an acknowledgement: Ack, Nak or Term. With Nak the message is delivered
// again after the delay, or at once if that is 0. With an order it stays in hand, and
// nothing is sent, unless the subscription is stopped. Settle does not wait for the
// server to confirm. If the delivery is settled already, by the handler or by a
// goroutine that it has left behind, Settle sends nothing and returns how. It returns
// an error if the acknowledgement could not be sent. The delivery counts as settled all
// the same.
func (d *Delivery) Settle(r delivery.Result, delay time.Duration) (delivery.Result, time.Duration, error) {
	return d.settle(r, delay, true)
}

// Park is Settle with Nak for a message that others need not wait for: with an order the
// later messages of its key go on.
func (d *Delivery) Park(delay time.Duration) (delivery.Result, time.Duration, error) {
	return d.settle(delivery.Nak, delay, false)
}

func (d *Delivery) settle(r delivery.Result, delay time.Duration, keep bool) (delivery.Result, time.Duration, error) {
	if !d.Claim(r, delay) {
		r, delay = d.Settlement()
		return r, delay, nil
	}
	delay, kept, err := d.acknowledge(r, delay, "", keep)
	if !kept {
		d.hand.settled(d, r, delay)
	}
	return r, delay, err
}

// Ack acknowledges a delivery for the user. It returns [fault.ErrAlreadySettled] if the
// delivery is settled. If the ack could not be sent, the delivery is not settled, and Ack
// may be called again.
func (d *Delivery) Ack() error {
	if !d.Claim(delivery.Ack, 0) {
		return fault.ErrAlreadySettled
	}
	return d.settleLater(delivery.Ack, 0, "")
}

// Nak is like Ack, for a message that is to be delivered again after the delay.
func (d *Delivery) Nak(delay time.Duration) error {
	if !d.Claim(delivery.Nak, delay) {
		return fault.ErrAlreadySettled
	}
	d.Fail()
	return d.settleLater(delivery.Nak, delay, "")
}

// Term is like Ack, for a message that is never to be delivered again. The server publishes
// the reason in an advisory. If first is not nil, it is called before: meanwhile nobody
// else can settle the delivery, and its ack deadline is extended. If it fails, the message
// is not terminated.
func (d *Delivery) Term(reason string, first func() error) error {
	if !d.ClaimFirst() {
		return fault.ErrAlreadySettled
	}
	terminated := false // it stays so if first panics
	defer func() {
		if !terminated {
			d.Reopen()
			d.hand.cancelEnding(d)
		}
	}()
	if first != nil {
		d.hand.beginEnding(d)
		if err := first(); err != nil {
			return err
		}
	}
	d.Complete(delivery.Term)
	err := d.settleLater(delivery.Term, 0, reason)
	terminated = err == nil
	return err
}

// settleLater sends the acknowledgement of a delivery that the user has claimed. If that
// fails, the delivery can be settled again.
func (d *Delivery) settleLater(r delivery.Result, delay time.Duration, reason string) error {
	delay, kept, err := d.acknowledge(r, delay, reason, true)
	if kept {
		return nil
	}
	if err != nil {
		d.Reopen()
		return err
	}
	d.hand.settled(d, r, delay)
	return nil
}

// acknowledge sends an acknowledgement. With keep, a Nak keeps the message in hand
// instead, if that is possible. It returns the delay that applies.
func (d *Delivery) acknowledge(r delivery.Result, delay time.Duration, reason string, keep bool) (_ time.Duration, kept bool, err error) {
	if keep && r == delivery.Nak {
		if delay, kept = d.keep(delay); kept {
			return delay, true, nil
		}
	}
	return delay, false, d.sendBody(d.body(r, delay, reason), r, delay, false)
}

// keep keeps the message in hand, to be handled again after the delay, if the
// subscription has an order. Otherwise it returns the delay for the server.
func (d *Delivery) keep(delay time.Duration) (remaining time.Duration, kept bool) {
	switch {
	case !d.hand.queue.ByKey():
		return delay, false
	case d.hand.keep(d, delay):
		return delay, true
	case d.hand.stopped():
		return 0, false // what comes after it is given back without a delay
	}
	return delay, false
}

// Stopping is closed when the subscription begins to stop.
func (d *Delivery) Stopping() <-chan struct{} { return d.hand.cfg.Life.Done() }

// Send sends an acknowledgement (ADR-15) and reports it. Like every client, it does not
// wait for the server to confirm.
func (d *Delivery) Send(r delivery.Result, delay time.Duration, returned bool) error {
	return d.sendBody(d.body(r, delay, ""), r, delay, returned)
}

func (d *Delivery) body(r delivery.Result, delay time.Duration, reason string) []byte {
	return d.Body(d.hand.cfg.Conn, d.hand.Consumer(), r, delay, reason)
}

func (d *Delivery) sendBody(body []byte, r delivery.Result, delay time.Duration, returned bool) error {
	return d.sent(d.hand.cfg.Conn.NATS().Publish(d.Msg.Reply, body), r, delay, returned)
}

// GiveBack naks a message that no handler has got. With confirmed it waits for the
// server's answer, but at most for confirmTimeout. The server processes acknowledgements
// one after the other, so by then it has seen the earlier ones, too.
func (d *Delivery) GiveBack(confirmed bool) {
	conn, body := d.hand.cfg.Conn, d.body(delivery.Nak, 0, "")
	if !confirmed || !conn.Up() || conn.Deaf() != nil {
		_ = d.sendBody(body, delivery.Nak, 0, true)
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), confirmTimeout)
	defer cancel()
	_, err := conn.NATS().RequestWithContext(ctx, d.Msg.Reply, body)
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, nats.ErrNoResponders) {
		err = nil // it was sent
	}
	_ = d.sent(err, delivery.Nak, 0, true)
}

// confirmTimeout bounds the wait for the server's answer to a nak. Unsubscribe waits
// for it, and go-micro calls that with the mutex of its server held.
const confirmTimeout = 500 * time.Millisecond

// sent reports an acknowledgement that was sent, or was not.
func (d *Delivery) sent(err error, r delivery.Result, delay time.Duration, returned bool) error {
	if err != nil {
		err = fmt.Errorf("%s not sent, so the message is delivered again after AckWait: %w", r, err)
	}
	d.hand.cfg.Observer.Settled(d, r, delay, returned, err)
	return err
}

// Exhausted reports whether the message is given up after this delivery, and whether
// the server counts the deliveries, so that it makes no more.
func (d *Delivery) Exhausted() (exhausted, byServer bool) {
	cs := d.hand.Consumer()
	n := d.Deliveries()
	if !cs.ByServer && cs.Snoozes { // the server counts snoozes, too, and those of other replicas
		n = d.Failures + 1
	}
	return cs.Limit > 0 && n >= cs.Limit, cs.ByServer
}

// Snoozed is like Fail, but the delivery does not count as a failure.
func (d *Delivery) Snoozed() { d.hand.snoozed(d) }

// Fail notes that the handling has failed, before the delivery is nakked. From now on a
// second delivery of the message is handled rather than skipped. It may be called more
// than once.
func (d *Delivery) Fail() { d.hand.fail(d) }

// IsLast reports whether this is the last delivery of the message that the server makes.
func (d *Delivery) IsLast() bool { return d.hand.Consumer().IsLast(d.Served()) }

// Seat returns the place of the delivery in the order of its key.
func (d *Delivery) Seat() *keyorder.Seat[*Delivery] { return &d.seat }

// Hangs reports whether the ack deadline of a delivery that is being handled is no
// longer extended.
func (d *Delivery) Hangs(now time.Time) bool {
	return now.Sub(d.Received) > d.hand.cfg.MaxAckExtension
}

// Repeat returns a delivery with which the message is handled again, without the server.
func (d *Delivery) Repeat() *Delivery {
	again := &Delivery{hand: d.hand}
	again.InitAgain(d.hand.context, &d.Record)
	return again
}
