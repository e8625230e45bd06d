package broker

import (
	"errors"
	"time"

	"go-micro-jetstream/broker/internal/backoff"
	"go-micro-jetstream/broker/internal/consume"
	"go-micro-jetstream/broker/internal/consumers"
)

// settle turns what a handler returned into an acknowledgement: nil acks, an
// error naks with a growing delay, [Discard] terminates, and a message that has
// had all its deliveries becomes a dead letter.
func (s *subscription) settle(e *event, err error) (Result, time.Duration, error) {
	d := e.d
	if d.Settled() { // by the handler
		return ResultAck, 0, nil
	}
	if err == nil {
		if !s.opts.AutoAck {
			return ResultNone, 0, nil
		}
		return settled(d.Settle(consume.Ack, 0))
	}
	d.LearnLimit()
	discarded := findError[*discardError](err) != nil
	if exhausted, byServer := d.Exhausted(); (discarded || exhausted) && s.deadLetters(d) {
		if s.publishDeadLetter(e, err, exhausted && byServer) {
			return settled(d.Settle(consume.Term, 0))
		}
		discarded = false // kept
	}
	if discarded {
		return settled(d.Settle(consume.Term, 0))
	}
	d.Fail()
	if exhausted, byServer := d.Exhausted(); exhausted && byServer {
		observer{s}.Exhausted(d, err)
	}
	if retry := findError[*retryError](err); retry != nil {
		return settled(d.Settle(consume.Nak, retry.delay))
	}
	return settled(d.Settle(consume.Nak, backoff.Redelivery(d.Deliveries(), s.core.Consumer().Config.BackOff)))
}

func settled(r consume.Result, delay time.Duration, err error) (Result, time.Duration, error) {
	return Result(r), delay, err
}

// findError returns the error of that type in a handler's error, or nil. It
// survives errors that panic when they are looked into, as nil pointers do:
// these hold none.
func findError[T *discardError | *retryError | *PanicError](err error) (found T) {
	defer func() {
		if recover() != nil {
			found = nil
		}
	}()
	_ = errors.As(err, &found)
	return found
}

// errUsedUp is why a message becomes a dead letter without another try.
var errUsedUp = errors.New("delivered again and again without being settled: handlers that hang, processes that die, or too many restarts")

// usedUp reports whether the message has had so many deliveries that its handler
// had better not be tried again: it may be what kills the process.
func (s *subscription) usedUp(d *consume.Delivery) bool {
	if d.Meta.NumDelivered <= consumers.SpareDeliveries { // as most have: spares the lock
		return false
	}
	cs := s.core.Consumer()
	return cs.Limit > 0 && !cs.ByServer && d.Meta.NumDelivered > cs.Limit+consumers.SpareDeliveries && s.deadLetters(d)
}
