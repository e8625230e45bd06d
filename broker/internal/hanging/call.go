package hanging

import (
	"sync"
	"time"
)

// Call is a call of the user's code that others wait for. One goroutine at a time makes
// it, with Begin before and End after it. Lasts is safe for concurrent use.
type Call struct {
	after time.Duration
	tell  func(lasts time.Duration, over bool)
	timer *time.Timer // calls say; nil before the first call

	mu    sync.Mutex
	began time.Time     // zero: it is not being made
	told  chan struct{} // closed when it was told that it hangs; nil: it does not
}

// NewCall returns a call that counts as hanging after that time. It tells once that it
// hangs, on a goroutine of its own, and then that it is over.
func NewCall(after time.Duration, tell func(lasts time.Duration, over bool)) *Call {
	return &Call{after: after, tell: tell}
}

// Begin is called before the code of the user.
func (c *Call) Begin() {
	c.begin()
	if c.timer == nil {
		c.timer = time.AfterFunc(c.after, c.say)
	} else {
		c.timer.Reset(c.after)
	}
}

func (c *Call) begin() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.began = time.Now()
}

// End is called when the code of the user has returned. It waits while tell tells that
// the call hangs.
func (c *Call) End() {
	c.timer.Stop()
	lasts, told := c.end()
	if told != nil {
		<-told
		c.tell(lasts, true)
	}
}

func (c *Call) end() (lasts time.Duration, told chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	lasts, told = time.Since(c.began), c.told
	c.began, c.told = time.Time{}, nil
	return lasts, told
}

// Lasts returns how long the call has lasted, and whether it hangs.
func (c *Call) Lasts() (lasts time.Duration, hangs bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.lasts()
}

// lasts is Lasts for callers that hold the lock.
func (c *Call) lasts() (lasts time.Duration, hangs bool) {
	if c.began.IsZero() {
		return 0, false
	}
	lasts = time.Since(c.began)
	return lasts, lasts >= c.after
}

// say tells of a call that hangs.
func (c *Call) say() {
	if lasts, told := c.hangs(); told != nil {
		defer close(told)
		c.tell(lasts, false)
	}
}

// hangs returns a channel to close when it was told that the call hangs, or nil if there
// is nothing to tell.
func (c *Call) hangs() (lasts time.Duration, told chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	lasts, hangs := c.lasts()
	if !hangs || c.told != nil {
		return 0, nil
	}
	c.told = make(chan struct{})
	return lasts, c.told
}
