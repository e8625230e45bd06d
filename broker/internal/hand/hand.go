// Package hand holds what a subscription has in hand, which are the messages that are
// fetched and not settled: those that wait, those that are being handled, and how they are
// settled.
package hand

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"go-micro-jetstream/broker/internal/consumers"
	"go-micro-jetstream/broker/internal/delivery"
	"go-micro-jetstream/broker/internal/hanging"
	"go-micro-jetstream/broker/internal/ledger"
	"go-micro-jetstream/broker/internal/pinned"
	"go-micro-jetstream/broker/internal/pull"
	"go-micro-jetstream/broker/internal/queue"
	"go-micro-jetstream/broker/internal/wire"
)

// Hand is what a subscription has in hand, and what it remembers of what it had.
// Nothing is written to the connection, and no observer is called, while its lock is
// held.
type Hand struct {
	cfg      Config
	context  context.Context // of deliveries that are not handed on yet; written by Begin
	pull     *pull.Pull      // guarded by mu, but for the methods that need no lock
	sending  sync.WaitGroup
	consumer atomic.Pointer[consumers.Consumer] // replaced under mu
	asked    atomic.Bool                        // a request was sent; see Forfeit

	mu       sync.Mutex
	queue    queue.Queue[*Delivery] // fetched and not started
	running  []*Delivery            // by slot; nil when the worker has nothing in hand
	fetching bool                   // a worker waits for messages
	left     left
	pace     hanging.Pace
	ledger   ledger.Ledger
	crowding crowding
	pin      *pinned.Client // nil: all subscribers of the consumer get messages
	retries  retries
	ending   ending

	keeper    *time.Timer // calls Config.KeepAlive; nil until something is in hand
	armed     bool        // the keeper runs
	extending bool        // from BeginExtending until Extend is over
}

// left is what the server has last told of the messages in the stream.
type left struct {
	at      time.Time
	pending uint64    // not yet delivered to the consumer
	fresh   time.Time // when a message last came for the first time
}

// Open opens the inbox.
func (h *Hand) Open(l pull.Limits) (err error) {
	h.pull, err = pull.Open(h.cfg.Conn, h.consumer.Load(), l)
	return err
}

// Begin sets the context of all deliveries that come from now on. It is called before
// anything is fetched.
func (h *Hand) Begin(ctx context.Context) { h.context = ctx }

// Consumer returns what is known of the consumer now. It takes no lock.
func (h *Hand) Consumer() *consumers.Consumer { return h.consumer.Load() }

// Pull returns the inbox, for those of its methods that need no lock.
func (h *Hand) Pull() *pull.Pull { return h.pull }

// Pin is nil if the consumer serves all its subscribers.
func (h *Hand) Pin() *pinned.Client { return h.pin }

// Wake tells a worker that has nothing to do that it may have.
func (h *Hand) Wake() <-chan struct{} { return h.queue.Wake() }

// Nudge wakes a worker that has nothing to do.
func (h *Hand) Nudge() { h.queue.Nudge() }

// stopped reports whether nothing is started any more.
func (h *Hand) stopped() bool { return h.cfg.Life.Err() != nil }

// Take starts the first of the waiting messages for a worker, or says why it is not to
// be handled. It returns nothing if none waits, or the subscription is stopped.
//
// With those that are not to be handled come others for which the same is true.
func (h *Hand) Take(slot int) (d *Delivery, refused *delivery.Refusal, also []*Delivery) {
	d, request, wanted, refused, also := h.start(slot)
	if wanted {
		_ = h.send(request) // what goes wrong comes again with the next request
	}
	return d, refused, also
}

// start is take as far as it needs the lock: it returns the request to send, if one is
// wanted.
func (h *Hand) start(slot int) (d *Delivery, request pull.Request, wanted bool, refused *delivery.Refusal, also []*Delivery) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.stopped() {
		return nil, request, false, nil, nil
	}
	if d = h.first(); d == nil {
		return nil, request, false, nil, nil
	}
	if n := h.queue.Backlog(); h.pull.Early(h.consumer.Load(), n) && h.cfg.Conn.Up() {
		request, wanted = h.request(n)
	}
	d.Began = time.Since(d.Received)
	if refused = h.refusal(d); refused == nil {
		h.running[slot] = d
		d.Failures = h.ledger.Started(d.Meta)
		h.pace.Started(d.Received.Add(d.Began))
	} else {
		also = h.refused(d, refused)
	}
	return d, request, wanted, refused, also
}

// Finish ends the handling of a delivery. If nobody has settled it, it is to be
// delivered again.
func (h *Hand) Finish(slot int, d *Delivery) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.running[slot] = nil
	h.pace.Returned(time.Since(d.Received) - d.Began)
	cs := h.consumer.Load()
	wait := cs.AckWait()
	if h.ending.has(d) {
		wait = never
	}
	h.queue.Finish(d, wait)
	if !d.Settled() {
		h.ledger.Owe(cs, d.Meta, d.Deliveries())
	}
}

