package consume

import (
	"time"

	"go-micro-jetstream/broker/internal/hanging"
)

// HeldUp is what keeps a subscription from fetching although nothing has failed: code of
// the user that does not return.
type HeldUp struct {
	Key bool          // it is Config.Key; otherwise what the observer does
	For time.Duration // since it was called
}

// HeldUp returns what has kept the subscription from fetching for longer than
// Config.HangsAfter, and whether anything has. Handlers do not count.
func (s *Subscription) HeldUp() (h HeldUp, held bool) {
	if s.Stopped() {
		return h, false
	}
	if h.For, held = s.fetcher.told.Lasts(); held {
		return h, true
	}
	h.Key = true
	h.For, held = s.keyed.Lasts()
	return h, held
}

// newCall returns a call of the user's code that fetching waits for.
func (s *Subscription) newCall(key bool) *hanging.Call {
	return hanging.NewCall(s.cfg.HangsAfter, func(lasts time.Duration, over bool) {
		if !s.Stopped() {
			s.cfg.Observer.HeldUp(HeldUp{Key: key, For: lasts}, over)
		}
	})
}
