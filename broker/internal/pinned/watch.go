package pinned

import (
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// upset is for how many times to live of a pin nobody becomes active after a change of the
// leader, a restart or a reconnect: others may need that long to be heard of again.
const upset = 3

// watch sees whether some other subscription works. The server says when it last delivered
// something or was asked for more time (updateDelivered in server/consumer.go). Whoever has
// something in hand asks for more time with each beat.
type watch struct {
	leader  string
	elected time.Time
	link    uint64
	last    time.Time // what the server said; by its clock
	still   time.Time // since when that is so; zero: it was not asked yet
	looks   int       // that have found it so since
	upset   time.Time // when the leader or the connection last changed, or a look failed; zero: not since somebody was active
}

// Look is a question to the server about the consumer, and about whom to wait for.
type Look struct {
	Beat
	Link uint64        // the number of the connection
	TTL  time.Duration // of the pin
	Slow time.Duration // how seldom others say that they work; 0: with each beat
}

// see notes an answer, and returns whether nobody works.
func (w *watch) see(info *jetstream.ConsumerInfo, pinned bool, l Look) (quiet bool) {
	now := watch{link: l.Link, still: w.still, upset: w.upset}
	if info.Cluster != nil {
		if now.leader = info.Cluster.Leader; info.Cluster.LeaderSince != nil {
			now.elected = *info.Cluster.LeaderSince
		}
	}
	if info.Delivered.Last != nil {
		now.last = *info.Delivered.Last
	}
	switch {
	case w.still.IsZero():
		if now.still = l.Began; now.last.IsZero() { // the server has begun since, and has forgotten it
			now.upset = l.Began
		}
	case now.leader != w.leader, !now.elected.Equal(w.elected), now.link != w.link, now.last.Before(w.last):
		now.still, now.upset = l.Began, l.Began
	case !now.last.Equal(w.last):
		now.still = l.Began
	default:
		now.looks = w.looks + 1
	}
	if pinned {
		now.upset = time.Time{}
	}
	*w = now
	patience := l.TTL / 2
	if !now.upset.IsZero() {
		patience = l.TTL
	}
	settled := now.upset.IsZero() || l.Began.Sub(now.upset) >= upset*l.TTL
	return settled && now.looks >= beats/2 && l.Began.Sub(now.still) >= max(patience, l.Slow)
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
	Lost  bool // the subscription was the active one, and another one is now
	Claim bool // nobody is active or works, and this one may claim what is unsettled
}

// Looked notes who is pinned, as the server has said; nobody if it is empty.
func (c *Client) Looked(info *jetstream.ConsumerInfo, pinned string, l Look) (v Verdict) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.failed = false
	quiet := c.others.see(info, pinned != "", l)
	if c.pin != l.Pin { // it has changed since
		return v
	}
	lease := func() { c.leased, c.known = later(c.leased, l.Began.Add(l.TTL)), l.Began }
	switch {
	case pinned != "" && pinned == c.pin:
		c.doubt, c.free, v.Known = false, false, true
		lease()
	case pinned == "" && c.pin != "" && l.Began.Sub(c.known) < absence*l.TTL:
		c.doubt, c.free, v.None = true, true, true
		lease()
	case c.pin != "":
		v.Lost = true
	case pinned != "":
		c.free = false
	default:
		c.free = quiet || info.NumAckPending == 0
		v.Claim = quiet && info.NumAckPending > 0 && l.Began.Sub(c.hold.claimed) >= claimInterval
		if v.Claim {
			c.hold.claimed = l.Began
		}
	}
	return v
}
