package broker

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"sync"
	"time"

	"go-micro.dev/v5/broker"

	"go-micro-jetstream/broker/internal/fault"
	"go-micro-jetstream/broker/internal/produce"
	"go-micro-jetstream/broker/internal/wire"
)

// Publish stores a message in the topic's stream and returns when the stream
// has acknowledged it. If the topic has no stream, Publish creates one. The
// message is not changed.
//
// Publish honours the deadline and the cancellation of broker.PublishContext.
// Without a deadline it gives up after 5 seconds. Within that time it waits for
// a lost connection to come back, and rides through a change of the stream's
// leader. A try that got no answer is repeated with the same message id, so
// that nothing is stored twice.
//
// Publish may return later than its deadline while nats.go holds the lock of
// the connection: up to nats.Timeout (2 seconds) while it dials a server that
// does not answer, and up to 5 seconds while it writes to a network that takes
// nothing.
//
// With [Async] it returns as soon as the message is sent.
//
// A header that begins with Nats- is refused, because these control JetStream; the
// error names the option to use. Headers that NATS cannot carry are refused, too,
// unless nobody has set them by hand. The pseudo-headers of HTTP/2, such as
// :authority, and gRPC's binary metadata are left out. So is every such header of a
// message of go-micro's client, which makes headers of all the metadata of a
// context. The log names those that might be missed.
//
// Subscribers of the topic see the reply subject for the stream's answer. What is no
// answer of JetStream is ignored there, but an answer can be forged: after a forged
// refusal, such as [ErrStreamFull], the message may be stored, and after a forged
// acknowledgement it may not. So permit only those whom you trust to publish to the
// client's inbox; see docs/operations.md.
//
// The error is a [*PublishError]. If it wraps [ErrPublishUnknown], the message
// may be stored. After every other error it is not: [ErrNotConnected],
// [ErrInvalidTopic], [ErrInvalidHeader], [ErrInvalidMessage],
// [ErrMessageTooLarge], [ErrStreamFull], [ErrStreamMismatch],
// [ErrStreamNotFound], [ErrStreamLimit], [ErrStoredTwice],
// [ErrJetStreamUnavailable], [ErrOffline], [ErrClusterUnavailable],
// [ErrSubscriptionLimit], [ErrPermission], [ErrUnsupported], and
// [ErrInvalidConfig] for an option out of range.
func (b *jetstreamBroker) Publish(topic string, m *broker.Message, opts ...broker.PublishOption) error {
	return publishOn(b.life.Session(), b.cfg.Load(), topic, m, publishOptionsOf(opts))
}

// publishOn is Publish on a given session, which is nil when there is none.
func publishOn(s *session, cfg *config, topic string, m *broker.Message, po publishOptions) error {
	call := publishCall{ctx: po.ctx}
	call.message = produce.Message{Topic: topic, ID: po.messageID, Original: po.original, Kept: po.kept, Timing: po.when.timing()}
	if po.messageID == "" {
		call.message.ID, call.message.OwnID = randomID(), true
	}
	if cfg == nil {
		return call.failure(fault.ErrNoConnection)
	}
	call.message.Rules, call.hooks = &cfg.rules, cfg.dispatch
	if m == nil {
		call.start()
		return call.end(wire.PubAck{}, checkNil(topic))
	}
	call.message.Header, call.message.Body = m.Header, m.Body
	var p *produce.Publisher // which checks the message also when it is nil
	if s != nil {
		p = s.publisher
	}
	if po.async != nil {
		return call.async(p, po.async)
	}
	return call.sync(p)
}

// checkNil is the error for a nil message, or for its topic.
func checkNil(topic string) error {
	if err := wire.CheckPublishTopic(topic); err != nil {
		return err
	}
	return fmt.Errorf("%w: it is nil", ErrInvalidMessage)
}

// randomID returns a message id that nobody else has. It is short for as much
// randomness as a UUID has, because the server keeps it in memory for the
// stream's duplicates window.
func randomID() string {
	var random [16]byte
	_, _ = rand.Read(random[:]) // it never fails
	var id [22]byte
	base64.RawURLEncoding.Encode(id[:], random[:])
	return string(id[:])
}

// publishCall is one call of Publish, from its first hook to its last.
type publishCall struct {
	hooks    *dispatcher
	ctx      context.Context
	message  produce.Message
	listened bool
	begin    time.Time
}

// errUnfinished is what hooks are told if Publish itself should panic.
var errUnfinished = errors.New("publish panicked")

func (call *publishCall) sync(p *produce.Publisher) (err error) {
	var stored wire.PubAck
	call.start()
	err = errUnfinished
	defer func() { err = call.end(stored, err) }()
	stored, err = p.Publish(call.ctx, call.message)
	return err
}

// asyncCall is a call of Publish that returns before its end.
type asyncCall struct {
	publishCall
	done func(error)
}

// asyncCalls keeps their memory for later calls.
var asyncCalls = sync.Pool{New: func() any { return new(asyncCall) }}

// async returns an error, or has done called later, but not both.
func (call *publishCall) async(p *produce.Publisher, done func(error)) (err error) {
	call.start()
	err = errUnfinished
	defer func() {
		if err != nil {
			err = call.end(wire.PubAck{}, err)
		}
	}()
	a := asyncCalls.Get().(*asyncCall)
	*a = asyncCall{publishCall: *call, done: done}
	if call.ctx.Done() != nil {
		// The context may end as soon as Publish has returned. That says nothing
		// about the message, so its last hook gets the values alone.
		a.ctx = context.WithoutCancel(call.ctx)
	}
	err = p.PublishAsync(call.ctx, call.message, a)
	return err
}

// Stored ends the call: the outcome is known.
func (a *asyncCall) Stored(stored wire.PubAck, err error) {
	done, hooks, topic := a.done, a.hooks, a.message.Topic
	err = a.end(stored, err)
	*a = asyncCall{}
	asyncCalls.Put(a)
	defer hooks.recoverDone(topic)
	done(err)
}

// start tells the hooks of the call. They may change the header that is sent.
func (call *publishCall) start() {
	call.listened = len(call.hooks.publishStart) > 0 || len(call.hooks.published) > 0
	if !call.listened {
		return
	}
	call.begin = time.Now()
	m := &call.message
	m.Header = wire.OutgoingHeader(m.Header)
	call.ctx = start(call.hooks.publishStart, call.ctx, PublishStart{Topic: m.Topic, MessageID: m.ID, Header: m.Header, Size: len(m.Body), DeliverAt: m.Timing.Due})
}

// end tells the hooks how the call ended and returns what the caller gets.
func (call *publishCall) end(stored wire.PubAck, err error) error {
	if err != nil {
		stored = wire.PubAck{}
		err = call.failure(err)
	}
	if call.listened {
		m := &call.message
		emit(call.hooks.published, call.ctx, Published{
			Topic: m.Topic, MessageID: m.ID, Size: len(m.Body), DeliverAt: m.Timing.Due,
			Stream: stored.Stream, Sequence: stored.Sequence, Duplicate: stored.Duplicate,
			Duration: time.Since(call.begin), Err: err, Reason: Reason(err),
		})
	}
	return err
}

func (call *publishCall) failure(err error) error {
	return &PublishError{Topic: wire.Shorten(call.message.Topic), MessageID: call.message.ID, Err: err}
}
