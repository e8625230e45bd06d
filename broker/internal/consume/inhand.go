package consume

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"go-micro-jetstream/broker/internal/consumers"
	"go-micro-jetstream/broker/internal/fault"
	"go-micro-jetstream/broker/internal/pull"
	"go-micro-jetstream/broker/internal/wire"
)

// inHand is what a subscription has in hand, and what it remembers of what it had.
// Nothing is written to the connection, and no observer is called, while its lock is
// held.
type inHand struct {
	s        *Subscription
	pull     *pull.Pull // guarded by mu, but for the methods that need no lock
	sending  sync.WaitGroup
	consumer atomic.Pointer[consumers.Consumer] // replaced under mu

	mu       sync.Mutex
	waiting  []*Delivery // fetched and not started, in order
	room     []*Delivery // the array behind waiting, to be used again
	running  []*Delivery // by slot; nil when the worker has nothing in hand
	fetching bool        // a worker waits for messages
	known    time.Time   // when the number of pending messages was last learned
	ledger   ledger

	keeper    *time.Timer // calls keepAlive; nil until something is in hand
	armed     bool        // the keeper runs
	extending bool        // keepAlive runs
}

func newInHand(s *Subscription, cs *consumers.Consumer, info *jetstream.ConsumerInfo) *inHand {
	h := &inHand{
		s:       s,
		running: make([]*Delivery, s.cfg.Concurrency),
		known:   time.Now(),                         // nobody asks before it has begun
		ledger:  ledger{last: info.AckFloor.Stream}, // where a consumer for new messages begins
	}
	h.consumer.Store(cs)
	return h
}

// take starts the first of the waiting messages for a worker, or says why it is not to
// be handled. It returns nothing if none waits, or the subscription is stopped.
func (h *inHand) take(slot int) (d *Delivery, refused *refusal) {
	d, request, wanted, refused := h.start(slot)
	if wanted {
		_ = h.send(request) // what goes wrong comes again with the next request
	}
	return d, refused
}

// start is take as far as it needs the lock: it returns the request to send, if one is
// wanted.
func (h *inHand) start(slot int) (d *Delivery, request pull.Request, wanted bool, refused *refusal) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.waiting) == 0 || h.s.Stopped() {
		return nil, request, false, nil
	}
	d = h.pop()
	if h.pull.Early(h.consumer.Load(), len(h.waiting)) && h.s.cfg.Conn.Up() {
		request, wanted = h.request(len(h.waiting))
	}
	d.Began = time.Since(d.Received)
	if refused = h.refusal(d); refused == nil {
		h.running[slot] = d
		h.ledger.started(d)
	}
	return d, request, wanted, refused
}

// pop takes the first of the waiting messages. The caller holds the lock.
func (h *inHand) pop() *Delivery {
	d := h.waiting[0]
	h.waiting[0] = nil
	if h.waiting = h.waiting[1:]; len(h.waiting) == 0 {
		h.waiting = h.room[:0]
	}
	return d
}

// refusal returns why a message is not to be handled, or nil. The caller holds the lock.
func (h *inHand) refusal(d *Delivery) *refusal {
	if wire.IsDeleteMarker(d.Msg) {
		return marker
	}
	if h.ledger.mayRepeat(d) {
		if why := h.repeated(d); why != nil {
			return why
		}
	}
	// The server is delivering it to somebody else, unless this was the last delivery.
	// Then the server accepts an ack all the same.
	cs := h.consumer.Load()
	if cs.Expired(d.Meta.NumDelivered, d.Began-d.extended) && !cs.IsLast(d.Meta.NumDelivered) {
		h.ledger.owe(cs, d)
		return expired
	}
	return nil
}

// repeated returns why a delivery that may be the second one of its message is not to
// be handled, or nil. Second deliveries come when an ack was lost with a connection,
// or when an operator has shortened the consumer's AckWait, so that the server does
// not wait as long as this side believes. The caller holds the lock.
func (h *inHand) repeated(d *Delivery) *refusal {
	if why := h.ledger.repeated(d); why != nil {
		return why
	}
	id := d.Meta.Identity()
	for _, r := range h.running {
		// When its deadline is no longer extended, a handler counts as hanging.
		if r != nil && !r.failed && r.Meta.Identity() == id && time.Since(r.Received) < h.s.cfg.MaxAckExtension {
			r.skipped.Store(max(r.skipped.Load(), d.Meta.NumDelivered))
			return beingHandled
		}
	}
	return nil
}

// finish ends the handling of a delivery. If nobody has settled it, it is to be
// delivered again.
func (h *inHand) finish(slot int, d *Delivery) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.running[slot] = nil
	if !d.Settled() {
		h.ledger.owe(h.consumer.Load(), d)
	}
}

