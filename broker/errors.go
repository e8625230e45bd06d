package broker

import (
	"fmt"

	"go-micro-jetstream/broker/internal/fault"
)

// The errors that callers branch on, with [errors.Is]. Every error that the
// broker returns names the operation and the topic, stream or queue, and wraps
// both one of these and its cause.
var (
	// ErrNotConnected: Publish or Subscribe before Connect or after Disconnect, or
	// an outage that lasted too long. Nothing was stored.
	ErrNotConnected = fault.ErrNotConnected
	// ErrJetStreamUnavailable: the server answers, but has no JetStream for this
	// account. Start it with -js, or enable JetStream for the account.
	ErrJetStreamUnavailable = fault.ErrJetStreamUnavailable
	// ErrInvalidTopic: the topic is not a NATS subject that can be used here.
	ErrInvalidTopic = fault.ErrInvalidTopic
	// ErrInvalidQueue: the queue name cannot name a durable consumer.
	ErrInvalidQueue = fault.ErrInvalidQueue
	// ErrInvalidHeader: NATS cannot carry a header key or value, or
	// the key begins with Nats- and there is an option for what it does.
	ErrInvalidHeader = fault.ErrInvalidHeader
	// ErrInvalidMessage: the message is nil.
	ErrInvalidMessage = fault.ErrInvalidMessage
	// ErrInvalidHandler: the handler is nil.
	ErrInvalidHandler = fault.ErrInvalidHandler
	// ErrInvalidConfig: options that are out of range or exclude each other, or
	// an Init that cannot take effect on a live connection.
	ErrInvalidConfig = fault.ErrInvalidConfig
	// ErrMessageTooLarge: body and headers exceed what the server or the stream
	// accepts. Nothing was stored.
	ErrMessageTooLarge = fault.ErrMessageTooLarge
	// ErrStreamFull: the stream is at one of its limits and discards new
	// messages. Nothing was stored; try again later. As every refusal by a stream,
	// it can be forged by a subscriber of the topic that may publish to the client's
	// inbox. With a [MessageID] to publish again is safe even then.
	ErrStreamFull = fault.ErrStreamFull
	// ErrStreamLimit: a stream cannot be created, because the account or the server
	// is at a limit: of streams, of storage, or of bytes for one stream. Raise the
	// limit, delete what nobody needs, or give the stream less with [WithStreamConfig].
	ErrStreamLimit = fault.ErrStreamLimit
	// ErrConsumerLimit: a consumer cannot be created, because the stream, the account
	// or the server permits no more of them. Since nats-server 2.15 that is 1000 for
	// each stream unless another limit is set.
	ErrConsumerLimit = fault.ErrConsumerLimit
	// ErrSubscriptionLimit: the server permits no more subscriptions on the connection,
	// by max_subscriptions or by the limits of the account or user. Each subscription of
	// the broker takes one, and so do publishing and the client's requests. After a
	// reconnect to a server that permits fewer, each publish, request or fetch whose inbox is
	// refused fails with it.
	ErrSubscriptionLimit = fault.ErrSubscriptionLimit
	// ErrOffline: all servers that hold a stream or consumer are down, or the server
	// cannot run it and says why. With one replica, one server is enough for that.
	ErrOffline = fault.ErrOffline
	// ErrClusterUnavailable: the cluster has no leader, or too few servers to place
	// something, and that has not passed in time. Try again.
	ErrClusterUnavailable = fault.ErrClusterUnavailable
	// ErrWorkQueueConflict: a WorkQueue stream has another consumer on the
	// subject. Share its queue, or use Interest or Limits retention.
	ErrWorkQueueConflict = fault.ErrWorkQueueConflict
	// ErrConsumerConflict: a consumer of that name exists that this broker did
	// not make and that cannot serve the subscription.
	ErrConsumerConflict = fault.ErrConsumerConflict
	// ErrStreamMismatch: the stream of that name exists, or another stream
	// overlaps, but does not cover the topic, or stores it under other subjects.
	// The broker never changes a stream that it did not make.
	ErrStreamMismatch = fault.ErrStreamMismatch
	// ErrStoredTwice: with [WithDomain] or [WithAPIPrefix], a JetStream nearer by, that
	// of the leaf node or of the broker's own account, has a stream for the topic, too.
	// Nothing was stored.
	ErrStoredTwice = fault.ErrStoredTwice
	// ErrStreamNotFound: there is no stream for the topic and the broker may not
	// create one: see [WithExistingStreams], or somebody deleted one that they had
	// made.
	ErrStreamNotFound = fault.ErrStreamNotFound
	// ErrConsumerNotFound: there is no consumer for queue and topic, and the broker
	// may not create one: see [WithExistingConsumers].
	ErrConsumerNotFound = fault.ErrConsumerNotFound
	// ErrPublishUnknown: the publish was sent but no answer came, so the message
	// may be stored. Publishing again with the same [MessageID] is safe; see
	// [PublishError].
	ErrPublishUnknown = fault.ErrPublishUnknown
	// ErrShutdownTimeout: handlers were still running, or publishes had no answer,
	// when the bound of Disconnect passed; see [WithShutdownTimeout].
	ErrShutdownTimeout = fault.ErrShutdownTimeout
	// ErrPermission: the server refused a subject to this user.
	ErrPermission = fault.ErrPermission
	// ErrDeadLetterLoop: the message has become a dead letter 5 times, so something
	// leads from the dead-letter topic back to its subscription: a subject mapping,
	// a transform, a republish or a handler. It is kept, and delivered again after
	// a growing delay. Its header Micro-Dead-Letter-Hops has the count.
	ErrDeadLetterLoop = fault.ErrDeadLetterLoop
	// ErrDeadLetterCut: a dead letter lacks headers or its body, because they did not
	// fit, and its original is gone. [Redrive] leaves it where it is.
	ErrDeadLetterCut = fault.ErrDeadLetterCut
	// ErrUnsupported: the server is too old for [DeliverAt], [DeliverAfter], [TTL] or
	// [SingleActive], or a stream that others made lacks a flag. The error names the
	// version or the flag. Nothing was stored.
	ErrUnsupported = fault.ErrUnsupported
	// ErrNotScheduled: [CancelDelivery] found no message of that topic and id that
	// waits: it was delivered, is due just now, was cancelled, or never published.
	ErrNotScheduled = fault.ErrNotScheduled
	// ErrAlreadySettled: Ack, [Nak] or [Terminate] on a delivery that was already
	// acknowledged.
	ErrAlreadySettled = fault.ErrAlreadySettled
	// ErrForeign: a function of this package got a broker or an event of another
	// package.
	ErrForeign = fault.ErrForeign
)