// keep has a message that has failed handled again after the delay. It returns false if
// the subscription cannot do that: it is stopped, or the server counts deliveries and
// must see to it that the message gets no more.
func (h *Hand) keep(d *Delivery, delay time.Duration) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if cs := h.consumer.Load(); cs.IsLast(d.Deliveries()) {
		h.ledger.Spend(cs, d.Meta, d.Served())
		return false
	}
	if h.stopped() || !h.queue.Keep(d, delay) {
		return false
	}
	if delay > 0 {
		h.retries.add(time.Now().Add(delay))
	}
	return true
}

// Crowded is crowd for callers that do not hold the lock.
func (h *Hand) Crowded() (c Crowd, changed bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.crowd()
}

// Unsorted returns the next messages whose keys are to be asked for, or none if a worker
// is at it.
func (h *Hand) Unsorted() []*Delivery {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.stopped() {
		return nil
	}
	return h.queue.Unsorted(KeyBatch)
}

// Sorted tells the keys of the first messages that Unsorted has returned. Those without a
// key come next time.
func (h *Hand) Sorted(keys []uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.queue.Sorted(keys)
}

// settled notes what has become of a delivery. With Nak it comes again after the delay.
func (h *Hand) settled(d *Delivery, r delivery.Result, delay time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.ending, d)
	switch cs := h.consumer.Load(); r {
	case delivery.Ack:
		h.ledger.Ack(cs, d.Meta)
	case delivery.Term:
		h.ledger.Term(cs, d.Meta)
	default:
		h.ledger.Owe(cs, d.Meta, d.Deliveries())
	}
	if r == delivery.Nak && delay > 0 {
		h.retries.add(time.Now().Add(delay))
	}
	h.queue.Settled(d)
}

// snoozed is [Delivery.Snoozed].
func (h *Hand) snoozed(d *Delivery) {
	h.mu.Lock()
	defer h.mu.Unlock()
	d.Failed = true
}

// fail is [Delivery.Fail].
func (h *Hand) fail(d *Delivery) {
	h.mu.Lock()
	defer h.mu.Unlock()
	d.Failed = true
	if cs := h.consumer.Load(); cs.Limit > 0 && !cs.ByServer {
		h.ledger.Failed(d.Meta, d.Failures+1)
	}
}

// Running returns how many deliveries are being handled.
func (h *Hand) Running() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.busy()
}

// busy is handling for callers that hold the lock.
func (h *Hand) busy() (n int) {
	for _, d := range h.running {
		if d != nil {
			n++
		}
	}
	if _, asking := h.queue.Asking(); asking { // the user's function runs
		n++
	}
	return n
}

// Unstarted takes out the messages that wait and will not be started, in the order of
// the stream if the subscription has an order.
func (h *Hand) Unstarted() (ds []*Delivery) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.drop()
}

// drop takes out everything that is not started, but for what is being settled.
func (h *Hand) drop() []*Delivery {
	return slices.DeleteFunc(h.queue.Empty(), (*Delivery).Taken)
}

// Len returns how many messages are in hand and not being handled.
func (h *Hand) Len() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.queue.Len()
}

// Look returns a message that has come in the inbox, or whether to ask for more: it
// is not wanted if messages wait already, or the subscription is stopped.
func (h *Hand) Look() (m *nats.Msg, wanted bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.stopped() || h.startable() {
		h.fetching = false
		return nil, false
	}
	h.fetching = true
	m = h.Arrived()
	return m, m == nil
}

// Ask makes sure that a request is under way, if there is room for more. It returns how
// much longer nothing may come until that counts as lost. It is 0 if no request is under way, so
// that nothing can come.
func (h *Hand) Ask() (silence time.Duration, err error) {
	request, wanted, silence := h.next()
	if wanted {
		err = h.send(request)
	}
	return silence, err
}

// next is ask as far as it needs the lock.
func (h *Hand) next() (request pull.Request, wanted bool, silence time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.pull.Outlived() { // while the workers were busy, perhaps
		h.abandon()
	}
	if n := h.queue.IdleBacklog(Quick); !h.stopped() && (h.pull.Open() == 0 || h.pull.Early(h.consumer.Load(), n)) {
		request, wanted = h.request(n)
	}
	if h.pull.Open() == 0 && (h.queue.ByKey() || h.pin != nil) {
		h.crowding.short = h.queue.ByKey()
		return request, wanted, 0
	}
	return request, wanted, h.pull.Silence(time.Now())
}

