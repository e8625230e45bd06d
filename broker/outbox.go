package broker

import (
	"runtime"
	"slices"
	"sync"

	"github.com/nats-io/nats.go"
)

// outbox is where publishers that wait for their answers leave their messages
// when there are several of them: one hands to the client what all have at hand,
// and the client writes that to the network at once. If each did it by itself,
// two of three messages would be a write of their own, and a publish would take a
// third more of the processor (sixteen publishers, BenchmarkPublish).
type outbox struct {
	write func(outgoing)

	mu      sync.Mutex
	queue   []outgoing
	writing bool
	several bool       // in the latest batch
	pen     sync.Mutex // held while a batch is written
	batch   []outgoing // of who holds the pen
}

type outgoing struct {
	id  uint64
	msg *nats.Msg
}

// put has the message written, by this publisher or by another that is at it. It
// returns at once, or, for the one that is, when there are no more messages, or
// its own answer is there.
func (o *outbox) put(m outgoing, own *waiter, others bool) {
	o.mu.Lock()
	o.queue = append(o.queue, m)
	busy, several := o.writing, o.several || others
	o.writing = true
	o.mu.Unlock()
	if !busy {
		o.writeAll(own, several)
	}
}

func (o *outbox) writeAll(own *waiter, several bool) {
	for own == nil || len(own.answer) == 0 {
		if several {
			// Others have had their answers as well and are about to publish again.
			runtime.Gosched()
		}
		if !o.writeBatch() {
			return
		}
	}
	go o.writeAll(nil, true)
}

// writeBatch writes what has come up to now. It reports false, and the next to
// come writes, if that is nothing.
func (o *outbox) writeBatch() bool {
	o.pen.Lock()
	defer o.pen.Unlock()
	o.mu.Lock()
	o.batch, o.queue = o.queue, o.batch[:0]
	n := len(o.batch)
	if o.writing = n > 0; n > 0 {
		o.several = n > 1
	}
	o.mu.Unlock()
	for _, m := range o.batch {
		o.write(m)
	}
	clear(o.batch)
	return n > 0
}

// withdraw is for a publisher that does not wait any longer: when it returns,
// nobody reads the message. It reports whether the message was never written.
func (o *outbox) withdraw(id uint64) bool {
	o.mu.Lock()
	i := slices.IndexFunc(o.queue, func(m outgoing) bool { return m.id == id })
	if i >= 0 {
		o.queue = slices.Delete(o.queue, i, i+1)
	}
	o.mu.Unlock()
	if i < 0 {
		o.pen.Lock() // until the batch that it may be in is written
		defer o.pen.Unlock()
	}
	return i >= 0
}
