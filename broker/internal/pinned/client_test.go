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
	i := &jetstream.ConsumerInfo{
		Stream: "ORDERS", Name: "q", NumAckPending: unsettled,
		Delivered: jetstream.SequenceInfo{Consumer: delivered, Stream: delivered}, AckFloor: jetstream.SequenceInfo{Stream: 3},
	}
	if unsettled == 0 {
		i.AckFloor = i.Delivered
	}
	return i
}

func grant(pin string, first uint64) Grant {
	return Grant{Pin: pin, First: first, TTL: ttl, Wait: wait}
}

// pinnedAfterLook is a client that has become active with permission to claim.
func pinnedAfterLook(now time.Time) *Client {
	c := &Client{free: true, others: watch{quiet: true, delivered: 6}}
	c.Turn(grant("a", 7), now)
	return c
}

// Nothing is started until all that the former one had is here. What does not come is
// claimed, once the server was asked twice.
func TestActiveOneWaitsForItsPredecessor(t *testing.T) {
	t.Parallel()
	now := time.Now()
	c := &Client{}
	if c.Active() || c.Holds(now) || c.MayAsk() {
		t.Error("without a pin it is active, or holds, or may ask")
	}
	c = pinnedAfterLook(now)
	if !c.Active() || !c.Holds(now) || !c.MayAsk() {
		t.Error("it does not hold, or may not ask")
	}
	c.Renewed("a", now.Add(-time.Second), ttl)
	if r := c.Reckon(c.pin, info(6, 3), hand(5), now); len(r.Claims) > 0 || r.Released {
		t.Errorf("at the first look: %v, %v", r.Claims, r.Released)
	}
	if r := c.Reckon(c.pin, info(6, 3), hand(5), now); !slices.Equal(r.Claims, []uint64{4, 6}) || r.Released {
		t.Errorf("nothing has come, but claims %v, released %v", r.Claims, r.Released)
	}
	if r := c.Reckon(c.pin, info(6, 3), hand(5), now.Add(time.Second)); len(r.Claims) > 0 {
		t.Errorf("claims %v again too soon", r.Claims)
	}
	if r := c.Reckon(c.pin, info(6, 3), Hand{Sequences: hand(4, 5, 6).Sequences, Before: 3, Handling: true}, now); r.Released {
		t.Error("released while a handler of an earlier time runs")
	}
	if r := c.Reckon(c.pin, info(6, 3), hand(4, 5, 6), now); !r.Released || r.GaveUp > 0 || c.Holds(now) {
		t.Errorf("all has come, but released %v, gave up %d", r.Released, r.GaveUp)
	}
}

func TestActiveOneDoesNotWaitForEver(t *testing.T) {
	t.Parallel()
	now := time.Now()
	c := pinnedAfterLook(now)
	if r := c.Reckon(c.pin, info(6, 3), hand(5), now.Add(wait+1)); !r.Released || r.GaveUp != 2 {
		t.Errorf("released %v, gave up %d, want 2", r.Released, r.GaveUp)
	}
}

// Whoever gets the pin without having seen that nobody works claims nothing, starts nothing,
// and gives the pin back if something of others stays away.
func TestUnexpectedPinIsGivenBack(t *testing.T) {
	t.Parallel()
	now := time.Now()
	for name, c := range map[string]*Client{
		"by an old request":             {},
		"when nothing was unsettled":    {free: true},
		"after others have got a thing": {free: true, others: watch{quiet: true, delivered: 5}},
	} {
		c.Turn(grant("a", 7), now)
		for i := range 3 {
			then := now.Add(time.Duration(i) * ttl / 2 / yieldShare)
			if r := c.Reckon(c.pin, info(6, 3), hand(5), then); len(r.Claims) > 0 || r.Released || r.Yield != (i == 2) {
				t.Errorf("%s: look %d: %+v", name, i, r)
			}
		}
		if r := c.Reckon(c.pin, info(6, 3), hand(5), now.Add(wait+1)); r.Released || !r.Yield {
			t.Errorf("%s: in the end: %+v", name, r)
		}
		shared := hand(5)
		shared.Shared = true
		if r := c.Reckon(c.pin, info(6, 3), shared, now.Add(wait)); r.Yield || r.Released {
			t.Errorf("%s: beside others without a pin: %+v", name, r)
		}
		if r := c.Reckon(c.pin, info(6, 1), hand(5), now); !r.Released || r.Yield {
			t.Errorf("%s: with all in hand: %+v", name, r)
		}
	}
}

