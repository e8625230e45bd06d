package hanging_test

import (
	"os"
	"runtime"
	"sync"
	"testing"
	"time"

	"go-micro-jetstream/broker/internal/hanging"
	"go-micro-jetstream/internal/natstest"
)

func TestMain(m *testing.M) { os.Exit(natstest.Main(m)) }

// Before a handler has returned, nobody knows what is usual.
func TestHandlersHangWhenTheyAreMuchSlowerThanUsual(t *testing.T) {
	t.Parallel()
	p := hanging.NewPace(time.Second)
	zero := time.Now()
	hangs := func(after time.Duration) bool { return p.Hangs(zero, zero.Add(after)) }
	if hangs(3*time.Second) || !hangs(3*time.Second+1) {
		t.Error("it is not three times the floor at first")
	}
	p.Returned(time.Millisecond)
	if hangs(time.Second) || !hangs(time.Second+1) {
		t.Error("quick handlers have not the floor")
	}
	p.Returned(time.Second)
	if hangs(20*time.Second) || !hangs(20*time.Second+1) {
		t.Error("a slow handler does not count at once")
	}
	p.Returned(0)
	if hangs(17*time.Second) || !hangs(18*time.Second) {
		t.Error("a quick handler does not count little by little")
	}
	p.Started(zero.Add(time.Second))
	if hangs(18 * time.Second) {
		t.Error("a handler was started since")
	}
}

func TestCallThatHangsIsToldOnceAndItsEnd(t *testing.T) {
	t.Parallel()
	type news struct {
		lasts time.Duration
		over  bool
	}
	told := make(chan news, 10)
	const after = time.Millisecond
	c := hanging.NewCall(after, func(lasts time.Duration, over bool) { told <- news{lasts, over} })
	if _, hangs := c.Lasts(); hangs {
		t.Error("it hangs before it has begun")
	}
	for range 2 { // the timer is used again
		c.Begin()
		if n := natstest.Receive(t, told); n.over || n.lasts < after {
			t.Errorf("told %v", n)
		}
		if lasts, hangs := c.Lasts(); !hangs || lasts < after {
			t.Errorf("lasts %v, hangs %v", lasts, hangs)
		}
		c.End()
		if n := natstest.Receive(t, told); !n.over || n.lasts < after {
			t.Errorf("told %v", n)
		}
		if _, hangs := c.Lasts(); hangs {
			t.Error("it hangs although it is over")
		}
	}
}

func TestQuickCallIsNotTold(t *testing.T) {
	t.Parallel()
	c := hanging.NewCall(time.Hour, func(time.Duration, bool) { t.Error("told") })
	c.Begin()
	if _, hangs := c.Lasts(); hangs {
		t.Error("it hangs")
	}
	c.End()
}

// Calls that last about as long as those that hang tell of each of them in turn: that it
// hangs, and then that it is over.
func TestCallsAtTheEdgeAreToldInTurn(t *testing.T) {
	t.Parallel()
	const after = 200 * time.Microsecond
	var mu sync.Mutex
	var told []bool
	c := hanging.NewCall(after, func(_ time.Duration, over bool) {
		mu.Lock()
		defer mu.Unlock()
		told = append(told, over)
	})
	for range 2000 {
		c.Begin()
		for began := time.Now(); time.Since(began) < after; {
			runtime.Gosched()
		}
		c.End()
	}
	mu.Lock()
	defer mu.Unlock()
	for i, over := range told {
		if over != (i%2 == 1) {
			t.Fatalf("at %d of %d: over is %v", i, len(told), over)
		}
	}
	if len(told)%2 != 0 {
		t.Error("the last is not over")
	}
}
