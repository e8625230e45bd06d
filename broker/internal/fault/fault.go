// Package fault holds the errors that the broker tells apart, and gives errors
// of the client and of the server their place among them.
package fault

import (
	"errors"
	"fmt"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// The public package documents these errors under the same names. Callers test
// for them with [errors.Is].
var (
	// ErrNotConnected: there is no connection. Nothing was stored.
	ErrNotConnected = errors.New("not connected")
	// ErrJetStreamUnavailable: the account has no JetStream.
	ErrJetStreamUnavailable = errors.New("JetStream is not available: start the server with JetStream enabled (nats-server -js) and enable it for the account")
	// ErrInvalidTopic: the topic is not a usable NATS subject.
	ErrInvalidTopic = errors.New("invalid topic")
	// ErrInvalidQueue: the queue cannot name a durable consumer.
	ErrInvalidQueue = errors.New("invalid queue name")
	// ErrInvalidHeader: NATS cannot carry a header's key or value.
	ErrInvalidHeader = errors.New("invalid header")
	// ErrInvalidMessage: the message is nil.
	ErrInvalidMessage = errors.New("invalid message")
	// ErrInvalidHandler: the handler is nil.
	ErrInvalidHandler = errors.New("invalid handler")
	// ErrInvalidConfig: options are out of range or exclude each other.
	ErrInvalidConfig = errors.New("invalid configuration")
	// ErrMessageTooLarge: the server or the stream does not accept the size.
	ErrMessageTooLarge = errors.New("message too large")
	// ErrStreamFull: the stream is at a limit and discards new messages.
	ErrStreamFull = errors.New("stream is full")
	// ErrStreamLimit: a limit of the account or the server leaves no room for the stream.
	ErrStreamLimit = errors.New("no room for another stream")
	// ErrConsumerLimit: the stream, the account or the server permits no more consumers.
	ErrConsumerLimit = errors.New("no room for another consumer")
	// ErrSubscriptionLimit: the server permits no more subscriptions on the connection.
	ErrSubscriptionLimit = errors.New("no room for another subscription")
	// ErrOffline: all servers of a stream or consumer are down, or cannot run it.
	ErrOffline = errors.New("stream or consumer is offline: start the servers that hold it, or give it more replicas")
	// ErrClusterUnavailable: the cluster has no leader, or too few servers.
	ErrClusterUnavailable = errors.New("the cluster has no leader, or too few servers, at the moment: see that most of its servers run, and try again")
	// ErrWorkQueueConflict: another consumer of a WorkQueue stream has the subject.
	ErrWorkQueueConflict = errors.New("WorkQueue stream already has a consumer for this subject")
	// ErrConsumerConflict: somebody else's consumer has the name.
	ErrConsumerConflict = errors.New("consumer name is taken")
	// ErrStreamMismatch: the stream exists but does not cover the topic.
	ErrStreamMismatch = errors.New("stream does not cover the topic")
	// ErrStoredTwice: another JetStream stores the topic's messages, too.
	ErrStoredTwice = errors.New("the messages would be stored twice")
	// ErrStreamNotFound: no stream has the topic, and the broker may not create one.
	ErrStreamNotFound = errors.New("no stream captures the topic")
	// ErrConsumerNotFound: no consumer serves the queue, and the broker may not create one.
	ErrConsumerNotFound = errors.New("no consumer serves the queue")
	// ErrPublishUnknown: the message was sent, but no answer came.
	ErrPublishUnknown = errors.New("publish outcome unknown: stored or not; retry with the same message id")
	// ErrShutdownTimeout: work was still under way when Disconnect's bound passed.
	ErrShutdownTimeout = errors.New("shutdown timed out")
	// ErrPermission: the server refused a subject to this user.
	ErrPermission = errors.New("permission denied")
	// ErrUnsupported: the server is too old, or a stream of others lacks a flag.
	ErrUnsupported = errors.New("not supported")
	// ErrNotScheduled: no message of that topic and id waits to be delivered.
	ErrNotScheduled = errors.New("no such message waits to be delivered")
	// ErrDeadLetterLoop: the message has become a dead letter too often.
	ErrDeadLetterLoop = errors.New("dead letters go round in a loop")
	// ErrDeadLetterCut: a part of the dead letter is missing, and its original is gone.
	ErrDeadLetterCut = errors.New("a part of the dead letter is missing")
	// ErrAlreadySettled: the delivery was settled before.
	ErrAlreadySettled = errors.New("delivery already settled")
	// ErrForeign: the broker or event is of another kind.
	ErrForeign = errors.New("not of this broker")
)

var (
	// ErrNoConnection is the error of a broker without a connection.
	ErrNoConnection = fmt.Errorf("%w: Connect has not been called, or Disconnect has", ErrNotConnected)
	// ErrShuttingDown is the error of a call that comes after Disconnect has begun.
	ErrShuttingDown = fmt.Errorf("%w: the broker is shutting down", ErrNotConnected)
	// ErrConnectionLost marks an operation that found the connection down.
	ErrConnectionLost = errors.New("connection to the server is down")
)

// Outage is the error of an operation that waited for the connection to come
// back and ran out of time. err says what ended the wait.
func Outage(err error) error {
	return fmt.Errorf("%w: %w and did not come back in time: %w", ErrNotConnected, ErrConnectionLost, err)
}

// Permission adds [ErrPermission] to a permission violation that the client reports.
func Permission(violation error) error {
	return fmt.Errorf("%w: %w", ErrPermission, short(violation))
}

// API adds the matching sentinel to an error of a JetStream API request. It
// returns other errors, and nil, unchanged.
func API(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, jetstream.ErrJetStreamNotEnabled),
		errors.Is(err, jetstream.ErrJetStreamNotEnabledForAccount),
		errors.Is(err, nats.ErrNoResponders):
		return fmt.Errorf("%w: %w", ErrJetStreamUnavailable, short(err))
	case errors.Is(err, ErrConnectionLost): // it may come back
	case errors.Is(err, nats.ErrConnectionClosed), errors.Is(err, nats.ErrConnectionDraining):
		return fmt.Errorf("%w: %w", ErrNotConnected, err)
	case HasCode(err, offline...):
		return fmt.Errorf("%w: %w", ErrOffline, short(err))
	case HasCode(err, leaderless...):
		return fmt.Errorf("%w: %w", ErrClusterUnavailable, short(err))
	}
	return short(err)
}

// maxText bounds the text of an error that a server has sent, in bytes.
const maxText = 4096

// short returns the error with a text that is bounded: what answers need not be the
// server.
func short(err error) error {
	if s := err.Error(); len(s) > maxText {
		return &shortError{err: err, text: strings.Clone(s[:maxText]) + "..."}
	}
	return err
}

// shortError is an error with a shorter text.
type shortError struct {
	err  error
	text string
}

func (e *shortError) Error() string { return e.text }
func (e *shortError) Unwrap() error { return e.err }
