// Package pull speaks the pull protocol of JetStream (ADR-13) for one subscription:
// it decides what to ask for, and reads what the server answers.
//
// It does not use nats.go's Fetch, which makes an inbox for each request and drops
// it with the request. What the server sends for a cancelled request is then lost
// until AckWait. An outage looks like an idle poll. And a user's message with a Status
// header and no body passes for a control message, which blocks the queue for ever.
// One inbox for the life of the subscription has none of these troubles.
package pull

import (
	"encoding/json"
	"errors"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"go-micro-jetstream/broker/internal/consumers"
	"go-micro-jetstream/broker/internal/link"
	"go-micro-jetstream/broker/internal/wire"
)

// Limits bounds what a subscription asks for.
type Limits struct {
	Batch int           // messages under way; 0: as many as the handlers keep up with
	Bytes int           // bytes under way; 0: 16 MiB, shared by several requests
	Wait  time.Duration // how long the server may hold a request; 0: 5 to 30 seconds
}

// Pull is the fetching of one subscription. With a backlog and quick handlers it asks
// for more before everything that it asked for is there, so that the server never
// waits. All requests have one inbox: the server deals messages out to the requests in
// turn, and they stay in order only if they come in one inbox.
//
// It has no lock. The caller guards all methods with one lock, except [Pull.Messages],
// [Pull.Inbox], [Pull.Send], [Pull.Cancel] and [Pull.Close], which need none.
type Pull struct {
	mailbox
	conn *link.Conn
	pin  string // see Pin
	lost string // see Lose

	batch     batchSizer
	fixedWait time.Duration // 0: adaptive
	maxBytes  int           // of everything under way; 0: requestBytes
	idle      int           // requests in a row that brought nothing
	asked     requestBody   // the latest request
	made      time.Time     // when that was made
	heard     time.Time     // when the server last sent something
	madeOn    uint64        // the number of the connection that the latest was made on
	first     uint64        // the number of the oldest request that may be under way
	latest    uint64        // the number of the latest
	open      int           // messages that they may still deliver; 0: none is under way
	bytes     int           // bytes that they may still deliver
	got       int           // messages that have come since the latest was made
	short     bool          // a request has ended since, and was not served in full
	left      int           // messages that waited when the latest was made
	single    bool          // the next message exceeds the byte bound: fetch it alone, until one comes
	within    int           // the most messages that the next request asks for; 0: any number
}

// mailbox is where the answers come.
type mailbox struct {
	inbox    string // requests reply to inbox.<number>
	listener *link.Listener
	messages chan *nats.Msg // deliveries and statuses
}

// statusSlots is room in the channel for statuses and heartbeats between deliveries: for
// the heartbeats of a request that nobody listens to while a handler runs.
// There are few, so that the channel takes 8 KiB.
const statusSlots = 24

// requestBytes bounds what all requests under way may bring if the user has set no
// bound: messages may suddenly be far larger than those that the batch was made for.
// Each request gets half of what the others leave, so that there is room for the next
// one. It expects far less, at most batchBytes. That makes four requests at a time.
const requestBytes = 16 << 20

// spareBytes is what must be left for another request. With less, the next request
// waits until some of those under way have ended.
const spareBytes = requestBytes / 16

// severalWaiting is the least MaxWaiting of a consumer that allows several requests
// under way: room for those of this subscription, and for as many of another replica.
// The server refuses what is too much, or drops it without a word.
const severalWaiting = 8

// maxSlots bounds the channel for a consumer that may have very many messages under way.
// The requests under way ask for fewer; the rest is for those from before some
// reconnects.
const maxSlots = 988

