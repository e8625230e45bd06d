package goroutine

import (
	"context"
	"sync"
	"sync/atomic"
)

// Task is what a [Queue] runs.
type Task interface {
	Run()
}

// Queue runs tasks one after the other, in the order of Add. Its goroutine exists
// only while there are tasks. The zero value is ready. A Queue is safe for
// concurrent use and must not be copied.
//
// A task that calls [runtime.Goexit] ends its goroutine, and the queue goes on
// in a new one. A panic of a task is not recovered: it ends the program.
type Queue struct {
	mu      sync.Mutex
	waiting []Task
	running bool // there is a goroutine, and it will look at waiting again

	// Only the queue's goroutine uses these.
	batch []Task // taken from waiting at once
	next  int    // the position in batch of the next task

	id    atomic.Uint64                 // of the latest goroutine; Go does not use a number twice
	count atomic.Int64                  // tasks that wait, and the one that runs
	fewer atomic.Pointer[chan struct{}] // closed when a task ends; nil: nobody waits for that
}

// Add appends a task. It does not wait. Tasks may add tasks.
func (q *Queue) Add(t Task) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.waiting = append(q.waiting, t)
	q.count.Add(1)
	if !q.running {
		q.running = true
		go q.run()
	}
}

// RunsOn reports whether the goroutine with that [ID] is the queue's own: the
// caller is then a task, or was called by one. It is false for 0.
func (q *Queue) RunsOn(id uint64) bool { return id != 0 && q.id.Load() == id }

// Len returns how many tasks wait or run.
func (q *Queue) Len() int { return int(q.count.Load()) }

// AwaitRoom waits until fewer than limit tasks wait or run. It returns the
// context's error if that ends first. On the queue's own goroutine it returns nil
// at once, as the task that asks would wait for itself.
func (q *Queue) AwaitRoom(ctx context.Context, limit int) error {
	for q.Len() >= limit && !q.RunsOn(ID()) {
		fewer := q.fewer.Load()
		if fewer == nil {
			ch := make(chan struct{})
			if fewer = &ch; !q.fewer.CompareAndSwap(nil, fewer) {
				continue
			}
		}
		if q.Len() < limit { // a task may have ended before it could close the channel
			return nil
		}
		select {
		case <-*fewer:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// run is the queue's goroutine.
func (q *Queue) run() {
	over := false
	defer func() {
		if !over { // a task has called runtime.Goexit
			go q.run()
		}
	}()
	q.id.Store(ID())
	for {
		t := q.take()
		if t == nil {
			over = true
			return
		}
		q.runTask(t)
	}
}

// take returns the next task. It returns nil if there is none; the goroutine must
// then end and not touch the queue any more, as Add may have started another.
func (q *Queue) take() Task {
	if q.next == len(q.batch) && !q.refill() {
		return nil
	}
	t := q.batch[q.next]
	q.batch[q.next] = nil
	q.next++
	return t
}

// refill takes all waiting tasks at once, so that the lock is taken once for
// many. The two slices change places, so that neither has to grow again.
func (q *Queue) refill() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.batch, q.waiting, q.next = q.waiting, q.batch[:0], 0
	q.running = len(q.batch) > 0
	return q.running
}

func (q *Queue) runTask(t Task) {
	defer func() {
		q.count.Add(-1)
		if q.fewer.Load() != nil {
			if fewer := q.fewer.Swap(nil); fewer != nil {
				close(*fewer)
			}
		}
	}()
	t.Run()
}
