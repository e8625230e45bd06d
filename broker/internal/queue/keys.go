package queue

import (
	"slices"
	"time"
)

// Unsorted returns the next messages whose keys are to be asked for, so many at most. It
// returns none until Sorted has followed the call before, also if everything was taken out
// meanwhile: the keys that are being asked for are of no others.
func (q *Queue[M]) Unsorted(most int) []M {
	if !q.asked.IsZero() {
		return nil
	}
	for len(q.waiting) > 0 && len(q.keying) < most {
		q.keying = append(q.keying, q.pop())
	}
	if len(q.keying) > 0 {
		q.asked = time.Now()
	}
	return q.keying
}

// Sorted puts the first of the messages that Unsorted has returned into the lanes of
// their keys. Those without a key come next time.
func (q *Queue[M]) Sorted(keys []uint64) {
	now := time.Now()
	q.asked = time.Time{}
	if len(q.keying) == 0 { // taken out meanwhile
		if len(q.waiting) > 0 {
			q.Nudge()
		}
		return
	}
	for i, key := range keys {
		q.lanes.Insert(q.keying[i], key, now)
	}
	if rest := q.keying[len(keys):]; len(rest) > 0 {
		q.waiting = append(slices.Clone(rest), q.waiting...)
	}
	clear(q.keying)
	q.keying = q.keying[:0]
	q.schedule(now)
	if q.lanes.Ready() || len(q.waiting) > 0 {
		q.Nudge()
	}
}

// Asking returns since when somebody asks for keys, and whether anybody does.
func (q *Queue[M]) Asking() (since time.Time, asking bool) { return q.asked, !q.asked.IsZero() }

// elapse lets messages go on that have waited for a time, and sets the timer for the
// next ones.
func (q *Queue[M]) elapse(now time.Time) {
	if keyless := q.lanes.Elapse(now); len(keyless) > 0 {
		for _, d := range keyless {
			d.AskAgain()
		}
		q.waiting = append(keyless, q.waiting...)
	}
	q.schedule(now)
}

// schedule has Nudge called when the next wait ends.
func (q *Queue[M]) schedule(now time.Time) {
	due := q.lanes.Due()
	switch {
	case due.IsZero() || due.Equal(q.set):
		return
	case q.timer == nil:
		q.timer = time.AfterFunc(due.Sub(now), q.Nudge)
	default:
		q.timer.Reset(due.Sub(now))
	}
	q.set = due
}

// What follows does nothing without an order by key.

// Finish ends the handling of a message. If it is not settled, the later ones of its key
// wait for that at most so long.
func (q *Queue[M]) Finish(d M, wait time.Duration) {
	if q.lanes == nil {
		return
	}
	now := time.Now()
	q.lanes.Finish(d, now, now.Add(wait))
	q.schedule(now)
}

// Keep has a message that is being handled handled again after the delay. It returns
// false if it cannot be kept.
func (q *Queue[M]) Keep(d M, delay time.Duration) bool {
	now := time.Now()
	if q.lanes == nil || !q.lanes.Keep(d, d.Repeat(), now, now.Add(delay)) {
		return false
	}
	q.schedule(now)
	return true
}

// Postpone has a message that its handler has left unsettled handled again after so long.
func (q *Queue[M]) Postpone(d M, wait time.Duration) {
	if q.lanes == nil {
		return
	}
	now := time.Now()
	q.lanes.Postpone(d, now, now.Add(wait))
	q.schedule(now)
}

// Settled notes that a message is settled.
func (q *Queue[M]) Settled(d M) {
	if q.lanes == nil {
		return
	}
	now := time.Now()
	q.lanes.Settled(d, now)
	q.schedule(now)
	q.nudgeIfReady()
}

// Refuse ends a message that was taken and is not handled. If it is to come again, the
// later ones of its key wait for it so long. It returns those of them that have expired,
// too.
func (q *Queue[M]) Refuse(d M, wait time.Duration, expired func(M) bool) (also []M) {
	if q.lanes == nil {
		return nil
	}
	now := time.Now()
	also = q.lanes.Drop(d, now, wait, expired)
	q.elapse(now)
	q.nudgeIfReady()
	return also
}

// Relieve frees the lanes of handlers that hang. It returns what has expired behind them.
func (q *Queue[M]) Relieve(expired func(M) bool) (gone []M) {
	if q.lanes == nil {
		return nil
	}
	gone = q.lanes.Relieve(time.Now(), expired)
	q.nudgeIfReady()
	return gone
}

// Forget is for a stream that another one has replaced.
func (q *Queue[M]) Forget() {
	if q.lanes != nil {
		q.lanes.Forget(time.Now())
	}
}
