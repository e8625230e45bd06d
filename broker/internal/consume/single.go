package consume

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"go-micro-jetstream/broker/internal/consumers"
	"go-micro-jetstream/broker/internal/keyorder"
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
	// unpinTimeout bounds the wait for the answer to an unpin.
	unpinTimeout = 500 * time.Millisecond
)

// single is what a subscription knows of a consumer that serves one subscriber at a time
// (ADR-42: a pinned client). The active subscription renews its pin. The others look
// whether there is one.
//
// Whoever becomes active waits until it has all that its predecessor had in hand, so that
// the order is kept. The server would deliver that only after AckWait. So it is claimed:
// a nak for a message is good whoever sends it.
//
// It has no lock: that of inHand guards it.
type single struct {
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

	timer  *time.Timer // calls renew
	busy   bool        // renew runs
	ended  bool        // it does so no more
	answer *link.Listener
}

// single reports whether of all subscribers of the consumer one gets messages.
func (cfg *Config) single() bool { return cfg.Rules != nil && cfg.Rules.SingleActive }

// holds reports whether nothing may be started. The caller holds the lock.
//
// Nothing is started either when the server may have given the pin to another one: without
// a connection, this subscription does not hear of that.
func (h *inHand) holds() bool {
	g := h.single
	return g != nil && (g.holding || g.pin != "" && time.Now().After(g.leased))
}

// notePin finds out whether the subscription has become active, or is no longer. With the
// latter it drops what is in hand and not started: whoever is active now gets it. The
// caller holds the lock.
func (h *inHand) notePin(now time.Time) (turned bool, dropped int) {
	if h.single == nil || h.pull.Pin() == h.single.pin {
		return false, 0
	}
	g := h.single
	g.pin = h.pull.Pin()
	g.holding, g.upTo, g.missing, g.claimed = g.pin != "", 0, -1, time.Time{}
	g.until = now.Add(h.consumer.Load().AckWait() + missingGrace)
	g.leased = now.Add(h.consumer.Load().Config.PinnedTTL)
	if g.pin == "" {
		dropped = len(h.drop())
	}
	return true, dropped
}

// drop takes out everything that is not started. The caller holds the lock.
func (h *inHand) drop() (ds []*Delivery) {
	if ds = h.waiting; h.order != nil {
		ds = h.order.empty(ds)
	}
	h.waiting, h.room = nil, nil
	return ds
}

// lostPin is called with a pin that the server knows no more.
func (h *inHand) lostPin(pin string) {
	if turned, dropped := h.unpinned(pin); turned {
		h.s.turned(dropped)
	}
}

// extend notes that the server has renewed a pin with that time to live. The answer may
// be that to the renewal before the latest, which was sent a third of it earlier.
func (g *single) extend(pin string, ttl time.Duration) {
	if g.pin == pin {
		g.leased = g.sent.Add(ttl - ttl/3)
	}
}

// turned tells that the subscription has become active, or is no longer.
func (s *Subscription) turned(dropped int) {
	active := s.hand.pinned()
	switch {
	case active:
		s.log.Info("this subscription is the active one")
	case dropped > 0:
		s.log.Warn(fmt.Sprintf("this subscription is no longer the active one: the server has not heard of it for a while; it leaves %d messages to the next one", dropped))
	default:
		s.log.Info("this subscription is no longer the active one")
	}
	s.cfg.Observer.Turned(active)
	s.hand.renewIn(0)
}

// beginSingle starts the looks at the pin.
func (s *Subscription) beginSingle() error {
	if !s.cfg.single() {
		return nil
	}
	answer, err := s.hand.pull.ListenRenewals(s.hand.lostPin, s.hand.keptPin)
	if err != nil {
		return err
	}
	s.hand.beginSingle(answer, s.renew)
	return nil
}

func (g *single) begin(answer *link.Listener, renew func()) {
	g.answer = answer
	g.timer = time.AfterFunc(time.Hour, renew)
	g.timer.Stop()
}

// renewIn has renew called then, unless it runs.
func (g *single) renewIn(d time.Duration) {
	if g != nil && g.timer != nil && !g.ended && !g.busy {
		g.timer.Reset(d)
	}
}

// renew renews the pin of an active subscription, and has the others look whether there
// is one.
func (s *Subscription) renew() {
	request, active, holding, ok := s.hand.renewal()
	if !ok {
		return
	}
	if s.cfg.Conn.Up() {
		if active {
			_ = s.hand.pull.Send(request) // the next one tells
		}
		if holding || !active && !s.Stopped() {
			s.lookAtPending(active)
		}
	}
	s.hand.renewed()
}

// beginRenew reports whether to renew now.
func (g *single) beginRenew() (ok bool) {
	ok = !g.ended && !g.busy
	g.busy = g.busy || ok
	return ok
}

