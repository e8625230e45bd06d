// Package hand holds what a subscription has in hand: the messages that are fetched and
// not settled. It decides which message is handled next, and settles messages.
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

// Hand is what a subscription has in hand, and what it remembers of earlier messages. It
// is safe for concurrent use.
//
// Its lock is taken in this file only. Methods in the other files of the package expect
// the caller to hold it, unless they are exported or belong to [Delivery]. Nothing is
// written to the connection, and no observer is called, while the lock is held.
type Hand struct {
	cfg      Config
	context  context.Context                    // of each new delivery; written by Begin
	pull     *pull.Pull                         // guarded by mu, except for the methods that need no lock
	sending  sync.WaitGroup                     // requests that are being written
	consumer atomic.Pointer[consumers.Consumer] // replaced under mu
	asked    atomic.Bool                        // a request was sent since the last Forfeit

	mu       sync.Mutex
	queue    queue.Queue[*Delivery] // fetched and not started
	running  []*Delivery            // being handled, by slot; nil where the worker is idle
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

// left is what is known of the messages that are left in the stream.
type left struct {
	at      time.Time // when pending was learned
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

// Pin returns the state of the pin, or nil if the consumer serves all its subscribers.
func (h *Hand) Pin() *pinned.Client { return h.pin }

// Wake returns the channel that wakes an idle worker when there may be something to do.
func (h *Hand) Wake() <-chan struct{} { return h.queue.Wake() }

// Nudge wakes an idle worker.
func (h *Hand) Nudge() { h.queue.Nudge() }

// stopped reports whether nothing is started any more.
func (h *Hand) stopped() bool { return h.cfg.Life.Err() != nil }

// Take starts the next message for a worker. It returns nothing if none can be started,
// or the subscription is stopped. If refused is not nil, d must be skipped for that
// reason, and so must the messages in also.
func (h *Hand) Take(slot int) (d *Delivery, refused *delivery.Refusal, also []*Delivery) {
	d, request, wanted, refused, also := h.start(slot)
	if wanted {
		_ = h.send(request) // what goes wrong comes again with the next request
	}
	return d, refused, also
}

// start is the part of Take under the lock. If more messages are wanted, it returns the
// request, which the caller sends.
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
	d.Waited = time.Since(d.Received)
	if refused = h.refusal(d); refused == nil {
		h.running[slot] = d
		d.Failures = h.ledger.Started(d.Meta)
		h.pace.Started(d.Received.Add(d.Waited))
	} else {
		also = h.refused(d, refused)
	}
	return d, request, wanted, refused, also
}

// Finish ends the handling of a delivery. If nobody has settled it by then, the server
// must deliver it again.
func (h *Hand) Finish(slot int, d *Delivery) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.running[slot] = nil
	h.pace.Returned(time.Since(d.Received) - d.Waited)
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

// keep keeps a failed message in hand, to be handled again after the delay. It returns
// false if the server must be told of the failure instead: because this was the last
// delivery that it makes, because the subscription is stopped, or because the message is
// in no lane.
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

// Crowded returns what a subscription with an order has in hand. With changed, fetching
// has come to a stand since the last call, or goes on again.
func (h *Hand) Crowded() (c Crowd, changed bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.crowd()
}

// Unsorted returns the next messages whose keys are not known. It returns none while a
// worker still asks for the keys of earlier ones.
func (h *Hand) Unsorted() []*Delivery {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.stopped() {
		return nil
	}
	return h.queue.Unsorted(KeyBatch)
}

// Sorted takes the keys of the first messages that Unsorted has returned. There may be
// fewer keys than messages: the next Unsorted returns the others again.
func (h *Hand) Sorted(keys []uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.queue.Sorted(keys)
}

// settled notes how a delivery was settled. After a Nak it comes again, after the delay.
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

// busy is Running for callers that hold the lock. A key function that runs counts, too.
func (h *Hand) busy() (n int) {
	for _, d := range h.running {
		if d != nil {
			n++
		}
	}
	if _, asking := h.queue.Asking(); asking {
		n++
	}
	return n
}

// Unstarted takes out all messages that wait, so that they can be given back. With an
// order they are in the order of the stream.
func (h *Hand) Unstarted() (ds []*Delivery) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.drop()
}

// drop empties the queue, and returns what was in it, except for messages that somebody
// settles at this moment.
func (h *Hand) drop() []*Delivery {
	return slices.DeleteFunc(h.queue.Empty(), (*Delivery).Taken)
}

// Len returns how many messages are in hand and not being handled.
func (h *Hand) Len() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.queue.Len()
}

// Look returns the next message from the inbox, if there is one. Otherwise wanted says
// whether to ask for more. Both are zero if a worker finds something to start already, or
// the subscription is stopped.
func (h *Hand) Look() (m *nats.Msg, wanted bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.stopped() || h.startable() {
		h.fetching = false
		return nil, false
	}
	h.fetching = true
	m = h.Poll()
	return m, m == nil
}

// Ask makes sure that a request is under way, if there is room for more messages. It
// returns how much longer the server may be silent until the request counts as lost. That
// is 0 if no request is under way.
func (h *Hand) Ask() (silence time.Duration, err error) {
	request, wanted, silence := h.next()
	if wanted {
		err = h.send(request)
	}
	return silence, err
}

// next is the part of Ask under the lock.
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

// request makes a request for more messages, if they are wanted. The caller holds the
// lock, and calls send after it has released it.
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

// send writes a request that was made by request. AwaitRequests waits for it.
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

// AwaitRequests waits until no request is being written. Call it when the subscription is
// stopped, so that no others follow, and before the inbox is closed: the answer to a later
// request would reach nobody.
func (h *Hand) AwaitRequests() { h.sending.Wait() }

