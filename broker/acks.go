package broker

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// acks matches the answers of streams to the publishes that wait for them: one
// inbox for the life of the connection. It does what the client's own request
// does, without its locks on the connection, its channel and its timer per
// message, and it hands a permission violation to the publish that it is about.
type acks struct {
	nc     *nats.Conn
	outbox outbox
	epoch  atomic.Uint64 // changes of the connection's state

	mu      sync.Mutex
	replies replies
	acked   map[string]*uint64 // by stream: the highest sequence that it has acknowledged
	timer   *time.Timer        // ends the publishes whose time is over
	expiry  time.Time          // when it fires; zero: never
	deaf    error              // why no answer can arrive; nil: it can
}

func newAcks() *acks {
	return &acks{replies: replies{byID: make(map[uint64]*reply)}, acked: make(map[string]*uint64)}
}

// waiter is a publish that has no answer yet.
type waiter struct {
	subject string
	stream  *stream
	limit   time.Time
	reuse   bool          // its reply subject may have been used before
	acked   uint64        // by the stream, when the message was registered
	answer  chan answer   // holds one; of a publish that waits
	async   *asyncPublish // of one that does not
}

// answer is what a publish has waited for: an acknowledgement by its stream, or
// another message, or an error.
type answer struct {
	sequence uint64
	msg      *nats.Msg
	doubtful bool // the message may be an answer to an earlier publish
	err      error
}

// plain reports whether it is an acknowledgement by the stream.
func (a answer) plain() bool { return a.msg == nil && a.err == nil }

// waiters keeps those that wait, with their channels, for later.
var waiters = sync.Pool{New: func() any { return &waiter{answer: make(chan answer, 1)} }}

// errNotSent is about a message that the client would not send.
var errNotSent = errors.New("not sent")

// unsendable are the client's own reasons not to send a message. Every other is
// the connection's: what it failed to write in full, no server has taken in.
var unsendable = []error{
	nats.ErrMaxPayload, nats.ErrBadSubject, nats.ErrInvalidMsg, nats.ErrBadHeaderMsg, nats.ErrHeadersNotSupported,
	nats.ErrConnectionClosed, nats.ErrConnectionDraining, nats.ErrInvalidConnection,
}

// errInterrupted ends a try when the connection or its inbox was lost: its answer, if
// there was one, is lost as well.
var errInterrupted = errors.New("the connection, or its inbox, was lost while waiting for the answer")

// errDoubtful ends a try whose answer may be another publish's; see replies.
var errDoubtful = errors.New("the answer is not certain to be this message's")

// open starts to listen for answers.
func (a *acks) open(nc *nats.Conn) error {
	a.nc, a.replies.prefix = nc, nc.NewInbox()+"."
	a.outbox.write = a.write
	_, err := nc.Subscribe(a.replies.prefix+"*", a.receive)
	return err
}

// close stops what would outlive the connection. No answer is awaited any more.
func (a *acks) close() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.timer != nil {
		a.timer.Stop()
	}
}

func (a *acks) receive(m *nats.Msg) {
	id, ok := parseUint(strings.TrimPrefix(m.Subject, a.replies.prefix))
	if !ok {
		return
	}
	a.mu.Lock()
	r := a.replies.byID[id]
	switch {
	case r == nil: // too late
		a.mu.Unlock()
		return
	case r.waiter == nil:
		a.replies.distrust()
		a.mu.Unlock()
		return
	}
	st, used := r.waiter.stream, r.used
	sequence, plain := plainAck(m.Data, st.name)
	switch {
	case r.begun.Load() != r.number: // nobody can have the message yet
		a.replies.distrust()
		a.finish(r, answer{msg: m, doubtful: true})
	case !plain:
		a.finish(r, answer{msg: m, doubtful: used})
	case used && sequence <= r.waiter.acked:
		// A message gets a higher sequence than all that its stream had acked when
		// it was sent: this is an earlier one's, or another stream's of that name.
		a.replies.distrust()
		a.finish(r, answer{msg: m, doubtful: true})
	default:
		*st.acked = max(*st.acked, sequence)
		a.finish(r, answer{sequence: sequence})
	}
}

// finish hands an answer to the waiter. The caller holds a.mu; finish releases it.
func (a *acks) finish(r *reply, got answer) {
	w := r.waiter
	r.waiter = nil
	if got.plain() {
		a.replies.release(r)
	} else {
		a.replies.retire(r)
	}
	if w.async == nil {
		a.outbox.returns()
		w.answer <- got // under the lock: the waiter is used again
	}
	a.mu.Unlock()
	if w.async != nil {
		w.async.answered(got)
	}
}

// use is what a publish makes of a reply subject.
type use struct {
	reply  *reply
	number uint64
}

// awaited reports whether a publish has no answer yet. The caller holds acks.mu.
func (u use) awaited() bool { return u.reply.waiter != nil && u.reply.number == u.number }

