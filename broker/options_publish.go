package broker

import (
	"context"
	"time"

	"github.com/nats-io/nats.go"
	"go-micro.dev/v5/broker"

	"go-micro-jetstream/broker/internal/produce"
)

// publishOptions are what a Publish was asked for.
type publishOptions struct {
	ctx       context.Context
	messageID string
	async     func(error)
	original  nats.Header // of a dead letter; see addValues
	kept      bool        // a stream that would keep nothing of it is an error
	when      when
}

// when is what the options say about a message's time.
type when struct {
	at     time.Time
	after  time.Duration // counts if delay is set
	delay  bool
	set    bool          // by DeliverAt or DeliverAfter
	ttl    time.Duration // counts if ttlSet is set
	ttlSet bool
}

// take takes over what a later option says.
func (w *when) take(later when) {
	if later.set {
		w.at, w.after, w.delay, w.set = later.at, later.after, later.delay, true
	}
	if later.ttlSet {
		w.ttl, w.ttlSet = later.ttl, true
	}
}

// timing returns what that means for a message that is published now.
func (w when) timing() produce.Timing {
	t := produce.Timing{Due: w.at, TTL: w.ttl, TTLSet: w.ttlSet}
	if w.delay {
		t.Due = time.Now().Add(max(w.after, 0))
	}
	return t
}

