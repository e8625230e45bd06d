package consume

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"go-micro-jetstream/broker/internal/consumers"
	"go-micro-jetstream/broker/internal/hand"
	"go-micro-jetstream/broker/internal/link"
	"go-micro-jetstream/broker/internal/pinned"
	"go-micro-jetstream/broker/internal/wire"
)

// unpinTimeout bounds the wait for the answer to an unpin.
const unpinTimeout = 500 * time.Millisecond

// single reports whether only one subscriber of the consumer gets messages at a time; see
// package pinned.
func (cfg *Config) single() bool { return cfg.Rules != nil && cfg.Rules.SingleActive }

// tellTurned tells if the subscription has become active, or is no longer. Only renew calls
// it: while the observer holds it up the pin is not renewed, so that another subscription
// becomes active.
func (s *Subscription) tellTurned() {
	active, left, changed := s.hand.Pin().Tell()
	switch {
	case !changed:
		return
	case active:
		s.log.Info("this subscription is the active one")
	case left.Waiting+left.Running > 0:
		s.log.Warn(fmt.Sprintf("this subscription is no longer the active one: the server has not heard of it for a while; %d of its handlers still run beside the next one, to which it leaves %d messages", left.Running, left.Waiting))
	default:
		s.log.Info("this subscription is no longer the active one")
	}
	s.turning.Begin()
	defer s.turning.End()
	s.cfg.Observer.Turned(active)
}

// beginSingle has the pin looked after once Begin says when.
func (s *Subscription) beginSingle() error {
	if !s.cfg.single() {
		return nil
	}
	answer, err := s.hand.Pull().ListenRenewals(s.hand.Unpinned, s.keptPin, s.hand.Suspect)
	if err != nil {
		return err
	}
	s.hand.Pin().Begin(answer, s.renew)
	return nil
}

// keptPin is called with a pin that the server has renewed.
func (s *Subscription) keptPin(pin string, asked time.Time) {
	s.hand.Pin().Renewed(pin, asked, s.Consumer().Config.PinnedTTL)
	s.hand.Nudge()
}

// renew is called with each beat; see [pinned.Client]. It shows that this subscription
// works, renews its pin, and looks who is active unless that is clear.
func (s *Subscription) renew() {
	beat, ok := s.hand.Pin().BeginRenewal(s.Consumer().Config.PinnedTTL)
	if !ok {
		return
	}
	if s.cfg.Conn.Up() {
		s.hand.ShowLife()
		if request, ok := s.hand.Renewal(); ok {
			_ = s.hand.Pull().Send(request) // the next one tells
		}
		if beat.Look && (beat.Active || !s.Stopped()) {
			s.look(beat)
		}
	}
	s.tellTurned()
	s.hand.Pin().EndRenewal(s.Consumer().Config.PinnedTTL)
}

// look asks the server who is active and what is not settled. It claims messages by a nak:
// the active subscription those that its predecessor has left, and a stand-by all that it
// does not have in hand, if nobody is active and nobody works.
func (s *Subscription) look(beat pinned.Beat) {
	ctx, cancel := context.WithTimeout(context.Background(), link.LookUpTimeout)
	defer cancel()
	cs, before := s.Consumer(), s.hand.CountUnsettled()
	l := pinned.Look{Beat: beat, TTL: cs.Config.PinnedTTL}
	_, l.Link = s.cfg.Conn.State()
	info, err := s.cfg.Consumers.Info(ctx, cs)
	if err != nil {
		s.lookFailed(beat, err)
		return
	}
	if err := consumers.Serves(info, s.cfg.Rules); err != nil {
		s.hand.Pin().Fails(time.Now())
		s.withdraw(nil)
		s.fetcher.refuse(err)
		return
	}
	shared := consumers.WasShared(info)
	if shared { // a handler of a subscriber without a pin may be at it, and says so less often
		l.Slow = cs.AckWait() + hand.MissingGrace
	}
	claims := s.hand.Looked(info, l)
	s.tellTurned()
	r := s.hand.Reckon(beat.Pin, info, before, shared, time.Now())
	if !shared {
		s.claim(info, append(claims, r.Claims...))
	}
	switch {
	case r.Yield:
		s.yield(beat.Pin)
	case r.Released && r.GaveUp > 0:
		s.log.Warn(fmt.Sprintf("%d messages that the former active subscription had in hand have not come: they are handled when they do, after later ones", r.GaveUp))
	}
}