// The one that was active goes on waiting while another one has its pin by mistake.
func TestPinThatAnotherOneHasByMistake(t *testing.T) {
	t.Parallel()
	now := time.Now()
	c := pinnedAfterLook(now)
	c.Doubt("a")
	l := Look{Beat: Beat{Began: now.Add(ttl - 1), Pin: "a"}, TTL: ttl}
	if v := c.Looked(info(8, 2), "x", true, l); !v.Wait || v.Lost || c.MayAsk() || !c.Active() || !c.Holds(now) {
		t.Errorf("%+v", v)
	}
	if v := c.Looked(info(8, 2), "", true, l); !v.None || !c.MayAsk() {
		t.Errorf("the other one has given it back, but %+v", v)
	}
	l.Began = now.Add(2*ttl - 1)
	if v := c.Looked(info(8, 2), "x", true, l); !v.Lost {
		t.Errorf("the other one has it for good, but %+v", v)
	}
}

// When a request has ended, another one needs another look: the server may be another one.
func TestRequestWithoutAPinNeedsALook(t *testing.T) {
	t.Parallel()
	now := time.Now()
	c := &Client{}
	look := func(began time.Time) {
		c.Looked(info(6, 0), "", false, Look{Beat: Beat{Began: began}, TTL: ttl})
	}
	look(now)
	if !c.MayAsk() {
		t.Error("nothing is unsettled, but it does not ask")
	}
	c.Spend(now.Add(2))
	if c.MayAsk() {
		t.Error("it asks again without a look")
	}
	if look(now.Add(1)); c.MayAsk() {
		t.Error("it asks after a look from before")
	}
	if look(now.Add(2)); !c.MayAsk() {
		t.Error("it does not ask after another look")
	}
}

// A server that has just become the leader may not know yet what is unsettled.
func TestNothingPendingMustAgreeWithTheFloor(t *testing.T) {
	t.Parallel()
	i := info(6, 0)
	if !settled(i) {
		t.Error("nothing is unsettled")
	}
	if i.AckFloor.Consumer--; settled(i) {
		t.Error("something is unsettled")
	}
	if i.Config.MaxDeliver = 3; !settled(i) {
		t.Error("the server has given something up, and nothing else is unsettled")
	}
}

// Without an answer of the server for the time to live of the pin, another one may be
// active.
func TestPinLapsesWithoutRenewal(t *testing.T) {
	t.Parallel()
	now := time.Now()
	c := pinnedAfterLook(now)
	c.Reckon(c.pin, info(6, 0), hand(), now)
	if !c.Holds(now.Add(1)) {
		t.Error("it does not wait until the server has confirmed the pin")
	}
	c.Begin(nil, func() {})
	beat, ok := c.BeginRenewal(ttl)
	if !ok || !beat.Look {
		t.Error("the pin is not confirmed")
	}
	if _, ok := c.BeginRenewal(ttl); ok {
		t.Error("it is renewed twice at a time")
	}
	c.Renewed("b", now, ttl)
	if !c.Holds(now.Add(1)) {
		t.Error("the pin of another one counts")
	}
	c.Renewed("a", now, ttl)
	c.Renewed("a", now.Add(-ttl), ttl) // an answer that comes late
	if c.Holds(now.Add(ttl)) || !c.Holds(now.Add(ttl+1)) {
		t.Error("the pin does not last for its time to live from when its renewal was sent")
	}
	if active, _, _ := c.End(); !active {
		t.Error("it does not end as the active one")
	}
	if active, _, _ := c.End(); active {
		t.Error("it ends twice")
	}
	if _, ok := c.BeginRenewal(ttl); ok {
		t.Error("it is renewed after the end")
	}
}

