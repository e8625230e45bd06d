package natstest

import (
	"errors"
	"strings"
	"testing"
)

// WantError checks that an error is the sentinel and that its text has all the
// parts: whoever reads it must be able to act on it.
func WantError(t testing.TB, err, sentinel error, parts ...string) {
	t.Helper()
	if !errors.Is(err, sentinel) {
		t.Fatalf("got error %v, want %v", err, sentinel)
	}
	for _, part := range parts {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("the error does not name %q: %v", part, err)
		}
	}
}
