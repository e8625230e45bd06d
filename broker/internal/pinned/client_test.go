package pinned

import (
	"slices"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

const (
	ttl  = 10 * time.Second
	wait = time.Minute
)

func hand(sequences ...uint64) Hand {
	h := Hand{Sequences: map[uint64]struct{}{}, Before: len(sequences)}
	for _, n := range sequences {
		h.Sequences[n] = struct{}{}
	}
	return h
}

// info says that messages up to a sequence were delivered, and how many are not settled.
func info(delivered uint64, unsettled int) *jetstream.ConsumerInfo {
	return &jetstream.ConsumerInfo{
		Stream: "ORDERS", Name: "q", NumAckPending: unsettled,
		Delivered: jetstream.SequenceInfo{Consumer: delivered, Stream: delivered}, AckFloor: jetstream.SequenceInfo{Stream: 3},
	}
}

// Nothing is started until all that the former one had is here. What does not come is
// claimed, once the server was asked twice.
func TestActiveOneWaitsForItsPredecessor(t *testing.T) {
	t.Parallel()
	var c Client
	now := time.Now()
	if c.Active() || c.Holds(now) {
		t.Error("without a pin it is active, or holds")
	}
	if !c.Turn("a", now, ttl, wait) || c.Turn("a", now, ttl, wait) {
		t.Error("a pin is another one once")
	}
	if !c.Active() || !c.Holds(now) {
		t.Error("it does not hold")
	}
	if claims, released, _ := c.Reckon(info(6, 3), hand(5), now); len(claims) > 0 || released {
		t.Errorf("at the first look: %v, %v", claims, released)
	}
	if claims, released, _ := c.Reckon(info(6, 3), hand(5), now); !slices.Equal(claims, []uint64{4, 6}) || released {
		t.Errorf("nothing has come, but claims %v, released %v", claims, released)
	}
	if claims, _, _ := c.Reckon(info(6, 3), hand(5), now.Add(time.Second)); len(claims) > 0 {
		t.Errorf("claims %v again too soon", claims)
	}
	if _, released, _ := c.Reckon(info(6, 3), Hand{Sequences: hand(4, 5, 6).Sequences, Before: 3, Handling: true}, now); released {
		t.Error("released while a handler of an earlier time runs")
	}
	if _, released, gaveUp := c.Reckon(info(6, 3), hand(4, 5, 6), now); !released || gaveUp > 0 || c.Holds(now) {
		t.Errorf("all has come, but released %v, gave up %d", released, gaveUp)
	}
}

func TestActiveOneDoesNotWaitForEver(t *testing.T) {
	t.Parallel()
	var c Client
	now := time.Now()
	c.Turn("a", now, ttl, wait)
	if _, released, gaveUp := c.Reckon(info(6, 3), hand(5), now.Add(wait+1)); !released || gaveUp != 2 {
		t.Errorf("released %v, gave up %d, want 2", released, gaveUp)
	}
}

// Without an answer of the server for the time to live of the pin, another one may be
// active.
func TestPinLapsesWithoutRenewal(t *testing.T) {
	t.Parallel()
	var c Client
	now := time.Now()
	c.Turn("a", now, ttl, wait)
	c.Reckon(info(6, 0), hand(), now)
	if c.Holds(now.Add(ttl)) || !c.Holds(now.Add(ttl+1)) {
		t.Error("the pin does not last for its time to live")
	}
	c.Begin(nil, func() {})
	if _, ok := c.BeginRenewal(); !ok {
		t.Error("it is not renewed")
	}
	if _, ok := c.BeginRenewal(); ok {
		t.Error("it is renewed twice at a time")
	}
	c.Renewed("b", ttl)
	if !c.Holds(now.Add(ttl + 1)) {
		t.Error("the pin of another one counts")
	}
	c.Renewed("a", 3*ttl)
	if c.Holds(now.Add(2*ttl)) || !c.Holds(now.Add(3*ttl)) {
		t.Error("a renewal lasts for two thirds, as the answer may be that to the one before")
	}
	if active, _ := c.End(); !active {
		t.Error("it does not end as the active one")
	}
	if active, _ := c.End(); active {
		t.Error("it ends twice")
	}
	if _, ok := c.BeginRenewal(); ok {
		t.Error("it is renewed after the end")
	}
}
