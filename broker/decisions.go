package broker

import (
	"errors"
	"fmt"
	"time"
)

// The errors with which a handler decides what becomes of its message. Each may
// be wrapped. If there are several, [Discard] counts before [Snooze], and Snooze
// before [RetryAfter].

type retryError struct {
	delay time.Duration
	err   error
}

func (e *retryError) Error() string { return describe(e.err, "retry after "+e.delay.String()) }
func (e *retryError) Unwrap() error { return e.err }

// RetryAfter is what a handler returns to have the message delivered again
// after d, in place of the growing delay that other errors get. A d of 0 or
// less means at once. The error may be nil.
func RetryAfter(d time.Duration, err error) error {
	return &retryError{delay: max(d, 0), err: err}
}

type discardError struct{ err error }

func (e *discardError) Error() string { return describe(e.err, "discarded") }
func (e *discardError) Unwrap() error { return e.err }

// Discard is what a handler returns for a message that can never be handled:
// malformed, or outdated. The message is not delivered again. With
// [WithDeadLetter] it is published there first. The error may be nil.
func Discard(err error) error { return &discardError{err: err} }

type snoozeError struct{ delay time.Duration }

func (e *snoozeError) Error() string { return "snoozed for " + e.delay.String() }

// Snooze is what a handler returns when it is too early for the message: the
// account is not there yet, or the shop is closed. The message is delivered
// again after d. A d of 0 or less means at once.
//
// It is no failure. Nothing is logged, broker.ErrorHandler is not called, no
// handler error is counted, and the span of the handler has no error. Hooks see
// [Handled] with Snoozed set, the result nak, and no Err.
//
// A message that was only snoozed does not become a dead letter. Where the broker
// counts the deliveries, for [WithDeadLetter], it leaves snoozes out. It does not
// know which deliveries other replicas have snoozed, nor which were snoozed before a
// restart. So the first snooze is noted in the metadata of the queue's consumer. From
// then on each process counts only the failures that it has seen itself. A message
// that always fails may thus have MaxDeliver tries in each process, and more if over
// 16384 failed messages wait for their retry: each process remembers the failures of so
// many, and those of a forgotten one begin anew. And no message is given up for its deliveries alone, not
// even one that crashes each process that handles it.
//
// The broker makes no note on consumers that somebody else has made, or with
// [WithExistingConsumers]: put go-micro-jetstream-snoozes: "true" into their metadata.
// That, and that the server refuses the note, is logged once. Without a note, a message
// that others have snoozed may become a dead letter at its first failure. A process that
// is not permitted to make the note gives no message up for its deliveries alone.
//
// Where the server counts, this one counts, too: with a MaxDeliver and without
// WithDeadLetter. After the last one that MaxDeliver permits, the message is not
// delivered again, and [Hooks.Exhausted] says so.
func Snooze(d time.Duration) error { return &snoozeError{delay: max(d, 0)} }

// IsDiscard reports whether a handler that returns err discards its message: err
// is, or wraps, a [Discard]. It is for code around handlers, such as middleware
// that logs, and for tests.
func IsDiscard(err error) bool { return findError[*discardError](err) != nil }

// IsSnooze reports whether a handler that returns err snoozes its message: err
// is, or wraps, a [Snooze], and no [Discard]. Middleware that counts or logs
// errors leaves these out.
func IsSnooze(err error) bool { return snoozeOf(err) != nil }

// RetryDelay returns the delay that a handler that returns err asks for, with
// [RetryAfter] or [Snooze]. It is false for errors that ask for none: these get
// the growing delay.
func RetryDelay(err error) (d time.Duration, ok bool) {
	if snooze := findError[*snoozeError](err); snooze != nil {
		return snooze.delay, true
	}
	if retry := findError[*retryError](err); retry != nil {
		return retry.delay, true
	}
	return 0, false
}

// snoozeOf returns the snooze of a handler that has neither panicked nor
// discarded the message, or nil.
func snoozeOf(err error) *snoozeError {
	snooze := findError[*snoozeError](err)
	if findError[*discardError](err) != nil || findError[*PanicError](err) != nil {
		snooze = nil
	}
	return snooze
}

// findError returns the error of that type in a handler's error, or nil. It
// survives errors that panic when they are looked into, as nil pointers do:
// these hold none.
func findError[T interface {
	*discardError | *retryError | *snoozeError | *PanicError
	error
}](err error) (found T) {
	defer func() {
		if recover() != nil {
			found = nil
		}
	}()
	found, _ = errors.AsType[T](err) // unlike errors.As, it does not allocate
	return found
}

func describe(err error, otherwise string) string {
	if err == nil {
		return otherwise
	}
	return fmt.Sprint(err) // which survives an Error method that panics
}
