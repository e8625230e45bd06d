// Package pinned is for consumers that serve one subscriber at a time, the pinned client
// (ADR-42). It knows whether a subscription is that one, for how long, and what it must
// wait for when it becomes so.
package pinned

import (
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"go-micro-jetstream/broker/internal/link"
	"go-micro-jetstream/broker/internal/wire"
)

const (
	// holdInterval is how often the server is asked what is still missing of what the
	// former active subscriber had in hand.
	holdInterval = 100 * time.Millisecond
	// claimInterval is how long the server has to deliver what was claimed, until it is
	// claimed again.
	claimInterval = 2 * time.Second
	// maxClaims is how many messages are claimed at a time. Most are settled already, as
	// the server does not say which are not. The others come after AckWait.
	maxClaims = 50_000
	// yieldShare is for what share of the time to live of a pin nothing of what others have
	// unsettled may come, until the pin counts as given by mistake.
	yieldShare = 8
	// beats is how often in the time to live of a pin the active subscription lets the
	// server hear of it, and the others look.
	beats = 4
	// absence is for how many times to live an active subscription may have heard nothing,
	// and go on all the same if nobody else is active then.
	absence = 12
)

// Client is one of the subscriptions of such a consumer. The active one renews its pin.
//
// The server forgets the pin when another server becomes the consumer's leader, when it
// restarts, and when an operator takes the pin away. The next message gives a new one to
// whoever asks. So only the one that was active asks then. The others ask for nothing, and claim nothing,
// until nobody has the pin and nobody works; see watch. As long as a subscription has
// something in hand, it says so with each beat.
//
// Whoever becomes active waits until it has all that its predecessor had in hand, so that
// the order is kept. The server would deliver that only after AckWait. So it is claimed:
// a nak for a message is good whoever sends it. Only who has seen that nobody works may
// claim. A request from before an election, or from before another one became active, can
// bring the pin all the same. Whoever then finds that others have something unsettled gives
// the pin back; see [Reckoning].
//
// Client is safe for concurrent use.
type Client struct {
	mu     sync.Mutex
	pin    string    // the latest that the server has given; empty: this is not the active one
	doubt  bool      // the server may have forgotten it
	leased time.Time // until then nobody else becomes active, whatever happens to the connection
	known  time.Time // when the server last said that nobody else is active
	free   bool      // messages may be asked for without a pin
	spent  time.Time // when such a request last ended; a look from before that permits no other
	others watch
	hold   hold
	told   bool   // what Tell has returned
	left   Left   // see Tell
	like   string // the ack subject of a delivery

	timer  *time.Timer // has the pin renewed
	busy   bool        // it is being renewed
	began  time.Time   // when that has begun
	failed bool        // the latest look has failed
	ended  bool        // it is not renewed any more
	answer *link.Listener
}

// hold is the wait of a subscription that has become active.
type hold struct {
	on      bool      // nothing is started
	own     bool      // for what it had itself: it was active before
	claims  bool      // what is missing may be claimed
	until   time.Time // until then at most
	yield   time.Duration
	moved   time.Time // when something of what was missing last came
	upTo    uint64    // the stream sequence that was delivered when this one became active; 0: not known
	wanted  int       // how many were not settled up to there
	missing int       // how many of them had not come at the last look
	claimed time.Time // when they were last claimed
}

// Left is what a subscription had in hand when another one became active.
type Left struct {
	Waiting int // messages that it leaves to the other one
	Running int // handlers that run on beside the other one
}

// Active reports whether this subscription is the active one.
func (c *Client) Active() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.pin != ""
}

// MayAsk reports whether messages may be asked for.
func (c *Client) MayAsk() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.free || c.pin != "" && !c.doubt
}

// StandsBy reports whether another subscription is active, or may be, as the server has
// said lately.
func (c *Client) StandsBy() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.pin == "" && !c.free && !c.failed
}

// Holds reports whether nothing may be started: something of the former active
// subscription may be missing.
//
// Nothing is started either when the server may have given the pin to another one: without
// a connection, this subscription does not hear of that.
func (c *Client) Holds(now time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.hold.on || c.pin != "" && now.After(c.leased)
}

// Grant is a pin that a delivery has brought.
type Grant struct {
	Pin   string
	First uint64        // the delivery's number in the consumer
	TTL   time.Duration // how long the pin lives
	Wait  time.Duration // how long to wait for what is missing at most
}

