package natstest

import (
	"context"
	"testing"
	"time"
)

// Patience ends a wait for what never comes. It is no measure of speed: on a
// machine that is busy everything may take its time. It is as long as AckWait is by
// default: a test that has servers or connections end while messages are under way
// gives its consumer a shorter one.
const Patience = 30 * time.Second

// Context returns a context that ends after Patience, or with the test.
func Context(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	t.Cleanup(cancel)
	return ctx
}

// Receive returns the next value from a channel, or the zero value if the
// channel is closed.
func Receive[T any](t testing.TB, ch <-chan T) (v T) {
	t.Helper()
	select {
	case v = <-ch:
	case <-time.After(Patience):
		t.Fatalf("nothing received within %v", Patience)
	}
	return v
}

// Await returns the next value from a channel for which is returns true, and
// drops those before it. What says in the error what has not come.
func Await[T any](t testing.TB, ch <-chan T, what string, is func(T) bool) T {
	t.Helper()
	for deadline := time.After(Patience); ; {
		select {
		case v, ok := <-ch:
			if ok && is(v) {
				return v
			}
			if !ok {
				t.Fatalf("the end, and no %s", what)
			}
		case <-deadline:
			t.Fatalf("no %s within %v", what, Patience)
		}
	}
}

// Eventually waits until something holds that no channel tells of. It asks every
// five milliseconds. What says in the error what should hold.
func Eventually(t testing.TB, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(Patience); !holds(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("still not so after %v: %s", Patience, what)
		}
	}
}
