package broker

import (
	"context"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// The errors that callers branch on, with [errors.Is]. Every error that the
// broker returns names the operation and the topic, stream or queue, and wraps
// both one of these and its cause.
var (
	// ErrNotConnected: Publish or Subscribe before Connect or after Disconnect, or
	// an outage that lasted too long. Nothing was stored.
	ErrNotConnected = errors.New("not connected")
	// ErrJetStreamUnavailable: the server answers, but has no JetStream for this
	// account. Start it with -js, or enable JetStream for the account.
	ErrJetStreamUnavailable = errors.New("JetStream is not available: start the server with JetStream enabled (nats-server -js) and enable it for the account")
	// ErrInvalidTopic: the topic is not a NATS subject that can be used here.
	ErrInvalidTopic = errors.New("invalid topic")
	// ErrInvalidQueue: the queue name cannot name a durable consumer.
	ErrInvalidQueue = errors.New("invalid queue name")
	// ErrInvalidHeader: a header key or value cannot travel in a NATS message.
	ErrInvalidHeader = errors.New("invalid header")
	// ErrInvalidMessage: the message is nil.
	ErrInvalidMessage = errors.New("invalid message")
	// ErrInvalidHandler: the handler is nil.
	ErrInvalidHandler = errors.New("invalid handler")
	// ErrInvalidConfig: options that are out of range or exclude each other, or
	// an Init that cannot take effect on a live connection.
	ErrInvalidConfig = errors.New("invalid configuration")
	// ErrMessageTooLarge: body and headers exceed what the server or the stream
	// accepts. Nothing was stored.
	ErrMessageTooLarge = errors.New("message too large")
	// ErrStreamFull: the stream is at one of its limits and discards new
	// messages. Nothing was stored; try again later.
	ErrStreamFull = errors.New("stream is full")
	// ErrWorkQueueConflict: a WorkQueue stream has another consumer on the
	// subject. Share its queue, or use Interest or Limits retention.
	ErrWorkQueueConflict = errors.New("WorkQueue stream already has a consumer for this subject")
	// ErrConsumerConflict: a consumer of that name exists that this broker did
	// not make and that cannot serve the subscription.
	ErrConsumerConflict = errors.New("consumer name is taken")
	// ErrStreamMismatch: the stream of that name exists, or another stream
	// overlaps, but does not cover the topic, or stores it under other subjects.
	// The broker never changes a stream that it did not make.
	ErrStreamMismatch = errors.New("stream does not cover the topic")
	// ErrStreamNotFound: there is no stream for the topic and the broker may not
	// create one: see [WithExistingStreams], or somebody deleted one that they had
	// made.
	ErrStreamNotFound = errors.New("no stream captures the topic")
	// ErrConsumerNotFound: there is no consumer for queue and topic, and the broker
	// may not create one: see [WithExistingConsumers].
	ErrConsumerNotFound = errors.New("no consumer serves the queue")
	// ErrPublishUnknown: the publish was sent but no answer came: the message is
	// stored or not. Publishing again with the same [MessageID] is safe; see
	// [PublishError].
	ErrPublishUnknown = errors.New("publish outcome unknown: stored or not; retry with the same message id")
	// ErrShutdownTimeout: handlers were still running, or publishes had no answer,
	// when the bound of Disconnect passed; see [WithShutdownTimeout].
	ErrShutdownTimeout = errors.New("shutdown timed out")
	// ErrPermission: the server refused a subject to this user.
	ErrPermission = errors.New("permission denied")
	// ErrAlreadySettled: Ack on a delivery that was already acknowledged.
	ErrAlreadySettled = errors.New("delivery already settled")
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

// reasons maps errors to a small closed set, in the order of the check.
var reasons = []struct {
	err    error
	reason string
}{
	{ErrPublishUnknown, "outcome_unknown"}, // before its cause
	{errConnectionLost, "disconnected"},    // before ErrNotConnected, which goes with it
	{ErrNotConnected, "not_connected"},
	{ErrJetStreamUnavailable, "jetstream_unavailable"},
	{ErrInvalidTopic, "invalid_topic"},
	{ErrInvalidQueue, "invalid_queue"},
	{ErrInvalidHeader, "invalid_header"},
	{ErrInvalidMessage, "invalid_message"},
	{ErrInvalidHandler, "invalid_handler"},
	{ErrInvalidConfig, "invalid_config"},
	{ErrMessageTooLarge, "message_too_large"},
	{jetstream.ErrMaxBytesExceeded, "message_too_large"},
	{ErrStreamFull, "stream_full"},
	{ErrWorkQueueConflict, "workqueue_conflict"},
	{ErrConsumerConflict, "consumer_conflict"},
	{ErrConsumerNotFound, "consumer_not_found"},
	{ErrStreamMismatch, "stream_mismatch"},
	{ErrPermission, "permission"},
	{context.Canceled, "canceled"},
	{nats.ErrConnectionClosed, "disconnected"},
	{nats.ErrConnectionReconnecting, "disconnected"},
	{nats.ErrDisconnected, "disconnected"},
	{jetstream.ErrConsumerDeleted, "consumer_deleted"},
	{jetstream.ErrConsumerNotFound, "consumer_deleted"},
	{ErrStreamNotFound, "stream_not_found"},
	{jetstream.ErrStreamNotFound, "stream_not_found"},
	{jetstream.ErrConsumerLeadershipChanged, "leadership_changed"},
	{jetstream.ErrServerShutdown, "server_shutdown"},
	{jetstream.ErrNoHeartbeat, "no_heartbeat"},
	{nats.ErrNoResponders, "no_responders"},
	{jetstream.ErrNoStreamResponse, "no_responders"},
	{nats.ErrTimeout, "timeout"},
	{context.DeadlineExceeded, "timeout"},
}

// Reason maps an error of this package to a short, stable name from a closed
// set, fit for a metric label: "not_connected", "timeout", "stream_full", ...
// It is "other" for errors that it does not know and empty for nil.
func Reason(err error) string {
	if err == nil {
		return ""
	}
	for _, r := range reasons {
		if errors.Is(err, r.err) {
			return r.reason
		}
	}
	return "other"
}

// errNoConnection is what a broker without a connection says.
var errNoConnection = fmt.Errorf("%w: call Connect first", ErrNotConnected)

// errShuttingDown is what those get who come too late.
var errShuttingDown = fmt.Errorf("%w: the broker is shutting down", ErrNotConnected)

// errConnectionLost marks a fetch that found the connection down.
var errConnectionLost = errors.New("connection to the server is down")