// Open makes the inbox. It asks for nothing yet.
func Open(conn *link.Conn, cs *consumers.Consumer, l Limits) (*Pull, error) {
	p := &Pull{
		mailbox:   mailbox{inbox: conn.NATS().NewInbox()},
		conn:      conn,
		batch:     newBatchSizer(l.Batch),
		fixedWait: l.Wait,
		maxBytes:  l.Bytes,
	}
	// The client drops a message that finds the channel full, and it comes again after
	// AckWait. The server may still serve requests from before a reconnect beside the
	// new one, but never beyond the consumer's MaxAckPending.
	slots := maxSlots
	if n := cs.Config.MaxAckPending; n > 0 {
		slots = min(n, maxSlots)
	}
	p.messages = make(chan *nats.Msg, max(slots, p.batch.largest())+statusSlots)
	var err error
	p.listener, err = conn.Listen(func(nc *nats.Conn) (*nats.Subscription, error) {
		return nc.ChanSubscribe(p.inbox+".*", p.messages)
	})
	return p, err
}

// Messages returns what has come: deliveries, and statuses of requests.
func (p *Pull) Messages() <-chan *nats.Msg { return p.messages }

// Inbox returns the subject that all answers begin with.
func (p *Pull) Inbox() string { return p.inbox }

// Open returns how many messages the requests under way may still deliver. It is 0 if
// no request is under way.
func (p *Pull) Open() int { return p.open }

// Idle returns how many requests in a row have brought nothing.
func (p *Pull) Idle() int { return p.idle }

// Arrived notes that messages have come at that time.
func (p *Pull) Arrived(now time.Time) { p.batch.arrived(now) }

// Early reports whether to ask for more while this many messages still wait to be
// handled.
func (p *Pull) Early(cs *consumers.Consumer, waiting int) bool {
	if n := cs.Config.MaxWaiting; p.open > 0 && n > 0 && n < severalWaiting {
		return false
	}
	if p.open > 0 && (p.maxBytes > 0 || requestBytes-p.bytes < spareBytes) {
		return false // the bound is for everything that is under way
	}
	// A request added to those that have died would make them count as alive.
	return p.got > 0 && p.batch.early(p.open+waiting) && !p.Outlived()
}

// Within bounds how many messages each request asks for from now on.
func (p *Pull) Within(n int) { p.within = n }

// Request is what to send to the server; see [Pull.Request].
type Request struct {
	subject string
	number  uint64
	body    requestBody
}

// requestBody is the server's JSApiConsumerGetNextRequest.
type requestBody struct {
	Batch     int           `json:"batch"`
	Expires   time.Duration `json:"expires"`
	MaxBytes  int           `json:"max_bytes,omitempty"`
	Heartbeat time.Duration `json:"idle_heartbeat,omitempty"`
	NoWait    bool          `json:"no_wait,omitempty"`
	Group     string        `json:"group,omitempty"` // see consumers.Consumer.Group
	ID        string        `json:"id,omitempty"`    // see Pull.Pin
}

// Request returns a request for the next messages while this many wait to be handled,
// and counts it as under way. It returns false if enough is under way already. The
// caller sends it with [Pull.Send], without its lock.
func (p *Pull) Request(cs *consumers.Consumer, waiting int) (Request, bool) {
	now := time.Now()
	p.batch.handled(p.left+p.got-waiting, p.got > 0 && !p.short, now)
	if p.left = waiting; waiting > 0 {
		p.batch.arrived(now)
	}
	p.got, p.short = 0, false
	batch := p.batch.next() - p.open - waiting
	if batch < 1 {
		return Request{}, false // handlers are slower than they were
	}
	body := p.bounded(cs, batch, p.nextWait(now))
	if p.latest++; p.open == 0 {
		p.first = p.latest
	}
	p.open += body.Batch
	p.bytes += body.MaxBytes
	p.asked, p.made = body, now
	_, p.madeOn = p.conn.State()
	if body.Group = cs.Group(); body.Group != "" {
		body.ID = p.pin
	}
	return Request{subject: p.conn.API(cs.Next()), number: p.latest, body: body}, true
}

