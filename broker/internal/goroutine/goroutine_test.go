package goroutine_test

import (
	"sync"
	"testing"

	"go-micro-jetstream/broker/internal/goroutine"
)

func TestIDTellsGoroutinesApart(t *testing.T) {
	t.Parallel()
	own := goroutine.ID()
	if own == 0 || own != goroutine.ID() {
		t.Fatalf("own id %d, then %d", own, goroutine.ID())
	}
	var mu sync.Mutex
	seen := map[uint64]bool{own: true}
	var wg sync.WaitGroup
	for range 100 {
		wg.Go(func() {
			mu.Lock()
			defer mu.Unlock()
			seen[goroutine.ID()] = true
		})
	}
	wg.Wait()
	if len(seen) != 101 || seen[0] {
		t.Errorf("%d ids of 101 goroutines", len(seen))
	}
}

func isClosed(ch <-chan struct{}) bool {
	select {
	case <-ch:
		return true
	default:
		return false
	}
}

func TestGateWaitsForWorkUnderWay(t *testing.T) {
	t.Parallel()
	var g goroutine.Gate
	for range 2 {
		if !g.Enter() {
			t.Fatal("an open gate lets nobody in")
		}
	}
	g.Leave()
	if !g.Enter() || g.Inside() != 2 {
		t.Fatalf("%d inside, want 2", g.Inside())
	}
	empty := g.Close()
	if g.Enter() || g.Inside() != 2 {
		t.Fatalf("a closed gate lets work in: %d inside", g.Inside())
	}
	g.Leave()
	if isClosed(empty) {
		t.Fatal("empty with one inside")
	}
	g.Leave()
	if !isClosed(empty) || g.Inside() != 0 {
		t.Fatalf("not empty with %d inside", g.Inside())
	}
	if g.Close() != empty {
		t.Error("a second Close has another channel")
	}
}

func TestGateWithoutWorkIsEmptyAtOnce(t *testing.T) {
	t.Parallel()
	var g goroutine.Gate
	if g.Enter() {
		g.Leave()
	}
	if !isClosed(g.Close()) || g.Enter() {
		t.Error("not empty, or not closed")
	}
}

func TestGateIsClosedOnceForManyGoroutines(t *testing.T) {
	t.Parallel()
	var g goroutine.Gate
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			for g.Enter() {
				g.Leave()
			}
		})
	}
	<-g.Close()
	if n := g.Inside(); n != 0 {
		t.Errorf("%d inside", n)
	}
	wg.Wait()
}