// begins notes that the client gets the message.
func (u use) begins() { u.reply.begun.Store(u.number) }

// wrote notes that the client has the message.
func (u use) wrote() { u.reply.written.Store(u.number) }

// written reports whether the client has the message.
func (u use) written() bool { return u.reply.written.Load() == u.number }

// premature is for an answer to a message that was not written in the end: it is
// another's.
func (a *acks) premature() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.replies.distrust()
	return errDoubtful
}

// fail ends a publish without an answer, if it has none.
func (a *acks) fail(u use, err error) {
	a.mu.Lock()
	if !u.awaited() {
		a.mu.Unlock()
		return
	}
	a.finish(u.reply, answer{err: err})
}

// refuse tells a publish of a permission violation to its subject. There is one for
// each message that the server refuses: it is the latest, as those before may have
// been sent while they were permitted.
func (a *acks) refuse(violation error) {
	subject, ok := refusedSubject(violation, publishViolation)
	if !ok {
		return
	}
	var latest use
	a.mu.Lock()
	for _, r := range a.replies.byID {
		if r.waiter != nil && r.waiter.subject == subject && r.number > latest.number {
			latest = use{r, r.number}
		}
	}
	a.mu.Unlock()
	if latest.reply != nil {
		a.fail(latest, fmt.Errorf("%w: %w", ErrPermission, violation))
	}
}

// refusedSubject returns the subject of a permission violation, which the server writes
// as Go source does, if it is one of that kind.
func refusedSubject(violation error, kind string) (string, bool) {
	_, after, _ := strings.Cut(violation.Error(), kind)
	quoted, err := strconv.QuotedPrefix(after)
	if err != nil {
		return "", false
	}
	subject, err := strconv.Unquote(quoted)
	return subject, err == nil
}

// interrupt tells all that the connection is lost, or its inbox, and with it their
// answers.
func (a *acks) interrupt() {
	a.epoch.Add(1) // first: who registers after that is refused
	a.failAll(errInterrupted, func(*waiter) bool { return true })
}

// deafen is for a server that lets no answer arrive any more. Until the connection is
// another one, publishes fail at once rather than be stored and not be acknowledged;
// those under way may have been.
func (a *acks) deafen(violation error) {
	a.mu.Lock()
	a.deaf = fmt.Errorf("%w: no answer can arrive, as the user may not subscribe to its inbox: %w", ErrPermission, violation)
	a.mu.Unlock()
	a.interrupt()
}

// undeafen is for a new connection, where the server is asked again. It returns why the
// former was deaf, or nil if it was not.
func (a *acks) undeafen() (was error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	was, a.deaf = a.deaf, nil
	return was
}

// deafness returns why no answer can arrive, or nil if it can.
func (a *acks) deafness() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.deaf
}

// now returns a point in the life of the connection for those who look at its
// state before they send.
func (a *acks) now() (epoch uint64) { return a.epoch.Load() }

func (a *acks) failAll(err error, which func(*waiter) bool) {
	var uses []use
	a.mu.Lock()
	for _, r := range a.replies.byID {
		if r.waiter != nil && which(r.waiter) {
			uses = append(uses, use{r, r.number})
		}
	}
	a.mu.Unlock()
	for _, u := range uses {
		a.fail(u, err)
	}
}

// ackedBy returns where acks keeps the highest sequence that the named stream has
// acknowledged, whatever becomes of what is known of the stream otherwise.
func (a *acks) ackedBy(name string) *uint64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.acked[name] == nil {
		a.acked[name] = new(uint64)
	}
	return a.acked[name]
}

// register gives the message of a waiter a reply subject. The waiter is told of the
// answer, or why there is none. It fails if the connection has changed since the
// epoch.
func (a *acks) register(m *nats.Msg, w *waiter, epoch uint64) (outgoing, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.epoch.Load() != epoch {
		return outgoing{}, errConnectionLost
	}
	if a.deaf != nil {
		return outgoing{}, a.deaf
	}
	r := a.replies.take(w)
	w.acked = *w.stream.acked
	if a.expiry.IsZero() || w.limit.Before(a.expiry) {
		a.expireAt(w.limit)
	}
	m.Reply = r.subject
	return outgoing{use{r, r.number}, m}, nil
}

// write hands a message to the client.
func (a *acks) write(m outgoing) {
	m.use.begins()
	err := a.nc.PublishMsg(m.msg)
	if err == nil {
		m.use.wrote()
		return
	}
	why := errConnectionLost
	if slices.ContainsFunc(unsendable, func(reason error) bool { return errors.Is(err, reason) }) {
		why = errNotSent
	}
	if errors.Is(err, nats.ErrMaxPayload) { // the server before this one accepted more
		err = fmt.Errorf("%w: %d bytes without headers, the server accepts %d: %w", ErrMessageTooLarge, len(m.msg.Data), a.nc.MaxPayload(), err)
	}
	a.fail(m.use, fmt.Errorf("%w: %w", why, err))
}