// settled notes what has become of a delivery.
func (h *inHand) settled(d *Delivery, r Result) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ledger.settle(h.consumer.Load(), d, r)
}

// fail is [Delivery.Fail].
func (h *inHand) fail(d *Delivery) {
	h.mu.Lock()
	defer h.mu.Unlock()
	d.failed = true
}

// handling returns how many deliveries are being handled.
func (h *inHand) handling() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.busy()
}

// busy is handling for callers that hold the lock.
func (h *inHand) busy() (n int) {
	for _, d := range h.running {
		if d != nil {
			n++
		}
	}
	return n
}

// unstarted returns the next of the messages that wait and will not be started, or
// nil after the last one.
func (h *inHand) unstarted() *Delivery {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.waiting) == 0 {
		h.waiting, h.room = nil, nil
		return nil
	}
	return h.pop()
}

// look returns a message that has come in the inbox, or whether to ask for more: it
// is not wanted if messages wait already, or the subscription is stopped.
func (h *inHand) look() (m *nats.Msg, wanted bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.waiting) > 0 || h.s.Stopped() {
		h.fetching = false
		return nil, false
	}
	h.fetching = true
	m = h.arrived()
	return m, m == nil
}

// ask makes sure that a request is under way. It returns how long nothing may come
// until that counts as lost.
func (h *inHand) ask() (silence time.Duration, err error) {
	request, wanted, silence := h.next()
	if wanted {
		err = h.send(request)
	}
	return silence, err
}

// next is ask as far as it needs the lock.
func (h *inHand) next() (request pull.Request, wanted bool, silence time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.pull.Outlived() { // while the workers were busy, perhaps
		h.pull.Abandon()
	}
	if !h.s.Stopped() && (h.pull.Open() == 0 || h.pull.Early(h.consumer.Load(), 0)) {
		request, wanted = h.request(0)
	}
	return request, wanted, h.pull.Silence()
}

// request returns a request for more, which the caller sends when it has released the
// lock that it holds.
func (h *inHand) request(waiting int) (r pull.Request, wanted bool) {
	if r, wanted = h.pull.Request(h.consumer.Load(), waiting); wanted {
		h.sending.Add(1)
	}
	return r, wanted
}

// send sends a request. Stop waits until that is done: a request that follows the end
// of the inbox would bring messages that nobody gets.
func (h *inHand) send(r pull.Request) error {
	defer h.sending.Done()
	err := h.pull.Send(r)
	if err != nil {
		h.abandon()
	}
	return err
}

// abandon gives up the requests under way.
func (h *inHand) abandon() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.pull.Abandon()
}

// pausing reports whether the worker that fetches may pause: no message waits to be
// handled.
func (h *inHand) pausing() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.fetching = len(h.waiting) == 0
	return h.fetching
}

// arrived returns a message from the inbox if there is one.
func (h *inHand) arrived() *nats.Msg {
	select {
	case m := <-h.pull.Messages():
		return m
	default:
		return nil
	}
}