// bounded returns a request that keeps to the limits of the user and of the consumer.
func (p *Pull) bounded(cs *consumers.Consumer, batch int, wait time.Duration) requestBody {
	if n := cs.Config.MaxRequestBatch; n > 0 {
		batch = min(batch, n)
	}
	if p.within > 0 {
		batch = min(batch, p.within)
	}
	if d := cs.Config.MaxRequestExpires; d > 0 {
		wait = min(wait, d)
	}
	if p.open == 0 {
		p.bytes = 0
	}
	bytes := p.maxBytes
	if bytes == 0 {
		bytes = requestBytes - p.bytes
		if p.batch.fixed == 0 { // otherwise there is one request at a time
			bytes /= 2
		}
	}
	if n := cs.Config.MaxRequestMaxBytes; n > 0 {
		bytes = min(bytes, n)
	}
	if p.single {
		batch = 1
		bytes = cs.Config.MaxRequestMaxBytes
	}
	return requestBody{Batch: batch, Expires: wait, MaxBytes: bytes, Heartbeat: heartbeat(wait, p.conn.Listeners())}
}

// Send sends a request. If it fails, the caller gives the requests under way up with
// [Pull.Abandon].
func (p *Pull) Send(r Request) error {
	body, err := json.Marshal(r.body)
	if err != nil {
		return err
	}
	return p.conn.NATS().PublishRequest(r.subject, p.reply(r), body)
}

const (
	minWait = 5 * time.Second
	maxWait = 30 * time.Second
	// waitStep is the grid on which the long waits of a connection end: its full
	// seconds. A thousand idle subscriptions then wake the process a few times in half
	// a minute, rather than each at a time of its own. These wake-ups are most of what
	// idle subscriptions cost.
	waitStep = time.Second
)

// nextWait is how long the server may hold the next request: long while nothing comes.
func (p *Pull) nextWait(now time.Time) time.Duration {
	switch {
	case p.fixedWait > 0:
		return p.fixedWait
	case p.idle > 0:
		return idleWait(now.Sub(p.conn.Born()))
	}
	return minWait
}

// idleWait is the wait of a request that is made at that age of the connection.
func idleWait(age time.Duration) time.Duration { return maxWait - age%waitStep }

// minBeat and maxBeat bound heartbeat, and beatShare is what each subscription of the
// connection adds to it: all together get ten in a second at most.
const (
	minBeat   = 2 * time.Second
	maxBeat   = 15 * time.Second
	beatShare = 100 * time.Millisecond
)

// heartbeat is how often the server reports while it has nothing to deliver, for a
// connection with so many subscriptions. Without heartbeats an idle stream looks the same
// as a dead server, or as one behind a link that was cut. The server wants at least two
// in the time of a request.
func heartbeat(wait time.Duration, subscriptions int) time.Duration {
	if wait < 2*minBeat {
		return 0 // the request ends soon enough
	}
	beat := min(max(time.Duration(subscriptions)*beatShare, minBeat), maxBeat, wait/2)
	return beat.Truncate(time.Millisecond)
}

// leastSilence is how long to wait at least: the client may still have to hand on what
// has come.
const leastSilence = 100 * time.Millisecond

// Heard notes that the server has sent something to the inbox at that time.
func (p *Pull) Heard(now time.Time) { p.heard = now }

// Silence returns how much longer nothing may come before the requests under way count
// as lost. It counts from the latest request, or from what the server has sent since.
func (p *Pull) Silence(now time.Time) time.Duration {
	since := p.made
	if p.heard.After(since) {
		since = p.heard
	}
	silence := p.asked.Expires + time.Second
	if beat := p.asked.Heartbeat; beat > 0 {
		silence = min(silence, 2*beat+time.Second, beat+5*time.Second)
	}
	return max(since.Add(silence).Sub(now), leastSilence)
}

