package broker

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"go-micro.dev/v5/broker"
	"go-micro.dev/v5/logger"
)

// Headers of a dead letter, beside the original's own.
const (
	deadLetterReason     = "Micro-Dead-Letter-Reason"     // the error of the last delivery
	deadLetterTopic      = "Micro-Dead-Letter-Topic"      // the original's concrete subject
	deadLetterStream     = "Micro-Dead-Letter-Stream"     // the original's stream
	deadLetterQueue      = "Micro-Dead-Letter-Queue"      // the queue that gave it up; may be empty
	deadLetterDeliveries = "Micro-Dead-Letter-Deliveries" // how often it was delivered
)

// maxReason keeps an error text from pushing a dead letter over the server's
// limit for messages.
const maxReason = 1024

// settle turns what a handler returned into an acknowledgement.
func (s *subscription) settle(e *event, err error) (Result, time.Duration, error) {
	if e.settled.Load() { // by the handler
		return ResultAck, 0, nil
	}
	if err == nil {
		if !s.opts.AutoAck {
			return ResultNone, 0, nil
		}
		return s.conclusion(e, ResultAck, 0)
	}
	s.learnLimit()
	discarded := findError[*discardError](err) != nil
	if exhausted, byServer := s.exhausted(e); (discarded || exhausted) && s.deadLetters(e) {
		if s.publishDeadLetter(e, err, exhausted && byServer) {
			return s.conclusion(e, ResultTerm, 0)
		}
		discarded = false // kept
	}
	if discarded {
		return s.conclusion(e, ResultTerm, 0)
	}
	s.fail(e)
	if exhausted, byServer := s.exhausted(e); exhausted && byServer {
		s.reportExhausted(e, err)
	}
	if retry := findError[*retryError](err); retry != nil {
		return s.conclusion(e, ResultNak, retry.delay)
	}
	return s.conclusion(e, ResultNak, redeliveryDelay(s.deliveries(e), s.currentConsumer().cfg.BackOff))
}

// findError returns the error of that type in a handler's error, or nil. Errors may
// panic when they are looked into, as nil pointers in them do: these hold none.
func findError[T *discardError | *retryError | *PanicError](err error) (found T) {
	defer func() {
		if recover() != nil {
			found = nil
		}
	}()
	_ = errors.As(err, &found)
	return found
}

// conclusion settles unless the handler, or a goroutine that it left behind,
// has done so meanwhile.
func (s *subscription) conclusion(e *event, result Result, delay time.Duration) (Result, time.Duration, error) {
	if !e.settled.CompareAndSwap(false, true) {
		return ResultAck, 0, nil
	}
	return result, delay, s.send(e, result, delay, false)
}

var (
	ackBody  = []byte("+ACK")
	nakBody  = []byte("-NAK")
	termBody = []byte("+TERM")
	waitBody = []byte("+WPI")
)

// send sends an acknowledgement (ADR-15) and reports it. Like every client, it
// does not wait for the server to confirm.
func (s *subscription) send(e *event, result Result, delay time.Duration, returned bool) error {
	body := ackBody
	switch result {
	case ResultNak:
		body = s.currentConsumer().nak(s.deliveries(e), delay)
	case ResultTerm:
		body = termBody
	}
	err := s.conn.nc.Publish(e.msg.Reply, body)
	if err != nil {
		err = fmt.Errorf("%s not sent, so the message is delivered again after AckWait: %w", result, err)
		s.logSome(logger.WarnLevel, e, "%v", err)
	}
	if len(s.hooks.settled) > 0 {
		emit(s.hooks, s.hooks.settled, e.ctx, Settled{Delivery: e.delivery(), Result: result, Delay: delay, Returned: returned, Err: err})
	}
	return err
}

// exhausted reports whether the message is given up after this delivery, and
// whether it is the server that counts and delivers it no more.
func (s *subscription) exhausted(e *event) (exhausted, byServer bool) {
	cs := s.currentConsumer()
	return cs.limit > 0 && s.deliveries(e) >= cs.limit, cs.byServer
}

func (s *subscription) reportExhausted(e *event, cause error) {
	s.logSome(logger.ErrorLevel, e, "the last of %d deliveries failed; the message stays in the stream and is not delivered again: %v", s.deliveries(e), cause)
	emit(s.hooks, s.hooks.exhausted, e.ctx, Exhausted{Delivery: e.delivery(), Cause: cause})
}

