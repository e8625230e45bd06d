package consume

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"go-micro-jetstream/broker/internal/consumers"
	"go-micro-jetstream/broker/internal/fault"
	"go-micro-jetstream/broker/internal/hanging"
	"go-micro-jetstream/broker/internal/keyorder"
	"go-micro-jetstream/broker/internal/ledger"
	"go-micro-jetstream/broker/internal/pinned"
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
	wake     chan struct{}                      // wakes a worker that has nothing to do

	mu       sync.Mutex
	waiting  []*Delivery // fetched and not started, in order; with an order, those whose keys are not known
	room     []*Delivery // the array behind waiting, to be used again
	running  []*Delivery // by slot; nil when the worker has nothing in hand
	fetching bool        // a worker waits for messages
	asked    bool        // a request was sent; see forfeit
	left     left
	pace     hanging.Pace
	fresh    time.Time // when a message last came for the first time
	ledger   ledger.Ledger
	order    *ordered       // nil: all messages have one order
	pin      *pinned.Client // nil: all subscribers of the consumer get messages
	retries  retries

	keeper    *time.Timer // calls keepAlive; nil until something is in hand
	armed     bool        // the keeper runs
	extending bool        // keepAlive runs
}

// left is what the server has last told of the messages in the stream.
type left struct {
	at      time.Time
	pending uint64 // not yet delivered to the consumer
}

func newInHand(s *Subscription, cs *consumers.Consumer, info *jetstream.ConsumerInfo) *inHand {
	h := &inHand{
		s:       s,
		running: make([]*Delivery, s.cfg.Concurrency),
		left:    left{at: time.Now(), pending: info.NumPending}, // nobody asks before it has begun
		pace:    hanging.NewPace(s.cfg.HangsAfter),
		fresh:   time.Now(),
		ledger:  ledger.New(info.AckFloor.Stream), // where a consumer for new messages begins
		wake:    make(chan struct{}, 1),
	}
	if s.cfg.Key != nil {
		h.order = newOrdered()
	}
	if s.cfg.single() {
		h.pin = &pinned.Client{}
	}
	h.consumer.Store(cs)
	return h
}

// take starts the first of the waiting messages for a worker, or says why it is not to
// be handled. It returns nothing if none waits, or the subscription is stopped.
//
// With those that are not to be handled come others for which the same is true.
func (h *inHand) take(slot int) (d *Delivery, refused *refusal, also []*Delivery) {
	d, request, wanted, refused, also := h.start(slot)
	if wanted {
		_ = h.send(request) // what goes wrong comes again with the next request
	}
	return d, refused, also
}

// start is take as far as it needs the lock: it returns the request to send, if one is
// wanted.
func (h *inHand) start(slot int) (d *Delivery, request pull.Request, wanted bool, refused *refusal, also []*Delivery) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.s.Stopped() {
		return nil, request, false, nil, nil
	}
	if d = h.first(); d == nil {
		return nil, request, false, nil, nil
	}
	if n := h.backlog(); h.pull.Early(h.consumer.Load(), n) && h.s.cfg.Conn.Up() {
		request, wanted = h.request(n)
	}
	d.Began = time.Since(d.Received)
	if refused = h.refusal(d); refused == nil {
		h.running[slot] = d
		d.uncounted, d.known = h.ledger.Started(d.Meta)
		h.pace.Started(d.Received.Add(d.Began))
	} else {
		also = h.refused(d, refused)
	}
	return d, request, wanted, refused, also
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

// finish ends the handling of a delivery. If nobody has settled it, it is to be
// delivered again.
func (h *inHand) finish(slot int, d *Delivery) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.running[slot] = nil
	h.pace.Returned(time.Since(d.Received) - d.Began)
	cs := h.consumer.Load()
	if h.order != nil {
		now := time.Now()
		h.order.lanes.Finish(d, now, now.Add(cs.AckWait()))
		h.schedule(now)
	}
	if !d.Settled() {
		h.ledger.Owe(cs, d.Meta, d.Deliveries())
	}
}

// keep has a message that has failed handled again after the delay. It returns false if
// the subscription cannot do that: it is stopped, or the server counts deliveries and
// must see to it that the message gets no more.
func (h *inHand) keep(d *Delivery, delay time.Duration) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if cs := h.consumer.Load(); cs.IsLast(d.Deliveries()) {
		h.ledger.Spend(cs, d.Meta, d.served())
		return false
	}
	if h.s.Stopped() {
		return false
	}
	now := time.Now()
	if !h.order.lanes.Keep(d, d.Repeat(), now, now.Add(delay)) {
		return false
	}
	if delay > 0 {
		h.retries.add(now.Add(delay))
	}
	h.schedule(now)
	return true
}

