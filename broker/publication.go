package broker

import (
	"context"
	"errors"
	"fmt"
	"net/textproto"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go-micro.dev/v5/broker"
)

const (
	// publishTimeout bounds a Publish whose context has no deadline; nats.go's
	// own default.
	publishTimeout = 5 * time.Second
	// attemptTimeout is how long one try waits for its ack before the message is
	// sent again with the same id: a leader that fails takes the ack with it.
	attemptTimeout = 2 * time.Second
	// lookUpTimeout is how long a look-up waits before it is repeated, and may take
	// for a stream that has stopped answering: it is sent to that stream's leader,
	// if there is one.
	lookUpTimeout = time.Second
	// The pause between tries when nobody answers for the stream, doubling: a
	// new leader takes some hundred milliseconds.
	minRetryPause = 50 * time.Millisecond
	maxRetryPause = time.Second
	// doubtPause is the pause from which on a stream that does not answer is
	// looked up again. Until then it is more likely to have lost its leader than
	// to be gone, and without a leader it does not answer look-ups either.
	doubtPause = 8 * minRetryPause
)

// More error codes of the server that nats.go has no name for.
const (
	codeAccountResources    = 10002
	codeTemporarilyAway     = 10008
	codeInsufficientCluster = 10023
	codeStorageExceeded     = 10047
	codeStoreFailed         = 10077 // the description tells which limit
	codeHeaderTooLarge      = 10097 // beyond 64 KiB
	codeStreamOffline       = 10118 // its servers are down, or starting
	codeTooManyRequests     = 10167 // the stream's ingest buffer is full; not stored
	codeDuplicateInProcess  = 10158 // an earlier copy is on its way into the stream
)

// publication is a message on its way to its stream, over one or more tries.
type publication struct {
	conn       *connection
	cfg        *config
	msg        *nats.Msg
	first      nats.Msg // what msg points to, most of the time
	wire       wireHeader
	deadline   time.Time
	sent       time.Time // the first time; zero: not yet
	stream     *stream   // of the latest try
	last       error     // why that did not succeed
	unknown    bool      // a try got no answer: it may have been stored
	doubtful   bool      // the same, until the stream answers the next try
	ownID      bool      // the id is of this publication alone
	unanswered int       // tries without an answer
	pause      time.Duration
}

// init checks everything that can be checked without the server. The caller
// leaves connection.publishes if it succeeds.
func (p *publication) init(ctx context.Context, c *connection, cfg *config, topic string, m *broker.Message, header map[string]string, id string) error {
	if err := checkPublishTopic(topic); err != nil {
		return err
	}
	if m == nil {
		return fmt.Errorf("%w: it is nil", ErrInvalidMessage)
	}
	if err := checkHeader(nats.MsgIdHdr, id, false); err != nil {
		return err
	}
	if id != textproto.TrimString(id) {
		return fmt.Errorf("%w %q: a message id %q would lose its outer blanks on the way, and be another one", ErrInvalidHeader, nats.MsgIdHdr, shorten(id))
	}
	size, err := p.wire.make(header, id, len(m.Body) == 0)
	if err != nil {
		return err
	}
	if c == nil || !c.publishes.enter() {
		return errNoConnection
	}
	size += len(m.Body)
	if limit, ok := c.accepts(size); !ok {
		err = fmt.Errorf("%w: %d bytes with headers, the server accepts %d", ErrMessageTooLarge, size, limit)
	} else if ctx.Err() != nil {
		err = fmt.Errorf("%w: %w", errNotSent, ctx.Err())
	}
	if err != nil {
		c.publishes.leave()
		return err
	}
	p.conn, p.cfg = c, cfg
	var ok bool
	if p.deadline, ok = ctx.Deadline(); !ok {
		p.deadline = time.Now().Add(publishTimeout)
	}
	p.first = nats.Msg{Subject: topic, Header: p.wire.header, Data: m.Body}
	p.msg = &p.first
	return nil
}

// clean reports whether the first try has succeeded: nobody else has the message then,
// and its memory can be used for another.
func (p *publication) clean() bool { return p.last == nil && p.msg == &p.first }

// reset forgets the message, but for its memory.
func (p *publication) reset() {
	wire := p.wire
	wire.reset()
	*p = publication{wire: wire}
}

