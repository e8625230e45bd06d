package goroutine

import (
	"errors"
	"fmt"
	"runtime/debug"
	"sync/atomic"
	"time"
)

// ErrHangs is about code that has not returned in time.
var ErrHangs = errors.New("has not returned in time")

// PanicError is a panic of code that [Call] has called.
type PanicError struct {
	Value any
	Stack []byte
}

// Error says what was passed to panic.
func (e *PanicError) Error() string { return fmt.Sprintf("has panicked: %v", e.Value) }

// errGoexit is about code that has ended its goroutine.
var errGoexit = errors.New("has ended its goroutine (runtime.Goexit)")

// Call calls code of the user on a goroutine of its own, and waits for it within the
// bound. Fault says what the code has done instead of returning: it is a [PanicError],
// about a runtime.Goexit, or [ErrHangs]. If the code ends after that, late is called with
// what it has returned, or the zero value.
func Call[R any](bound time.Duration, code func() (R, error), late func(R)) (r R, err, fault error) {
	type result struct {
		r          R
		err, fault error
	}
	var over atomic.Bool // whoever sets it first decides whether the code was in time
	done := make(chan result, 1)
	go func() {
		got := result{fault: errGoexit}
		defer func() {
			if p := recover(); p != nil {
				got.fault = &PanicError{Value: p, Stack: debug.Stack()}
			}
			if over.CompareAndSwap(false, true) {
				done <- got
			} else {
				late(got.r)
			}
		}()
		got.r, got.err = code()
		got.fault = nil
	}()
	timer := time.NewTimer(bound)
	defer timer.Stop()
	select {
	case got := <-done:
		return got.r, got.err, got.fault
	case <-timer.C:
	}
	if over.CompareAndSwap(false, true) {
		return r, nil, ErrHangs
	}
	got := <-done
	return got.r, got.err, got.fault
}
