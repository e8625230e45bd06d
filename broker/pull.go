package broker

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// The pull protocol (ADR-13), spoken directly rather than through nats.go's
// Fetch. Fetch makes an inbox per request and drops it with the request: what
// the server sends for a cancelled one is lost until AckWait, an outage looks
// like an idle poll, and a user's message with a Status header and no body
// passes for a control message and blocks the queue for ever. One inbox for
// the life of the subscription has none of these troubles.

// pull is the fetching of a subscription. With a backlog and quick handlers it
// asks for more before all that it has asked for is there, so that the server
// never waits. All requests have one inbox: the server deals messages to them in
// turn, and only in one inbox do these stay in order. Its fields are guarded by
// subscription.mu.
type pull struct {
	nc       *nats.Conn
	link     *link
	inbox    string // requests reply to inbox.<n>
	sub      *nats.Subscription
	messages chan *nats.Msg // deliveries and statuses

	batch     batchSizer
	fixedWait time.Duration // 0: adaptive
	clock     time.Time     // of the connection; see together
	maxBytes  int           // of all that is under way; 0: requestBytes, shared by several requests
	idle      int           // requests in a row that brought nothing
	wait      time.Duration // of the latest request
	madeOn    uint64        // the connection that it was made on, by link's number
	first     uint64        // the number of the oldest request that may be under way
	seq       uint64        // the number of the latest
	open      int           // messages that they may still deliver; 0: none is under way
	bytes     int           // how much these may weigh
	got       int           // messages that have come since the latest was made
	short     bool          // a request has ended since, not served in full
	left      int           // messages that waited when it was made
	single    bool          // the next message exceeds the byte bound: fetch it alone; until one comes
}

// statusSlots is room in the channel for statuses and heartbeats between
// deliveries: few, so that with the default MaxAckPending it takes 8 KiB.
const statusSlots = 12

// requestBytes bounds what all requests under way may bring, where the user has
// not: messages may suddenly be far larger than those that the batch was made for.
// Each gets half of what the others leave, so that there is room for the next; it
// expects far less, batchBytes at the most. There are four at a time.
const requestBytes = 16 << 20

// severalWaiting is the least MaxWaiting of a consumer with which several requests may
// be under way: room for those of this subscription and for as many of another
// replica. The server refuses what is too much, or drops it without a word.
const severalWaiting = 8

// spareBytes is what must be left for another one. With less, some of those under
// way had better end first.
const spareBytes = requestBytes / 16

// maxSlots bounds the channel of a consumer that may have very many messages
// under way.
const maxSlots = 8192

func openPull(c *connection, cs *consumer, cfg *config) (*pull, error) {
	p := &pull{nc: c.nc, link: &c.link, inbox: c.nc.NewInbox(), batch: newBatchSizer(cfg.batchSize), fixedWait: cfg.fetchWait, clock: c.born, maxBytes: cfg.fetchBytes}
	// A message that finds the channel full is dropped by the client and comes
	// again after AckWait. Requests from before a reconnect may still be served
	// beside the new one, but never beyond the consumer's MaxAckPending.
	slots := maxSlots
	if n := cs.cfg.MaxAckPending; n > 0 {
		slots = min(n, maxSlots)
	}
	p.messages = make(chan *nats.Msg, max(slots, p.batch.largest())+statusSlots)
	var err error
	p.sub, err = c.nc.ChanSubscribe(p.inbox+".*", p.messages)
	return p, err
}

// early reports whether to ask for more while this many messages still wait to
// be handled.
func (p *pull) early(cs *consumer, waiting int) bool {
	if n := cs.cfg.MaxWaiting; p.open > 0 && n > 0 && n < severalWaiting {
		return false
	}
	if p.open > 0 && (p.maxBytes > 0 || requestBytes-p.bytes < spareBytes) {
		return false // the bound is for all that is under way
	}
	// To add to requests that have died would make them count as alive.
	return p.got > 0 && p.batch.early(p.open+waiting) && !p.outlived()
}