// Turn notes a pin. If it is another one, the subscription waits for what is missing.
func (c *Client) Turn(g Grant, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if g.Pin == c.pin {
		return
	}
	own := c.pin != ""
	// Since the look that has found that nobody works, nobody else may have got anything.
	quiet := c.free && c.others.quiet && g.First == c.others.delivered+1
	c.hold = hold{on: true, own: own, claims: own || quiet, until: now.Add(g.Wait), yield: g.TTL / yieldShare, moved: now, missing: -1}
	if !own {
		c.leased = now // until the server has confirmed it
	}
	c.pin, c.doubt, c.free, c.known = g.Pin, false, false, now
	c.renewIn(0)
}

// Spend notes that a request has ended. Another one without a pin needs another look: the
// server that is asked next may have become the leader since the last look, and not know
// who is active.
func (c *Client) Spend(now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.spent = now
	if c.free {
		c.free = false
		c.renewIn(0)
	}
}

// Doubt notes that the server does not know the pin.
func (c *Client) Doubt(pin string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.pin == pin && pin != "" {
		c.doubt, c.free, c.leased = true, false, time.Time{}
		c.renewIn(0)
	}
}

// Lose notes that the subscription is no longer the active one, and what it leaves.
func (c *Client) Lose(l Left) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lose(l)
	c.renewIn(0)
}

func (c *Client) lose(l Left) {
	c.pin, c.doubt, c.free, c.hold, c.left = "", false, false, hold{}, l
}

// Tell returns whether the subscription is active if it has not been told yet.
func (c *Client) Tell() (active bool, left Left, changed bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	active = c.pin != ""
	changed = active != c.told
	c.told, left, c.left = active, c.left, Left{}
	return active, left, changed
}

// Delivered notes the ack subject of a delivery, as a pattern for others.
func (c *Client) Delivered(reply string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.like = reply
}

// AckSubject returns the ack subject of a message that need not be here.
func (c *Client) AckSubject(info *jetstream.ConsumerInfo, sequence uint64) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if subject := wire.AckSubjectLike(c.like, sequence, info.Delivered.Consumer); subject != "" {
		return subject
	}
	return wire.AckSubject(info.Stream, info.Name, sequence, info.Delivered.Consumer)
}

// Begin starts the renewals: renew is called when it is time, and calls BeginRenewal and
// EndRenewal. End returns the listener for the answers.
func (c *Client) Begin(answer *link.Listener, renew func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.answer = answer
	c.timer = time.AfterFunc(time.Hour, renew)
	c.timer.Stop()
}

// RenewIn has the pin renewed then, unless it is being renewed.
func (c *Client) RenewIn(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.renewIn(d)
}

func (c *Client) renewIn(d time.Duration) {
	if c.timer != nil && !c.ended && !c.busy {
		c.timer.Reset(d)
	}
}

// Beat is what to do when it is time.
type Beat struct {
	Began  time.Time
	Pin    string
	Look   bool // ask the server who is active
	Active bool
}

// BeginRenewal says what to do now, if it is not being done. The time to live is that of
// the pin.
func (c *Client) BeginRenewal(ttl time.Duration) (b Beat, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended || c.busy {
		return b, false
	}
	c.busy, c.began = true, time.Now()
	b = Beat{Began: c.began, Pin: c.pin, Active: c.pin != ""}
	b.Look = !b.Active || c.doubt || c.hold.on || c.began.After(c.leased.Add(-ttl/2))
	return b, true
}

// EndRenewal sets the time of the next renewal.
func (c *Client) EndRenewal(ttl time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.busy = false; c.ended {
		return
	}
	switch {
	case c.hold.on:
		c.timer.Reset(holdInterval)
	case !c.free && (c.pin == "" || c.doubt) && c.spent.After(c.began):
		c.timer.Reset(0)
	case c.doubt && c.leased.IsZero(), (c.pin != "") != c.told: // since it has begun
		c.timer.Reset(holdInterval)
	default:
		c.timer.Reset(max(ttl, time.Second) / beats)
	}
}

// Renewed notes that the server has renewed a pin, which it was asked for at that time.
func (c *Client) Renewed(pin string, asked time.Time, ttl time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.pin == pin && asked.Before(time.Now()) {
		c.leased, c.known = later(c.leased, asked.Add(ttl)), later(c.known, asked)
	}
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// End ends the renewals. It reports whether the subscription is the active one, and whether
// Tell has said so, and returns what Begin was called with, the first time.
func (c *Client) End() (active, told bool, answer *link.Listener) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended {
		return false, false, nil
	}
	c.ended = true
	if c.timer != nil {
		c.timer.Stop()
	}
	return c.pin != "", c.told, c.answer
}

// Hand is what a subscription has in hand.
type Hand struct {
	Sequences map[uint64]struct{} // of what is not settled, in the stream
	Before    int                 // how many there were when the server was asked
	Handling  bool                // a handler runs
	Shared    bool                // others get messages without a pin: theirs come after AckWait
}

