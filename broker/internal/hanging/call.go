package hanging

import (
	"sync/atomic"
	"time"
)

// Call is a call of the user's code that others wait for. One goroutine at a time makes
// it, with Begin before and End after it. Lasts is safe for concurrent use.
type Call struct {
	after time.Duration
	tell  func(lasts time.Duration, over bool)
	zero  time.Time
	began atomic.Int64 // after zero, in nanoseconds; 0: it is not being made
	said  atomic.Bool  // it was told that it hangs
	timer *time.Timer  // calls say; nil before the first call
}

// NewCall returns a call that counts as hanging after that time. It tells once that it
// hangs, on a goroutine of its own, and then that it is over.
func NewCall(after time.Duration, tell func(lasts time.Duration, over bool)) *Call {
	return &Call{after: after, tell: tell, zero: time.Now()}
}

// Begin is called before the code of the user.
func (c *Call) Begin() {
	c.began.Store(max(int64(time.Since(c.zero)), 1))
	if c.timer == nil {
		c.timer = time.AfterFunc(c.after, c.say)
	} else {
		c.timer.Reset(c.after)
	}
}

// End is called when the code of the user has returned.
func (c *Call) End() {
	c.timer.Stop()
	began := c.began.Swap(0)
	if c.said.CompareAndSwap(true, false) {
		c.tell(time.Since(c.zero)-time.Duration(began), true)
	}
}

// Lasts returns how long the call has lasted, and whether it hangs.
func (c *Call) Lasts() (lasts time.Duration, hangs bool) {
	began := c.began.Load()
	lasts = time.Since(c.zero) - time.Duration(began)
	return lasts, began != 0 && lasts >= c.after
}

// say tells of a call that hangs.
func (c *Call) say() {
	if lasts, hangs := c.Lasts(); hangs && c.said.CompareAndSwap(false, true) {
		c.tell(lasts, false)
	}
}
