package consume

import (
	"fmt"
	"sync/atomic"
	"time"

	"go-micro-jetstream/broker/internal/delivery"
	"go-micro-jetstream/broker/internal/hand"
	"go-micro-jetstream/broker/internal/hanging"
)

// keepAlive keeps everything in hand from being delivered a second time while work goes
// on. It runs on a timer of its own as long as something is in hand. Deadlines come first:
// what the observer does may hang, and then the next keepAlive runs beside this one.
func (s *Subscription) keepAlive() {
	tells := s.beside.telling.CompareAndSwap(false, true)
	if tells {
		defer s.beside.telling.Store(false)
	}
	a, ok := s.hand.BeginExtending(tells)
	if !ok {
		return
	}
	s.hand.Extend()
	if tells {
		s.beside.call.Begin()
		defer s.beside.call.End()
		s.tellBeside(a)
	}
}

// beside is what goes on beside the workers.
type beside struct {
	telling atomic.Bool   // one keepAlive at a time tells the observer
	call    *hanging.Call // which hangs if the observer does
}

// tellBeside looks after what waits, and tells the observer.
func (s *Subscription) tellBeside(a hand.Arrivals) {
	s.report(a)
	s.giveStrandedBack()
	for _, d := range s.hand.Relieve() {
		s.skip(d, delivery.Expired)
	}
}

// giveStrandedBack naks what waits behind handlers that hang. They keep their own
// messages.
func (s *Subscription) giveStrandedBack() {
	ds := s.hand.Stranded()
	if len(ds) == 0 {
		return
	}
	const text = "gave %d messages back that waited here: no handler was started for %v, which is much longer than usual, so those that run may hang%s%s"
	if more, ok := s.lines.Allow(text); ok {
		counts := ""
		if s.Consumer().Limit > 0 {
			counts = "; for MaxDeliver each of them has had a delivery"
		}
		s.log.Warn(fmt.Sprintf(text, len(ds), time.Since(ds[0].Received).Round(time.Second), counts, more))
	}
	for _, d := range ds {
		_ = d.Send(Nak, 0, true)
	}
}
