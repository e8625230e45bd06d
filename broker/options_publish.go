package broker

import (
	"context"

	"github.com/nats-io/nats.go"
	"go-micro.dev/v5/broker"
)

// publishOptions are what a Publish was asked for.
type publishOptions struct {
	ctx       context.Context
	messageID string
	async     func(error)
	original  nats.Header // of a dead letter; see addValues
}

// publishContext carries this package's publish options in the Context of
// go-micro's.
type publishContext struct {
	context.Context
	messageID string
	async     func(error)
}

// ownOptions returns a copy of this package's options in those of go-micro, to
// change one of them. It is a copy because an option value may be used for
// several messages.
func ownOptions(o *broker.PublishOptions) *publishContext {
	next := &publishContext{Context: o.Context}
	if own, ok := o.Context.(*publishContext); ok {
		*next = *own
	}
	if next.Context == nil {
		next.Context = context.Background()
	}
	o.Context = next
	return next
}

// MessageID sets the id by which JetStream recognises a message that it has
// already stored, within the stream's duplicates window (2 minutes by default).
// Use it in publishers that retry, also after a restart. By default each Publish
// has a random id of its own, which covers only the broker's own retries.
// Publishing a duplicate succeeds and stores nothing.
//
// An id counts in the whole stream: the same id on another topic of the stream
// is a duplicate, too. Put the topic into the id.
func MessageID(id string) broker.PublishOption {
	return func(o *broker.PublishOptions) { ownOptions(o).messageID = id }
}

// Async has Publish return as soon as the message is sent. Use it in publishers
// that have many messages at hand and can deal later with those that failed.
//
// When Publish returns nil, done is called once: with nil when the message is
// stored, or with the error that Publish would have returned. When Publish
// returns an error, done is not called. With a nil done, Publish waits for the
// answer as usual. done is called for one message of the connection after the
// other, so start a goroutine for what takes long. Disconnect waits for the
// answers and for done, within its bound.
//
// The deadline of broker.PublishContext counts until the outcome is known. Its
// cancellation counts only until Publish has returned.
//
// Do not change the body until done is called, because the broker may have to
// send it again. Messages that one goroutine publishes are stored in the order
// of its calls. Only a message that had to be sent again may be stored later.
//
// [WithAsyncWindow] bounds the messages under way. When that many have no answer
// yet, Publish waits for room. It also waits for a lost connection to come back,
// and while a stream is looked up.
func Async(done func(error)) broker.PublishOption {
	return func(o *broker.PublishOptions) { ownOptions(o).async = done }
}

// publishOptionsOf takes this package's options out of the context after each
// option, because broker.PublishContext replaces the context that they need:
// they work in any order. Options of others find the context that is there so
// far.
func publishOptionsOf(opts []broker.PublishOption) publishOptions {
	p := publishOptions{ctx: context.Background()}
	for _, opt := range opts {
		if opt == nil {
			continue
		}
		o := broker.PublishOptions{Context: p.ctx}
		opt(&o)
		own, ok := o.Context.(*publishContext)
		switch {
		case ok:
			if own.messageID != "" {
				p.messageID = own.messageID
			}
			if own.async != nil {
				p.async = own.async
			}
			p.ctx = own.Context //nolint:fatcontext // as many as there are options
		case o.Context != nil:
			p.ctx = o.Context
		}
	}
	return p
}
