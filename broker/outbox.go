package broker

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
)

// gathered is how many messages wait at most for more to be written with them: with
// more, the server would wait for the last. Of what was tried (4 to 32, for 4 to 64
// publishers), 6 and 8 were the fastest.
const gathered = 8

// Others do not run soon where the processors have too much else to do. When a message
// has waited for them longer than longWait, where 5 to 20 microseconds are usual, none
// does for waitShare times as long.
const (
	longWait  = time.Millisecond
	waitShare = 50
)

// outbox is where publishers that wait for their answers leave their messages: one
// of them hands to the client what all have at hand. So only that one is held up
// when the client is, by a network that takes nothing.
//
// Answers come many at a time, and those who get them often publish again. The message
// of the first to do so waits until the others have run, a few microseconds as a rule:
// the client would write each by itself otherwise, as soon as it has it. So a publish
// takes a sixth less of the processor's time here, and a tenth at the server.
type outbox struct {
	write func(outgoing)

	returning atomic.Int64 // publishers that were given their answer and did not run since

	mu      sync.Mutex
	queue   []outgoing
	writing bool
	since   time.Time  // the first in the queue waits for publishers that return; zero: it does not
	atOnce  time.Time  // until then none waits
	pen     sync.Mutex // held while a batch is written
	batch   []outgoing // of who holds the pen; changed under mu
}

type outgoing struct {
	use use
	msg *nats.Msg
}

// put has the message written, by this publisher, by another that is at it, or by
// the last of those that return. It returns at once, or, for the one that writes,
// when there are no more messages, or its own answer is there.
func (o *outbox) put(m outgoing, own *waiter) {
	o.mu.Lock()
	o.queue = append(o.queue, m)
	others := o.writing || o.waits()
	o.writing = o.writing || !others
	o.mu.Unlock()
	if !others {
		o.writeAll(own)
	}
}

// waits reports whether the queue waits for publishers that return. The caller holds mu.
func (o *outbox) waits() bool {
	if o.returning.Load() == 0 || len(o.queue) >= gathered {
		return false
	}
	if len(o.queue) == 1 {
		now := time.Now()
		if now.Before(o.atOnce) {
			return false
		}
		o.since = now
	}
	return true
}

// returns is for a publisher that is given its answer, before it is.
func (o *outbox) returns() { o.returning.Add(1) }

// returned is for the same when it has the answer: the last writes what the others have
// left. It has that done, and does not wait, if it is in a hurry, as its time may be over.
func (o *outbox) returned(hurry bool) {
	if o.returning.Add(-1) > 0 {
		return
	}
	o.mu.Lock()
	some := len(o.queue) > 0 && !o.writing
	o.writing = o.writing || some
	o.mu.Unlock()
	if some && (hurry || o.writeBatch()) {
		go o.writeAll(nil)
	}
}

func (o *outbox) writeAll(own *waiter) {
	for o.writeBatch() {
		if own != nil && len(own.answer) > 0 {
			go o.writeAll(nil)
			return
		}
	}
}

// writeBatch writes what has come up to now, and reports whether there is more. If
// not, the next to come writes.
func (o *outbox) writeBatch() (more bool) {
	o.pen.Lock()
	defer o.pen.Unlock()
	o.mu.Lock()
	o.batch, o.queue = o.queue, o.batch[:0]
	if !o.since.IsZero() {
		if took := time.Since(o.since); took > longWait {
			o.atOnce = time.Now().Add(waitShare * took)
		}
		o.since = time.Time{}
	}
	o.mu.Unlock()
	for _, m := range o.batch {
		o.write(m)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	clear(o.batch)
	o.writing = len(o.queue) > 0
	return o.writing
}

// withdraw is for a publisher that does not wait any longer: when it returns,
// nobody reads the message. It reports whether the message was never written.
func (o *outbox) withdraw(u use) bool {
	its := func(m outgoing) bool { return m.use == u }
	o.mu.Lock()
	i := slices.IndexFunc(o.queue, its)
	if i >= 0 {
		o.queue = slices.Delete(o.queue, i, i+1)
	}
	underWay := slices.ContainsFunc(o.batch, its)
	o.mu.Unlock()
	if underWay {
		o.pen.Lock() // until the batch is written
		defer o.pen.Unlock()
	}
	return i >= 0
}
