package broker

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"go-micro.dev/v5/broker"
)

var _ broker.Event = (*event)(nil)

// event is one delivery of one message, as the handler sees it.
type event struct {
	item
	sub     *subscription
	message broker.Message
	body    []byte // as it was received; see keepBody
	ctx     context.Context
	meta    metadata
	outcome outcome
	settled atomic.Bool // an ack, nak or term was sent
	owed    bool        // see subscription.owe

	// Under sub.mu: that the message is given back, and until then the number of
	// the latest delivery that was skipped for this one; 0 for none.
	failed  bool
	skipped uint64

	failures *failures // nil unless the event can be found; see EventFinder
}

// Topic returns the concrete subject, also for a wildcard subscription.
func (e *event) Topic() string { return e.msg.Subject }

// Message returns the message. Its header is this delivery's own.
func (e *event) Message() *broker.Message { return &e.message }

// Ack acknowledges the message. With broker.DisableAutoAck it is how the
// handler says that it is done, also after it has returned. A second call, and
// a call after the broker has settled the message, returns [ErrAlreadySettled].
func (e *event) Ack() error {
	if !e.settled.CompareAndSwap(false, true) {
		return fmt.Errorf("jetstream: ack %s: %w", e.Topic(), ErrAlreadySettled)
	}
	if err := e.sub.send(e, ResultAck, 0, false); err != nil {
		e.settled.Store(false) // not sent, so it may be tried again
		return fmt.Errorf("jetstream: ack %s: %w", e.Topic(), err)
	}
	if !e.sub.opts.AutoAck { // else conclude does, as no ack comes later
		e.sub.mu.Lock()
		e.sub.remember(e, ResultAck)
		e.sub.mu.Unlock()
	}
	return nil
}

// Error returns what the handler failed with, for broker.ErrorHandler.
func (e *event) Error() error { return e.outcome.err }

// EventContext returns the context of a handler's event. It carries what hooks
// have put there, such as the consumer span, and is cancelled when Disconnect
// gives the handler up. Pass it on with broker.PublishContext. For events of
// other brokers it is context.Background().
func EventContext(e broker.Event) context.Context {
	if own, ok := e.(*event); ok && own != nil {
		return own.ctx
	}
	return context.Background()
}

// NumDelivered returns how many times the event's message has been delivered,
// this time included: 1 on the first delivery. For events of other brokers it
// is 0.
func NumDelivered(e broker.Event) uint64 {
	if own, ok := e.(*event); ok && own != nil {
		return own.meta.numDelivered
	}
	return 0
}

type retryError struct {
	delay time.Duration
	err   error
}

func (e *retryError) Error() string { return describe(e.err, "retry after "+e.delay.String()) }
func (e *retryError) Unwrap() error { return e.err }

// RetryAfter is for handlers to return when a message should be delivered again
// after d, in place of the growing delay that other errors get. A d of 0 or
// less means at once. The error may be nil.
func RetryAfter(d time.Duration, err error) error {
	return &retryError{delay: max(d, 0), err: err}
}

type discardError struct{ err error }

func (e *discardError) Error() string { return describe(e.err, "discarded") }
func (e *discardError) Unwrap() error { return e.err }

// Discard is for handlers to return when a message can never be handled:
// malformed, or outdated. It is not delivered again. With [WithDeadLetter] it is
// published there first. The error may be nil.
func Discard(err error) error { return &discardError{err: err} }

func describe(err error, otherwise string) string {
	if err == nil {
		return otherwise
	}
	return fmt.Sprint(err) // which survives an Error method that panics
}

// metadata is what the ack subject of a delivery tells.
type metadata struct {
	numDelivered     uint64
	streamSequence   uint64
	consumerSequence uint64
	storedAt         int64 // nanoseconds since 1970
	pending          uint64
}

var errNotAckSubject = errors.New("not the ack subject of a JetStream delivery")

// parseMetadata reads an ack subject. There are two forms (ADR-15):
//
//	$JS.ACK.<stream>.<consumer>.<delivered>.<stream seq>.<consumer seq>.<time>.<pending>
//	$JS.ACK.<domain>.<account>.<stream>.<consumer>.<delivered>.<stream seq>.<consumer seq>.<time>.<pending>[.<more>]
func parseMetadata(reply string) (metadata, error) {
	rest, ok := strings.CutPrefix(reply, "$JS.ACK.")
	if !ok {
		return metadata{}, errNotAckSubject
	}
	names := 2 // stream and consumer
	switch tokens := strings.Count(rest, ".") + 1; {
	case tokens == 7:
	case tokens >= 9:
		names = 4
	default:
		return metadata{}, errNotAckSubject
	}
	for range names {
		_, rest, _ = strings.Cut(rest, ".")
	}
	var numbers [5]uint64
	for i := range numbers {
		n, digits := leadingUint(rest)
		if digits == 0 || digits < len(rest) && rest[digits] != '.' {
			return metadata{}, errNotAckSubject
		}
		numbers[i] = n
		rest = rest[min(digits+1, len(rest)):]
	}
	return metadata{
		numDelivered:     numbers[0],
		streamSequence:   numbers[1],
		consumerSequence: numbers[2],
		storedAt:         int64(numbers[3]),
		pending:          numbers[4],
	}, nil
}

func parseUint(s string) (n uint64, ok bool) {
	n, digits := leadingUint(s)
	if digits == 0 || digits < len(s) {
		return 0, false
	}
	return n, true
}

// leadingUint reads the digits that s begins with.
func leadingUint(s string) (n uint64, digits int) {
	for ; digits < len(s); digits++ {
		d := s[digits] - '0'
		if d > 9 {
			break
		}
		n = n*10 + uint64(d)
	}
	return n, digits
}
