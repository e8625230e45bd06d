package consume

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"go-micro-jetstream/broker/internal/backoff"
	"go-micro-jetstream/broker/internal/consumers"
	"go-micro-jetstream/broker/internal/link"
)

// RefreshIfOlder asks the server for the consumer's state if the number of pending
// messages was learned longer ago than that, and tells the observer. Deliveries tell
// it, too. It waits up to [link.APITimeout] for the answer.
func (s *Subscription) RefreshIfOlder(age time.Duration) {
	if s.cfg.Conn.Up() && !s.Stopped() && s.hand.KnownFor() >= age {
		s.refresh()
	}
}

// refresh asks the server for the consumer's state.
func (s *Subscription) refresh() {
	ctx, cancel := context.WithTimeout(s.base, link.APITimeout)
	defer cancel()
	cs := s.Consumer()
	if info, err := s.cfg.Consumers.Info(ctx, cs); err == nil && !s.Stopped() {
		s.adopt(cs, info)
		s.learned(info)
	}
}

// learned tells the observer how many messages wait in the stream, and returns that.
func (s *Subscription) learned(info *jetstream.ConsumerInfo) State {
	state := StateOf(info)
	state.Retries = s.hand.Learned(info)
	s.cfg.Observer.Learned(state)
	return state
}

// adopt takes over what the server says of the consumer, unless another one is in use by
// now. It logs what an operator has changed.
func (s *Subscription) adopt(cs *consumers.Consumer, info *jetstream.ConsumerInfo) {
	told := cs.Told(info)
	if !s.hand.Replace(cs, told) {
		return
	}
	for _, text := range told.Changes(cs) {
		s.log.Warn(text)
	}
}

const (
	// limitAge is how old the known limit of deliveries may be when a message has
	// failed. It is shorter than the shortest delay of a redelivery, so that a message
	// whose first failure came after a change of the limit does not slip through.
	limitAge = backoff.Min / 2
	// limitPause is how long the server is left alone after it has not answered.
	limitPause = 15 * time.Second
)

// limitWatch keeps the known limit of deliveries up to date; see [Subscription.LearnLimit].
type limitWatch struct {
	mu   sync.Mutex // held while the server is asked, so that others wait for the answer
	next time.Time  // when it is asked again
	note time.Time  // when it is told again of snoozes, after it has refused that

	warned bool // that it has refused that
}

func (l *limitWatch) learn(s *Subscription) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !time.Now().Before(l.next) {
		l.ask(s)
	}
}

// learnNow is like learn, however new the known limit is. It reports whether the server
// has answered.
func (l *limitWatch) learnNow(s *Subscription) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.ask(s)
}

// ask asks the server. The caller holds the lock.
func (l *limitWatch) ask(s *Subscription) bool {
	if !s.cfg.Conn.Up() {
		return false
	}
	ctx, cancel := context.WithTimeout(s.base, link.LookUpTimeout)
	defer cancel()
	cs := s.Consumer()
	info, err := s.cfg.Consumers.Info(ctx, cs)
	if err != nil {
		l.next = time.Now().Add(limitPause)
		return false
	}
	l.next = time.Now().Add(limitAge)
	s.adopt(cs, info)
	return true
}

// noteSnoozes makes known that a handler snoozes this delivery: here at once, and to other
// replicas by a note in the consumer. The note matters only where this module counts
// deliveries. Each time a message has had another half of SpareDeliveries, noteSnoozes
// looks whether somebody has removed the note.
func (l *limitWatch) noteSnoozes(s *Subscription, d *Delivery) {
	look := d.Meta.NumDelivered%(consumers.SpareDeliveries/2) == 0
	switch cs := s.Consumer(); {
	case cs.Limit == 0 || cs.ByServer: // that may change
		s.hand.Replace(cs, cs.Snoozing())
		return
	case cs.Snoozes && cs.Noted() && (!look || !cs.Notes):
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	cs := s.Consumer()
	for ; !cs.Snoozes; cs = s.Consumer() {
		if s.hand.Replace(cs, cs.Snoozing()) && cs.Foreign() {
			s.log.Warn(fmt.Sprintf("handlers of consumer %s of stream %s snooze, and the broker must not note that there: other replicas, and this one after a restart, take snoozes for deliveries that failed; put %s: \"true\" into its metadata", cs.Name, cs.Stream.Name, consumers.SnoozesKey))
		}
	}
	if look && cs.Notes && !time.Now().Before(l.next) && l.ask(s) {
		cs = s.Consumer()
	}
	if cs.Noted() || time.Now().Before(l.note) || !s.cfg.Conn.Up() {
		return
	}
	l.tell(s, cs)
}

// tell notes in the consumer that handlers snooze. If that fails, it is said once. The
// caller holds the lock.
func (l *limitWatch) tell(s *Subscription, cs *consumers.Consumer) {
	ctx, cancel := context.WithTimeout(s.base, link.LookUpTimeout)
	defer cancel()
	info, err := s.cfg.Consumers.NoteSnoozes(ctx, cs)
	switch {
	case err == nil:
		l.warned = false
		s.adopt(cs, info)
	case s.base.Err() != nil || !s.cfg.Conn.Up():
		// The next snooze tells it.
	default:
		l.note = time.Now().Add(limitPause)
		if !l.warned {
			l.warned = true
			s.log.Warn(fmt.Sprintf("consumer %s of stream %s cannot be told that its handlers snooze, so other replicas take their snoozes for deliveries that failed: %v", cs.Name, cs.Stream.Name, err))
		}
	}
}

// Snooze is [Delivery.Settle] with Nak for a delivery that is not to count where this
// module counts. For the first one it tells the server of that, and waits up to
// [link.LookUpTimeout] for the answer.
func (s *Subscription) Snooze(d *Delivery, delay time.Duration) (Result, time.Duration, error) {
	d.Snoozed()
	s.limit.noteSnoozes(s, d)
	return d.Settle(Nak, delay)
}

// UsedUp reports whether the message has had so many more deliveries than the limit that
// it may be what ends processes. This only counts where this module counts deliveries, and
// where no handler has ever snoozed; UsedUp asks the server for both. Without an answer, or
// where nobody could have noted a snooze, it is false.
func (s *Subscription) UsedUp(d *Delivery) bool {
	used := func() bool {
		cs := s.Consumer()
		return cs.Limit > 0 && !cs.ByServer && d.Meta.NumDelivered > cs.Limit+consumers.SpareDeliveries &&
			!cs.Snoozes && (cs.Notes || cs.Ephemeral)
	}
	return d.Meta.NumDelivered > consumers.SpareDeliveries && // as few have: spares the rest
		used() && s.limit.learnNow(s) && used() && s.mayNote()
}

// mayNote reports whether the server lets this process note snoozes in the consumer. If
// it does not, others could not do so either.
func (s *Subscription) mayNote() bool {
	cs := s.Consumer()
	if cs.Ephemeral { // it has no other subscribers
		return true
	}
	ctx, cancel := context.WithTimeout(s.base, link.LookUpTimeout)
	defer cancel()
	return s.cfg.Consumers.MayNote(ctx, cs)
}

// LearnLimit asks the server for the consumer's limit of deliveries, which an operator
// may have changed: the server just stops delivering. It is for deliveries that have
// failed. However many do, the server is asked twice a second at most. It waits up to
// [link.LookUpTimeout] for the answer.
func (s *Subscription) LearnLimit() { s.limit.learn(s) }
