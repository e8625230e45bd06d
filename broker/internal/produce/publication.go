package produce

import (
	"context"
	"errors"
	"fmt"
	"net/textproto"
	"time"

	"github.com/nats-io/nats.go"

	"go-micro-jetstream/broker/internal/asset"
	"go-micro-jetstream/broker/internal/fault"
	"go-micro-jetstream/broker/internal/link"
	"go-micro-jetstream/broker/internal/wire"
)

const (
	// tryTimeout is how long a try waits for its answer before the message is sent
	// again with the same id. A leader that fails takes the answer with it.
	tryTimeout = 2 * time.Second
	// silentTimeout is how long a connection lives that takes and brings nothing; see
	// natsopts.PingInterval.
	silentTimeout = 30 * time.Second
	// The pause between tries doubles from the one to the other. A new leader takes
	// some hundred milliseconds.
	minPause = 50 * time.Millisecond
	maxPause = time.Second
	// doubtPause is the pause from which on a stream that does not answer is looked up
	// again. Before that, it has more likely lost its leader than been deleted, and
	// without a leader it does not answer look-ups either.
	doubtPause = 8 * minPause
)

// publication is one message on its way to its stream, over one or more tries. One
// goroutine owns it at a time.
type publication struct {
	publisher *Publisher
	rules     *asset.Rules
	msg       nats.Msg
	header    wire.Header // the memory of msg.Header
	topic     string      // msg.Subject, unless the message waits
	id        string
	ownID     bool
	kept      bool // it must not get into a stream that keeps nothing
	timing    Timing
	deadline  time.Time

	waiter     waiter        // of the latest try
	stream     *asset.Stream // of the latest try; nil: there was none
	topics     *asset.Stream // the topic's, where the message has a timing
	headerSize int
	last       error         // why the latest try, or look-up, failed
	sent       time.Time     // when the message was sent first; zero: not yet
	unknown    bool          // a try may have stored the message
	unanswered int           // tries without an answer
	pause      time.Duration // the latest one
}

// init checks everything that can be checked without the server, and takes over the
// message. If it succeeds, the caller has to leave the gate of the publisher.
func (p *publication) init(ctx context.Context, publisher *Publisher, m *Message) error {
	if err := wire.CheckPublishTopic(m.Topic); err != nil {
		return err
	}
	if err := wire.CheckHeader(nats.MsgIdHdr, m.ID, false); err != nil { // which is about the value alone
		return err
	}
	if m.ID != textproto.TrimString(m.ID) {
		return fmt.Errorf("%w %q: a message id %q would lose its outer blanks on the way, and be another one", fault.ErrInvalidHeader, nats.MsgIdHdr, wire.Shorten(m.ID))
	}
	if err := m.Timing.check(); err != nil {
		return err
	}
	size, err := p.header.Make(m.Header, m.ID, len(m.Body) == 0)
	if err != nil {
		return err
	}
	if err := publisher.accept(ctx, size+len(m.Body)); err != nil {
		return err
	}
	publisher.sayLeftOut(m.Topic, p.header.LeftOut())
	wire.AddValues(p.header.Map(), m.Original)
	p.publisher, p.rules, p.ownID, p.kept = publisher, m.Rules, m.OwnID, m.Kept
	p.topic, p.id, p.headerSize, p.timing = m.Topic, m.ID, size, m.Timing
	p.forgo()
	p.msg = nats.Msg{Subject: m.Topic, Header: p.header.Map(), Data: m.Body}
	var ok bool
	if p.deadline, ok = ctx.Deadline(); !ok {
		p.deadline = time.Now().Add(PublishTimeout)
	}
	return nil
}

// reset forgets the message and keeps the memory.
func (p *publication) reset() {
	p.header.Reset()
	*p = publication{header: p.header, waiter: waiter{answer: p.waiter.answer}}
}

// run sends the message, and sends it again while that is safe and may help. First is the
// result of the first try, or pending if there was none yet.
func (p *publication) run(ctx context.Context, first result) (wire.PubAck, error) {
	ack, err := p.tries(ctx, first)
	if err == nil { // the answer has ended all waits
		return ack, nil
	}
	if late, ok := p.publisher.inflight.forget(&p.waiter); ok {
		if r := p.read(late); r.outcome == stored {
			return r.ack, nil
		}
	}
	return ack, err
}

// tries is the loop of run. An acknowledgement that comes after the last try is left to
// run.
func (p *publication) tries(ctx context.Context, r result) (wire.PubAck, error) {
	for r.outcome != stored {
		if r.outcome != pending {
			if err := p.retry(ctx, r); err != nil {
				return wire.PubAck{}, p.failure(err)
			}
		}
		st, err := p.next(ctx)
		if err != nil {
			return wire.PubAck{}, err
		}
		r = p.try(ctx, st)
	}
	return r.ack, nil
}

