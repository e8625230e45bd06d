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
)

// Client is one of the subscriptions of such a consumer. The active one renews its pin.
// The others look whether there is one.
//
// Whoever becomes active waits until it has all that its predecessor had in hand, so that
// the order is kept. The server would deliver that only after AckWait. So it is claimed:
// a nak for a message is good whoever sends it.
//
// Client is safe for concurrent use.
type Client struct {
	mu      sync.Mutex
	pin     string    // that of the pull, when it was last looked at
	leased  time.Time // until then the server keeps the pin, whatever happens to the connection
	sent    time.Time // when the latest renewal was sent
	holding bool      // nothing is started
	until   time.Time // until then at most
	upTo    uint64    // the stream sequence that was delivered when this one became active; 0: not known
	wanted  int       // how many were not settled up to there
	missing int       // how many of them had not come at the last look
	claimed time.Time // when they were last claimed
	like    string    // the ack subject of a delivery

	timer  *time.Timer // has the pin renewed
	busy   bool        // it is being renewed
	ended  bool        // it is not renewed any more
	answer *link.Listener
}

// Active reports whether this subscription is the active one.
func (c *Client) Active() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.pin != ""
}

// Holds reports whether nothing may be started: something of the former active
// subscription may be missing.
//
// Nothing is started either when the server may have given the pin to another one: without
// a connection, this subscription does not hear of that.
func (c *Client) Holds(now time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.holding || c.pin != "" && now.After(c.leased)
}

// Turn notes the pin that the subscription has now, which is empty if it has none. The
// server keeps the pin for the time to live. If the subscription becomes active, it waits
// at most for so long for what is missing. Turn reports whether the pin is another one.
func (c *Client) Turn(pin string, now time.Time, ttl, wait time.Duration) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if pin == c.pin {
		return false
	}
	c.pin = pin
	c.holding, c.upTo, c.missing, c.claimed = pin != "", 0, -1, time.Time{}
	c.until, c.leased = now.Add(wait), now.Add(ttl)
	return true
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
	if c.timer != nil && !c.ended && !c.busy {
		c.timer.Reset(d)
	}
}

// BeginRenewal reports whether to renew the pin now, and whether something may be
// missing.
func (c *Client) BeginRenewal() (holding, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended || c.busy {
		return false, false
	}
	c.busy, c.sent = true, time.Now()
	return c.holding, true
}

// EndRenewal sets the time of the next renewal.
func (c *Client) EndRenewal(ttl time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.busy = false; c.ended {
		return
	}
	ttl = max(ttl, time.Second)
	switch {
	case c.holding:
		c.timer.Reset(holdInterval)
	case c.pin != "":
		c.timer.Reset(ttl / 3)
	default:
		c.timer.Reset(ttl / 2)
	}
}

// Renewed notes that the server has renewed a pin with that time to live. The answer may
// be that to the renewal before the latest, which was sent a third of it earlier.
func (c *Client) Renewed(pin string, ttl time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.pin == pin {
		c.leased = c.sent.Add(ttl - ttl/3)
	}
}

// End ends the renewals. It reports whether the subscription is the active one, and
// returns what Begin was called with, the first time.
func (c *Client) End() (active bool, answer *link.Listener) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended {
		return false, nil
	}
	c.ended = true
	if c.timer != nil {
		c.timer.Stop()
	}
	return c.pin != "", c.answer
}

// Hand is what a subscription has in hand.
type Hand struct {
	Sequences map[uint64]struct{} // of what is not settled, in the stream
	Before    int                 // how many messages were not started when the server was asked
	Handling  bool                // a handler runs
}

// Reckon finds out whether all that the former active subscription had in hand has come.
// Then messages may be started: they are released. After a while they are in any case, and
// so many have not come. Until then it returns the stream sequences to claim. Info is what
// the server has said. What has come since then does not count.
func (c *Client) Reckon(info *jetstream.ConsumerInfo, hand Hand, now time.Time) (claims []uint64, released bool, gaveUp int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.holding {
		return nil, false, 0
	}
	if c.upTo == 0 {
		c.upTo, c.wanted = max(info.Delivered.Stream, 1), info.NumAckPending
	}
	early := 0
	for n := range hand.Sequences {
		if n <= c.upTo {
			early++
		}
	}
	missing := max(min(c.wanted-early, info.NumAckPending-hand.Before), 0)
	still := missing == c.missing // nothing is on its way
	c.missing = missing
	if missing == 0 && !hand.Handling || now.After(c.until) { // handlers run from an earlier time
		c.holding = false
		return nil, true, missing
	}
	if missing == 0 || !still || now.Sub(c.claimed) < claimInterval {
		return nil, false, 0
	}
	c.claimed = now
	return Unclaimed(info, hand.Sequences), false, 0
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