// takeRest takes in what has come, and reports whether more may.
func (h *inHand) takeRest() (more bool) {
	if m := h.arrived(); m != nil {
		h.collect(m)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.pull.Open() > 0 && !h.pull.Outlived()
}

// collect takes in a message from the inbox, and all that are behind it.
func (h *inHand) collect(m *nats.Msg) arrivals {
	h.mu.Lock()
	a := h.takeIn(m)
	h.mu.Unlock()
	h.s.report(a)
	return a
}

// takeIn is collect for callers that hold the lock.
func (h *inHand) takeIn(m *nats.Msg) (a arrivals) {
	now := time.Now()
	for ; m != nil; m = h.arrived() {
		delivery, err := h.pull.Accept(m)
		cs := h.consumer.Load()
		switch {
		case delivery && !wire.Covers(h.s.cfg.Topic, m.Subject):
			a.strays = append(a.strays, newDelivery(h.s, m, now))
			a.err = fmt.Errorf("%w: consumer %s of stream %s has been changed and delivers %s", fault.ErrConsumerConflict, cs.Name, cs.Stream.Name, m.Subject)
		case delivery:
			a.last = newDelivery(h.s, m, now)
			h.waiting = append(h.waiting, a.last)
			a.messages++
			a.bytes += m.Size()
		case err == nil || errors.Is(err, wire.ErrBatchDone):
			a.alive = true
			if h.pull.Idle() > 0 && len(h.waiting) == 0 {
				h.waiting, h.room = nil, nil
			}
		case errors.Is(err, jetstream.ErrMaxBytesExceeded):
			a.err = fmt.Errorf("%w: the next message is larger than MaxRequestMaxBytes, %d, of consumer %s of stream %s: raise it", err, cs.Config.MaxRequestMaxBytes, cs.Name, cs.Stream.Name)
		default:
			a.err = err
		}
	}
	if cap(h.waiting) > cap(h.room) {
		h.room = h.waiting
	}
	if a.messages > 0 {
		a.alive = true
		h.pull.Arrived(now)
		h.fetching = false
		h.known = now
		h.arm()
	}
	return a
}

// beginExtending reports whether there may be anything to keep alive. The keeper stands
// still until extended is called. With all workers busy nobody else empties the inbox,
// so beginExtending takes in what is there. What fails comes again with the next
// request.
func (h *inHand) beginExtending() (a arrivals, ok bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.armed = false
	if h.extending || h.s.base.Err() != nil { // abandoned, or over
		return a, false
	}
	h.extending = true
	if !h.fetching && !h.s.Stopped() {
		a = h.takeIn(h.arrived())
	}
	return a, true
}

// extensions returns the deliveries whose ack deadlines are to be extended now, each
// marked as extended, with the mark that it had. keepAlive calls it, and then extended.
func (h *inHand) extensions() (due []extension) {
	h.mu.Lock()
	defer h.mu.Unlock()
	now, cs := time.Now(), h.consumer.Load()
	extend := func(d *Delivery) {
		if age := now.Sub(d.Received); age <= h.s.cfg.MaxAckExtension {
			due = append(due, extension{d: d, before: d.extended})
			d.extended = age
		}
	}
	for _, d := range h.waiting {
		// A message past its deadline is delivered to somebody else. It must not pass
		// for fresh again, but be skipped.
		if !cs.Expired(d.Meta.NumDelivered, now.Sub(d.Received)-d.extended) {
			extend(d)
		}
	}
	for _, d := range h.running {
		if d != nil && !d.Settled() {
			extend(d)
		}
	}
	return due
}

// extended takes the marks back of deliveries whose extension could not be sent, and
// starts the keeper again if something is in hand.
func (h *inHand) extended(unsent []extension) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, x := range unsent {
		x.d.extended = x.before
	}
	h.extending = false
	if len(h.waiting) > 0 || h.busy() > 0 {
		h.arm()
	}
}

// arm starts the keeper if it does not run: what arrives later must not put it off.
// The caller holds the lock.
func (h *inHand) arm() {
	if h.armed || h.extending {
		return
	}
	h.armed = true
	if wait := keepAliveInterval(h.consumer.Load()); h.keeper == nil {
		h.keeper = time.AfterFunc(wait, h.keepAlive)
	} else {
		h.keeper.Reset(wait)
	}
}

// stopKeepAlive stops the keeper when nothing is in hand any more.
func (h *inHand) stopKeepAlive() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.keeper != nil {
		h.keeper.Stop()
	}
}

// replace takes what the server has told of the consumer. It returns false if that is
// no longer the one in use.
func (h *inHand) replace(former, told *consumers.Consumer) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.consumer.CompareAndSwap(former, told) {
		return false
	}
	if h.armed && told.AckWait() < former.AckWait() {
		h.keeper.Reset(keepAliveInterval(told))
	}
	return true
}

// mended takes the consumer that the subscription has after a failure.
func (h *inHand) mended(m consumers.Mended) {
	h.mu.Lock()
	defer h.mu.Unlock()
	former := h.consumer.Load()
	switch {
	case m.Remade:
		h.ledger.expectCopies(former, h.waiting)
	case m.Another:
		h.ledger.expectCopies(m.Consumer, h.waiting)
	}
	if !m.Consumer.Stream.Created.Equal(former.Stream.Created) {
		h.ledger.startAnew()
	}
	h.consumer.Store(m.Consumer)
}

// resumeAt returns where in the stream a consumer for new messages begins when it is
// made again: with the first message that is being handled or is to be delivered again,
// or else behind everything that was started. What other subscribers have of a shared
// consumer only the server knew. The new consumer delivers once more what was settled
// since; the ledger recognises the latest of that.
func (h *inHand) resumeAt() uint64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	if cs := h.consumer.Load(); !cs.Ephemeral {
		return cs.Floor + 1
	}
	n := h.ledger.lowestOwed(h.ledger.last + 1)
	for _, d := range h.running {
		if d != nil && d.Meta.StreamSequence > 0 {
			n = min(n, d.Meta.StreamSequence)
		}
	}
	return n
}

// learned notes that the number of pending messages is known.
func (h *inHand) learned() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.known = time.Now()
}

// knownFor returns how long ago the number of pending messages was learned.
func (h *inHand) knownFor() time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	return time.Since(h.known)
}