// crowded is crowd for callers that do not hold the lock.
func (h *inHand) crowded() (c Crowd, changed bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.crowd()
}

// unsorted returns the next messages whose keys are to be asked for, or none if a worker
// is at it.
func (h *inHand) unsorted() []*Delivery {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.order.keying) > 0 || h.s.Stopped() {
		return nil
	}
	for len(h.waiting) > 0 && len(h.order.keying) < keyBatch {
		h.order.keying = append(h.order.keying, h.pop())
	}
	if len(h.order.keying) > 0 {
		h.order.asked = time.Now()
	}
	return h.order.keying
}

// sorted puts the first of the messages that unsorted has returned into the lanes of
// their keys. Those without a key come next time.
func (h *inHand) sorted(keys []uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	now := time.Now()
	h.order.asked = time.Time{}
	if len(h.order.keying) == 0 { // given back meanwhile
		return
	}
	for i, key := range keys {
		h.order.lanes.Insert(h.order.keying[i], key, now)
	}
	if rest := h.order.keying[len(keys):]; len(rest) > 0 {
		h.waiting = append(slices.Clone(rest), h.waiting...)
	}
	clear(h.order.keying)
	h.order.keying = h.order.keying[:0]
	h.schedule(now)
	if h.order.lanes.Ready() || len(h.waiting) > 0 {
		h.nudge()
	}
}

// settled notes what has become of a delivery. With Nak it comes again after the delay.
func (h *inHand) settled(d *Delivery, r Result, delay time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch cs := h.consumer.Load(); r {
	case Ack:
		h.ledger.Ack(cs, d.Meta)
	case Term:
		h.ledger.Term(cs, d.Meta)
	default:
		h.ledger.Owe(cs, d.Meta, d.Deliveries())
	}
	if r == Nak && delay > 0 {
		h.retries.add(time.Now().Add(delay))
	}
	if h.order != nil {
		now := time.Now()
		h.order.lanes.Settled(d, now)
		if h.schedule(now); h.order.lanes.Ready() {
			h.nudge()
		}
	}
}

// snooze notes that a delivery is not to count.
func (h *inHand) snooze(d *Delivery) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ledger.Discount(d.Meta, d.discount(h.consumer.Load())+1)
}

// fail is [Delivery.Fail].
func (h *inHand) fail(d *Delivery) {
	h.mu.Lock()
	defer h.mu.Unlock()
	d.failed = true
	if cs := h.consumer.Load(); cs.Limit > 0 && !cs.ByServer {
		h.ledger.Discount(d.Meta, d.discount(cs))
	}
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
	if h.order != nil && !h.order.asked.IsZero() { // the user's function runs
		n++
	}
	return n
}

// unstarted takes out the messages that wait and will not be started, in the order of
// the stream if the subscription has an order.
func (h *inHand) unstarted() (ds []*Delivery) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.drop()
}

// unhandledNow returns how many messages are in hand and not being handled.
func (h *inHand) unhandledNow() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := len(h.waiting)
	if h.order != nil {
		n += len(h.order.keying) + h.order.lanes.Held()
	}
	return n
}

// look returns a message that has come in the inbox, or whether to ask for more: it
// is not wanted if messages wait already, or the subscription is stopped.
func (h *inHand) look() (m *nats.Msg, wanted bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.s.Stopped() || h.startable() {
		h.fetching = false
		return nil, false
	}
	h.fetching = true
	m = h.arrived()
	return m, m == nil
}

// ask makes sure that a request is under way, if there is room for more. It returns how
// much longer nothing may come until that counts as lost. It is 0 if no request is under way, so
// that nothing can come.
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
	if n := h.idleBacklog(); !h.s.Stopped() && (h.pull.Open() == 0 || h.pull.Early(h.consumer.Load(), n)) {
		request, wanted = h.request(n)
	}
	if h.pull.Open() == 0 && (h.order != nil || h.holds()) {
		if h.order != nil {
			h.order.waiting = true
		}
		return request, wanted, 0
	}
	return request, wanted, h.pull.Silence(time.Now())
}