// endRenew sets the time of the next renew.
func (g *single) endRenew(ttl time.Duration) {
	if g.busy = false; g.ended {
		return
	}
	ttl = max(ttl, time.Second)
	switch {
	case g.holding:
		g.timer.Reset(holdInterval)
	case g.pin != "":
		g.timer.Reset(ttl / 3)
	default:
		g.timer.Reset(ttl / 2)
	}
}

// lookAtPending asks the server what is not settled, and claims what nobody has in hand:
// the active subscription what has not come here, and the others everything if nobody is
// active and nothing new would make one of them so.
func (s *Subscription) lookAtPending(active bool) {
	ctx, cancel := context.WithTimeout(context.Background(), link.LookUpTimeout)
	defer cancel()
	cs, before := s.Consumer(), s.hand.unstartedSequences()
	info, err := s.cfg.Consumers.Info(ctx, cs)
	if err != nil {
		return // the next look, or a fetch, tells
	}
	var claims []uint64
	released, gaveUp := false, 0
	switch {
	case active:
		claims, released, gaveUp = s.hand.reckon(info, before, time.Now())
	case !cs.Pinned(info) && info.NumAckPending > 0 && (info.NumPending == 0 || full(cs, info)):
		claims = s.hand.unsettled(info)
	}
	for _, sequence := range claims {
		if s.cfg.Conn.NATS().Publish(s.hand.ackSubject(cs, info, sequence), wire.NakBody) != nil {
			break
		}
	}
	if released && gaveUp > 0 {
		s.log.Warn(fmt.Sprintf("%d messages that the former active subscription had in hand have not come: they are handled when they do, after later ones", gaveUp))
	}
}

// full reports whether the server delivers nothing new until something is settled.
func full(cs *consumers.Consumer, info *jetstream.ConsumerInfo) bool {
	return cs.Config.MaxAckPending > 0 && info.NumAckPending >= cs.Config.MaxAckPending
}

// ackSubject returns the ack subject of a message that need not be here.
func (h *inHand) ackSubject(cs *consumers.Consumer, info *jetstream.ConsumerInfo, sequence uint64) string {
	if subject := wire.AckSubjectLike(h.ackLike(), sequence, info.Delivered.Consumer); subject != "" {
		return subject
	}
	return wire.AckSubject(cs.Stream.Name, cs.Name, sequence, info.Delivered.Consumer)
}

// missed finds out whether all that the former active subscription had in hand has come,
// and lets the messages go then. Otherwise it returns what to claim. The server was asked
// when so many messages were in hand: what has come since it does not count.
// The caller holds the lock.
func (h *inHand) missed(info *jetstream.ConsumerInfo, before int, now time.Time) (claims []uint64, released bool, gaveUp int) {
	g := h.single
	if !g.holding {
		return nil, false, 0
	}
	have := h.sequences()
	if g.upTo == 0 {
		g.upTo, g.wanted = max(info.Delivered.Stream, 1), info.NumAckPending
	}
	early := 0
	for n := range have {
		if n <= g.upTo {
			early++
		}
	}
	missing := max(min(g.wanted-early, info.NumAckPending-before), 0)
	still := missing == g.missing // nothing is on its way
	g.missing = missing
	mine := slices.ContainsFunc(h.running, func(d *Delivery) bool { return d != nil }) // from an earlier time
	if missing == 0 && !mine || now.After(g.until) {
		h.release()
		return nil, true, missing
	}
	if missing == 0 || !still || now.Sub(g.claimed) < claimInterval {
		return nil, false, 0
	}
	g.claimed = now
	return unclaimed(info, have), false, 0
}

// unclaimed returns the stream sequences of what was delivered and may not be settled,
// but for those.
func unclaimed(info *jetstream.ConsumerInfo, have map[uint64]struct{}) (claims []uint64) {
	for n := info.AckFloor.Stream + 1; n <= info.Delivered.Stream && len(claims) < maxClaims; n++ {
		if _, ok := have[n]; !ok {
			claims = append(claims, n)
		}
	}
	return claims
}

// sequences returns the stream sequences of what is in hand and not settled. The caller
// holds the lock.
func (h *inHand) sequences() map[uint64]struct{} {
	all := map[uint64]struct{}{}
	for _, d := range h.unhandled() {
		all[d.Meta.StreamSequence] = struct{}{}
	}
	for _, d := range h.running {
		if d != nil && !d.Settled() {
			all[d.Meta.StreamSequence] = struct{}{}
		}
	}
	return all
}

// release lets messages be started, in the order of the stream. The caller holds the
// lock.
func (h *inHand) release() {
	h.single.holding = false
	if h.order == nil {
		keyorder.Sort(h.waiting)
	}
	h.nudge()
}

// endSingle ends the looks at the pin, and makes another subscription active if this one
// is. It is called when everything is settled or given back.
func (s *Subscription) endSingle() {
	active, answer := s.hand.endSingle()
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

func (g *single) end() (active bool, answer *link.Listener) {
	if g == nil || g.ended {
		return false, nil
	}
	g.ended = true
	if g.timer != nil {
		g.timer.Stop()
	}
	return g.pin != "", g.answer
}
