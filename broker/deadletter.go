package broker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"slices"

	"go-micro.dev/v5/broker"

	"go-micro-jetstream/broker/internal/backoff"
	"go-micro-jetstream/broker/internal/consume"
	"go-micro-jetstream/broker/internal/deadletter"
	"go-micro-jetstream/broker/internal/produce"
)

// deadLetters reports whether the message goes to the dead-letter topic when it
// is given up. A dead letter that fails there does not: it would go round for
// ever.
func (s *subscription) deadLetters(d *consume.Delivery) bool {
	topic := s.cfg.rules.DeadLetter
	return topic != "" && d.Msg.Subject != topic
}

// burial is what became of a message that is given up.
type burial int

const (
	burialFailed burial = iota // not stored, perhaps later
	burialUnfit                // nothing of it can ever be stored: not even a reference fits
	buried                     // stored
	referred                   // stored without its body
)

// publishDeadLetter publishes the message as a dead letter. A message that the
// server does not deliver again has no other chance. For such a one it keeps
// trying until the subscription ends, while the ack deadline is extended.
//
// The publish has the values of the handler's context but not its end: a
// deadline that a hook has set may be what the message failed of. Disconnect
// ends the publish when it gives handlers up.
func (s *subscription) publishDeadLetter(e *event, cause error, persist bool) burial {
	ctx, cancel := context.WithCancel(context.WithoutCancel(e.d.Context))
	defer cancel()
	defer context.AfterFunc(s.core.Context(), cancel)()
	topic, letter := s.cfg.rules.DeadLetter, s.deadLetter(e, cause)
	for attempt := uint64(1); ; attempt++ {
		form, cut, err := s.storeDeadLetter(ctx, e, letter)
		emit(s.hooks.deadLettered, e.d.Context, DeadLettered{Delivery: s.delivery(e.d), DeadLetterTopic: topic, Cause: cause, Cut: cut, Err: err})
		if err == nil {
			s.logDeadLetter(e, letter, form, cut)
			if form.HasBody() || len(letter.Body) == 0 {
				return buried
			}
			return referred
		}
		if errors.Is(err, ErrMessageTooLarge) {
			return burialUnfit
		}
		s.logSome(slog.LevelError, e.d, "dead letter not stored, the message is kept: %v", err)
		if !persist || errors.Is(err, ErrDeadLetterLoop) || errors.Is(err, ErrInvalidHeader) || ctx.Err() != nil {
			return burialFailed
		}
		if !s.core.Pause(backoff.Delay(attempt)) {
			return burialFailed
		}
	}
}

// storeDeadLetter publishes the first form of the letter that fits. If hooks make
// the header invalid, or leave no room for the body, it does without them.
func (s *subscription) storeDeadLetter(ctx context.Context, e *event, letter *deadletter.Letter) (form deadletter.Form, cut string, err error) {
	if n := letter.Hops(); n > deadletter.MaxHops {
		return form, "", fmt.Errorf("%w: it has become one %d times already: look for a subject mapping, a transform, a republish or a handler that leads from %s back to what is subscribed to",
			ErrDeadLetterLoop, n-1, s.cfg.rules.DeadLetter)
	}
	limit, _ := s.session.conn.Accepts(math.MaxInt)
	hooks := true
	for {
		made := letter.Make(form, limit)
		if form < deadletter.Bare && !made.Fits(limit) {
			form++
			continue
		}
		err = s.sendDeadLetter(ctx, e, letter.ID, made, hooks && form != deadletter.OwnHeaders && form < deadletter.Bare)
		switch {
		case errors.Is(err, ErrInvalidHeader) && hooks:
			hooks = false
		case errors.Is(err, ErrMessageTooLarge) && form < deadletter.Bare:
			form++
		default:
			return form, made.Cut, err
		}
	}
}

func (s *subscription) sendDeadLetter(ctx context.Context, e *event, id string, made *deadletter.Made, hooks bool) error {
	topic := s.cfg.rules.DeadLetter
	if hooks {
		return publishOn(s.session, s.cfg, topic, &broker.Message{Header: made.Header, Body: made.Body},
			publishOptions{ctx: ctx, messageID: id, original: e.d.Msg.Header, kept: true})
	}
	_, err := s.session.publisher.Publish(ctx, produce.Message{Topic: topic, Header: made.Header, Body: made.Body,
		ID: id, Original: e.d.Msg.Header, Kept: true, Rules: &s.cfg.rules})
	return err
}

// logDeadLetter writes a line for each dead letter, also in a flood: each has cost
// a message, and the line is what a person looks for.
func (s *subscription) logDeadLetter(e *event, letter *deadletter.Letter, form deadletter.Form, cut string) {
	topic, reason := s.cfg.rules.DeadLetter, deadletter.Text(letter.Reason, maxLoggedReason)
	level, text := slog.LevelWarn, fmt.Sprintf("dead letter stored in %s: %s", topic, reason)
	attrs := append(e.d.Attrs(), "dead_letter_topic", topic, "reason", reason)
	if cut != "" {
		attrs = append(attrs, "cut", cut)
	}
	if !form.HasBody() && len(letter.Body) > 0 {
		level, text = slog.LevelError, fmt.Sprintf("dead letter stored in %s without its body of %d bytes, which does not fit; the original stays in stream %s, and Redrive publishes that: %s", topic, len(letter.Body), letter.Stream, reason)
	}
	s.log.Log(e.d.Context, level, text, attrs...)
}

// maxLoggedReason bounds an error text in a log line about a dead letter, in bytes.
const maxLoggedReason = 1024

// maxKept is the largest array, in bytes, that a worker keeps for the next body.
const maxKept = 64 << 10

// keepBody copies the body of a message that may become a dead letter. The
// handler owns the body that it gets and may change it, for example by
// decrypting it in place, but a dead letter is evidence. Each worker has one
// array for this: that takes no more memory than one message per running
// handler. With [OrderBy] the next try needs the body as well, perhaps long after
// the handler, so that the handler gets the copy.
func (s *subscription) keepBody(slot int, e *event) {
	if s.ordered {
		e.body, e.message.Body = e.d.Msg.Data, slices.Clone(e.d.Msg.Data)
		return
	}
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
func (s *subscription) deadLetter(e *event, cause error) *deadletter.Letter {
	return &deadletter.Letter{
		Original:   e.d.Msg.Header,
		Body:       e.body,
		Reason:     fmt.Sprint(cause), // which survives an Error method that panics
		Topic:      e.d.Msg.Subject,
		Stream:     s.core.Consumer().Stream.Name,
		Queue:      s.queue,
		Sequence:   e.d.Meta.StreamSequence,
		Deliveries: e.d.Deliveries(),
		ID:         s.deadLetterID(e.d),
	}
}

// deadLetterID is the same for every attempt, also by another replica, and by
// whatever consumer the queue has when it is made again, so that a message becomes
// one dead letter. Only a subscriber without a queue is known by the consumer that
// it began with. The time tells the message from one of the same number in a stream
// that was deleted and made again.
func (s *subscription) deadLetterID(d *consume.Delivery) string {
	whose := "consumer:" + s.consumer
	if s.queue != "" {
		whose = "queue:" + s.queue + ":" + s.topic
	}
	stream := s.core.Consumer().Stream.Name
	return fmt.Sprintf("dead-letter:%s:%s:%d:%d", deadletter.Encode(stream), deadletter.Encode(whose), d.Meta.StreamSequence, d.Meta.StoredAt)
}
