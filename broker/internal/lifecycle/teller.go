package lifecycle

import (
	"time"

	"go-micro-jetstream/broker/internal/goroutine"
)

// Teller tells hooks of the states of a broker's connections, in the order of these
// states and on a goroutine of its own. A hook that is slow, or that calls the broker,
// delays the next state. It does not delay the client, which has one goroutine for all
// its callbacks. The zero value is ready; it is safe for concurrent use.
type Teller struct{ queue goroutine.Queue }

// change is one state to tell hooks of.
type change struct {
	tell func()
	told chan struct{} // closed when they have been told
}

// Run tells the hooks.
func (c *change) Run() {
	defer close(c.told)
	c.tell()
}

// Tell queues a function that tells hooks, and returns a channel that is closed when they
// have been told. A nil function tells nobody.
func (q *Teller) Tell(tell func()) (told <-chan struct{}) {
	c := &change{tell: tell, told: make(chan struct{})}
	if tell == nil {
		close(c.told)
		return c.told
	}
	q.queue.Add(c)
	return c.told
}

// RunsOn reports whether the goroutine is the one on which hooks are told.
func (q *Teller) RunsOn(id uint64) bool { return q.queue.RunsOn(id) }

// Await waits until hooks have been told, and reports whether they have been.
// It waits no longer than the bound, because a hook may hang, and not at all in
// a hook that is being told.
func (q *Teller) Await(told <-chan struct{}, bound time.Duration) bool {
	if told == nil || q.RunsOn(goroutine.ID()) {
		return true
	}
	timer := time.NewTimer(bound)
	defer timer.Stop()
	select {
	case <-told:
		return true
	case <-timer.C:
		return false
	}
}