// request asks for the next messages.
func (p *pull) request(cs *consumer, waiting int) error {
	now := time.Now()
	p.batch.handled(p.left+p.got-waiting, p.got > 0 && !p.short, now)
	if p.left = waiting; waiting > 0 {
		p.batch.arrived(now)
	}
	p.got, p.short = 0, false
	batch := p.batch.next() - p.open - waiting
	if batch < 1 {
		return nil // there is enough: handlers are slower than they were
	}
	wait := p.nextWait(now)
	if n := cs.cfg.MaxRequestBatch; n > 0 {
		batch = min(batch, n)
	}
	if d := cs.cfg.MaxRequestExpires; d > 0 {
		wait = min(wait, d)
	}
	if p.open == 0 {
		p.bytes = 0
	}
	maxBytes := p.maxBytes
	if maxBytes == 0 {
		maxBytes = requestBytes - p.bytes
		if p.batch.fixed == 0 { // else there is one request at a time
			maxBytes /= 2
		}
	}
	if n := cs.cfg.MaxRequestMaxBytes; n > 0 {
		maxBytes = min(maxBytes, n)
	}
	if p.single {
		batch = 1
		maxBytes = cs.cfg.MaxRequestMaxBytes
	}
	if p.seq++; p.open == 0 {
		p.first = p.seq
	}
	p.open += batch
	p.bytes += maxBytes
	p.wait = wait
	_, p.madeOn = p.link.state()

	body := make([]byte, 0, 96)
	body = append(body, `{"batch":`...)
	body = strconv.AppendInt(body, int64(batch), 10)
	body = append(body, `,"expires":`...)
	body = strconv.AppendInt(body, int64(wait), 10)
	if maxBytes > 0 {
		body = append(body, `,"max_bytes":`...)
		body = strconv.AppendInt(body, int64(maxBytes), 10)
	}
	if hb := heartbeat(wait); hb > 0 {
		body = append(body, `,"idle_heartbeat":`...)
		body = strconv.AppendInt(body, int64(hb), 10)
	}
	body = append(body, '}')
	err := p.nc.PublishRequest(nextSubject(cs),
		p.inbox+"."+strconv.FormatUint(p.seq, 10), body)
	if err != nil {
		p.abandon()
	}
	return err
}

const (
	minWait = 5 * time.Second
	maxWait = 30 * time.Second
	// together is how close to each other the long waits of a connection end: all
	// on its full seconds. A thousand idle subscriptions then wake the process a
	// few times in half a minute, and not each for itself, which is most of what
	// they cost.
	together = time.Second
)

// nextWait is how long the server may hold the next request: long while nothing
// comes.
func (p *pull) nextWait(now time.Time) time.Duration {
	switch {
	case p.fixedWait > 0:
		return p.fixedWait
	case p.idle > 0:
		return maxWait - now.Sub(p.clock)%together
	}
	return minWait
}

// heartbeat is how often the server reports while it has nothing to deliver: an
// idle stream and a dead server look the same otherwise. The server wants at
// least two in the time of a request.
func heartbeat(wait time.Duration) time.Duration {
	if wait < 10*time.Second {
		return 0 // its end comes soon enough
	}
	return min(wait/2, 15*time.Second)
}

// silence is how long nothing may come before the request counts as lost.
func (p *pull) silence() time.Duration {
	if hb := heartbeat(p.wait); hb > 0 {
		return hb + 5*time.Second
	}
	return p.wait + time.Second
}

// nextSubject is where the consumer takes requests.
func nextSubject(cs *consumer) string {
	return "$JS.API.CONSUMER.MSG.NEXT." + cs.stream.name + "." + cs.name
}

// errBatchDone ends a request in the ordinary way.
var errBatchDone = errors.New("request completed")

