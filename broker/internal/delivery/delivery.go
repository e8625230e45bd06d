// Package delivery is for one delivery of one message: what is known of it, how it is
// settled, and why it may not be handled.
package delivery

import (
	"context"
	"slices"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"go-micro-jetstream/broker/internal/consumers"
	"go-micro-jetstream/broker/internal/link"
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

// Record is what is known of a delivery. Its methods are safe for concurrent use where
// they touch no field that is guarded.
type Record struct {
	Msg      *nats.Msg
	Meta     wire.Metadata     // of a message that is no JetStream delivery: delivery 1, and zeros
	Received time.Time         // when it was taken out of the inbox
	Waited   time.Duration     // from then until a worker took it
	Context  context.Context   // of the subscription, until the handler gets another one
	Header   map[string]string // what the handler gets, for the log; nil before that

	settled atomic.Uint64 // 0: it is not; otherwise see settlement and beingSettled
	skipped atomic.Uint64 // the number of the latest delivery that was skipped for this one; 0: none was

	Failures uint64 // how often the message had failed here before; set when it is started

	// These are guarded by the lock of whoever has the delivery in hand, as is Skip.
	Extended time.Duration // how long after its arrival the server was last told to wait
	Failed   bool          // the message is going to be given back, perhaps without a failure

	// These are of subscriptions with an order, and guarded by the same lock.
	Retries uint32 // of Meta.NumDelivered: made here, and not known to the server
	Epoch   uint32 // how often the stream had been replaced by another one
	unkeyed *error // why it has no key; nil: it has one
}

// Init fills the record of a message that has come.
func (r *Record) Init(ctx context.Context, m *nats.Msg, received time.Time) {
	r.Msg, r.Received, r.Context = m, received, ctx
	var err error
	if r.Meta, err = wire.ParseMetadata(m.Reply); err != nil {
		r.Meta = wire.Metadata{NumDelivered: 1}
	}
}

// InitAgain fills the record of a message that is handled again without the server.
func (r *Record) InitAgain(ctx context.Context, former *Record) {
	r.Msg, r.Meta, r.Received, r.Context = former.Msg, former.Meta, former.Received, ctx
	r.Extended, r.Epoch, r.unkeyed = former.Extended, former.Epoch, former.unkeyed
	r.Meta.NumDelivered = former.Deliveries() + 1
	r.Retries = uint32(r.Meta.NumDelivered - former.Served())
}

// settlement is what settled holds: the result in the lowest two bits, and the delay.
func settlement(r Result, delay time.Duration) uint64 {
	return uint64(max(delay, 0))<<2 | uint64(slices.Index(results, r))
}

var results = []Result{None, Ack, Nak, Term}

// beingSettled is what settled holds while something is done first. Its result is None,
// with a delay that settlement gives to no None.
const beingSettled = 1 << 2

// Claim notes how the delivery is settled. It returns false if it is settled, or being
// settled.
func (r *Record) Claim(result Result, delay time.Duration) bool {
	return r.settled.CompareAndSwap(0, settlement(result, delay))
}

// ClaimFirst is Claim for a delivery that is not settled before something else is done.
// Complete or Reopen follows.
func (r *Record) ClaimFirst() bool { return r.settled.CompareAndSwap(0, beingSettled) }

// Complete notes how the delivery is settled, after ClaimFirst.
func (r *Record) Complete(result Result) { r.settled.Store(settlement(result, 0)) }

// Reopen is for a claim that has come to nothing.
func (r *Record) Reopen() { r.settled.Store(0) }

// Settlement returns how the delivery was settled.
func (r *Record) Settlement() (Result, time.Duration) {
	s := r.settled.Load()
	if s == beingSettled {
		return None, 0
	}
	return results[s&3], time.Duration(s >> 2)
}

// Settled reports whether the delivery is settled.
func (r *Record) Settled() bool { return r.settled.Load()&3 != 0 }

// Taken reports whether the delivery is settled, or being settled.
func (r *Record) Taken() bool { return r.settled.Load() != 0 }

// Body returns what an acknowledgement says to the server.
func (r *Record) Body(conn *link.Conn, cs *consumers.Consumer, result Result, delay time.Duration, reason string) []byte {
	switch result {
	case Nak:
		return cs.NakBody(r.Served(), delay)
	case Term:
		if reason == "" {
			return wire.TermBody
		}
		// A server before 2.10.4 would take an acknowledgement with a reason for none.
		if _, ok := conn.Has(10, 4); ok {
			return append(append(slices.Clip(wire.TermBody), ' '), reason...)
		}
		return wire.TermBody
	}
	return wire.AckBody
}

// Deliveries returns how often the message has been delivered, as far as the
// subscription knows. That is more than Meta says if later deliveries were skipped
// while this one was being handled.
func (r *Record) Deliveries() uint64 { return max(r.Meta.NumDelivered, r.skipped.Load()) }

// Served is Deliveries without the retries that were made here: what the server counts.
func (r *Record) Served() uint64 {
	return max(r.Meta.NumDelivered-uint64(r.Retries), r.skipped.Load())
}

// Skip notes a later delivery that was skipped for this one.
func (r *Record) Skip(number uint64) { r.skipped.Store(max(r.skipped.Load(), number)) }

// Expired reports whether the ack deadline has passed so long after the arrival.
func (r *Record) Expired(cs *consumers.Consumer, age time.Duration) bool {
	return cs.Expired(r.Served(), age-r.Extended)
}

// Attrs says in the log which message a line is about. The trace is that of the
// handler, or the publisher's before there is a handler.
func (r *Record) Attrs() []any {
	attrs := []any{"subject", wire.Shorten(r.Msg.Subject), "sequence", r.Meta.StreamSequence, "deliveries", r.Meta.NumDelivered}
	if id := wire.MessageID(r.Msg.Header); id != "" {
		attrs = append(attrs, "message_id", wire.Shorten(id))
	}
	header := r.Header
	if header == nil {
		header, _ = wire.IncomingHeader(r.Msg.Header)
	}
	if id := wire.TraceID(header); id != "" {
		attrs = append(attrs, "trace_id", id)
	}
	return attrs
}
