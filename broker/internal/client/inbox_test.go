package client

import (
	"testing"
	"time"

	"go-micro-jetstream/broker/internal/backoff"
)

// The pauses before reconnects grow with the refusals in a row.
func TestPausesBeforeTheInboxIsAskedForAgain(t *testing.T) {
	t.Parallel()
	var i inbox
	now := time.Now()
	refused := func(want time.Duration) {
		t.Helper()
		pause, ok := i.begin(now)
		if !ok || pause != want {
			t.Errorf("pause %v, %v; want %v", pause, ok, want)
		}
		if _, ok := i.begin(now); ok {
			t.Error("another reconnect while one is to come")
		}
		now = now.Add(pause)
		i.end(now)
	}
	for n := range uint64(7) {
		refused(backoff.Delay(n + 1))
	}
	now = now.Add(2*backoff.Max + 1)
	refused(backoff.Min)
}
