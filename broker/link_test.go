package broker

import (
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
)

// A link never says that the connection is up when the client says that it is down, be
// it asked by many while the connection comes and goes.
func TestLinkKnowsEveryLoss(t *testing.T) {
	t.Parallel()
	back := make(chan struct{}, 1)
	p := busyPull(t, nats.ReconnectWait(time.Millisecond), nats.ReconnectHandler(func(*nats.Conn) { back <- struct{}{} }))
	l := p.link
	if up, _ := l.state(); !up {
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
					l.state()
				}
			}
		})
	}
	for range 20 {
		_, before := l.state()
		if err := p.nc.ForceReconnect(); err != nil {
			t.Fatal(err)
		}
		if _, after := l.state(); after == before {
			t.Error("a loss has not been noticed")
		}
		awaitBack(t, back)
		if !l.connected() {
			t.Error("down although it is up again")
		}
	}
	p.nc.Close()
	if l.connected() {
		t.Error("up although it is closed")
	}
	close(stop)
	askers.Wait()
	if l.connected() {
		t.Error("up after it was closed")
	}
}

// Two losses without a question in between make no number come again.
func TestLinkNumbersEachConnection(t *testing.T) {
	t.Parallel()
	back := make(chan struct{}, 1)
	p := busyPull(t, nats.ReconnectWait(time.Millisecond), nats.ReconnectHandler(func(*nats.Conn) { back <- struct{}{} }))
	seen := map[uint64]bool{}
	for range 5 {
		up, number := p.link.state()
		if !up || number == 0 || seen[number] {
			t.Errorf("up: %v, number %d after %v", up, number, seen)
		}
		seen[number] = true
		for range 2 {
			if err := p.nc.ForceReconnect(); err != nil {
				t.Fatal(err)
			}
			if up, number := p.link.state(); !up && number != 0 {
				t.Errorf("number %d while it is down", number)
			}
			awaitBack(t, back)
		}
	}
}
