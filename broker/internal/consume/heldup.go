package consume

import (
	"sync/atomic"
	"time"
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
	for _, c := range [...]*call{s.fetcher.told, s.keyed} {
		if h, held = c.hangs(); held {
			return h, true
		}
	}
	return h, false
}

// call is a call of the user's code that fetching waits for. One goroutine at a time
// makes it, with begin before and end after it.
type call struct {
	s     *Subscription
	key   bool // see HeldUp
	zero  time.Time
	began atomic.Int64 // after zero, in nanoseconds; 0: it is not being made
	said  atomic.Bool  // the observer knows that it hangs
	timer *time.Timer  // calls say; nil before the first call
}

func newCall(s *Subscription, key bool) *call { return &call{s: s, key: key, zero: time.Now()} }

func (c *call) begin() {
	c.began.Store(max(int64(time.Since(c.zero)), 1))
	if c.timer == nil {
		c.timer = time.AfterFunc(c.s.cfg.HangsAfter, c.say)
	} else {
		c.timer.Reset(c.s.cfg.HangsAfter)
	}
}

func (c *call) end() {
	c.timer.Stop()
	began := c.began.Swap(0)
	if c.said.CompareAndSwap(true, false) && !c.s.Stopped() {
		c.s.cfg.Observer.HeldUp(HeldUp{Key: c.key, For: time.Since(c.zero) - time.Duration(began)}, true)
	}
}

// hangs reports whether the call lasts for longer than Config.HangsAfter.
func (c *call) hangs() (h HeldUp, hangs bool) {
	began := c.began.Load()
	h = HeldUp{Key: c.key, For: time.Since(c.zero) - time.Duration(began)}
	return h, began != 0 && h.For >= c.s.cfg.HangsAfter && !c.s.Stopped()
}

// say tells the observer of a call that hangs.
func (c *call) say() {
	if h, hangs := c.hangs(); hangs && c.said.CompareAndSwap(false, true) {
		c.s.cfg.Observer.HeldUp(h, false)
	}
}
