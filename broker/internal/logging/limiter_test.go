package logging_test

import (
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go-micro-jetstream/broker/internal/logging"
)

func TestLimiterWritesOneLineOfAKindPerSecond(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var l logging.Limiter
		want := func(kind, more string, ok bool) {
			t.Helper()
			if m, o := l.Allow(kind); m != more || o != ok {
				t.Errorf("%s: %q, %v; want %q, %v", kind, m, o, more, ok)
			}
		}
		want("a", "", true)
		want("a", "", false)
		want("b", "", true) // kinds do not count for each other
		time.Sleep(999 * time.Millisecond)
		want("a", "", false)
		time.Sleep(time.Millisecond)
		want("a", " (and 2 more since the last such line)", true)
		want("a", "", false)
		time.Sleep(time.Hour)
		want("a", " (and 1 more since the last such line)", true)
		time.Sleep(time.Second)
		want("a", "", true)
		want("b", "", true)
	})
}

func TestLimiterCountsAllLinesOfManyGoroutines(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var l logging.Limiter
		var wg sync.WaitGroup
		for range 100 {
			wg.Go(func() { l.Allow("a") })
		}
		wg.Wait()
		time.Sleep(time.Second)
		if more, ok := l.Allow("a"); !ok || more != " (and 99 more since the last such line)" {
			t.Errorf("%q, %v", more, ok)
		}
	})
}