// publishContext carries this package's publish options in the Context of
// go-micro's.
type publishContext struct {
	context.Context
	messageID string
	async     func(error)
	when      when
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
// The broker sends a message again as long as a quarter of the window is left, but at least
// 2 and at most 30 seconds. If the network holds a copy up for longer than that, it is stored
// twice, and nobody can tell. A connection that is held up ends within 30 seconds, so with a
// window of 2 minutes or more this does not happen.
//
// When a server starts, it learns the ids from the messages that it still has. So a
// message that was handled, and with it removed from a stream with WorkQueue or Interest
// retention, is stored and handled again if it is published once more after a restart. In
// a stream with Limits retention it is a duplicate.
//
// Ids are unique in the whole stream: a message with the same id on another topic of
// the stream is a duplicate, too. So put the topic into the id.
//
// An empty id has no effect: the message gets a random one, as without the option.
func MessageID(id string) broker.PublishOption {
	return func(o *broker.PublishOptions) { ownOptions(o).messageID = id }
}

// Async makes Publish return as soon as the message is sent. Use it in publishers that
// have many messages at hand, and that can deal with failures later.
//
// When Publish returns nil, done is called once: with nil when the message is stored,
// or with the error that Publish would have returned. When Publish returns an error,
// done is not called. With a nil done, Publish waits for the answer as usual. The done
// functions of a connection are called one after the other, so start a goroutine for
// work that takes long. Disconnect waits for the answers and for done, up to its time
// limit. A panic of done is recovered and logged as an error, at most once a second. The
// functions after it are called as usual.
//
// The deadline of broker.PublishContext counts until the outcome is known. Its
// cancellation counts only until Publish has returned.
//
// Do not change the body until done is called, because the broker may have to
// send it again. Messages that one goroutine publishes are stored in the order
// of its calls. Only a message that had to be sent again may be stored later.
//
// [WithAsyncWindow] limits the number of messages without an answer. When it is
// reached, Publish waits. It also waits for a lost connection to come back, and while a
// stream is looked up.
func Async(done func(error)) broker.PublishOption {
	return func(o *broker.PublishOptions) { ownOptions(o).async = done }
}

// DeliverAfter has the message delivered after d: Publish returns when it is stored,
// and subscribers see it then. See [DeliverAt]. A d of 0 or less is at once.
func DeliverAfter(d time.Duration) broker.PublishOption {
	return func(o *broker.PublishOptions) {
		w := &ownOptions(o).when
		w.at, w.after, w.delay, w.set = time.Time{}, d, true, true
	}
}

// DeliverAt has the message delivered at t: Publish returns when it is stored, and
// subscribers see it then, once, with its headers and its trace. It is never early,
// and about a second late at most, by the clocks of publisher and server, which
// should agree. It survives restarts of clients and servers. What is due while a server
// is down or has just started comes when that has moved it to its topic's stream. That
// begins some 10 to 20 seconds after the start: the server tries it at once, while it still
// restores its streams, and then waits (calculateRetryBackoff in server/stream.go). Up to 30
// seconds were seen on a busy machine, and 64 in a cluster of which one node after the other
// was killed. The broker itself then takes less
// than 0.1 seconds. A server that is killed while messages fall due may deliver some
// of these again. A time that has passed means now, and so does the zero time. Use it for
// reminders, and for retries in hours. It works with [Async] and [TTL]. Of DeliverAt and
// [DeliverAfter] the last one counts.
//
// The message waits in a stream of its own, ORDERS-later for the stream ORDERS, which
// the broker makes at the first use. It also has ORDERS source that stream, which it
// logs. That stream needs one more of the account's streams, and has no limits. If
// ORDERS is full when a message is due, that one and those after it wait for room.
// Interest and WorkQueue retention work, and DiscardNew. A stream that others made
// must hold schedules itself, or source such a stream; else the error is
// [ErrUnsupported], which says what is missing, and nothing is stored. One that holds
// them itself must have no MaxMsgs and no MaxBytes, and a MaxAge that is at least a minute
// longer than the wait: the server removes what waits as it removes other messages. A
// topic that a subject mapping leads to another subject is refused as well.
//
// A message that ORDERS refuses when it is due holds up all those behind it. So while
// messages wait, the broker does not lower the MaxMsgSize of ORDERS, and warns. Nobody
// else should. Publish still returns nil if somebody does, so a process that publishes
// such messages looks once a minute, and warns once if what is due stands still.
//
// That is with nats-server 2.14 or later. With 2.12 and 2.13 the message waits in
// ORDERS itself, under the subject _later.ORDERS.>, which the broker adds to the
// stream, once, logged. A stream that cannot hold it gives [ErrUnsupported]: one with
// Interest retention, DiscardNew, DenyPurge, sources, or a limit of age, messages or
// bytes, which could remove what waits. So does a server before 2.12.
//
// With [MessageID] a second message with the same id and topic is no second delivery
// while the first one waits, and within the stream's duplicates window (2 minutes by
// default) after the first was published. Messages that wait and other messages have
// separate ids: the same id in both is no duplicate.
// [CancelDelivery] takes the message back by its id.
//
// The stream and the sequence in [Published] are those of where it waits, and its
// DeliverAt is not zero. The metric micro_broker_scheduled_total counts them. How many
// wait is the number of messages in ORDERS-later: the metric
// micro_broker_stream_messages of metrics.NewServer, or nats stream info. A server that
// was killed while messages fell due may count some for ever that it has delivered: it
// keeps what its stream had not acknowledged yet, and goes on behind that
// (resetStartingSeq in server/consumer.go). They have sequences up to N, the ack floor
// of the consumer of ORDERS-later that the server has made, JS_SRC_ and a hash, and can be
// removed with nats stream purge ORDERS-later --subject '_due.ORDERS.>' --seq N. A clean
// restart leaves none. An operator who deletes that consumer leaves some, too. If ORDERS is
// deleted and made again, it gets all of these once more, and also what fell due within a
// second before that. The broker warns when it makes ORDERS.
func DeliverAt(t time.Time) broker.PublishOption {
	return func(o *broker.PublishOptions) {
		w := &ownOptions(o).when
		w.at, w.after, w.delay, w.set = t, 0, false, true
	}
}

// TTL makes the server remove the message after d, unless somebody has finished with it
// by then. A d of at least one second is rounded up to whole seconds. With less,
// Publish fails with [ErrInvalidConfig]. It counts from the delivery with [DeliverAt].
// Use it for messages that are worthless when they are old, such as one-time codes. By
// default the stream's limits decide.
//
// It needs nats-server 2.11. The broker sets the flag allow_msg_ttl on a stream that
// it made, once, and logs it. The stream of others must have it, or the error is
// [ErrUnsupported] and nothing is stored.
func TTL(d time.Duration) broker.PublishOption {
	return func(o *broker.PublishOptions) {
		w := &ownOptions(o).when
		w.ttl, w.ttlSet = d, true
	}
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
			p.when.take(own.when)
			p.ctx = own.Context //nolint:fatcontext // as many as there are options
		case o.Context != nil:
			p.ctx = o.Context
		}
	}
	return p
}