// remove reports whether there was no answer yet. There will be none then.
func (a *acks) remove(u use) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !u.awaited() {
		return false
	}
	u.reply.waiter = nil
	a.replies.retire(u.reply)
	return true
}

// expireAt sets the one timer of all publishes: one for each would cost more than
// all else here. The caller holds a.mu.
func (a *acks) expireAt(limit time.Time) {
	a.expiry = limit
	if a.timer == nil {
		a.timer = time.AfterFunc(time.Until(limit), a.expire)
		return
	}
	a.timer.Reset(time.Until(limit))
}

// expire ends the publishes whose time is over.
func (a *acks) expire() {
	now := time.Now()
	a.failAll(context.DeadlineExceeded, func(w *waiter) bool { return !w.limit.After(now) })
	a.mu.Lock()
	defer a.mu.Unlock()
	var next time.Time
	for _, r := range a.replies.byID {
		if w := r.waiter; w != nil && (next.IsZero() || w.limit.Before(next)) {
			next = w.limit
		}
	}
	if a.expiry = next; !next.IsZero() {
		a.expireAt(next)
	}
}

// request publishes the message and waits for the answer until the limit. The reply
// subject may have been used before if reuse says so.
func (a *acks) request(ctx context.Context, m *nats.Msg, st *stream, limit time.Time, reuse bool, epoch uint64) answer {
	done := ctx.Done() // the caller's code
	w := waiters.Get().(*waiter)
	defer waiters.Put(w)
	w.subject, w.stream, w.limit, w.reuse = m.Subject, st, limit, reuse
	out, err := a.register(m, w, epoch)
	if err != nil {
		return answer{err: err}
	}
	a.outbox.put(out, w)
	var got answer
	given := true
	select {
	case got = <-w.answer:
	case <-done:
		got.err = ctx.Err()
		if given = !a.remove(out.use); given {
			<-w.answer // came too late
		}
	}
	if given { // last, when its own message is not in the queue any more
		defer a.outbox.returned(!got.plain())
	}
	if got.err == nil && !got.doubtful {
		if !out.use.written() {
			a.outbox.withdraw(out.use) // waits for whoever is at it
		}
		if out.use.written() {
			return got
		}
		return answer{err: a.premature()}
	}
	// An answer that is another message's can come before this one is written.
	if a.outbox.withdraw(out.use) && got.err != nil {
		got.err = unwritten(ctx, got.err)
	}
	return got
}

// unwritten is what an error means for a message that has not been written.
func unwritten(ctx context.Context, err error) error {
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("%w: %w", errNotSent, err)
	case errors.Is(err, errInterrupted):
		return errConnectionLost
	case errors.Is(err, context.DeadlineExceeded): // whoever writes is stuck
		return fmt.Errorf("%w: %w", errConnectionLost, err)
	}
	return err
}

// publish publishes a message whose waiter does not wait.
func (a *acks) publish(m *nats.Msg, w *waiter, epoch uint64) (use, error) {
	out, err := a.register(m, w, epoch)
	if err == nil {
		a.write(out)
	}
	return out.use, err
}

// ack is a stream's acknowledgement of a publish.
type ack struct {
	stream    string
	sequence  uint64
	duplicate bool
}

// plainAck reads the usual answer to a publish,
//
//	{"stream":"ORDERS","seq":42}
//
// by hand, as decoding JSON takes as long as the rest of a publish. Every other is
// for parseAck.
func plainAck(data []byte, stream string) (sequence uint64, ok bool) {
	rest, ok := bytes.CutPrefix(data, []byte(`{"stream":"`))
	if !ok || len(rest) < len(stream) || string(rest[:len(stream)]) != stream {
		return 0, false
	}
	number, ok := bytes.CutPrefix(rest[len(stream):], []byte(`","seq":`))
	if !ok {
		return 0, false
	}
	return parseUint(string(bytes.TrimSuffix(number, []byte("}"))))
}

// parseAck reads an answer to a publish.
func parseAck(m *nats.Msg) (ack, error) {
	if len(m.Data) == 0 && m.Header.Get("Status") == "503" {
		return ack{}, nats.ErrNoResponders
	}
	var decoded struct {
		Stream    string              `json:"stream"`
		Sequence  uint64              `json:"seq"`
		Duplicate bool                `json:"duplicate"`
		Error     *jetstream.APIError `json:"error"`
	}
	if err := json.Unmarshal(m.Data, &decoded); err != nil {
		return ack{}, fmt.Errorf("the answer is not a JetStream acknowledgement: %w", err)
	}
	if decoded.Error != nil {
		return ack{}, decoded.Error
	}
	if decoded.Stream == "" {
		return ack{}, fmt.Errorf("the answer is not a JetStream acknowledgement: %w", jetstream.ErrInvalidJSAck)
	}
	return ack{stream: decoded.Stream, sequence: decoded.Sequence, duplicate: decoded.Duplicate}, nil
}
