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
	prefix string
	outbox outbox
	epoch  atomic.Uint64 // changes of the connection's state

	mu      sync.Mutex
	next    uint64
	waiting map[uint64]*waiter
	timer   *time.Timer // ends the publishes whose time is over
	expiry  time.Time   // when it fires; zero: never
}

// waiter is a publish that has no answer yet.
type waiter struct {
	subject string
	limit   time.Time
	answer  chan answer   // holds one; of a publish that waits
	async   *asyncPublish // of one that does not
}

type answer struct {
	msg *nats.Msg
	err error
}

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

// errInterrupted ends a try when the connection was lost: its answer, if there
// was one, is lost as well.
var errInterrupted = errors.New("the connection was lost while waiting for the answer")

// open starts to listen for answers.
func (a *acks) open(nc *nats.Conn) error {
	a.nc, a.prefix = nc, nc.NewInbox()+"."
	a.outbox.write = a.write
	_, err := nc.Subscribe(a.prefix+"*", a.receive)
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
	id, ok := parseUint(strings.TrimPrefix(m.Subject, a.prefix))
	if !ok {
		return
	}
	a.finish(id, answer{msg: m})
}

// finish hands over an answer; only the first counts.
func (a *acks) finish(id uint64, r answer) {
	a.mu.Lock()
	w := a.waiting[id]
	if w == nil {
		a.mu.Unlock()
		return
	}
	delete(a.waiting, id)
	if w.async == nil {
		w.answer <- r // under the lock: the waiter is used again
	}
	a.mu.Unlock()
	if w.async != nil {
		w.async.answered(r)
	}
}

// refuse tells the publishes to the subject of a permission violation.
func (a *acks) refuse(violation error) {
	a.finishAll(answer{err: fmt.Errorf("%w: %w", ErrPermission, violation)}, func(w *waiter) bool {
		return strings.Contains(violation.Error(), `"`+w.subject+`"`)
	})
}

// interrupt tells all that the connection is lost, and with it their answers.
func (a *acks) interrupt() {
	a.epoch.Add(1) // first: who registers after that is refused
	a.finishAll(answer{err: errInterrupted}, func(*waiter) bool { return true })
}

// now returns a point in the life of the connection for those who look at its
// state before they send.
func (a *acks) now() (epoch uint64) { return a.epoch.Load() }

func (a *acks) finishAll(r answer, which func(*waiter) bool) {
	var ids []uint64
	a.mu.Lock()
	for id, w := range a.waiting {
		if which(w) {
			ids = append(ids, id)
		}
	}
	a.mu.Unlock()
	for _, id := range ids {
		a.finish(id, r)
	}
}

// register gives the message of a waiter a reply subject of its own, and reports
// whether others wait, too. The waiter is told of the answer, or why there is
// none. It fails if the connection has changed since the epoch.
func (a *acks) register(m *nats.Msg, w *waiter, epoch uint64) (id uint64, others bool, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.epoch.Load() != epoch {
		return 0, false, errConnectionLost
	}
	others = len(a.waiting) > 0
	a.next++
	a.waiting[a.next] = w
	if a.expiry.IsZero() || w.limit.Before(a.expiry) {
		a.expireAt(w.limit)
	}
	m.Reply = a.prefix + strconv.FormatUint(a.next, 10)
	return a.next, others, nil
}

// write hands a message to the client.
func (a *acks) write(m outgoing) {
	err := a.nc.PublishMsg(m.msg)
	if err == nil {
		return
	}
	why := errConnectionLost
	if slices.ContainsFunc(unsendable, func(reason error) bool { return errors.Is(err, reason) }) {
		why = errNotSent
	}
	a.finish(m.id, answer{err: fmt.Errorf("%w: %w", why, err)})
}

// remove reports whether there was no answer yet. There will be none then.
func (a *acks) remove(id uint64) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	_, ok := a.waiting[id]
	delete(a.waiting, id)
	return ok
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
	a.finishAll(answer{err: context.DeadlineExceeded}, func(w *waiter) bool { return !w.limit.After(now) })
	a.mu.Lock()
	defer a.mu.Unlock()
	var next time.Time
	for _, w := range a.waiting {
		if next.IsZero() || w.limit.Before(next) {
			next = w.limit
		}
	}
	if a.expiry = next; !next.IsZero() {
		a.expireAt(next)
	}
}

// request publishes the message and waits for the answer until the limit.
func (a *acks) request(ctx context.Context, m *nats.Msg, limit time.Time, epoch uint64) (*nats.Msg, error) {
	w := waiters.Get().(*waiter)
	defer waiters.Put(w)
	w.subject, w.limit = m.Subject, limit
	id, others, err := a.register(m, w, epoch)
	if err != nil {
		return nil, err
	}
	a.outbox.put(outgoing{id, m}, w, others)
	var r answer
	select {
	case r = <-w.answer:
	case <-ctx.Done():
		r.err = ctx.Err()
		if !a.remove(id) {
			<-w.answer // came too late
		}
	}
	if r.err != nil && a.outbox.withdraw(id) {
		r.err = unwritten(ctx, r.err)
	}
	return r.msg, r.err
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
func (a *acks) publish(m *nats.Msg, w *waiter, epoch uint64) error {
	id, _, err := a.register(m, w, epoch)
	if err == nil {
		a.write(outgoing{id, m})
	}
	return err
}

// ack is a stream's acknowledgement of a publish.
type ack struct {
	stream    string
	sequence  uint64
	duplicate bool
}

// parseAck reads the answer to a publish. The usual one,
//
//	{"stream":"ORDERS","seq":42}
//
// is read by hand, as decoding JSON takes as long as the rest of a publish;
// every other goes through the decoder.
func parseAck(m *nats.Msg, expected string) (ack, error) {
	if len(m.Data) == 0 && m.Header.Get("Status") == "503" {
		return ack{}, nats.ErrNoResponders
	}
	if rest, ok := bytes.CutPrefix(m.Data, []byte(`{"stream":"`)); ok && len(rest) > len(expected) && string(rest[:len(expected)]) == expected {
		if number, ok := bytes.CutPrefix(rest[len(expected):], []byte(`","seq":`)); ok {
			if n, ok := parseUint(string(bytes.TrimSuffix(number, []byte("}")))); ok {
				return ack{stream: expected, sequence: n}, nil
			}
		}
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
