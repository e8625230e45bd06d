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

// Begin calls code of the user on a goroutine of its own, and end with what has become
// of it. Fault says what the code has done instead of returning: it is a [PanicError], or
// about a runtime.Goexit.
func Begin[R any](code func() (R, error), end func(r R, err, fault error)) {
	go func() {
		var r R
		var err error
		fault := errGoexit
		defer func() {
			if p := recover(); p != nil {
				fault = &PanicError{Value: p, Stack: debug.Stack()}
			}
			end(r, err, fault)
		}()
		r, err = code()
		fault = nil
	}()
}

// Call is Begin for a caller that waits for the code within the bound. Then fault may also
// be [ErrHangs]. If the code ends after that, late is called with what it has returned, or
// the zero value.
func Call[R any](bound time.Duration, code func() (R, error), late func(R)) (r R, err, fault error) {
	type result struct {
		r          R
		err, fault error
	}
	var over atomic.Bool // whoever sets it first decides whether the code was in time
	done := make(chan result, 1)
	Begin(code, func(r R, err, fault error) {
		if over.CompareAndSwap(false, true) {
			done <- result{r, err, fault}
		} else {
			late(r)
		}
	})
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
