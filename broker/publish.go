package broker

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"
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
	// The pause between tries when nobody answers for the stream, doubling: a
	// new leader takes some hundred milliseconds.
	minRetryPause = 50 * time.Millisecond
	maxRetryPause = time.Second
)

// More error codes of the server that nats.go has no name for.
const (
	codeAccountResources    = 10002
	codeTemporarilyAway     = 10008
	codeInsufficientCluster = 10023
	codeStorageExceeded     = 10047
	codeStoreFailed         = 10077 // the description tells which limit
)

// Publish stores a message in the topic's stream and returns when the stream
// has acknowledged it. The deadline and cancellation of broker.PublishContext
// are honoured; without a deadline it gives up after 5 seconds. Within that
// time it waits for a lost connection to come back and rides through a change
// of the stream's leader; a try that got no answer is repeated with the same
// message id, so that nothing is stored twice. If the topic has no stream, one
// is created. The message is not changed.
//
// The error is a [*PublishError]. Within it, [ErrPublishUnknown] says that the
// message may be stored; everything else, that it is not: [ErrNotConnected],
// [ErrInvalidTopic], [ErrInvalidHeader], [ErrInvalidMessage],
// [ErrMessageTooLarge], [ErrStreamFull], [ErrStreamMismatch],
// [ErrStreamNotFound], [ErrJetStreamUnavailable], [ErrPermission].
func (b *jetstreamBroker) Publish(topic string, m *broker.Message, opts ...broker.PublishOption) error {
	return b.publishOn(b.conn.Load(), b.cfg.Load(), topic, m, publishOptionsOf(opts))
}

// publishOn is Publish between its hooks.
func (b *jetstreamBroker) publishOn(c *connection, cfg *config, topic string, m *broker.Message, po publishOptions) error {
	if po.messageID == "" {
		po.messageID = uuid.NewString()
	}
	failed := func(err error) error {
		return &PublishError{Topic: shorten(topic), MessageID: po.messageID, Err: err}
	}
	if cfg == nil {
		return failed(ErrNotConnected)
	}
	hooks := cfg.dispatch
	if len(hooks.publishStart) == 0 && len(hooks.published) == 0 {
		if m == nil {
			return failed(nilMessage(topic))
		}
		if _, err := c.publish(po.ctx, cfg, topic, m.Header, m.Body, po.messageID); err != nil {
			return failed(err)
		}
		return nil
	}

	begin := time.Now()
	var header map[string]string
	var body []byte
	if m != nil {
		header, body = m.Header, m.Body
	}
	header = outgoingHeader(header)
	end := Published{Topic: topic, MessageID: po.messageID, Size: len(body), Err: errUnfinished}
	po.ctx = start(hooks, hooks.publishStart, po.ctx, PublishStart{Topic: topic, MessageID: po.messageID, Header: header, Size: len(body)})
	defer func() {
		end.Duration = time.Since(begin)
		end.Reason = Reason(end.Err)
		emit(hooks, hooks.published, po.ctx, end)
	}()
	if m == nil {
		end.Err = failed(nilMessage(topic))
		return end.Err
	}
	stored, err := c.publish(po.ctx, cfg, topic, header, body, po.messageID)
	if err != nil {
		end.Err = failed(err)
		return end.Err
	}
	end.Err, end.Stream, end.Sequence, end.Duplicate = nil, stored.stream, stored.sequence, stored.duplicate
	return nil
}

var errUnfinished = errors.New("publish panicked")

// nilMessage is the error for a nil message, unless the topic is wrong as well.
func nilMessage(topic string) error {
	if err := checkPublishTopic(topic); err != nil {
		return err
	}
	return fmt.Errorf("%w: it is nil", ErrInvalidMessage)
}

// publish checks, sends, and sends again as long as that is safe and of use.
func (c *connection) publish(ctx context.Context, cfg *config, topic string, header map[string]string, body []byte, id string) (ack, error) {
	if err := checkPublishTopic(topic); err != nil {
		return ack{}, err
	}
	if err := checkHeader(nats.MsgIdHdr, id, false); err != nil {
		return ack{}, err
	}
	wire, size, err := wireHeader(header, id, len(body) == 0)
	if err != nil {
		return ack{}, err
	}
	if c == nil || !c.publishes.enter() {
		return ack{}, ErrNotConnected
	}
	defer c.publishes.leave()
	if size += len(body); int64(size) > c.nc.MaxPayload() {
		return ack{}, fmt.Errorf("%w: %d bytes with headers, the server accepts %d", ErrMessageTooLarge, size, c.nc.MaxPayload())
	}
	if err := ctx.Err(); err != nil {
		return ack{}, fmt.Errorf("not sent: %w", err)
	}
	begin := time.Now()
	deadline, ok := ctx.Deadline()
	if !ok {
		deadline = begin.Add(publishTimeout)
	}
	p := publication{
		conn:     c,
		cfg:      cfg,
		msg:      &nats.Msg{Subject: topic, Header: wire, Data: body},
		begin:    begin,
		deadline: deadline,
	}
	return p.run(ctx)
}