// errUsedUp is why a message becomes a dead letter without another try.
var errUsedUp = errors.New("delivered again and again without being settled: handlers that hang, processes that die, or too many restarts")

// usedUp reports whether the message has had so many deliveries that its handler
// had better not be tried again: it may be what kills the process.
func (s *subscription) usedUp(e *event) bool {
	if e.meta.numDelivered <= spareDeliveries { // as most have: spares the lock
		return false
	}
	cs := s.currentConsumer()
	return cs.limit > 0 && !cs.byServer && e.meta.numDelivered > cs.limit+spareDeliveries && s.deadLetters(e)
}

// deadLetters reports whether the message goes to the dead-letter topic when it
// is given up. A dead letter that fails there does not: it would go round for
// ever.
func (s *subscription) deadLetters(e *event) bool {
	return s.cfg.deadLetter != "" && e.msg.Subject != s.cfg.deadLetter
}

// publishDeadLetter reports whether the message is stored as a dead letter. One
// that the server does not deliver again has no other chance, so there it keeps
// trying until the subscription ends; the ack deadline is extended meanwhile.
//
// The handler's context goes along, but not its end: a deadline that a hook has
// set may be what the message died of. It is Disconnect that ends the publish,
// when it gives handlers up.
func (s *subscription) publishDeadLetter(e *event, cause error, persist bool) bool {
	ctx, cancel := context.WithCancel(context.WithoutCancel(e.ctx))
	defer cancel()
	defer context.AfterFunc(s.base, cancel)()
	for attempt := uint64(1); ; attempt++ {
		err := s.conn.broker.publishOn(s.conn, s.cfg, s.cfg.deadLetter, s.deadLetter(e, cause),
			publishOptions{ctx: ctx, messageID: deadLetterID(e), original: e.msg.Header})
		emit(s.hooks, s.hooks.deadLettered, e.ctx, DeadLettered{Delivery: e.delivery(), DeadLetterTopic: s.cfg.deadLetter, Cause: cause, Err: err})
		if err == nil {
			return true
		}
		s.logSome(logger.ErrorLevel, e, "dead letter not stored, the message is kept: %v", err)
		if !persist || errors.Is(err, ErrMessageTooLarge) || ctx.Err() != nil {
			return false
		}
		if _, over := s.pause(backoffDelay(attempt), s.conn.stateChange(), false, nil); !over {
			return false
		}
	}
}

// maxKept is the largest array that a worker keeps for the next body.
const maxKept = 64 << 10

// keepBody copies the body of a message that may become a dead letter. The handler owns
// the one that it gets and may change it, such as by decrypting in place, but a dead
// letter is evidence. The worker uses one array for all: that takes no more memory than
// a message for each handler that runs.
func (s *subscription) keepBody(slot int, e *event) {
	if !s.deadLetters(e) {
		return
	}
	e.body = append(s.bodies[slot][:0], e.msg.Data...)
	s.bodies[slot] = e.body
	if cap(e.body) > maxKept {
		s.bodies[slot] = nil
	}
}

// deadLetter is the message as it was received, and why it is dead.
func (s *subscription) deadLetter(e *event, cause error) *broker.Message {
	h, _ := incomingHeader(e.msg.Header)
	for k, v := range h {
		if checkHeader(k, v, len(e.msg.Data) == 0) != nil {
			delete(h, k) // from a client that minds less than ours
		}
	}
	h[deadLetterReason] = headerText(fmt.Sprint(cause)) // which survives an Error method that panics
	h[deadLetterTopic] = e.msg.Subject
	h[deadLetterStream] = s.Stream
	h[deadLetterQueue] = s.Queue
	h[deadLetterDeliveries] = strconv.FormatUint(s.deliveries(e), 10)
	return &broker.Message{Header: h, Body: e.body}
}

// deadLetterID is the same for every attempt, also by another replica, so that
// a message becomes one dead letter. The time keeps it apart from a message of
// the same number in a stream that was deleted and made again.
func deadLetterID(e *event) string {
	return fmt.Sprintf("dead-letter:%s:%s:%d:%d", e.sub.Stream, e.sub.identity().Consumer, e.meta.streamSequence, e.meta.storedAt)
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
