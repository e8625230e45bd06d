package backoff_test

import (
	"math"
	"testing"
	"time"

	"go-micro-jetstream/broker/internal/backoff"
)

func TestDelayDoublesUpToTheMaximum(t *testing.T) {
	t.Parallel()
	for n, seconds := range []int{1, 1, 2, 4, 8, 16, 30, 30} {
		if got := backoff.Delay(uint64(n)); got != time.Duration(seconds)*time.Second {
			t.Errorf("after %d failures: %v", n, got)
		}
	}
	if got := backoff.Delay(math.MaxUint64); got != backoff.Max {
		t.Errorf("after very many failures: %v", got)
	}
}

func TestRedeliveryAddsUpToATenth(t *testing.T) {
	t.Parallel()
	seen := map[time.Duration]bool{}
	for range 100 {
		d := backoff.Redelivery(3, nil)
		if d < 4*time.Second || d >= 4400*time.Millisecond {
			t.Fatal(d)
		}
		seen[d] = true
	}
	if len(seen) < 2 {
		t.Error("messages that failed together come back together")
	}
}

func TestScheduleIsFollowedExactly(t *testing.T) {
	t.Parallel()
	schedule := []time.Duration{time.Second, time.Minute, time.Hour}
	for n, want := range []time.Duration{time.Second, time.Second, time.Minute, time.Hour, time.Hour} {
		if got := backoff.Redelivery(uint64(n), schedule); got != want {
			t.Errorf("after %d failures: %v", n, got)
		}
		if got := backoff.Entry(uint64(n), schedule); got != want {
			t.Errorf("entry for delivery %d: %v", n, got)
		}
	}
}
