package hand

import (
	"container/heap"
	"time"
)

// maxRetries is how many retries are counted.
const maxRetries = 10_000

// retries counts the messages that wait for their retry, by when they come back. A
// message that comes back sooner, as it does when its consumer was made again, counts
// until then. It has no lock.
type retries struct {
	due   dueTimes
	added time.Time // when the latest one was
}

func (r *retries) add(at time.Time) {
	r.added = time.Now()
	r.drop(r.added)
	if len(r.due) < maxRetries {
		heap.Push(&r.due, at)
	}
}

func (r *retries) count(now time.Time) int {
	r.drop(now)
	return len(r.due)
}

func (r *retries) drop(now time.Time) {
	for len(r.due) > 0 && !r.due[0].After(now) {
		heap.Pop(&r.due)
	}
	if len(r.due) == 0 {
		r.due = nil
	}
}

// dueTimes is a [heap.Interface].
type dueTimes []time.Time

func (d dueTimes) Len() int           { return len(d) }
func (d dueTimes) Less(i, j int) bool { return d[i].Before(d[j]) }
func (d dueTimes) Swap(i, j int)      { d[i], d[j] = d[j], d[i] }
func (d *dueTimes) Push(x any)        { *d = append(*d, x.(time.Time)) }
func (d *dueTimes) Pop() any {
	last := len(*d) - 1
	x := (*d)[last]
	*d = (*d)[:last]
	return x
}
