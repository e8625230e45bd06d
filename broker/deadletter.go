package broker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"

	"go-micro.dev/v5/broker"

	"go-micro-jetstream/broker/internal/backoff"
	"go-micro-jetstream/broker/internal/consume"
	"go-micro-jetstream/broker/internal/wire"
)

// Headers of a dead letter, beside the original's own.
const (
	deadLetterReason     = "Micro-Dead-Letter-Reason"     // the error of the last delivery
	deadLetterTopic      = "Micro-Dead-Letter-Topic"      // the original's concrete subject
	deadLetterStream     = "Micro-Dead-Letter-Stream"     // the original's stream
	deadLetterQueue      = "Micro-Dead-Letter-Queue"      // the queue that gave it up; may be empty
	deadLetterDeliveries = "Micro-Dead-Letter-Deliveries" // how often it was delivered
)

// maxReason bounds an error text in a header, in bytes, so that a dead letter
// does not exceed the server's limit for messages.
const maxReason = 1024

// deadLetters reports whether the message goes to the dead-letter topic when it
// is given up. A dead letter that fails there does not: it would go round for
// ever.
func (s *subscription) deadLetters(d *consume.Delivery) bool {
	topic := s.cfg.rules.DeadLetter
	return topic != "" && d.Msg.Subject != topic
}

// publishDeadLetter reports whether the message is stored as a dead letter. A
// message that the server does not deliver again has no other chance. For such
// a one it keeps trying until the subscription ends, while the ack deadline is
// extended.
//
// The publish has the values of the handler's context but not its end: a
// deadline that a hook has set may be what the message failed of. Disconnect
// ends the publish when it gives handlers up.
func (s *subscription) publishDeadLetter(e *event, cause error, persist bool) bool {
	ctx, cancel := context.WithCancel(context.WithoutCancel(e.d.Context))
	defer cancel()
	defer context.AfterFunc(s.core.Context(), cancel)()
	topic := s.cfg.rules.DeadLetter
	for attempt := uint64(1); ; attempt++ {
		err := publishOn(s.session, s.cfg, topic, s.deadLetter(e, cause),
			publishOptions{ctx: ctx, messageID: s.deadLetterID(e.d), original: e.d.Msg.Header})
		emit(s.hooks, s.hooks.deadLettered, e.d.Context, DeadLettered{Delivery: s.delivery(e.d), DeadLetterTopic: topic, Cause: cause, Err: err})
		if err == nil {
			s.logDeadLetter(e, cause)
			return true
		}
		s.logSome(slog.LevelError, e.d, "dead letter not stored, the message is kept: %v", err)
		if !persist || errors.Is(err, ErrMessageTooLarge) || ctx.Err() != nil {
			return false
		}
		if !s.core.Pause(backoff.Delay(attempt)) {
			return false
		}
	}
}

// logDeadLetter writes a line for each dead letter, also in a flood: each has cost
// a message, and the line is what a person looks for.
func (s *subscription) logDeadLetter(e *event, cause error) {
	topic, reason := s.cfg.rules.DeadLetter, headerText(fmt.Sprint(cause))
	s.log.Log(e.d.Context, slog.LevelWarn, fmt.Sprintf("dead letter stored in %s: %s", topic, reason),
		append(e.d.Attrs(), "dead_letter_topic", topic, "reason", reason)...)
}

// maxKept is the largest array, in bytes, that a worker keeps for the next body.
const maxKept = 64 << 10

// keepBody copies the body of a message that may become a dead letter. The
// handler owns the body that it gets and may change it, for example by
// decrypting it in place, but a dead letter is evidence. Each worker has one
// array for this: that takes no more memory than one message per running
// handler.
func (s *subscription) keepBody(slot int, e *event) {
	if !s.deadLetters(e.d) {
		return
	}
	if !s.opts.AutoAck { // it may be terminated when the handler has returned
		e.body = bytes.Clone(e.d.Msg.Data)
		return
	}
	e.body = append(s.bodies[slot][:0], e.d.Msg.Data...)
	s.bodies[slot] = e.body
	if cap(e.body) > maxKept {
		s.bodies[slot] = nil
	}
}

// deadLetter is the message as it was received, and why it was given up.
func (s *subscription) deadLetter(e *event, cause error) *broker.Message {
	h, _ := wire.IncomingHeader(e.d.Msg.Header)
	for k, v := range h {
		if wire.CheckHeader(k, v, len(e.d.Msg.Data) == 0) != nil {
			delete(h, k) // from a client that checks less than ours
		}
	}
	h[deadLetterReason] = headerText(fmt.Sprint(cause)) // which survives an Error method that panics
	h[deadLetterTopic] = e.d.Msg.Subject
	h[deadLetterStream] = s.core.Consumer().Stream.Name
	h[deadLetterQueue] = s.queue
	h[deadLetterDeliveries] = strconv.FormatUint(e.d.Deliveries(), 10)
	return &broker.Message{Header: h, Body: e.body}
}

// deadLetterID is the same for every attempt, also by another replica, so that
// a message becomes one dead letter. The time tells it from a message of the
// same number in a stream that was deleted and made again.
func (s *subscription) deadLetterID(d *consume.Delivery) string {
	cs := s.core.Consumer()
	return fmt.Sprintf("dead-letter:%s:%s:%d:%d", cs.Stream.Name, cs.Name, d.Meta.StreamSequence, d.Meta.StoredAt)
}

// headerText makes a text fit for a header value.
func headerText(s string) string {
	if len(s) > maxReason {
		s = s[:maxReason]
	}
	s = strings.ToValidUTF8(s, "?")
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, s)
}