// run sends the message, and sends it again as long as that is safe and of use.
func (p *publication) run(ctx context.Context) (ack, error) {
	for {
		st, err := p.ready(ctx)
		if err != nil {
			return ack{}, p.fail(err)
		}
		if (p.doubtful || p.unknown) && !p.repeatable(st, time.Now()) { // its stream is another one now, or has another window
			return ack{}, p.fail(p.last)
		}
		stored, err := p.try(ctx, st)
		if err == nil {
			if p.ownID {
				stored.duplicate = false // of an earlier try, which is this message
			}
			return stored, nil
		}
		if err := p.retry(ctx, st, err); err != nil {
			return ack{}, p.fail(err)
		}
	}
}

// ready returns the stream once there is a connection to send the message on.
func (p *publication) ready(ctx context.Context) (st *stream, err error) {
	for st == nil && err == nil {
		st, err = p.prepare(ctx)
	}
	return st, err
}

// prepare waits for the connection and finds the stream. When nobody can tell
// now, it returns the one of the latest try: once that has a leader again, the
// next try says so sooner than a look-up. It returns neither stream nor error
// when it is worth another look.
func (p *publication) prepare(ctx context.Context) (*stream, error) {
	if !p.conn.link.connected() {
		if err := p.awaitConnection(ctx); err != nil {
			return nil, p.outage(err)
		}
	}
	st, err := p.ensure(ctx)
	switch {
	case err == nil:
		return st, nil
	case errors.Is(err, context.DeadlineExceeded) && !p.expired(ctx):
		p.last = err // the look-up has a shorter patience than the publish
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

// passing reports whether a look-up failed because servers are just starting or
// electing a leader.
func (p *publication) passing(err error) bool {
	var api *jetstream.APIError
	if errors.As(err, &api) && (api.ErrorCode == codeTemporarilyAway || api.ErrorCode == codeStreamOffline) {
		return true
	}
	return p.last != nil && errors.Is(err, nats.ErrNoResponders) // there was JetStream a moment ago
}

// retry returns nil when the message is to be sent again, after the pause that
// this takes, or the error to fail with.
func (p *publication) retry(ctx context.Context, st *stream, err error) error {
	p.last, p.stream = err, st
	var api *jetstream.APIError
	switch {
	case errors.Is(err, ErrPermission), errors.Is(err, errNotSent):
		return apiError(err)
	case errors.Is(err, errConnectionLost): // before all of it was written
		if !p.unknown && !p.doubtful {
			p.sent = time.Time{}
		}
		if err == errConnectionLost { //nolint:errorlint // itself, seen before anything was written
			return nil // prepare waits for it
		}
		// The client may take a moment to see what its write has met.
		if ended := p.wait(ctx); ended != nil {
			return p.outage(ended)
		}
		return nil
	case errors.Is(err, errDoubtful):
		p.doubtful = true
		return nil
	case errors.Is(err, errInterrupted):
		p.unknown = true
		if !p.repeatable(st, time.Now()) {
			return err
		}
		return nil
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		p.unknown = true
		if p.unanswered++; p.unanswered > 1 || p.expired(ctx) {
			// The stream may be gone while another subscriber of the subject keeps
			// the server from saying so.
			p.conn.doubt(st, p.msg.Subject)
		}
		if p.expired(ctx) {
			return err
		}
		return nil // it has waited already
	case errors.Is(err, nats.ErrNoResponders):
		// Nobody captures the subject: the stream was deleted, or has no leader
		// now.
		p.last = fmt.Errorf("stream %s does not answer: %w", st.name, jetstream.ErrNoStreamResponse)
		if p.pause >= doubtPause || p.waitsPast(doubtPause) {
			p.conn.doubt(st, p.msg.Subject)
		}
	case errors.As(err, &api):
		switch api.ErrorCode {
		case codeTemporarilyAway, codeStreamOffline, codeTooManyRequests:
		case codeDuplicateInProcess:
			p.unknown = true // until the next try is told what became of that copy
		default:
			switch api.ErrorCode {
			case codeStoreFailed, // the server looks for a stored copy first
				jetstream.JSErrCodeStreamMessageExceedsMaximum, codeHeaderTooLarge: // it was so the first time
				p.doubtful = false
			}
			return publishError(api, st)
		}
	default:
		p.unknown = true
		return err
	}
	if err := p.wait(ctx); err != nil {
		return fmt.Errorf("%w: %w", p.last, err)
	}
	return nil
}

// expired reports whether there is no time left.
func (p *publication) expired(ctx context.Context) bool {
	return ctx.Err() != nil || !time.Now().Before(p.deadline)
}

// fail says whether the message may have been stored.
func (p *publication) fail(err error) error {
	if p.unknown || p.doubtful {
		return fmt.Errorf("%w: %w", ErrPublishUnknown, err)
	}
	return err
}

// outage is for a connection that did not come back in time. ErrNotConnected says that
// nothing was stored.
func (p *publication) outage(err error) error {
	if p.unknown || p.doubtful {
		return fmt.Errorf("%w and did not come back in time: %w", errConnectionLost, err)
	}
	return outage(err)
}

// waitsPast reports whether the deadline comes before a pause of d would.
func (p *publication) waitsPast(d time.Duration) bool { return time.Until(p.deadline) < d }

// ensure finds the stream within the deadline. A request that a stream without
// a leader has missed is never answered, so it does not wait long for one.
func (p *publication) ensure(ctx context.Context) (*stream, error) {
	if st := p.conn.streams.find(p.msg.Subject); st != nil {
		return st, nil
	}
	until, patience := p.deadline, attemptTimeout
	if p.stream != nil {
		patience = lookUpTimeout
	}
	if again := time.Now().Add(patience); again.Before(until) {
		until = again
	}
	ctx, cancel := context.WithDeadline(ctx, until)
	defer cancel()
	return p.conn.ensureStream(ctx, p.cfg, p.msg.Subject)
}

// try sends the message and waits for the ack.
func (p *publication) try(ctx context.Context, st *stream) (ack, error) {
	epoch := p.conn.acks.now() // before looking at the state
	if !p.conn.link.connected() {
		return ack{}, errConnectionLost
	}
	return p.acked(p.conn.acks.request(ctx, p.msg, st, p.tryUntil(st), p.reusesReply(st), epoch), st)
}

// reusesReply reports whether the reply subject of the next try may be one that was
// used before: if the answer is doubtful, the message has to be sent again. With an
// id that others may use as well, "duplicate" is a usual answer, but not one that
// tells which message it is about.
func (p *publication) reusesReply(st *stream) bool {
	return p.last == nil && p.ownID && st.duplicates > 2*attemptTimeout
}

// acked reads the answer to a try. One of another stream tells that the topic has
// moved.
func (p *publication) acked(got answer, st *stream) (ack, error) {
	if got.err != nil || got.msg == nil {
		return ack{stream: st.name, sequence: got.sequence}, got.err
	}
	stored, err := parseAck(got.msg)
	doubtful := got.doubtful && !errors.Is(err, nats.ErrNoResponders)
	if err == nil && (doubtful || stored.stream != st.name) { // the topic may have moved
		p.conn.doubt(st, p.msg.Subject)
	}
	if doubtful {
		return ack{}, errDoubtful
	}
	return stored, err
}

// tryUntil is when the try that begins now ends, without an answer.
func (p *publication) tryUntil(st *stream) time.Time {
	now := time.Now()
	if p.sent.IsZero() {
		p.sent = now
	}
	if again := now.Add(attemptTimeout); again.Before(p.deadline) && p.repeatable(st, again) {
		return again
	}
	return p.deadline
}

// repeatable reports whether the message may be sent again: only while the stream
// recognises the second copy is that safe. That has as long as a try to arrive.
func (p *publication) repeatable(st *stream, at time.Time) bool {
	return p.sent.IsZero() || at.Add(attemptTimeout).Sub(p.sent) < st.duplicates
}

// awaitConnection waits within the deadline until the connection is up.
func (p *publication) awaitConnection(ctx context.Context) error {
	ctx, cancel := context.WithDeadline(ctx, p.deadline)
	defer cancel()
	return p.conn.await(ctx)
}

// wait pauses before the next try.
func (p *publication) wait(ctx context.Context) error {
	p.pause = min(max(2*p.pause, minRetryPause), maxRetryPause)
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

// publishError adds this package's sentinel to a refusal by the stream.
func publishError(err *jetstream.APIError, st *stream) error {
	switch {
	case err.ErrorCode == jetstream.JSErrCodeStreamMessageExceedsMaximum:
		return fmt.Errorf("%w: it exceeds the MaxMsgSize of stream %s: %w", ErrMessageTooLarge, st.name, err)
	case err.ErrorCode == codeHeaderTooLarge:
		return fmt.Errorf("%w: the server accepts 64 KiB of headers: %w", ErrMessageTooLarge, err)
	case err.ErrorCode == codeStoreFailed && strings.Contains(err.Description, "maximum"),
		err.ErrorCode == codeAccountResources,
		err.ErrorCode == codeInsufficientCluster,
		err.ErrorCode == codeStorageExceeded:
		return fmt.Errorf("%w: stream %s: %w", ErrStreamFull, st.name, err)
	}
	return fmt.Errorf("stream %s refused it: %w", st.name, apiError(err))
}
