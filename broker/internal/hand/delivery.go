package hand

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"go-micro-jetstream/broker/internal/consumers"
	"go-micro-jetstream/broker/internal/fault"
	"go-micro-jetstream/broker/internal/keyorder"
	"go-micro-jetstream/broker/internal/wire"
)

// Result is how a delivery was settled.
type Result string

// The results. None is that of a delivery that was not settled.
const (
	Ack  Result = "ack"
	Nak  Result = "nak"
	Term Result = "term"
	None Result = "none"
)

// Delivery is one delivery of one message. Its methods are safe for concurrent use.
type Delivery struct {
	Msg      *nats.Msg
	Meta     wire.Metadata     // of a message that is no JetStream delivery: delivery 1, and zeros
	Received time.Time         // when it was taken out of the inbox
	Began    time.Duration     // how long after that a worker took it
	Context  context.Context   // that of Begin, until Config.Handle sets another one
	Header   map[string]string // what the handler gets; set by Config.Handle, for the log

	hand    *Hand
	settled atomic.Uint64 // 0: it is not; otherwise see settlement
	skipped atomic.Uint64 // the number of the latest delivery that was skipped for this one; 0: none was

	// Both are set when it is started. If the message is not known here, nobody knows
	// whether its deliveries before this one have failed.
	uncounted uint64 // how many deliveries up to this one do not count
	known     bool

	// These are guarded by the lock of Hand, as are changes of skipped.
	extended time.Duration // how long after its arrival the server was last told to wait
	failed   bool          // the message is going to be given back

	// These are of subscriptions with an order, and guarded by the same lock.
	retries uint32 // of Meta.NumDelivered: made here, and not known to the server
	epoch   uint32 // see [ledger.Ledger.Epoch]
	seat    keyorder.Seat[*Delivery]
	unkeyed *error // why it has no key; nil: it has one
}

func (h *Hand) newDelivery(m *nats.Msg, received time.Time) *Delivery {
	d := &Delivery{Msg: m, Received: received, Context: h.context, hand: h}
	var err error
	if d.Meta, err = wire.ParseMetadata(m.Reply); err != nil {
		d.Meta = wire.Metadata{NumDelivered: 1}
	}
	return d
}

// Settle sends an acknowledgement: Ack, Nak or Term. With Nak the message is delivered
// again after the delay, or at once if that is 0. With an order it stays in hand, and
// nothing is sent, unless the subscription is stopped. Settle does not wait for the
// server to confirm. If the delivery is settled already, by the handler or by a
// goroutine that it has left behind, Settle sends nothing and returns how. It returns
// an error if the acknowledgement could not be sent. The delivery counts as settled all
// the same.
func (d *Delivery) Settle(r Result, delay time.Duration) (Result, time.Duration, error) {
	if !d.settled.CompareAndSwap(0, settlement(r, delay)) {
		r, delay = d.Settlement()
		return r, delay, nil
	}
	if r == Nak {
		var kept bool
		if delay, kept = d.keep(delay); kept {
			return Nak, delay, nil
		}
	}
	err := d.Send(r, delay, false)
	d.hand.settled(d, r, delay)
	return r, delay, err
}

// Ack is Settle for the user's own call. It returns [fault.ErrAlreadySettled] if the
// delivery is settled. An ack that could not be sent may be tried again.
func (d *Delivery) Ack() error { return d.settleLater(Ack, 0, "", nil) }

// Nak is Ack for a message that is to be delivered again after the delay.
func (d *Delivery) Nak(delay time.Duration) error {
	return d.settleLater(Nak, delay, "", func() error {
		d.Fail()
		return nil
	})
}

// Term is Ack for a message that is never to be delivered again. The server tells
// the reason in an advisory. What has to be done first is done once the delivery
// counts as settled. If it fails, the message is not terminated.
func (d *Delivery) Term(reason string, first func() error) error {
	return d.settleLater(Term, 0, reason, first)
}

// Park is Settle with Nak for a message that is out of the way until then: with an order
// those of its key go on.
func (d *Delivery) Park(delay time.Duration) (Result, time.Duration, error) {
	if !d.settled.CompareAndSwap(0, settlement(Nak, delay)) {
		r, delay := d.Settlement()
		return r, delay, nil
	}
	err := d.Send(Nak, delay, false)
	d.hand.settled(d, Nak, delay)
	return Nak, delay, err
}

// settleLater settles a delivery for the user, once.
func (d *Delivery) settleLater(r Result, delay time.Duration, reason string, first func() error) error {
	if !d.settled.CompareAndSwap(0, settlement(r, delay)) {
		return fault.ErrAlreadySettled
	}
	var err error
	if first != nil {
		err = first()
	}
	if r == Nak && err == nil {
		var kept bool
		if delay, kept = d.keep(delay); kept {
			return nil
		}
	}
	if err == nil {
		err = d.sendBody(d.body(r, delay, reason), r, delay, false)
	}
	if err != nil {
		d.settled.Store(0)
		return err
	}
	d.hand.settled(d, r, delay)
	return nil
}

// keep has the message stay in hand, if the subscription has an order, and handled
// again after the delay. Otherwise it returns the delay for the server.
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

// settled, as one number: the result in the lowest two bits, and the delay.
func settlement(r Result, delay time.Duration) uint64 {
	return uint64(max(delay, 0))<<2 | uint64(slices.Index(results, r))
}

var results = []Result{None, Ack, Nak, Term}