// next waits until the message may be sent, and returns the stream for the next try, or the
// error of the publish. It stops waiting when an earlier copy is acknowledged.
func (p *publication) next(ctx context.Context) (*asset.Stream, error) {
	if p.unanswered > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithCancel(ctx)
		defer cancel()
		p.publisher.inflight.attend(&p.waiter, cancel)
	}
	st, err := p.ready(ctx)
	if err != nil {
		return nil, p.failure(err)
	}
	if p.unknown && !p.repeatable(st, time.Now()) { // the stream is another one now, or has another window
		return nil, p.failure(p.last)
	}
	if p.kept && !p.unknown {
		return st, p.publisher.streams.CheckKept(ctx, st, p.topic, len(p.msg.Subject)+p.headerSize+len(p.msg.Data))
	}
	return st, nil
}

// ready waits for the connection and returns the stream.
func (p *publication) ready(ctx context.Context) (st *asset.Stream, err error) {
	for st == nil && err == nil {
		if err = p.awaitConnection(ctx); err == nil {
			st, err = p.findStream(ctx)
		}
	}
	return st, err
}

// awaitConnection waits until the connection is up, but not beyond the deadline.
func (p *publication) awaitConnection(ctx context.Context) error {
	if p.publisher.conn.Up() {
		return nil
	}
	ctx, cancel := context.WithDeadline(ctx, p.deadline)
	defer cancel()
	if err := p.publisher.conn.Await(ctx); err != nil {
		return p.outage(err)
	}
	return nil
}

// findStream returns the topic's stream. When nobody can tell at the moment, it returns
// the one of the latest try: when that has a leader again, a try notices sooner than a
// look-up. It returns neither stream nor error if there was no try, and the caller
// should look again.
func (p *publication) findStream(ctx context.Context) (*asset.Stream, error) {
	if st := p.publisher.streams.Known(p.topic); st != nil && !p.timed() {
		return st, nil
	}
	st, err := p.lookUpStream(ctx)
	switch {
	case err == nil:
		return st, nil
	case errors.Is(err, context.DeadlineExceeded) && !p.expired(ctx):
		p.last = err // a look-up does not wait as long as a publish
		return p.stream, nil
	case p.passing(err):
		p.last = err
		if p.wait(ctx) == nil {
			return p.stream, nil
		}
	case p.last != nil && (errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled)):
		return nil, fmt.Errorf("%w: %w", p.last, err)
	}
	return nil, err
}

// lookUpStream asks the server for the stream, or creates it. It does not wait long: a
// stream without a leader never answers a request that it has missed.
func (p *publication) lookUpStream(ctx context.Context) (*asset.Stream, error) {
	patience := tryTimeout
	if p.stream != nil {
		patience = link.LookUpTimeout
	}
	ctx, cancel := context.WithDeadline(ctx, p.deadline)
	defer cancel()
	st, err := p.publisher.streams.Stream(ctx, patience, p.rules, p.topic)
	if err == nil && p.timed() {
		ctx, cancel := context.WithTimeout(ctx, patience)
		defer cancel()
		return p.addressed(ctx, st)
	}
	return st, err
}

// passing reports whether a look-up failed for a reason that passes by itself: servers are
// starting or elect a leader, or the connection was lost.
func (p *publication) passing(err error) bool {
	if fault.HasCode(err, fault.CodeTemporarilyAway, fault.CodeStreamOffline) || errors.Is(err, fault.ErrConnectionLost) {
		return true
	}
	if errors.Is(err, errLookAgain) {
		return true
	}
	return p.last != nil && errors.Is(err, nats.ErrNoResponders) // there was JetStream a moment ago
}

// try sends the message once and waits for the answer.
func (p *publication) try(ctx context.Context, st *asset.Stream) result {
	if r := p.register(st, nil); r.outcome != pending {
		return r
	}
	inflight := &p.publisher.inflight
	if r := p.write(); r.outcome != pending {
		if inflight.remove(&p.waiter) {
			return r
		}
		if earlier := p.read(<-p.waiter.answer); earlier.outcome == stored {
			return earlier
		}
		return r
	}
	select {
	case got := <-p.waiter.answer:
		return p.read(got)
	case <-ctx.Done():
		if inflight.remove(&p.waiter) {
			return timedOut(ctx.Err())
		}
		return p.read(<-p.waiter.answer)
	}
}

// register prepares a try: it looks at the connection and gives the message a reply
// subject. The try is pending if that succeeds. The answer goes to async, or to the
// channel of the waiter if that is nil.
func (p *publication) register(st *asset.Stream, async *asyncPublish) result {
	p.stream = st
	epoch := p.publisher.inflight.now() // before the look at the connection
	if err := p.publisher.conn.Usable(); err != nil {
		return unusable(err)
	}
	p.waiter.subject, p.waiter.async = p.msg.Subject, async
	p.waiter.limit = p.tryUntil(st)
	reply, late, ok := p.publisher.inflight.register(&p.waiter, epoch)
	switch {
	case !ok:
		return unusable(fault.ErrConnectionLost)
	case late.msg != nil:
		return p.read(late)
	}
	p.msg.Reply = reply
	return result{outcome: pending}
}