// request returns a request for more, which the caller sends when it has released the
// lock that it holds.
func (h *Hand) request(waiting int) (r pull.Request, wanted bool) {
	if h.pin != nil && !h.pin.MayAsk() {
		return r, false
	}
	if h.queue.ByKey() {
		room := h.spare()
		if room < 1 || h.keyHangs() {
			return r, false
		}
		h.pull.Within(room)
	} else if h.holds() && h.queue.Len() >= 2*maxHeld {
		return r, false
	}
	if r, wanted = h.pull.Request(h.consumer.Load(), waiting); wanted {
		h.sending.Add(1)
	}
	return r, wanted
}

// send sends a request. AwaitRequests waits until that is done: a request that follows
// the end of the inbox would bring messages that nobody gets.
func (h *Hand) send(r pull.Request) error {
	defer h.sending.Done()
	err := h.pull.Send(r)
	if err != nil {
		h.Abandon()
	} else if h.pin != nil {
		h.asked.Store(true)
	}
	return err
}

// AwaitRequests waits until the requests that are being sent are sent. No others follow
// once nothing is started any more.
func (h *Hand) AwaitRequests() { h.sending.Wait() }

// Abandon gives up the requests under way.
func (h *Hand) Abandon() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.abandon()
}

// Pausing reports whether the worker that fetches may pause: no message waits to be
// handled.
func (h *Hand) Pausing() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.fetching = !h.startable()
	return h.fetching
}

// Arrived returns a message from the inbox if there is one.
func (h *Hand) Arrived() *nats.Msg {
	select {
	case m := <-h.pull.Messages():
		return m
	default:
		return nil
	}
}

// Expects reports whether more may come of the requests under way.
func (h *Hand) Expects() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.pull.Open() > 0 && !h.pull.Outlived()
}

// Behind reports whether deliveries of the consumer have not come. Other replicas may
// have them.
func (h *Hand) Behind(info *jetstream.ConsumerInfo) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.ledger.Misses(info.Delivered.Consumer)
}

// Collect takes in a message from the inbox, or nil, and all that are behind it.
func (h *Hand) Collect(m *nats.Msg) Arrivals {
	h.mu.Lock()
	defer h.mu.Unlock()
	if m == nil {
		m = h.Arrived()
	}
	return h.takeIn(m)
}

// BeginExtending reports whether there may be anything to keep alive. The keeper stands
// still until Extend is over. With all workers busy nobody else empties the inbox,
// so BeginExtending takes in what is there, unless the caller cannot tell of it now. What
// fails comes again with the next request.
func (h *Hand) BeginExtending(takesIn bool) (a Arrivals, ok bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.armed = false
	if h.extending || h.cfg.Base.Err() != nil { // abandoned, or over
		return a, false
	}
	h.extending = true
	if takesIn && !h.fetching && !h.stopped() {
		a = h.takeIn(h.Arrived())
	}
	return a, true
}

// extensions returns the deliveries whose ack deadlines are to be extended now, each
// marked as extended, with the mark that it had. Extend calls it, and then extended.
func (h *Hand) extensions() []extension {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.extendAll()
}

// Relieve frees the lanes of handlers that hang. It returns what has expired behind
// them.
func (h *Hand) Relieve() []*Delivery {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.queue.Relieve(h.lost(time.Now()))
}

// extended takes the marks back of deliveries whose extension could not be sent, and
// starts the keeper again if something is in hand.
func (h *Hand) extended(unsent []extension) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, x := range unsent {
		x.d.Extended = x.before
	}
	h.extending = false
	if h.queue.Len() > 0 || h.busy() > 0 || len(h.ending) > 0 {
		h.arm()
	}
}

// End stops the keeper when nothing is in hand any more.
func (h *Hand) End() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.keeper != nil && len(h.ending) == 0 {
		h.keeper.Stop()
		h.armed = false // something may still be terminated
	}
	h.queue.End()
}

// Replace takes what the server has told of the consumer. It returns false if that is
// no longer the one in use.
func (h *Hand) Replace(former, told *consumers.Consumer) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.consumer.CompareAndSwap(former, told) {
		return false
	}
	h.extendSooner(former, told)
	return true
}

// Mended takes the consumer that the subscription has after a failure.
func (h *Hand) Mended(m consumers.Mended) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.adopt(m)
}

// ResumeAt returns where in the stream a consumer for new messages begins when it is
// made again: with the first message that is being handled or is to be delivered again,
// or else behind everything that was started. What other subscribers have of a shared
// consumer only the server knew. The new consumer delivers once more what was settled
// since; the ledger recognises the latest of that.
func (h *Hand) ResumeAt() uint64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.lowest()
}

// Learned notes what the server has said of the consumer. It returns how many messages
// have failed here and wait for their delay.
func (h *Hand) Learned(info *jetstream.ConsumerInfo) (retries int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.left.at, h.left.pending = time.Now(), info.NumPending
	return h.retries.count(h.left.at)
}