// yield gives back a pin that the subscription has got although another one works.
func (s *Subscription) yield(pin string) {
	s.log.Info("this subscription gives its place back, as another one has messages in hand")
	s.withdraw(nil)
	s.hand.Disown(pin)
	s.unpin()
}

// claim has the server deliver messages again.
func (s *Subscription) claim(info *jetstream.ConsumerInfo, sequences []uint64) {
	for _, sequence := range sequences {
		if s.cfg.Conn.NATS().Publish(s.hand.Pin().AckSubject(info, sequence), wire.NakBody) != nil {
			return
		}
	}
}

// lookFailed reports a look without an answer. A stand-by does not fetch, so a failed look
// is the only sign of trouble: it counts as a failed fetch.
// The active one does not fetch either when its consumer is gone, and must make it again.
func (s *Subscription) lookFailed(beat pinned.Beat, err error) {
	s.hand.Pin().Fails(time.Now())
	if (!beat.Active || errors.Is(err, jetstream.ErrConsumerNotFound)) && s.cfg.Conn.Up() {
		s.fetcher.refuse(err)
	}
}

// standBy is how long a subscription that may ask for nothing waits, unless it is woken.
const standBy = time.Second

// noRoom returns how long to wait for a message if none may be asked for.
func (s *Subscription) noRoom() time.Duration {
	if pin := s.hand.Pin(); pin != nil && !pin.MayAsk() {
		return standBy
	}
	return hand.Quick
}

// withdraw leaves everything to the other subscribers, because the consumer serves all of
// them now. First it has the server drop the requests under way, or the same messages
// would be delivered here again. Then it gives back what was not started, and what has
// come without a pin.
func (s *Subscription) withdraw(unpinned []*Delivery) {
	ds, asked := s.hand.Forfeit()
	if asked && !s.Stopped() && s.cfg.Conn.Up() {
		_ = s.hand.Pull().Cancel(s.askForConsumer)
		unpinned = append(unpinned, s.takeUnpinned()...)
		more, _ := s.hand.Forfeit() // what has come with the pin
		ds = append(ds, more...)
	}
	for _, d := range unpinned {
		_ = s.cfg.Conn.NATS().Publish(d.Msg.Reply, wire.NakBody)
	}
	s.giveAllBack(ds)
}

// takeUnpinned takes in what has come, and returns what came without a pin.
func (s *Subscription) takeUnpinned() (ds []*Delivery) {
	a := s.hand.Collect(nil)
	ds, a.Unpinned = a.Unpinned, nil
	s.report(a)
	return ds
}

// askForConsumer asks the server for the consumer. The answer does not matter: the request
// makes the server drop requests for messages that nobody listens to.
func (s *Subscription) askForConsumer() {
	ctx, cancel := context.WithTimeout(context.Background(), drainTimeout)
	defer cancel()
	_, _ = s.cfg.Consumers.Info(ctx, s.Consumer())
}

// endSingle ends the looks at the pin, and gives the pin back if this subscription is the
// active one. It is called when everything is settled or given back.
func (s *Subscription) endSingle() {
	if s.hand.Pin() == nil {
		return
	}
	active, told, answer := s.hand.Pin().End()
	if answer != nil {
		_ = answer.Unsubscribe()
	}
	if !active {
		return
	}
	s.unpin()
	if told {
		s.cfg.Observer.Turned(false)
	}
}

// unpin has the server forget that this subscription is the active one.
func (s *Subscription) unpin() {
	if !s.cfg.Conn.Up() {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), unpinTimeout)
	defer cancel()
	if err := s.cfg.Consumers.Unpin(ctx, s.Consumer()); err != nil {
		s.log.Info(fmt.Sprintf("the next subscription becomes active in %v, as the server has not confirmed the end of this one: %v", s.Consumer().Config.PinnedTTL, err))
	}
}