// The former active one goes on if nobody else is active, and the others wait.
func TestPinThatTheServerHasForgotten(t *testing.T) {
	t.Parallel()
	now := time.Now()
	c := pinnedAfterLook(now)
	c.Reckon(c.pin, info(6, 0), hand(), now)
	c.Doubt("a")
	if c.MayAsk() || !c.Holds(now) || !c.Active() {
		t.Error("in doubt it asks, or does not hold, or is no longer active")
	}
	l := Look{Beat: Beat{Began: now, Pin: "a"}, TTL: ttl}
	if v := c.Looked(info(6, 2), "", true, l); !v.None || !c.MayAsk() || c.Holds(now) {
		t.Errorf("nobody is active, but %+v", v)
	}
	c.Turn(grant("b", 8), now)
	if r := c.Reckon(c.pin, info(6, 2), Hand{Sequences: hand(5, 6).Sequences, Before: 2, Handling: true}, now); !r.Released {
		t.Error("it waits for handlers of its own")
	}
	c.Doubt("b")
	l.Pin = "b"
	if v := c.Looked(info(6, 2), "b", true, l); !v.Known || !c.MayAsk() {
		t.Errorf("the server knows the pin, but %+v", v)
	}
	if v := c.Looked(info(6, 2), "x", false, l); !v.Lost {
		t.Errorf("another one is active, but %+v", v)
	}
	c.Lose(Left{Waiting: 1})
	c.Tell()
	l.Pin = ""
	if v := c.Looked(info(6, 2), "", false, l); v.Claim || c.MayAsk() {
		t.Errorf("it takes over at once: %+v", v)
	}
}

// A subscription that stands by takes over when nobody is active, and nobody is heard of.
func TestOneThatStandsByTakesOver(t *testing.T) {
	t.Parallel()
	now := time.Now()
	said := now.Add(-time.Hour) // the server's clock is another one
	elected := said
	c := &Client{}
	look := func(pin string, unsettled int, link uint64) (claims bool) {
		now = now.Add(ttl / 4)
		i := info(6, unsettled)
		last, since := said, elected
		i.Delivered.Last, i.Cluster = &last, &jetstream.ClusterInfo{Leader: "n1", LeaderSince: &since}
		return c.Looked(i, pin, false, Look{Beat: Beat{Began: now}, Link: link, TTL: ttl}).Claim
	}
	works := func(looks int, link uint64) {
		t.Helper()
		for range looks {
			said = said.Add(ttl / 4)
			if look("", 1, link) || c.MayAsk() {
				t.Fatal("it takes over from one that works")
			}
		}
	}
	takesOver := func(looks int, link uint64) {
		t.Helper()
		for i := range looks {
			if claims := look("", 1, link); claims != (i == looks-1) || claims != c.MayAsk() {
				t.Fatalf("after %d looks it claims: %v", i+1, claims)
			}
		}
	}
	look("x", 1, 1)
	works(10, 1)
	takesOver(2, 1)
	look("x", 1, 1)
	works(1, 1)
	if look("", 0, 1); !c.MayAsk() {
		t.Error("nothing is unsettled, but it does not ask")
	}
	look("x", 1, 1)
	elected = elected.Add(time.Second)
	takesOver(1+4*upset, 1) // the first one sees the change
	look("x", 1, 1)
	works(1, 2)
	takesOver(4*upset, 2)
	look("x", 1, 2)
	c.Fails(now)
	takesOver(4*upset, 2)
}
