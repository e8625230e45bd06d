package broker

import (
	"fmt"
	"log/slog"
	"runtime/debug"
	"strings"
	"time"

	"go-micro.dev/v5/broker"
	"go-micro.dev/v5/codec"

	"go-micro-jetstream/broker/internal/consume"
	"go-micro-jetstream/broker/internal/wire"
)

// outcome is what became of a handler's run.
type outcome struct {
	lag      time.Duration // from the message's storing to its handler
	began    time.Duration // when the handler began, counted from the message's arrival
	err      error
	panicked *PanicError
	snooze   *snoozeError // nil unless err asks for no more than that
	returned bool

	deferred, discarded bool // err is a RetryAfter, or a Discard
}

// handle runs the user's handler on a message and settles it. The worker calls
// it.
func (s *subscription) handle(slot int, d *consume.Delivery) {
	header, traced := wire.IncomingHeader(d.Msg.Header)
	e := &event{d: d, sub: s, message: broker.Message{Header: header, Body: d.Msg.Data}}
	d.Header = header
	s.keepBody(slot, e)
	defer s.conclude(e) // also after a panic or Goexit
	o := &e.outcome
	o.began = d.Waited
	o.lag = max(time.Duration(d.Received.UnixNano()-d.Meta.StoredAt)+o.began, 0)
	listened := len(s.hooks.handleStart) > 0
	if listened {
		d.Context = start(s.hooks.handleStart, d.Context, HandleStart{Delivery: s.delivery(d), Header: header, Lag: o.lag})
		o.began = time.Since(d.Received) // the handler's time is its own
	}
	if traced || listened {
		wire.SpellForGoMicro(header)
	}
	switch noKey := d.KeyErr(); {
	case noKey != nil:
		o.err, o.panicked = noKey, findError[*PanicError](noKey)
	case s.usedUp(d):
		o.err = errUsedUp
	case s.session.broker.running.wanted.Load():
		s.handleFindable(e)
	default:
		o.err = s.handler(e)
	}
	o.returned = true
}

// conclude is the second half of handle. It is deferred, so that it also runs
// when the handler did not return.
func (s *subscription) conclude(e *event) {
	o := &e.outcome
	if !o.returned {
		value := recover()
		o.panicked = &PanicError{Value: value, Stack: debug.Stack(), Goexit: value == nil}
		o.err = o.panicked
	}
	h := Handled{Lag: o.lag, Err: o.err, Panicked: o.panicked != nil}
	if o.snooze = snoozeOf(o.err); o.snooze != nil {
		h.Err = nil
	}
	// Deferred, because the user's ErrorHandler may end the goroutine.
	defer func() {
		h.Result, h.Delay, h.SettleErr = s.settle(e)
		h.Snoozed = o.snooze != nil && h.Result == ResultNak
		h.Deferred, h.Discarded = o.deferred, o.discarded
		if len(s.hooks.handled) > 0 {
			h.Delivery = s.delivery(e.d)
			emit(s.hooks.handled, e.d.Context, h)
		}
	}()
	if len(s.hooks.handled) > 0 {
		h.Duration = time.Since(e.d.Received) - o.began
	}
	if o.panicked != nil {
		emit(s.hooks.panicked, e.d.Context, Panicked{Delivery: s.delivery(e.d), Err: o.panicked})
	}
	if h.Err != nil {
		s.reportFailure(e)
	}
}

// reportFailure passes a handler's error to go-micro's ErrorHandler.
func (s *subscription) reportFailure(e *event) {
	if s.cfg.errorHandler == nil {
		return
	}
	s.hooks.inside[inErrorHandler].Add(1)
	defer func() {
		r := recover()
		s.hooks.inside[inErrorHandler].Add(-1)
		if r != nil {
			s.logSome(slog.LevelError, e.d, "the broker's ErrorHandler panicked: %v", r)
		}
	}()
	if err := s.cfg.errorHandler(e); err != nil {
		s.logSome(slog.LevelWarn, e.d, "the broker's ErrorHandler failed: %v", err)
	}
}

// logFailure logs a handler's error, and what comes next.
func (s *subscription) logFailure(e *event, next string) {
	if p := e.outcome.panicked; p != nil {
		s.logSome(slog.LevelError, e.d, "%v%s\n%s", p, next, p.Stack)
		return
	}
	s.logSome(slog.LevelError, e.d, "handler failed: %v%s%s", e.outcome.err, undecodable(e), next)
}

// undecodable says what go-micro's server leaves out of its error: without a
// Content-Type it decodes a body as protobuf.
func undecodable(e *event) string {
	text := fmt.Sprint(e.outcome.err) // unlike Error itself, it does not panic
	if !strings.Contains(text, codec.ErrInvalidMessage.Error()) {
		return ""
	}
	for key := range e.d.Msg.Header { // go-micro adds one to the handler's header
		if strings.EqualFold(key, "Content-Type") {
			return ""
		}
	}
	return " (the message has no Content-Type header, so go-micro expects protobuf)"
}