// Accept looks at a message from the inbox. It returns true for a delivery. For a
// status that has ended a request under way it returns an error: [wire.ErrBatchDone],
// or what went wrong. [jetstream.ErrMaxBytesExceeded] says that the next message is too
// large for the consumer.
func (p *Pull) Accept(m *nats.Msg) (delivery bool, err error) {
	// A delivery can be acknowledged. Its headers say nothing: users may set Status
	// themselves.
	if m.Reply != "" {
		p.delivered(m.Size(), wire.Weight(m))
		if pin := m.Header.Get(wire.PinHeader); pin != "" && pin != p.lost {
			p.pin = pin
		}
		return true, nil
	}
	number, ok := wire.ParseUint(m.Subject[strings.LastIndexByte(m.Subject, '.')+1:])
	if !ok || number < p.first || p.open == 0 {
		return false, nil // of an earlier request
	}
	if err = wire.StatusError(m.Header.Get("Status"), m.Header.Get("Description")); err == nil {
		return false, nil
	}
	if errors.Is(err, wire.ErrNotPinned) { // the next request has no pin
		p.pin, err = "", wire.ErrBatchDone
	}
	left := undelivered(m, "Nats-Pending-Messages", p.open)
	p.bytes -= undelivered(m, "Nats-Pending-Bytes", p.bytes)
	if left == 0 && errors.Is(err, wire.ErrBatchDone) {
		return false, err // served in full, with bytes to spare
	}
	p.open -= left
	p.short = true
	switch {
	case p.open > 0 || p.got > 0:
	case errors.Is(err, jetstream.ErrMaxBytesExceeded):
		if p.single {
			return false, err
		}
		p.single = true
	case errors.Is(err, wire.ErrBatchDone):
		p.idle++
	}
	if errors.Is(err, jetstream.ErrMaxBytesExceeded) {
		err = wire.ErrBatchDone
	}
	return false, err
}

// delivered accounts for a message of that size on the wire, and of that weight.
func (p *Pull) delivered(size, weight int) {
	p.got++
	p.idle = 0
	p.single = false
	if p.open > 0 {
		p.open--
	}
	p.bytes = max(p.bytes-size, 0)
	p.batch.weigh(weight)
}

// undelivered returns how much the request that a status has ended was still to
// deliver, out of everything under way. If the server does not say, that is all of it.
func undelivered(m *nats.Msg, header string, all int) int {
	if n, ok := wire.ParseUint(m.Header.Get(header)); ok && n < uint64(max(all, 0)) {
		return int(n)
	}
	return all
}

// Outlived reports whether the requests under way have died with the connection that
// they were made on.
func (p *Pull) Outlived() bool {
	if p.open == 0 {
		return false
	}
	up, number := p.conn.State()
	return !up || number != p.madeOn
}

// Lapsed reports whether no request is under way: the server delivers nothing more.
func (p *Pull) Lapsed(now time.Time) bool {
	return p.open == 0 || p.Outlived() || now.Sub(p.made) > p.asked.Expires+lapseGrace
}

// lapseGrace is how much later than its end a request may still deliver.
const lapseGrace = time.Second

// Abandon gives up the requests under way. Their statuses no longer count. What they
// still deliver is taken all the same.
func (p *Pull) Abandon() {
	p.first, p.open, p.bytes, p.got, p.short, p.left, p.idle = p.latest+1, 0, 0, 0, false, 0, 0
	p.batch.reset()
}

// Again subscribes to the inbox once more, because the server may have refused it after a
// reconnect. The requests under way must be given up.
func (p *Pull) Again() error { return p.listener.Again() }

// Cancel has the server drop the requests under way, which must be given up. What they
// have delivered is in the channel then. The server drops a request that nobody listens
// to when it is asked for the consumer (infoWithSnapAndReply in server/consumer.go), so
// ask must do that.
func (p *Pull) Cancel(ask func()) error { return p.listener.AgainAfter(ask) }

// Close ends the inbox. When it returns, everything that the client's server has sent
// is in the channel, provided that the connection is up. It waits at most
// [link.CloseTimeout] for that.
func (p *Pull) Close() {
	// Drain keeps accepting what is on the way, and Unsubscribe does not. But in an
	// outage the client takes a drained subscription for one to make again, and only
	// the server would know of it.
	if p.conn.Up() && p.listener.Drain() == nil && p.conn.NATS().FlushTimeout(link.CloseTimeout) == nil {
		return
	}
	_ = p.listener.Unsubscribe()
}
