package consume

import (
	"context"
	"fmt"
	"time"

	"go-micro-jetstream/broker/internal/consumers"
	"go-micro-jetstream/broker/internal/link"
	"go-micro-jetstream/broker/internal/wire"
)

// unpinTimeout bounds the wait for the answer to an unpin.
const unpinTimeout = 500 * time.Millisecond

// single reports whether of all subscribers of the consumer one gets messages; see
// package pinned.
func (cfg *Config) single() bool { return cfg.Rules != nil && cfg.Rules.SingleActive }

// turned tells that the subscription has become active, or is no longer.
func (s *Subscription) turned(dropped int) {
	active := s.hand.Pin().Active()
	switch {
	case active:
		s.log.Info("this subscription is the active one")
	case dropped > 0:
		s.log.Warn(fmt.Sprintf("this subscription is no longer the active one: the server has not heard of it for a while; it leaves %d messages to the next one", dropped))
	default:
		s.log.Info("this subscription is no longer the active one")
	}
	s.cfg.Observer.Turned(active)
	s.hand.Pin().RenewIn(0)
}

// beginSingle has the pin looked after once Begin says when.
func (s *Subscription) beginSingle() error {
	if !s.cfg.single() {
		return nil
	}
	answer, err := s.hand.Pull().ListenRenewals(s.lostPin, s.keptPin, func() { s.lookAtPending(true) })
	if err != nil {
		return err
	}
	s.hand.Pin().Begin(answer, s.renew)
	return nil
}

// lostPin is called with a pin that the server knows no more.
func (s *Subscription) lostPin(pin string) {
	if turned, dropped := s.hand.Unpinned(pin); turned {
		s.turned(dropped)
	}
}

// keptPin is called with a pin that the server has renewed.
func (s *Subscription) keptPin(pin string) {
	s.hand.Pin().Renewed(pin, s.Consumer().Config.PinnedTTL)
	s.hand.Nudge()
}

// renew renews the pin of an active subscription, and has the others look whether there
// is one.
func (s *Subscription) renew() {
	holding, ok := s.hand.Pin().BeginRenewal()
	if !ok {
		return
	}
	request, active := s.hand.Renewal()
	if s.cfg.Conn.Up() {
		if active {
			_ = s.hand.Pull().Send(request) // the next one tells
		}
		if holding || !active && !s.Stopped() {
			s.lookAtPending(active)
		}
	}
	s.hand.Pin().EndRenewal(s.Consumer().Config.PinnedTTL)
}

// lookAtPending asks the server what is not settled, and claims what nobody has in hand:
// the active subscription what has not come here, and the others everything if nobody is
// active and nothing new would make one of them so.
func (s *Subscription) lookAtPending(active bool) {
	ctx, cancel := context.WithTimeout(context.Background(), link.LookUpTimeout)
	defer cancel()
	cs, before := s.Consumer(), s.hand.UnstartedSequences()
	info, err := s.cfg.Consumers.Info(ctx, cs)
	if err != nil {
		return // the next look, or a fetch, tells
	}
	if err := consumers.Serves(info, s.cfg.Rules); err != nil {
		s.withdraw(nil)
		s.fetcher.refuse(err)
		return
	}
	var claims []uint64
	released, gaveUp := false, 0
	switch {
	case active:
		claims, released, gaveUp = s.hand.Reckon(info, before, time.Now())
	case !cs.Pinned(info) && info.NumAckPending > 0 && (info.NumPending == 0 || StateOf(info).full()):
		claims = s.hand.Unclaimed(info)
	}
	if consumers.WasShared(info) {
		claims = nil // a handler of a subscriber without a pin may be at it
	}
	for _, sequence := range claims {
		if s.cfg.Conn.NATS().Publish(s.hand.Pin().AckSubject(info, sequence), wire.NakBody) != nil {
			break
		}
	}
	if released && gaveUp > 0 {
		s.log.Warn(fmt.Sprintf("%d messages that the former active subscription had in hand have not come: they are handled when they do, after later ones", gaveUp))
	}
}

// withdraw leaves everything to the other subscribers, as the consumer serves all of them
// now. What is in hand and not started is given back at once, and with it what has come
// without a pin. Before that the server drops the requests under way, or it would deliver
// the same here again.
func (s *Subscription) withdraw(unpinned []*Delivery) {
	ds, turned, asked := s.hand.Forfeit()
	if turned {
		s.turned(0)
	}
	if asked && !s.Stopped() && s.cfg.Conn.Up() {
		_ = s.hand.Pull().Cancel(s.askForConsumer)
		unpinned = append(unpinned, s.takeUnpinned()...)
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

// askForConsumer asks the server for the consumer, for the sake of what that does there.
func (s *Subscription) askForConsumer() {
	ctx, cancel := context.WithTimeout(context.Background(), drainTimeout)
	defer cancel()
	_, _ = s.cfg.Consumers.Info(ctx, s.Consumer())
}

// endSingle ends the looks at the pin, and makes another subscription active if this one
// is. It is called when everything is settled or given back.
func (s *Subscription) endSingle() {
	if s.hand.Pin() == nil {
		return
	}
	active, answer := s.hand.Pin().End()
	if answer != nil {
		_ = answer.Unsubscribe()
	}
	if !active {
		return
	}
	if s.cfg.Conn.Up() {
		ctx, cancel := context.WithTimeout(context.Background(), unpinTimeout)
		defer cancel()
		if err := s.cfg.Consumers.Unpin(ctx, s.Consumer()); err != nil {
			s.log.Info(fmt.Sprintf("the next subscription becomes active in %v, as the server has not confirmed the end of this one: %v", s.Consumer().Config.PinnedTTL, err))
		}
	}
	s.cfg.Observer.Turned(false)
}