// write gives the message to the client. The try is pending if that succeeds. The
// client does not use the message any more when it has returned.
func (p *publication) write() result {
	nc := p.publisher.conn.NATS()
	if err := nc.PublishMsg(&p.msg); err != nil {
		return failedWrite(nc, &p.msg, err)
	}
	return result{outcome: pending}
}

// read returns what the answer to the latest try means.
func (p *publication) read(got answer) result {
	r := got.result(p.stream)
	if r.outcome != stored {
		return r
	}
	if r.ack.Stream != p.stream.Name {
		p.publisher.sayElsewhere(p.topic, r.ack.Stream, p.stream.Name)
		p.doubt()
	}
	if p.ownID {
		r.ack.Duplicate = false // the first copy was an earlier try
	}
	return r
}

// retry returns nil if the message should be sent again, after the pause that this
// takes. Otherwise it returns the error of the publish.
func (p *publication) retry(ctx context.Context, r result) error {
	p.last = r.err
	switch r.outcome {
	case refused, notSent:
		return r.err
	case disconnected:
		p.forgetTry()
		return nil // ready waits for the connection
	case unwritten:
		p.forgetTry()
		// The client may need a moment to notice that the connection is lost.
		if err := p.wait(ctx); err != nil {
			return p.outage(err)
		}
		return nil
	case interrupted:
		p.unknown = true
		if !p.repeatable(p.stream, time.Now()) {
			return r.err
		}
		return nil
	case unanswered:
		return p.retryUnanswered(ctx, r.err)
	case noStream:
		if p.pause >= doubtPause || time.Until(p.deadline) < doubtPause {
			p.doubt()
		}
	case outdated:
		p.doubt()
	case inProcess:
		p.unknown = true // the answer to the next try says what became of that copy
	case busy: // the pause is all it takes
	default:
		p.unknown = true
		return r.err
	}
	if err := p.wait(ctx); err != nil {
		return fmt.Errorf("%w: %w", r.err, err)
	}
	return nil
}

// retryUnanswered is retry after a try without an answer. There is no pause: the try
// has waited long enough.
func (p *publication) retryUnanswered(ctx context.Context, err error) error {
	p.unknown = true
	p.unanswered++
	expired := p.expired(ctx)
	if expired || p.unanswered > 1 {
		// The stream may be gone. If the subject has another subscriber, the server does
		// not say so.
		p.doubt()
	}
	if expired {
		return err
	}
	return nil
}

// tryUntil returns when a try that begins now should end without an answer: early if
// the message may then be sent again, and at the deadline otherwise.
func (p *publication) tryUntil(st *asset.Stream) time.Time {
	now := time.Now()
	if p.sent.IsZero() {
		p.sent = now
	}
	if early := now.Add(tryTimeout); early.Before(p.deadline) && p.repeatable(st, early) {
		return early
	}
	return p.deadline
}

// repeatable reports whether the message may be sent again at that time. It may as long
// as the stream recognises a second copy by its id, that is within the duplicates
// window. The network may hold the second copy up. A quarter of the window is left for
// that: at least what a try takes, and at most what a silent connection lives.
func (p *publication) repeatable(st *asset.Stream, at time.Time) bool {
	spare := max(tryTimeout, min(st.Duplicates/4, silentTimeout))
	return p.sent.IsZero() || at.Add(spare).Sub(p.sent) < st.Duplicates
}

// forgetTry forgets a try that no server has seen anything of. If it was the first, the
// duplicates window has not begun.
func (p *publication) forgetTry() {
	if !p.unknown {
		p.sent = time.Time{}
	}
}

// expired reports whether there is no time left.
func (p *publication) expired(ctx context.Context) bool {
	return ctx.Err() != nil || !time.Now().Before(p.deadline)
}

// wait pauses before the next try. It returns an error if there is no time left.
func (p *publication) wait(ctx context.Context) error {
	p.pause = min(max(2*p.pause, minPause), maxPause)
	ctx, cancel := context.WithDeadline(ctx, p.deadline)
	defer cancel()
	timer := time.NewTimer(p.pause)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// failure is the error of the publish. It says whether the message may be stored.
func (p *publication) failure(err error) error {
	if p.unknown {
		return fmt.Errorf("%w: %w", fault.ErrPublishUnknown, err)
	}
	return err
}

// outage is the error for a connection that did not come back in time. It wraps
// fault.ErrNotConnected, which says that nothing is stored, only if that is certain.
func (p *publication) outage(err error) error {
	if p.unknown {
		return fmt.Errorf("%w and did not come back in time: %w", fault.ErrConnectionLost, err)
	}
	return fault.Outage(err)
}
