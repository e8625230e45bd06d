package consume

import (
	"time"

	"go-micro-jetstream/broker/internal/hanging"
)

// HeldUp is what holds up a subscription although nothing has failed: code of the user
// that does not return.
type HeldUp struct {
	Key    bool          // it is Config.Key; otherwise what the observer does
	Beside bool          // fetching goes on; what goes on beside the workers does not
	For    time.Duration // since it was called
}

// HeldUp returns what has held up the subscription for longer than Config.HangsAfter, and
// whether anything has. Handlers do not count.
func (s *Subscription) HeldUp() (h HeldUp, held bool) {
	if s.Stopped() {
		return h, false
	}
	if lasts, hangs := s.fetcher.told.Lasts(); hangs {
		return HeldUp{For: lasts}, true
	}
	if lasts, hangs := s.turning.Lasts(); hangs {
		return HeldUp{For: lasts}, true
	}
	if lasts, hangs := s.keyed.Lasts(); hangs {
		return HeldUp{Key: true, For: lasts}, true
	}
	lasts, hangs := s.beside.call.Lasts()
	return HeldUp{Beside: true, For: lasts}, hangs
}

// newCall returns a call of the user's code that others wait for.
func (s *Subscription) newCall(what HeldUp) *hanging.Call {
	return hanging.NewCall(s.cfg.HangsAfter, func(lasts time.Duration, over bool) {
		if !s.Stopped() {
			what := what
			what.For = lasts
			s.cfg.Observer.HeldUp(what, over)
		}
	})
}