// publication is a publish under way.
type publication struct {
	conn       *connection
	cfg        *config
	msg        *nats.Msg
	begin      time.Time
	deadline   time.Time
	unknown    bool // a try got no answer: it may have been stored
	unanswered int  // tries
	pause      time.Duration
}

func (p *publication) run(ctx context.Context) (ack, error) {
	var last error // why the latest try did not succeed
	for {
		if !p.conn.nc.IsConnected() {
			if err := p.awaitConnection(ctx); err != nil {
				return ack{}, p.fail(fmt.Errorf("%w: %w; the connection did not come back in time", ErrNotConnected, err))
			}
		}
		st, err := p.ensure(ctx)
		if err != nil && errors.Is(err, context.DeadlineExceeded) && !p.expired(ctx) {
			last = err // the look-up has a shorter patience than the publish
			continue
		}
		if err != nil {
			if last != nil && (errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled)) {
				err = fmt.Errorf("%w: %w", last, err)
			}
			return ack{}, p.fail(err)
		}
		stored, err := p.try(ctx, st)
		if err == nil {
			return stored, nil
		}
		last = err
		var api *jetstream.APIError
		switch {
		case errors.Is(err, nats.ErrNoResponders):
			// Nobody captures the subject: the stream was deleted, or has no
			// leader now.
			last = fmt.Errorf("stream %s does not answer: %w", st.name, jetstream.ErrNoStreamResponse)
			if err := p.conn.forgetStream(ctx, st); err != nil {
				return ack{}, p.fail(fmt.Errorf("%w: %w", last, err))
			}
		case errors.As(err, &api):
			if api.ErrorCode != codeTemporarilyAway {
				return ack{}, p.fail(publishError(api, st))
			}
		case errors.Is(err, ErrPermission):
			return ack{}, err
		case errors.Is(err, errNotSent):
			return ack{}, p.fail(apiError(err))
		case errors.Is(err, errConnectionLost):
			continue // wait for it
		case errors.Is(err, errInterrupted):
			p.unknown = true
			if !p.repeatable(st) {
				return ack{}, p.fail(err)
			}
			continue // as soon as the connection is back
		case errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled):
			p.unknown = true
			if p.unanswered++; p.unanswered > 1 {
				// The stream may be gone while another subscriber of the subject
				// keeps the server from saying so.
				p.conn.doubt(st, p.msg.Subject)
			}
			if p.expired(ctx) {
				return ack{}, p.fail(err)
			}
			continue // it has waited already
		default:
			p.unknown = true
			return ack{}, p.fail(err)
		}
		if err := p.wait(ctx); err != nil {
			return ack{}, p.fail(fmt.Errorf("%w: %w", last, err))
		}
	}
}

// expired reports whether there is no time left.
func (p *publication) expired(ctx context.Context) bool {
	return ctx.Err() != nil || !time.Now().Before(p.deadline)
}

// fail says whether the message may have been stored.
func (p *publication) fail(err error) error {
	if p.unknown {
		return fmt.Errorf("%w: %w", ErrPublishUnknown, err)
	}
	return err
}

// ensure finds the stream within the deadline.
func (p *publication) ensure(ctx context.Context) (*stream, error) {
	if st := p.conn.streams.find(p.msg.Subject); st != nil {
		return st, nil
	}
	ctx, cancel := context.WithDeadline(ctx, p.deadline)
	defer cancel()
	return p.conn.ensureStream(ctx, p.cfg, p.msg.Subject)
}

// try sends the message and waits for the ack.
func (p *publication) try(ctx context.Context, st *stream) (ack, error) {
	limit := p.deadline
	if again := time.Now().Add(attemptTimeout); again.Before(limit) && p.repeatable(st) {
		limit = again
	}
	lost := p.conn.stateChange()
	if !p.conn.nc.IsConnected() {
		return ack{}, errConnectionLost
	}
	m, err := p.conn.acks.request(ctx, p.msg, limit, lost)
	if err != nil {
		return ack{}, err
	}
	return parseAck(m, st.name)
}

// repeatable reports whether the message may be sent again until the deadline:
// only where the stream recognises the second copy is that safe.
func (p *publication) repeatable(st *stream) bool {
	return st.duplicates > p.deadline.Sub(p.begin)
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
	case err.ErrorCode == codeStoreFailed && strings.Contains(err.Description, "maximum"),
		err.ErrorCode == codeAccountResources,
		err.ErrorCode == codeInsufficientCluster,
		err.ErrorCode == codeStorageExceeded:
		return fmt.Errorf("%w: stream %s: %w", ErrStreamFull, st.name, err)
	}
	return fmt.Errorf("stream %s refused it: %w", st.name, apiError(err))
}
