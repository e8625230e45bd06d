package broker

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"go-micro.dev/v5/broker"
)

// Publish stores a message in the topic's stream and returns when the stream
// has acknowledged it. The deadline and cancellation of broker.PublishContext
// are honoured; without a deadline it gives up after 5 seconds. Within that
// time it waits for a lost connection to come back and rides through a change
// of the stream's leader; a try that got no answer is repeated with the same
// message id, so that nothing is stored twice. If the topic has no stream, one
// is created. The message is not changed.
//
// It may return later than its deadline while nats.go holds the lock of the
// connection: as long as it dials a server that does not answer, up to
// nats.Timeout (2 seconds), or writes to a network that takes nothing, up to 5.
//
// With [Async] it returns as soon as the message is sent.
//
// The error is a [*PublishError]. Within it, [ErrPublishUnknown] says that the
// message may be stored; everything else, that it is not: [ErrNotConnected],
// [ErrInvalidTopic], [ErrInvalidHeader], [ErrInvalidMessage],
// [ErrMessageTooLarge], [ErrStreamFull], [ErrStreamMismatch],
// [ErrStreamNotFound], [ErrJetStreamUnavailable], [ErrPermission].
func (b *jetstreamBroker) Publish(topic string, m *broker.Message, opts ...broker.PublishOption) error {
	return b.publishOn(b.conn.Load(), b.cfg.Load(), topic, m, publishOptionsOf(opts))
}

// publishOn is Publish on a given connection, which is nil when there is none.
func (b *jetstreamBroker) publishOn(c *connection, cfg *config, topic string, m *broker.Message, po publishOptions) error {
	call := publishCall{ctx: po.ctx, topic: topic, id: po.messageID, original: po.original}
	if call.id == "" {
		call.id, call.ownID = randomID(), true
	}
	if cfg == nil {
		return call.failure(errNoConnection)
	}
	call.hooks = cfg.dispatch
	if po.async != nil {
		return call.async(c, cfg, m, po.async)
	}
	return call.sync(c, cfg, m)
}

// randomID returns a message id that nobody else has. For as much randomness as a UUID
// has it is short: the server keeps it in memory for the stream's duplicates window.
func randomID() string {
	var random [16]byte
	_, _ = rand.Read(random[:]) // it never fails
	var id [22]byte
	base64.RawURLEncoding.Encode(id[:], random[:])
	return string(id[:])
}

// publishCall is a call of Publish, between its hooks.
type publishCall struct {
	hooks    *dispatcher
	ctx      context.Context
	topic    string
	id       string
	ownID    bool // nobody else knows the id
	original nats.Header
	size     int
	listened bool
	begin    time.Time
}

// publications and asyncPublishes keep what published one message for another: it is
// most of the garbage of a publish.
var (
	publications   = sync.Pool{New: func() any { return new(publication) }}
	asyncPublishes = sync.Pool{New: func() any { return new(asyncPublish) }}
)

// errUnfinished is what hooks are told if Publish itself should panic.
var errUnfinished = errors.New("publish panicked")

func (call *publishCall) sync(c *connection, cfg *config, m *broker.Message) (err error) {
	var stored ack
	header := call.start(m)
	err = errUnfinished
	defer func() { err = call.end(stored, err) }()
	p := publications.Get().(*publication)
	if err := p.init(call.ctx, c, cfg, call.topic, m, header, call.id); err != nil {
		return err
	}
	defer c.publishes.leave()
	addValues(p.first.Header, call.original)
	p.ownID = call.ownID
	stored, err = p.run(call.ctx)
	if err == nil && p.clean() {
		p.reset()
		publications.Put(p)
	}
	return err
}

// async returns an error, or calls done later, but not both.
func (call *publishCall) async(c *connection, cfg *config, m *broker.Message, done func(error)) (err error) {
	header := call.start(m)
	err = errUnfinished
	begun := false
	defer func() {
		if !begun {
			err = call.end(ack{}, err)
		}
	}()
	a := asyncPublishes.Get().(*asyncPublish)
	a.done = done
	if err := a.init(call.ctx, c, cfg, call.topic, m, header, call.id); err != nil {
		return err
	}
	defer func() {
		if !begun {
			c.publishes.leave()
		}
	}()
	a.ownID = call.ownID
	if err := a.waitTurn(call.ctx); err != nil {
		return err
	}
	if call.ctx.Done() != nil {
		// The caller's context may end as soon as Publish has returned, which is
		// not to say that the message is no longer wanted. Its deadline stays.
		call.ctx = context.WithoutCancel(call.ctx)
	}
	a.call, begun = *call, true
	a.begin()
	return nil
}

// start tells the hooks of the call and returns the header to send.
func (call *publishCall) start(m *broker.Message) map[string]string {
	var header map[string]string
	if m != nil {
		header, call.size = m.Header, len(m.Body)
	}
	call.listened = len(call.hooks.publishStart) > 0 || len(call.hooks.published) > 0
	if !call.listened {
		return header
	}
	call.begin = time.Now()
	header = outgoingHeader(header) // the hooks may change it
	call.ctx = start(call.hooks, call.hooks.publishStart, call.ctx, PublishStart{Topic: call.topic, MessageID: call.id, Header: header, Size: call.size})
	return header
}

// end tells the hooks how the call ended and returns what the caller gets.
func (call *publishCall) end(stored ack, err error) error {
	err = call.result(err)
	call.tell(stored, err)
	return err
}

// result is what the caller gets.
func (call *publishCall) result(err error) error {
	if err == nil {
		return nil
	}
	return call.failure(err)
}

// tell tells the hooks how the call ended.
func (call *publishCall) tell(stored ack, err error) {
	if err != nil {
		stored = ack{}
	}
	if call.listened {
		emit(call.hooks, call.hooks.published, call.ctx, Published{
			Topic: call.topic, MessageID: call.id, Size: call.size,
			Stream: stored.stream, Sequence: stored.sequence, Duplicate: stored.duplicate,
			Duration: time.Since(call.begin), Err: err, Reason: Reason(err),
		})
	}
}

func (call *publishCall) failure(err error) error {
	return &PublishError{Topic: shorten(call.topic), MessageID: call.id, Err: err}
}
