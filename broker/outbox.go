package broker

import (
	"slices"
	"sync"

	"github.com/nats-io/nats.go"
)

// outbox is where publishers that wait for their answers leave their messages: one
// of them hands to the client what all have at hand. So only that one is held up
// when the client is, by a network that takes nothing.
type outbox struct {
	write func(outgoing)

	mu      sync.Mutex
	queue   []outgoing
	writing bool
	pen     sync.Mutex // held while a batch is written
	batch   []outgoing // of who holds the pen; changed under mu
}

type outgoing struct {
	use use
	msg *nats.Msg
}

// put has the message written, by this publisher or by another that is at it. It
// returns at once, or, for the one that is, when there are no more messages, or
// its own answer is there.
func (o *outbox) put(m outgoing, own *waiter) {
	o.mu.Lock()
	o.queue = append(o.queue, m)
	busy := o.writing
	o.writing = true
	o.mu.Unlock()
	if !busy {
		o.writeAll(own)
	}
}

func (o *outbox) writeAll(own *waiter) {
	for own == nil || len(own.answer) == 0 {
		if !o.writeBatch() {
			return
		}
	}
	go o.writeAll(nil)
}

// writeBatch writes what has come up to now. It reports false, and the next to
// come writes, if that is nothing.
func (o *outbox) writeBatch() bool {
	o.pen.Lock()
	defer o.pen.Unlock()
	o.mu.Lock()
	o.batch, o.queue = o.queue, o.batch[:0]
	some := len(o.batch) > 0
	o.writing = some
	o.mu.Unlock()
	for _, m := range o.batch {
		o.write(m)
	}
	o.mu.Lock()
	clear(o.batch)
	o.mu.Unlock()
	return some
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