// request returns a request for more, which the caller sends when it has released the
// lock that it holds.
func (h *inHand) request(waiting int) (r pull.Request, wanted bool) {
	if h.order != nil {
		room := h.spare()
		if room < 1 || h.keyHangs() {
			return r, false
		}
		h.pull.Within(room)
	} else if h.holds() && len(h.waiting) >= 2*maxHeld {
		return r, false
	}
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
	} else if h.pin != nil {
		h.noteAsked()
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
	h.fetching = !h.startable()
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

// behind reports whether deliveries of the consumer have not come. Other replicas may
// have them.
func (h *inHand) behind(info *jetstream.ConsumerInfo) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.ledger.Misses(info.Delivered.Consumer)
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
		cs := h.consumer.Load()
		if isForeign(m, h.s.cfg.Topic, cs) {
			a.foreign = m
			continue
		}
		h.pull.Heard(now)
		delivery, err := h.pull.Accept(m)
		if turned, dropped := h.notePin(now); turned {
			a.turned, a.dropped = true, a.dropped+dropped
		}
		switch {
		case delivery:
			h.admit(m, now, cs, &a)
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
		h.left.at = now
		h.arm()
	}
	return a
}

// admit takes in a delivery. A stray is not for this subscription: somebody has changed
// the consumer.
func (h *inHand) admit(m *nats.Msg, now time.Time, cs *consumers.Consumer, a *arrivals) {
	d := newDelivery(h.s, m, now)
	switch {
	case h.pin != nil && m.Header.Get(wire.PinHeader) == "":
		a.unpinned = append(a.unpinned, d)
		a.err = fmt.Errorf("%w: consumer %s of stream %s has been changed and serves all its subscribers", fault.ErrConsumerConflict, cs.Name, cs.Stream.Name)
		return
	case !wire.Covers(h.s.cfg.Topic, m.Subject):
		a.strays = append(a.strays, d)
		a.err = fmt.Errorf("%w: consumer %s of stream %s has been changed and delivers %s", fault.ErrConsumerConflict, cs.Name, cs.Stream.Name, m.Subject)
		return
	}
	d.epoch = h.ledger.Epoch()
	if h.pin != nil {
		h.pin.Delivered(m.Reply)
	}
	h.ledger.Came(d.Meta)
	h.waiting = append(h.waiting, d)
	h.left.pending = d.Meta.Pending
	if d.Meta.NumDelivered <= 1 {
		h.fresh = now
	}
	a.last = d
	a.messages++
	a.bytes += m.Size()
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
		if !cs.Expired(d.served(), now.Sub(d.Received)-d.extended) {
			extend(d)
		}
	}
	for _, d := range h.running {
		if d != nil && !d.Settled() {
			extend(d)
		}
	}
	if h.order == nil {
		return due
	}
	h.order.all(now, func(d *Delivery, unwatched bool) {
		switch {
		case cs.Expired(d.served(), now.Sub(d.Received)-d.extended):
		case unwatched:
			extend(d)
		default: // however long its key is stuck
			due = append(due, extension{d: d, before: d.extended})
			d.extended = now.Sub(d.Received)
		}
	})
	return due
}