// Settlement returns how the delivery was settled.
func (d *Delivery) Settlement() (Result, time.Duration) {
	s := d.settled.Load()
	return results[s&3], time.Duration(s >> 2)
}

// Settled reports whether the delivery is settled.
func (d *Delivery) Settled() bool { return d.settled.Load() != 0 }

// Stopping is closed when the subscription begins to stop.
func (d *Delivery) Stopping() <-chan struct{} { return d.hand.cfg.Life.Done() }

// Send sends an acknowledgement (ADR-15) and reports it. Like every client, it does not
// wait for the server to confirm.
func (d *Delivery) Send(r Result, delay time.Duration, returned bool) error {
	return d.sendBody(d.body(r, delay, ""), r, delay, returned)
}

// body returns what an acknowledgement says to the server.
func (d *Delivery) body(r Result, delay time.Duration, reason string) []byte {
	switch r {
	case Nak:
		return d.hand.Consumer().NakBody(d.served(), delay)
	case Term:
		if reason == "" {
			return wire.TermBody
		}
		// A server before 2.10.4 would take an acknowledgement with a reason for none.
		if _, ok := d.hand.cfg.Conn.Has(10, 4); ok {
			return append(append(slices.Clip(wire.TermBody), ' '), reason...)
		}
		return wire.TermBody
	}
	return wire.AckBody
}

func (d *Delivery) sendBody(body []byte, r Result, delay time.Duration, returned bool) error {
	return d.sent(d.hand.cfg.Conn.NATS().Publish(d.Msg.Reply, body), r, delay, returned)
}

// GiveBack naks a message that no handler gets. With confirmed it waits until the server
// has answered, but at most for confirmTimeout. The server works acknowledgements off
// one after the other, so it has seen the earlier ones then.
func (d *Delivery) GiveBack(confirmed bool) {
	conn, body := d.hand.cfg.Conn, d.body(Nak, 0, "")
	if !confirmed || !conn.Up() || conn.Deaf() != nil {
		_ = d.sendBody(body, Nak, 0, true)
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), confirmTimeout)
	defer cancel()
	_, err := conn.NATS().RequestWithContext(ctx, d.Msg.Reply, body)
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, nats.ErrNoResponders) {
		err = nil // it was sent
	}
	_ = d.sent(err, Nak, 0, true)
}

// confirmTimeout bounds the wait for the server's answer to a nak. Unsubscribe waits
// for it, and go-micro calls that with the mutex of its server held.
const confirmTimeout = 500 * time.Millisecond

// sent reports an acknowledgement that was sent, or was not.
func (d *Delivery) sent(err error, r Result, delay time.Duration, returned bool) error {
	if err != nil {
		err = fmt.Errorf("%s not sent, so the message is delivered again after AckWait: %w", r, err)
	}
	d.hand.cfg.Observer.Settled(d, r, delay, returned, err)
	return err
}

// Deliveries returns how often the message has been delivered, as far as the
// subscription knows. That is more than Meta says if later deliveries were skipped
// while this one was being handled.
func (d *Delivery) Deliveries() uint64 { return max(d.Meta.NumDelivered, d.skipped.Load()) }

// served is Deliveries without the retries that were made here: what the server counts.
func (d *Delivery) served() uint64 {
	return max(d.Meta.NumDelivered-uint64(d.retries), d.skipped.Load())
}

// Unkey says that the message has no key, and why. It is for Config.Key.
func (d *Delivery) Unkey(err error) { d.unkeyed = &err }

// KeyErr returns what Unkey was called with, or nil.
func (d *Delivery) KeyErr() error {
	if d.unkeyed == nil {
		return nil
	}
	return *d.unkeyed
}

// Exhausted reports whether the message is given up after this delivery, and whether
// the server counts the deliveries, so that it makes no more.
func (d *Delivery) Exhausted() (exhausted, byServer bool) {
	cs := d.hand.Consumer()
	n := d.Deliveries()
	if !cs.ByServer {
		n -= min(d.discount(cs), n)
	}
	return cs.Limit > 0 && n >= cs.Limit, cs.ByServer
}

// discount returns how many deliveries before this one do not count, where this module
// counts: those that were snoozed. If handlers snooze, and the subscription does not
// know the message, it is all of them.
func (d *Delivery) discount(cs *consumers.Consumer) uint64 {
	if !d.known && cs.Snoozes {
		return d.Deliveries() - 1
	}
	return d.uncounted
}

// Discount says that the delivery is not to count where this module counts.
func (d *Delivery) Discount() { d.hand.snooze(d) }

// Fail says that the message is going to be given back. From now on a second delivery
// of it is handled rather than skipped.
func (d *Delivery) Fail() { d.hand.fail(d) }

// Attrs says in the log which message a line is about. The trace is that of the
// handler, or the publisher's before there is a handler.
func (d *Delivery) Attrs() []any {
	attrs := []any{"subject", wire.Shorten(d.Msg.Subject), "sequence", d.Meta.StreamSequence, "deliveries", d.Meta.NumDelivered}
	if id := wire.MessageID(d.Msg.Header); id != "" {
		attrs = append(attrs, "message_id", wire.Shorten(id))
	}
	header := d.Header
	if header == nil {
		header, _ = wire.IncomingHeader(d.Msg.Header)
	}
	if id := wire.TraceID(header); id != "" {
		attrs = append(attrs, "trace_id", id)
	}
	return attrs
}

// IsLast reports whether the server delivers the message no more.
func (d *Delivery) IsLast() bool { return d.hand.Consumer().IsLast(d.served()) }
