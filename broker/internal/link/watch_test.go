package link_test

import (
	"sync"
	"testing"
)

// The connection never says that it is up when the client says that it is down, also if
// many ask while it comes and goes.
func TestEveryLossIsNoticed(t *testing.T) {
	t.Parallel()
	c, _, back := reconnecting(t)
	if up, _ := c.State(); !up {
		t.Fatal("down at the beginning")
	}
	stop := make(chan struct{})
	var askers sync.WaitGroup
	for range 4 {
		askers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					c.State()
				}
			}
		})
	}
	for range 20 {
		_, before := c.State()
		if err := c.NATS().ForceReconnect(); err != nil {
			t.Fatal(err)
		}
		if _, after := c.State(); after == before {
			t.Error("a loss has not been noticed")
		}
		receive(t, back)
		if !c.Up() {
			t.Error("down although it is up again")
		}
	}
	c.Close()
	if c.Up() {
		t.Error("up although it is closed")
	}
	close(stop)
	askers.Wait()
	if c.Up() {
		t.Error("up after it was closed")
	}
}

// No number comes again, also after two losses without a question in between.
func TestEachConnectionHasItsNumber(t *testing.T) {
	t.Parallel()
	c, _, back := reconnecting(t)
	seen := map[uint64]bool{}
	for range 5 {
		up, number := c.State()
		if !up || number == 0 || seen[number] {
			t.Errorf("up: %v, number %d after %v", up, number, seen)
		}
		seen[number] = true
		for range 2 {
			if err := c.NATS().ForceReconnect(); err != nil {
				t.Fatal(err)
			}
			if up, number := c.State(); !up && number != 0 {
				t.Errorf("number %d while it is down", number)
			}
			receive(t, back)
		}
	}
}
