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
// arrive in one inbox. Each message has a reply subject of its own there, for all its
// tries over one connection: the late answer to an earlier copy says that the message is
// stored, too. It is never used for another message: what comes after the last try
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
	latest  uint64             // number of the latest try
	waiting map[uint64]*waiter // by the number of the reply subject
	timer   *time.Timer        // ends the tries whose time is over; nil before the first
	fires   time.Time          // when the timer does; zero: it is not set
}

// waiter is a try that waits for its answer. Whoever takes it out of
// inflight.waiting has to tell it the answer, and nobody else may.
type waiter struct {
	subject string
	limit   time.Time     // when the try ends without an answer
	try     uint64        // its number
	number  uint64        // of the reply subject: the number of the first try that had it; 0: none yet
	async   *asyncPublish // is told; nil: answer is filled
	answer  chan answer   // holds one; empty again when the try is over
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

// register begins to wait and returns the reply subject. It is not ok if answers were
// lost since the epoch: the connection is not what it was.
func (f *inflight) register(w *waiter, epoch uint64) (reply string, ok bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.epoch.Load() != epoch {
		return "", false
	}
	f.latest++
	w.try = f.latest
	if w.number == 0 {
		w.number = w.try
	}
	f.waiting[w.number] = w
	if f.fires.IsZero() || w.limit.Before(f.fires) {
		f.fireAt(w.limit)
	}
	var buf [64]byte
	return string(strconv.AppendUint(append(buf[:0], f.prefix...), w.number, 10)), true
}

// remove ends the wait. It is not ok if the waiter has been told the answer, or is just
// being told.
func (f *inflight) remove(w *waiter) (ok bool) { return f.take(w.number) == w }

// take removes and returns the waiter with that number, or nil.
func (f *inflight) take(number uint64) *waiter {
	f.mu.Lock()
	defer f.mu.Unlock()
	w := f.waiting[number]
	delete(f.waiting, number)
	return w
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
	if w := f.take(number); w != nil {
		w.tell(answer{msg: m})
	}
}

// interrupt tells all waiters that their answers are lost. A try that registers later
// with an earlier epoch is refused.
func (f *inflight) interrupt() {
	f.epoch.Add(1) // first, or such a try could slip in after the last waiter was told
	var all []*waiter
	f.mu.Lock()
	for _, w := range f.waiting {
		all = append(all, w)
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
		if w.subject == subject && (latest == nil || w.try > latest.try) {
			latest = w
		}
	}
	if latest != nil {
		delete(f.waiting, latest.number)
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
		case !w.limit.After(now):
			over = append(over, w)
			delete(f.waiting, number)
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