// PublishError is what Publish returns when it failed: what was published, and
// the id that makes a retry safe.
type PublishError struct {
	Topic     string
	MessageID string // pass it to [MessageID] to retry without storing twice
	Err       error  // wraps one of the sentinels where one fits
}

func (e *PublishError) Error() string {
	return fmt.Sprintf("jetstream: publish to %q: %v", e.Topic, e.Err)
}

// Unwrap returns the cause.
func (e *PublishError) Unwrap() error { return e.Err }

// PanicError is a handler's panic as an error.
type PanicError struct {
	Value any    // what was passed to panic; nil for [runtime.Goexit]
	Stack []byte // the stack of the handler's goroutine
	// Goexit says that the handler ended its goroutine rather than panicked.
	Goexit bool
}

func (e *PanicError) Error() string {
	if e.Goexit {
		return "handler called runtime.Goexit"
	}
	return fmt.Sprintf("handler panicked: %v", e.Value)
}

// Unwrap returns the panic value if it is an error.
func (e *PanicError) Unwrap() error {
	err, _ := e.Value.(error)
	return err
}

// Reason maps an error of this package to a short, stable name from a closed
// set, fit for a metric label: "not_connected", "timeout", "stream_full", ...
// It is "other" for errors that it does not know and empty for nil.
func Reason(err error) string { return fault.Reason(err) }
