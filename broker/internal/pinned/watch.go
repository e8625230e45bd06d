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

	delivered uint64    // what the consumer had delivered then
	quiet     bool      // nobody works, as the latest look has found
	upset     time.Time // when the leader or the connection last changed, or a look failed; zero: not since somebody was active
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
	now := watch{link: l.Link, still: w.still, upset: w.upset, delivered: info.Delivered.Consumer}
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
	patience := l.TTL / 2
	if !now.upset.IsZero() {
		patience = l.TTL
	}
	calm := now.upset.IsZero() || l.Began.Sub(now.upset) >= upset*l.TTL
	now.quiet = calm && now.looks >= beats/2 && l.Began.Sub(now.still) >= max(patience, l.Slow)
	*w = now
	return now.quiet
}