// accept looks at a message from the inbox. It returns true for a delivery. For
// a status it returns an error if that has ended a request under way:
// errBatchDone, or what went wrong.
func (p *pull) accept(m *nats.Msg) (delivery bool, err error) {
	// A delivery can be acknowledged. Its headers say nothing: users may set
	// Status themselves.
	if m.Reply != "" {
		p.got++
		p.idle = 0
		p.single = false
		if p.open > 0 {
			p.open--
		}
		p.bytes = max(p.bytes-m.Size(), 0)
		p.batch.weigh(m.Size())
		return true, nil
	}
	_, token, _ := cutLast(m.Subject, ".")
	if seq, ok := parseUint(token); !ok || seq < p.first || p.open == 0 {
		return false, nil // of an earlier request
	}
	err = statusError(m.Header.Get("Status"), m.Header.Get("Description"))
	if err == nil {
		return false, nil
	}
	left := undelivered(m, "Nats-Pending-Messages", p.open)
	p.bytes -= undelivered(m, "Nats-Pending-Bytes", p.bytes)
	if left == 0 && errors.Is(err, errBatchDone) {
		return false, err // served in full, with bytes to spare
	}
	p.open -= left
	p.short = true
	switch {
	case p.open > 0 || p.got > 0:
	case errors.Is(err, jetstream.ErrMaxBytesExceeded):
		if p.single {
			return false, err // it is too large for the consumer
		}
		p.single = true
	case errors.Is(err, errBatchDone):
		p.idle++
	}
	if errors.Is(err, jetstream.ErrMaxBytesExceeded) {
		err = errBatchDone
	}
	return false, err
}

// undelivered returns how much the request that a status has ended was still to
// deliver, of all that is under way. Where the server does not say, it is all.
func undelivered(m *nats.Msg, header string, all int) int {
	if n, ok := parseUint(m.Header.Get(header)); ok {
		return min(int(n), all)
	}
	return all
}

// statusError tells what a status means for the request: nil if it goes on.
func statusError(status, description string) error {
	switch status {
	case "100": // heartbeat
		return nil
	case "404", "408": // no messages, expired: an idle poll
		return errBatchDone
	case "503":
		return nats.ErrNoResponders
	case "409":
		lower := strings.ToLower(description)
		for _, known := range conflicts {
			if strings.Contains(lower, known.text) {
				return known.err
			}
		}
	}
	return fmt.Errorf("the server refused the fetch: %s %s", status, description)
}

var conflicts = []struct {
	text string
	err  error
}{
	{"batch completed", errBatchDone}, // by bytes
	{"message size exceeds maxbytes", jetstream.ErrMaxBytesExceeded},
	{"consumer deleted", jetstream.ErrConsumerDeleted},
	{"leadership change", jetstream.ErrConsumerLeadershipChanged},
	{"server shutdown", jetstream.ErrServerShutdown},
}

// outlived reports whether the requests under way have died with the connection
// that they were made on.
func (p *pull) outlived() bool {
	up, number := p.link.state()
	return p.open > 0 && (!up || number != p.madeOn)
}

// abandon gives up the requests under way, whose statuses no longer count.
func (p *pull) abandon() {
	p.first, p.open, p.bytes, p.got, p.short, p.left, p.idle = p.seq+1, 0, 0, 0, false, 0, 0
	p.batch.reset()
}

// close ends the inbox. When it returns, everything the client's server has sent is
// in the channel, provided that the connection is up.
func (p *pull) close() {
	// Drain, unlike Unsubscribe, keeps accepting what is on the way. But in an outage
	// the client takes it for a subscription to make again, on the server only.
	if p.link.connected() && p.sub.Drain() == nil && p.nc.FlushTimeout(closeTimeout) == nil {
		return
	}
	_ = p.sub.Unsubscribe()
}

func cutLast(s, sep string) (before, after string, ok bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return s, "", false
}