// RetriedSince reports whether a message has failed since then that comes back later.
func (h *Hand) RetriedSince(then time.Time) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.retries.added.After(then)
}

// Starved reports whether no message has come for the first time for that long, although
// some wait in the stream, or may: retries here are a tenth of MaxAckPending.
func (h *Hand) Starved(after time.Duration) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	now := time.Now()
	if now.Sub(h.left.fresh) < after {
		return false
	}
	most := h.consumer.Load().Config.MaxAckPending
	return h.left.pending > 0 || most > 0 && 10*h.retries.count(now) >= most
}

// KnownFor returns how long ago the number of pending messages was learned.
func (h *Hand) KnownFor() time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	return time.Since(h.left.at)
}

// What follows is for a consumer that serves one subscriber at a time.

// Unpinned notes that the server does not know a pin.
func (h *Hand) Unpinned(pin string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.pull.Unpin(pin)
	h.pin.Doubt(pin)
}

// Suspect has the server asked whether the consumer still has pins.
func (h *Hand) Suspect() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.pin.Doubt(h.pull.Pin())
}

// Forfeit gives up the pin and the requests under way, as the consumer has no pins any
// more. It takes out what is not started. Asked reports whether a request was sent
// since the last time.
func (h *Hand) Forfeit() (ds []*Delivery, asked bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	asked = h.asked.Swap(false)
	ds = h.drop()
	h.pull.Abandon()
	h.pull.Unpin(h.pull.Pin())
	h.pin.Lose(pinned.Left{})
	return ds, asked
}

// Disown forgets a pin that was given back, and what it may still bring.
func (h *Hand) Disown(pin string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.pull.Pin() == pin { // something has come with it meanwhile
		h.lose(pin)
	} else {
		h.pull.Lose(pin)
	}
}

// Looked notes who is pinned, as the server has said. It returns what is to be claimed
// because nobody works.
func (h *Hand) Looked(info *jetstream.ConsumerInfo, l pinned.Look) (claims []uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	v := h.pin.Looked(info, h.consumer.Load().Pinned(info), len(h.sequences()) > 0, l)
	switch {
	case v.Known:
		h.pull.Repin(l.Pin)
	case v.None, v.Wait:
		h.pull.Unpin(l.Pin)
	case v.Lost:
		h.lose(l.Pin)
	case v.Claim:
		claims = pinned.Unclaimed(info, h.sequences())
	}
	if h.pin.MayAsk() {
		h.queue.Nudge()
	}
	return claims
}

// Renewal returns the request that renews the pin, if there is one.
func (h *Hand) Renewal() (r pull.Request, active bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.pull.Renewal(h.consumer.Load())
}

// ShowLife extends the ack deadline of a message in hand, if there is one, so that others
// see that somebody works; see [pinned.Client].
func (h *Hand) ShowLife() {
	if d := h.lockedSign(); d != nil && !d.Settled() {
		_ = h.cfg.Conn.NATS().Publish(d.Msg.Reply, wire.ProgressBody)
	}
}

func (h *Hand) lockedSign() *Delivery {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.cfg.Base.Err() != nil { // nobody waits for the handlers any more
		return nil
	}
	return h.sign()
}

// CountUnsettled returns how many messages are in hand and not settled. One that was
// delivered twice counts once, as for the server.
func (h *Hand) CountUnsettled() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.sequences())
}

// Reckon finds out whether all that the former active subscription had in hand has come,
// and lets messages be started then, in the order of the stream. The server was asked when
// this was the pin, and so many messages were in hand.
func (h *Hand) Reckon(pin string, info *jetstream.ConsumerInfo, before int, shared bool, now time.Time) pinned.Reckoning {
	h.mu.Lock()
	defer h.mu.Unlock()
	hand := pinned.Hand{Sequences: h.sequences(), Before: before, Handling: h.handles(), Shared: shared}
	r := h.pin.Reckon(pin, info, hand, now)
	if r.Released {
		h.queue.Sort()
		h.queue.Nudge()
	}
	return r
}

// Stranded returns what waits behind handlers that hang, so that it can be given back
// to other subscribers of the consumer.
func (h *Hand) Stranded() []*Delivery {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.takeStranded()
}

// end is settling as far as it needs the lock.
func (h *Hand) end(d *Delivery) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.ending == nil {
		h.ending = ending{}
	}
	h.ending[d] = time.Now()
	h.queue.Postpone(d, never)
	h.arm()
}

// unsettled notes that a delivery could not be settled. Its handler, or the server, has it
// for another ack wait.
func (h *Hand) unsettled(d *Delivery) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.ending, d)
	h.queue.Postpone(d, h.consumer.Load().AckWait())
}