// Abandon gives up the requests under way.
func (h *Hand) Abandon() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.abandon()
}

// Pausing reports whether the worker that fetches may pause, because there is nothing to
// start.
func (h *Hand) Pausing() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.fetching = !h.startable()
	return h.fetching
}

// Poll returns the next message from the inbox, or nil. It does not wait, and needs no
// lock.
func (h *Hand) Poll() *nats.Msg {
	select {
	case m := <-h.pull.Messages():
		return m
	default:
		return nil
	}
}

// Expects reports whether requests under way may still bring messages.
func (h *Hand) Expects() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.pull.Open() > 0 && !h.pull.Outlived()
}

// Behind reports whether the server has made deliveries that have not come here. Other
// replicas may have them.
func (h *Hand) Behind(info *jetstream.ConsumerInfo) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.ledger.Misses(info.Delivered.Consumer)
}

// Collect takes in a message, and all that are behind it in the inbox. With nil it begins
// with the inbox.
func (h *Hand) Collect(m *nats.Msg) Arrivals {
	h.mu.Lock()
	defer h.mu.Unlock()
	if m == nil {
		m = h.Poll()
	}
	return h.takeIn(m)
}

// BeginExtending prepares for Extend, which the caller calls if ok. The keeper's timer
// does not run until Extend is over. While all workers are busy, nobody else empties the
// inbox: so with takesIn it takes in what has come, which the caller reports to the
// observer. It need not act on an error in that: the next request meets it again.
func (h *Hand) BeginExtending(takesIn bool) (a Arrivals, ok bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.armed = false
	if h.extending || h.cfg.Base.Err() != nil { // abandoned, or over
		return a, false
	}
	h.extending = true
	if takesIn && !h.fetching && !h.stopped() {
		a = h.takeIn(h.Poll())
	}
	return a, true
}

// extensions returns the deliveries whose ack deadlines are to be extended now. It marks
// them as extended already. Extend sends the extensions, and then calls extended.
func (h *Hand) extensions() []extension {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.extendAll()
}

// Relieve frees the lanes of handlers that hang. It returns the messages that have
// expired behind them.
func (h *Hand) Relieve() []*Delivery {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.queue.Relieve(h.expiry(time.Now()))
}

// extended removes the marks from deliveries whose extension could not be sent. It starts
// the keeper again if something is in hand.
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

// End stops the keeper. It is called when the last worker has ended.
func (h *Hand) End() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.keeper != nil && len(h.ending) == 0 {
		h.keeper.Stop()
		h.armed = false // something may still be terminated
	}
	h.queue.End()
}

// Replace takes over what the server has told of the consumer. It returns false, and does
// nothing, if former is no longer the consumer in use.
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

// ResumeAt returns the stream sequence at which a consumer for new messages begins when
// it is made again. That is the first message that is being handled or must be delivered
// again, or else the one behind everything that was started. What other subscribers of a
// shared consumer had in hand only the server knew. The new consumer delivers once more
// what was settled behind that sequence; the ledger recognises the latest of these.
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

// RetriedSince reports whether a message has failed since then, and waits for its retry.
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

// The methods from here to CountUnsettled and Reckon are for a consumer that serves one
// subscriber at a time: [Hand.Pin] is not nil.

// Unpinned notes that the server does not know a pin any more.
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

// Forfeit gives up the pin and the requests under way, because the consumer has no pins
// any more. It takes out all messages that wait. Asked reports whether a request was sent
// since the last Forfeit.
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

// Disown forgets a pin that was given back. Messages that it still brings are dropped.
func (h *Hand) Disown(pin string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.pull.Pin() == pin { // something has come with it meanwhile
		h.lose(pin)
	} else {
		h.pull.Lose(pin)
	}
}

// Looked notes whom the server has named as pinned. If nobody works, it returns the stream
// sequences of the messages to claim.
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

// Renewal returns the request that renews the pin. It is not active if there is none.
func (h *Hand) Renewal() (r pull.Request, active bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.pull.Renewal(h.consumer.Load())
}

// ShowLife extends the ack deadline of one message in hand, if there is one. Others see
// from it that somebody works; see [pinned.Client].
func (h *Hand) ShowLife() {
	if d := h.lifeSign(); d != nil && !d.Settled() {
		_ = h.cfg.Conn.NATS().Publish(d.Msg.Reply, wire.ProgressBody)
	}
}

// lifeSign returns the message for ShowLife, or nil.
func (h *Hand) lifeSign() *Delivery {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.cfg.Base.Err() != nil { // nobody waits for the handlers any more
		return nil
	}
	return h.sign()
}

// CountUnsettled returns how many messages are in hand and not settled. A message that
// was delivered twice counts once, as it does for the server.
func (h *Hand) CountUnsettled() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.sequences())
}

// Reckon finds out whether everything has come that the former active subscription had in
// hand. If so, messages may be started, in the order of the stream. Info is the server's
// answer. When it was asked for, pin was the pin, and before is how many messages were in
// hand and not settled.
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

// Stranded takes out what waits behind handlers that hang, so that it can be given back
// for other subscribers of the consumer.
func (h *Hand) Stranded() []*Delivery {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.takeStranded()
}

// addEnding is the part of beginEnding under the lock.
func (h *Hand) addEnding(d *Delivery) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.ending == nil {
		h.ending = ending{}
	}
	h.ending[d] = time.Now()
	h.queue.Postpone(d, never)
	h.arm()
}

// cancelEnding notes that a delivery has not been settled after all. With an order its
// key waits for another ack wait: its handler may still settle it, or the server delivers
// it again.
func (h *Hand) cancelEnding(d *Delivery) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.ending, d)
	h.queue.Postpone(d, h.consumer.Load().AckWait())
}
