package produce

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"go-micro-jetstream/broker/internal/asset"
	"go-micro-jetstream/broker/internal/fault"
	"go-micro-jetstream/broker/internal/wire"
)

// outcome is how one try to publish a message ends.
type outcome int

const (
	pending outcome = iota // the try is not over
	stored                 // the stream has acknowledged the message

	// The message is not stored, and sending it again is of no use.
	refused // by the stream or by the server
	notSent // by the client

	// The message is not stored, and may be sent again.
	disconnected // there was no connection, so nothing was written
	unwritten    // the write failed: no server has the whole message
	noStream     // nobody answers for the subject: the stream is gone, or has no leader now
	outdated     // the stream is not what is known of it
	busy         // the stream takes no messages at the moment

	// The message may be stored.
	interrupted // the connection or its inbox was lost, and with it the answer
	unanswered  // no answer came in time
	inProcess   // the stream says that it has not finished with an earlier copy
	garbled     // the answer is no acknowledgement
)

// result is the outcome of a try with its details.
type result struct {
	outcome outcome
	ack     wire.PubAck // if stored
	err     error       // if the try is over and the message is not stored
}

// errNotSent is about a message that the client has not sent.
var errNotSent = errors.New("not sent")

func notSentError(cause error) error { return fmt.Errorf("%w: %w", errNotSent, cause) }

// errInterrupted is about an answer that cannot come any more, if there was one.
var errInterrupted = errors.New("the connection, or its inbox, was lost while waiting for the answer")

// unusable is the result of a try for which the connection cannot be used.
func unusable(err error) result {
	if errors.Is(err, fault.ErrConnectionLost) {
		return result{outcome: disconnected, err: err}
	}
	return result{outcome: refused, err: err} // no answer could arrive
}

// unsendable are the client's own reasons not to send a message. All its other errors
// are about the connection, also that it is closed: another client may take its place.
var unsendable = []error{
	nats.ErrMaxPayload, nats.ErrBadSubject, nats.ErrInvalidMsg, nats.ErrBadHeaderMsg, nats.ErrHeadersNotSupported,
	nats.ErrInvalidConnection,
}

// failedWrite is the result of a try for which the client has returned an error. The
// message is then the last one in its buffer, so that no server has received it whole.
func failedWrite(nc *nats.Conn, m *nats.Msg, err error) result {
	if !slices.ContainsFunc(unsendable, func(reason error) bool { return errors.Is(err, reason) }) {
		return result{outcome: unwritten, err: fmt.Errorf("%w: %w", fault.ErrConnectionLost, err)}
	}
	if errors.Is(err, nats.ErrMaxPayload) { // an earlier server accepted more
		err = fmt.Errorf("%w: %d bytes without headers, the server accepts %d: %w", fault.ErrMessageTooLarge, len(m.Data), nc.MaxPayload(), err)
	}
	return result{outcome: notSent, err: fault.API(notSentError(err))}
}

// timedOut is the result of a try that does not wait any longer.
func timedOut(err error) result { return result{outcome: unanswered, err: err} }

// answer is what a try waits for: a message, or the reason why none comes.
type answer struct {
	msg    *nats.Msg
	reason result // if msg is nil
}

var (
	interruption = answer{reason: result{outcome: interrupted, err: errInterrupted}}
	expiry       = answer{reason: timedOut(context.DeadlineExceeded)}
)

// result reads the answer to a message that was sent for the stream.
func (a answer) result(st *asset.Stream) result {
	if a.msg == nil {
		return a.reason
	}
	if sequence, ok := wire.PlainAck(a.msg.Data, st.Name); ok {
		return result{outcome: stored, ack: wire.PubAck{Stream: st.Name, Sequence: sequence}}
	}
	ack, err := wire.ParsePubAck(a.msg)
	var api *jetstream.APIError
	switch {
	case err == nil:
		return result{outcome: stored, ack: ack}
	case errors.Is(err, nats.ErrNoResponders):
		return result{outcome: noStream, err: fmt.Errorf("stream %s does not answer: %w", st.Name, jetstream.ErrNoStreamResponse)}
	case errors.As(err, &api):
		return refusal(api, st)
	}
	return result{outcome: garbled, err: err}
}