// Reckoning is what follows from what has come.
type Reckoning struct {
	Claims   []uint64 // the stream sequences of what is to be claimed
	Released bool     // messages may be started
	GaveUp   int      // so many have not come all the same
	Yield    bool     // others have something in hand, and this subscription must not claim it
}

// Reckon finds out whether all that the former active subscription had in hand has come.
// Then messages may be started. After a while they are in any case, unless others may be at
// work. Info is what the server has said when this was the pin. What has come since then
// does not count.
func (c *Client) Reckon(pin string, info *jetstream.ConsumerInfo, hand Hand, now time.Time) (r Reckoning) {
	c.mu.Lock()
	defer c.mu.Unlock()
	h := &c.hold
	if !h.on || pin != c.pin {
		return r
	}
	if h.upTo == 0 {
		h.upTo, h.wanted = max(info.Delivered.Stream, 1), info.NumAckPending
	}
	early := 0
	for n := range hand.Sequences {
		if n <= h.upTo {
			early++
		}
	}
	missing := max(min(h.wanted-early, info.NumAckPending-hand.Before), 0)
	still := missing == h.missing // nothing is on its way
	if !still {
		h.missing, h.moved = missing, now
	}
	waits := hand.Handling && !h.own // for handlers from an earlier time
	over := now.After(h.until)
	switch {
	case missing > 0 && !h.claims && !hand.Shared:
		r.Yield = over || now.Sub(h.moved) >= h.yield
	case missing == 0 && !waits, over:
		h.on = false
		r.Released, r.GaveUp = true, missing
	case missing > 0 && still && h.claims && now.Sub(h.claimed) >= claimInterval:
		h.claimed = now
		r.Claims = Unclaimed(info, hand.Sequences)
	}
	return r
}

// Unclaimed returns the stream sequences of what was delivered and may not be settled,
// but for those that are in hand.
func Unclaimed(info *jetstream.ConsumerInfo, inHand map[uint64]struct{}) (claims []uint64) {
	for n := info.AckFloor.Stream + 1; n <= info.Delivered.Stream && len(claims) < maxClaims; n++ {
		if _, ok := inHand[n]; !ok {
			claims = append(claims, n)
		}
	}
	return claims
}

// Fails notes that the server could not be asked.
func (c *Client) Fails(now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.failed, c.others.upset = true, now
}

// Verdict is what follows from a look.
type Verdict struct {
	Known bool // the server knows the pin
	None  bool // nobody has a pin, and this subscription was the last one to have it: it goes on
	Wait  bool // another one has got the pin by mistake, and gives it back
	Lost  bool // the subscription was the active one, and another one is now
	Claim bool // nobody is active or works, and this one may claim what is unsettled
}

// Looked notes who is pinned, as the server has said; nobody if it is empty. Works is
// whether this subscription has something unsettled in hand.
func (c *Client) Looked(info *jetstream.ConsumerInfo, pinned string, works bool, l Look) (v Verdict) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.failed = false
	quiet := c.others.see(info, pinned != "", l)
	if c.pin != l.Pin { // it has changed since
		return v
	}
	asks := !l.Began.Before(c.spent)
	lease := func() { c.leased, c.known = later(c.leased, l.Began.Add(l.TTL)), l.Began }
	switch {
	case pinned != "" && pinned == c.pin:
		c.doubt, c.free, v.Known = false, false, true
		lease()
	case pinned == "" && c.pin != "" && l.Began.Sub(c.known) < absence*l.TTL:
		c.doubt, c.free, v.None = true, asks, true
		lease()
	case pinned != "" && c.pin != "" && works && l.Began.Sub(c.known) < l.TTL:
		// Nobody takes over before the pin has lapsed.
		c.doubt, c.free, c.leased, v.Wait = true, false, time.Time{}, true
	case c.pin != "":
		v.Lost = true
	case pinned != "":
		c.free = false
	default:
		c.free = asks && (quiet || settled(info))
		v.Claim = quiet && info.NumAckPending > 0 && l.Began.Sub(c.hold.claimed) >= claimInterval
		if v.Claim {
			c.hold.claimed = l.Began
		}
	}
	return v
}

// settled reports whether nothing that was delivered is unsettled. A server that is about
// to become the leader may not know yet what is. Then its ack floor says so. With
// MaxDeliver the floor stays behind where the server has given up.
func settled(info *jetstream.ConsumerInfo) bool {
	return info.NumAckPending == 0 && (info.AckFloor.Consumer >= info.Delivered.Consumer || info.Config.MaxDeliver > 0)
}
