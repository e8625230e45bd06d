package broker

import (
	"errors"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"go-micro-jetstream/broker/internal/backoff"
	"go-micro-jetstream/broker/internal/consume"
)

// settle turns what a handler returned into an acknowledgement: nil acks, an
// error naks with a growing delay, [Snooze] naks with its own, [Discard]
// terminates, and a message that has had all its deliveries becomes a dead letter.
func (s *subscription) settle(e *event) (Result, time.Duration, error) {
	err, snooze := e.outcome.err, e.outcome.snooze
	switch {
	case e.d.Taken(): // by the handler
		if err != nil && snooze == nil {
			s.logFailure(e, "; the message was settled before")
		}
		r, delay := e.d.Settlement()
		return settled(r, delay, nil)
	case snooze != nil:
		return s.snooze(e.d, snooze.delay)
	case err != nil:
		return s.settleFailure(e, err)
	case !s.opts.AutoAck:
		return ResultNone, 0, nil
	}
	return settled(e.d.Settle(consume.Ack, 0))
}

// settleFailure settles a message whose handler has failed. The log says what
// comes next before it is done, because publishing a dead letter may take long.
func (s *subscription) settleFailure(e *event, err error) (Result, time.Duration, error) {
	d := e.d
	s.core.LearnLimit()
	discarded := findError[*discardError](err) != nil
	exhausted, byServer := d.Exhausted()
	last := exhausted && byServer // the server makes no more deliveries
	delay, deferred := s.retryDelay(d, err)
	e.outcome.discarded, e.outcome.deferred = discarded, deferred && !discarded
	switch {
	case (discarded || exhausted) && s.deadLetters(d):
		s.logFailure(e, "; next: dead letter")
		switch b := s.publishDeadLetter(e, err, last); {
		case b == buried:
			return settled(d.Settle(consume.Term, 0))
		case b == referred && last: // what the letter refers to stays
			d.Fail()
			return settled(d.Settle(consume.Nak, 0))
		case b == referred, b == burialUnfit && !last:
			return s.letLie(d, b, err)
		}
	case discarded:
		s.logFailure(e, "")
		return settled(d.Settle(consume.Term, 0))
	case last:
		s.logFailure(e, "; next: nothing, it is kept in the stream")
	default:
		s.logFailure(e, "; next: again "+inTime(delay))
	}
	d.Fail()
	if exhausted, byServer := d.Exhausted(); exhausted && byServer {
		observer{s}.Exhausted(d, err)
	}
	return settled(d.Settle(consume.Nak, delay))
}

const (
	// forGood is how long a message lies in its stream that a dead letter refers to.
	// Redrive takes it away.
	forGood = 10 * 365 * 24 * time.Hour
	// unfitAgain is when a message is tried again of which no dead letter can be stored:
	// a limit may have been raised by then.
	unfitAgain = 24 * time.Hour
)

// letLie settles a message that is given up and whose body is nowhere but in its stream.
// A stream that removes what is settled has it delivered later: if need be, never. One
// with Limits retention keeps it anyway.
func (s *subscription) letLie(d *consume.Delivery, b burial, cause error) (Result, time.Duration, error) {
	keeps := s.core.Consumer().Stream.Retention == jetstream.LimitsPolicy
	if b == burialUnfit {
		observer{s}.Unfit(d, cause, keeps)
	}
	if keeps {
		return settled(d.Settle(consume.Term, 0))
	}
	delay := forGood
	if b == burialUnfit {
		delay = unfitAgain
	}
	d.Fail()
	return settled(d.Park(delay))
}

// retryDelay is how long a message that has failed waits for its next delivery, and
// whether the handler has said so.
func (s *subscription) retryDelay(d *consume.Delivery, err error) (delay time.Duration, deferred bool) {
	if retry := findError[*retryError](err); retry != nil {
		return retry.delay, true
	}
	return backoff.Redelivery(d.Deliveries(), s.core.Consumer().Config.BackOff), false
}

// inTime says a delay in a log line: "at once", or "in 2s".
func inTime(delay time.Duration) string {
	switch {
	case delay <= 0:
		return "at once"
	case delay < time.Second:
		return "in " + delay.String()
	}
	return "in " + delay.Round(100*time.Millisecond).String()
}

// errSnoozed is why a message is exhausted that its handler has snoozed.
var errSnoozed = errors.New("snoozed on the last delivery that MaxDeliver permits")

// snooze gives a message back that is to come again later.
func (s *subscription) snooze(d *consume.Delivery, delay time.Duration) (Result, time.Duration, error) {
	s.core.LearnLimit()
	d.Snoozed()
	if exhausted, byServer := d.Exhausted(); exhausted && byServer {
		observer{s}.Exhausted(d, errSnoozed)
	}
	return settled(s.core.Snooze(d, delay))
}

func settled(r consume.Result, delay time.Duration, err error) (Result, time.Duration, error) {
	return Result(r), delay, err
}

// errUsedUp is why a message becomes a dead letter without another try.
var errUsedUp = errors.New("delivered again and again without being settled: handlers that hang, processes that die, or too many restarts")

// usedUp reports whether the message has had so many deliveries that its handler
// had better not be tried again: it may be what kills the process.
func (s *subscription) usedUp(d *consume.Delivery) bool { return s.deadLetters(d) && s.core.UsedUp(d) }