// relieve frees the lanes of handlers that hang. It returns what has expired behind
// them.
func (h *inHand) relieve() []*Delivery {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.order == nil {
		return nil
	}
	now, cs := time.Now(), h.consumer.Load()
	gone := h.order.lanes.Relieve(now, func(d *Delivery) bool { return h.lost(cs, d, now) })
	if h.order.lanes.Ready() {
		h.nudge()
	}
	return gone
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
	if len(h.waiting) > 0 || h.busy() > 0 || h.order != nil && h.order.lanes.Held() > 0 {
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
	if wait := h.checkInterval(h.consumer.Load()); h.keeper == nil {
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
	if h.order != nil && h.order.timer != nil {
		h.order.timer.Stop()
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
	h.extendSooner(former, told)
	return true
}

// extendSooner has ack deadlines extended in time where the ack wait has become shorter.
// The caller holds the lock.
func (h *inHand) extendSooner(former, now *consumers.Consumer) {
	if h.armed && now.AckWait() < former.AckWait() {
		h.keeper.Reset(h.checkInterval(now))
	}
}

// mended takes the consumer that the subscription has after a failure.
func (h *inHand) mended(m consumers.Mended) {
	h.mu.Lock()
	defer h.mu.Unlock()
	former := h.consumer.Load()
	switch {
	case m.Remade:
		h.ledger.ExpectCopies(former, h.highest())
	case m.Another:
		h.ledger.ExpectCopies(m.Consumer, h.highest())
	}
	if !m.Consumer.Stream.Created.Equal(former.Stream.Created) {
		h.ledger.StartAnew()
		if h.order != nil {
			h.order.lanes.Forget(time.Now())
		}
	}
	h.consumer.Store(m.Consumer)
	h.extendSooner(former, m.Consumer)
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
	n := h.ledger.ResumeAt()
	for _, d := range h.running {
		if d != nil && d.Meta.StreamSequence > 0 {
			n = min(n, d.Meta.StreamSequence)
		}
	}
	if h.order != nil { // later ones of other keys may have been started
		for _, d := range h.unhandled() {
			if d.Meta.StreamSequence > 0 {
				n = min(n, d.Meta.StreamSequence)
			}
		}
	}
	return n
}

// learned notes what the server has said of the consumer.
func (h *inHand) learned(info *jetstream.ConsumerInfo) State {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.left = left{at: time.Now(), pending: info.NumPending}
	state := StateOf(info)
	state.Retries = h.retries.count(h.left.at)
	return state
}

// retriedSince reports whether a message has failed since then that comes back later.
func (h *inHand) retriedSince(then time.Time) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.retries.added.After(then)
}

// starved reports whether no message has come for the first time for a while, although
// some wait in the stream, or may: retries here are a tenth of MaxAckPending.
func (h *inHand) starved() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	now := time.Now()
	if now.Sub(h.fresh) < starvedAfter {
		return false
	}
	most := h.consumer.Load().Config.MaxAckPending
	return h.left.pending > 0 || most > 0 && 10*h.retries.count(now) >= most
}

// knownFor returns how long ago the number of pending messages was learned.
func (h *inHand) knownFor() time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	return time.Since(h.left.at)
}

// What follows is for a consumer that serves one subscriber at a time; see single.go.

// unpinned notes that the server knows a pin no more.
func (h *inHand) unpinned(pin string) (turned bool, dropped int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.pull.Unpin(pin)
	return h.notePin(time.Now())
}

// forfeit gives up the pin and the requests under way, as the consumer has no pins any
// more. It takes out what is not started. Asked reports whether a request was sent
// since the last time.
func (h *inHand) forfeit() (ds []*Delivery, turned, asked bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	asked, h.asked = h.asked, false
	h.pull.Unpin(h.pull.Pin())
	h.pull.Abandon()
	ds = h.drop()
	turned, _ = h.notePin(time.Now())
	return ds, turned, asked
}

// takeUnpinned takes in what has come, and returns what came without a pin.
func (h *inHand) takeUnpinned() (ds []*Delivery) {
	h.mu.Lock()
	a := h.takeIn(h.arrived())
	h.mu.Unlock()
	ds, a.unpinned = a.unpinned, nil
	h.s.report(a)
	return ds
}

// noteAsked notes that a request has been sent.
func (h *inHand) noteAsked() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.asked = true
}

// renewal returns the request that renews the pin, if there is one.
func (h *inHand) renewal() (r pull.Request, active bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.pull.Renewal(h.consumer.Load())
}

// unstartedSequences returns how many messages are in hand and not started.
func (h *inHand) unstartedSequences() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	all := map[uint64]struct{}{}
	for _, d := range h.unhandled() {
		all[d.Meta.StreamSequence] = struct{}{}
	}
	return len(all)
}

// reckon finds out whether all that the former active subscription had in hand has come,
// and lets messages be started then, in the order of the stream. The server was asked when
// so many messages were in hand. It returns what [pinned.Client.Reckon] does.
func (h *inHand) reckon(info *jetstream.ConsumerInfo, before int, now time.Time) (claims []uint64, released bool, gaveUp int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	hand := pinned.Hand{Sequences: h.sequences(), Before: before, Handling: h.handles()}
	claims, released, gaveUp = h.pin.Reckon(info, hand, now)
	if released {
		if h.order == nil {
			keyorder.Sort(h.waiting)
		}
		h.nudge()
	}
	return claims, released, gaveUp
}

// unsettled returns what to claim if nobody is active.
func (h *inHand) unsettled(info *jetstream.ConsumerInfo) []uint64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return pinned.Unclaimed(info, h.sequences())
}

// stranded returns what waits behind handlers that hang, so that it can be given back
// to other subscribers of the consumer.
func (h *inHand) stranded() []*Delivery {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.takeStranded()
}
