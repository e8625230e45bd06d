package produce

import (
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"go-micro-jetstream/broker/internal/fault"
	"go-micro-jetstream/broker/internal/link"
	"go-micro-jetstream/broker/internal/wire"
)

// inflight matches the answers of streams to the tries that wait for them. All answers
// arrive in one inbox. Each try has a reply subject of its own there, which is never
// used again. The acknowledgement of an earlier copy says that the message is stored, too.
// So it ends a later try of the message, or the wait for one. What comes after the publish
// belongs to nobody.
//
// It does what the client's own request does, but without a lock of the connection and
// without a timer per message, and it knows which publish a permission violation is
// about.
//
// The lock is never held while something is sent or somebody is told.
type inflight struct {
	prefix  string                   // of the reply subjects; written by open
	strange func(domain string) bool // that domain is of another JetStream; nil: none is
	epoch   atomic.Uint64            // counts how often all answers were lost

	mu      sync.Mutex
	latest  uint64             // number of the latest reply subject
	waiting map[uint64]*waiter // by the numbers of their reply subjects
	timer   *time.Timer        // ends the tries whose time is over; nil before the first
	fires   time.Time          // when the timer does; zero: it is not set
}

// waiter is a try that waits for its answer. Whoever ends the try has to tell it the
// answer, and nobody else may.
//
// When a try has ended without an acknowledgement, the waiter rests until the next one, or
// until forget: then only an acknowledgement is of interest.
type waiter struct {
	subject string
	limit   time.Time     // when the try ends without an answer
	number  uint64        // of its reply subject; 0: none yet
	earlier []uint64      // those of the message's earlier tries
	async   *asyncPublish // is told; nil: answer is filled
	answer  chan answer   // holds one; empty again when the try is over

	// These are guarded by inflight.mu.
	rests bool
	late  answer // the acknowledgement that has come meanwhile
	wake  func() // called when it comes; nil: nobody waits for that
}

func newWaiter() waiter { return waiter{answer: make(chan answer, 1)} }

// tell passes on the answer.
func (w *waiter) tell(got answer) {
	if w.async != nil {
		w.async.answered(got)
		return
	}
	w.answer <- got
}

// open subscribes to the inbox.
func (f *inflight) open(conn *link.Conn) error {
	f.prefix = conn.NATS().NewInbox() + "."
	return conn.Answers(f.prefix, f.receive)
}

// now returns the current epoch. Read it before you look at the state of the
// connection: register then notices a loss that comes after the look.
func (f *inflight) now() (epoch uint64) { return f.epoch.Load() }

// register begins to wait and returns the reply subject. If the acknowledgement of an
// earlier copy is there already, it returns that instead. It is not ok if answers were
// lost since the epoch: the connection is not what it was.
func (f *inflight) register(w *waiter, epoch uint64) (reply string, late answer, ok bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if w.late.msg != nil {
		return "", w.late, true
	}
	if f.epoch.Load() != epoch {
		return "", late, false
	}
	w.rests, w.wake = false, nil
	if w.number != 0 {
		w.earlier = append(w.earlier, w.number)
	}
	f.latest++
	w.number = f.latest
	f.waiting[w.number] = w
	for _, number := range w.earlier {
		f.waiting[number] = w
	}
	if f.fires.IsZero() || w.limit.Before(f.fires) {
		f.fireAt(w.limit)
	}
	var buf [64]byte
	return string(strconv.AppendUint(append(buf[:0], f.prefix...), w.number, 10)), late, true
}

// remove ends the try. It is not ok if the waiter has been told the answer, or is just
// being told.
func (f *inflight) remove(w *waiter) (ok bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if ok = f.waiting[w.number] == w && !w.rests; ok {
		f.drop(w)
	}
	return ok
}

// attend has wake called when an acknowledgement comes while the waiter rests. Wake must
// not block.
func (f *inflight) attend(w *waiter, wake func()) {
	f.mu.Lock()
	late := w.late.msg != nil
	if !late {
		w.wake = wake
	}
	f.mu.Unlock()
	if late {
		wake()
	}
}

// forget is called when no other try follows. It returns the acknowledgement that has come
// while the waiter rested, if there is one.
func (f *inflight) forget(w *waiter) (late answer, ok bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.waiting[w.number] == w {
		f.drop(w)
	}
	late = w.late
	w.rests, w.late, w.wake = false, answer{}, nil
	return late, late.msg != nil
}

