package consume

import (
	"context"
	"fmt"
	"time"

	"go-micro-jetstream/broker/internal/link"
)

const (
	// starvedAfter is how long no message may come for the first time, although some
	// wait, until the server is asked why. That is a little less than a request lasts.
	starvedAfter = 4 * time.Second
	// lookInterval is how often it is asked again. The second look at a queue that may
	// stand still comes after starvedAfter.
	lookInterval = 15 * time.Second
)

// backlog notices that messages wait in the stream and are not delivered, because as
// many others are unsettled as MaxAckPending allows: retries that wait for their delay
// count, too. The server does not say so by itself. To a fetch it looks as if there were
// no messages. Only the worker that fetches uses it.
type backlog struct {
	looked    time.Time // when the server was asked last
	full      bool      // it has said that no more may be unsettled
	delivered uint64    // the stream sequence that it had delivered up to
	said      standstill
}

// standstill is what the log has a line about.
type standstill int

const (
	none       standstill = iota
	unsettled             // as many are unsettled as may be; perhaps their handlers run
	forRetries            // among them are retries of this subscription
)

// interval is how old the latest look may become.
func (b *backlog) interval() time.Duration {
	if b.full && b.said == none {
		return starvedAfter
	}
	return lookInterval
}

// next returns when to look again, if the latest look calls for it.
func (b *backlog) next() (wait time.Duration, wanted bool) {
	return time.Until(b.looked.Add(b.interval())), b.full || b.said != none
}

// lookAtBacklog asks the server why nothing new comes, if it does not. One look does not
// tell a queue that stands still from one that is busy: only if nothing new was
// delivered to anybody since the look before, the log says so.
func (f *fetcher) lookAtBacklog() {
	b := &f.backlog
	if !b.full && !f.s.hand.Starved(starvedAfter) || time.Since(b.looked) < b.interval() || !f.s.cfg.Conn.Up() {
		return
	}
	before := b.looked
	b.looked = time.Now()
	ctx, cancel := context.WithTimeout(f.s.life, link.LookUpTimeout)
	defer cancel()
	cs := f.s.Consumer()
	info, err := f.s.cfg.Consumers.Info(ctx, cs)
	if err != nil {
		return // the next fetch tells
	}
	f.s.adopt(cs, info)
	state := f.learned(info)
	still := b.full && b.delivered == info.Delivered.Stream
	b.full, b.delivered = state.full(), info.Delivered.Stream
	now := none
	switch {
	case b.full && !still:
		return
	case b.full && (state.Retries > 0 || f.s.hand.RetriedSince(before)):
		now = forRetries
	case b.full:
		now = unsettled
	}
	if now != none && now <= b.said {
		return
	}
	switch now {
	case forRetries:
		f.s.log.Warn(fmt.Sprintf("no new messages: %d are delivered and not settled, which is MaxAckPending of consumer %s of stream %s, and %d wait until that changes; %d of them wait here for their retry: raise MaxAckPending, retry sooner, or set MaxDeliver with WithDeadLetter",
			state.AckPending, cs.Name, cs.Stream.Name, state.Pending, state.Retries))
	case unsettled:
		f.s.log.Info(fmt.Sprintf("no new messages: %d are delivered and not settled, which is MaxAckPending of consumer %s of stream %s, and %d wait until that changes",
			state.AckPending, cs.Name, cs.Stream.Name, state.Pending))
	case none:
		if b.said != none {
			f.s.log.Info(fmt.Sprintf("new messages again: %d are delivered and not settled, of %d", state.AckPending, state.MaxAckPending))
		}
	}
	b.said = now
}
