package consume

import (
	"fmt"
	"time"

	"go-micro-jetstream/broker/internal/hand"
)

// keepAlive keeps everything in hand from being delivered a second time while work goes
// on. It runs on a timer of its own as long as something is in hand.
func (s *Subscription) keepAlive() {
	a, ok := s.hand.BeginExtending()
	if !ok {
		return
	}
	s.giveStrandedBack()
	s.hand.Extend()
	s.report(a)
	for _, d := range s.hand.Relieve() {
		s.skip(d, hand.Expired)
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