// drop removes a waiter. The caller holds f.mu.
func (f *inflight) drop(w *waiter) {
	delete(f.waiting, w.number)
	for _, number := range w.earlier {
		delete(f.waiting, number)
	}
}

// take removes and returns the waiter that an answer with that number is for, or nil. What
// refuses an earlier copy is for nobody, as the latest one may be stored. A waiter that
// rests keeps the answer, and is to be woken.
func (f *inflight) take(number uint64, stored bool, got answer) (w *waiter, wake func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	w = f.waiting[number]
	switch {
	case w == nil, !stored && (number != w.number || w.rests):
		return nil, nil
	case w.rests:
		f.drop(w)
		w.late = got
		return nil, w.wake
	case stored:
		f.drop(w)
	default:
		f.end(w)
	}
	return w, nil
}

// end is for a try that has ended without an acknowledgement. If an earlier copy may be
// stored, the waiter rests. The caller holds f.mu.
func (f *inflight) end(w *waiter) {
	if w.rests = len(w.earlier) > 0; !w.rests {
		f.drop(w)
	}
}

// receive takes an answer from the inbox. What cannot be one comes from a subscriber
// of the topic, and the try waits on for the stream's answer. So it does after the
// answer of another JetStream, which has stored the message as well.
func (f *inflight) receive(m *nats.Msg) {
	number, ok := wire.ParseUint(strings.TrimPrefix(m.Subject, f.prefix))
	if !ok {
		return
	}
	domain, stored, ok := wire.PubAnswer(m)
	if !ok || stored && f.strange != nil && f.strange(domain) {
		return
	}
	got := answer{msg: m}
	w, wake := f.take(number, stored, got)
	if w != nil {
		w.tell(got)
	}
	if wake != nil {
		wake()
	}
}

// interrupt tells all waiters that their answers are lost. A try that registers later
// with an earlier epoch is refused.
func (f *inflight) interrupt() {
	f.epoch.Add(1) // first, or such a try could slip in after the last waiter was told
	var all []*waiter
	f.mu.Lock()
	for number, w := range f.waiting {
		if number == w.number && !w.rests {
			all = append(all, w)
		}
	}
	clear(f.waiting)
	f.mu.Unlock()
	for _, w := range all {
		w.tell(interruption)
	}
}

// refuse tells a waiter of a permission violation for its subject. The server reports
// one violation for each message that it refuses, and does not say which. It is the
// latest: those before it may have been sent while they were permitted.
func (f *inflight) refuse(violation error) {
	subject, ok := wire.RefusedSubject(violation, wire.PublishViolation)
	if !ok {
		return
	}
	var latest *waiter
	f.mu.Lock()
	for _, w := range f.waiting {
		if !w.rests && w.subject == subject && (latest == nil || w.number > latest.number) {
			latest = w
		}
	}
	if latest != nil {
		f.end(latest)
	}
	f.mu.Unlock()
	if latest != nil {
		latest.tell(answer{reason: result{outcome: refused, err: fault.Permission(violation)}})
	}
}

// fireAt sets the timer. All tries share one, because a timer for each would cost more
// than everything else here. The caller holds f.mu.
func (f *inflight) fireAt(limit time.Time) {
	f.fires = limit
	if f.timer == nil {
		f.timer = time.AfterFunc(time.Until(limit), f.expire)
		return
	}
	f.timer.Reset(time.Until(limit))
}

// expire tells the waiters whose time is over, and sets the timer for the next one.
func (f *inflight) expire() {
	var over []*waiter
	f.mu.Lock()
	now, next := time.Now(), time.Time{}
	for number, w := range f.waiting {
		switch {
		case number != w.number, w.rests:
		case !w.limit.After(now):
			over = append(over, w)
			w.rests = true
		case next.IsZero() || w.limit.Before(next):
			next = w.limit
		}
	}
	f.fires = time.Time{}
	if !next.IsZero() {
		f.fireAt(next)
	}
	f.mu.Unlock()
	for _, w := range over {
		w.tell(expiry)
	}
}

// close tells all waiters and stops the timer.
func (f *inflight) close() {
	f.interrupt()
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.timer != nil {
		f.timer.Stop()
	}
}
