package wire

import (
	"errors"
	"fmt"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// ErrBatchDone is the ordinary end of a pull request.
var ErrBatchDone = errors.New("request completed")

// ErrNotPinned is the end of the request of a subscriber that is no longer the one that
// the server serves (ADR-42).
var ErrNotPinned = errors.New("another subscriber of the consumer is served")

// StatusError says what the status message of a pull request (ADR-13) means for
// the request: nil if it goes on, [ErrBatchDone] if it has ended in the ordinary
// way, or else what went wrong.
func StatusError(status, description string) error {
	switch status {
	case "100": // heartbeat
		return nil
	case "404", "408": // no messages, or expired: an idle poll
		return ErrBatchDone
	case "423":
		return ErrNotPinned
	case "503":
		return nats.ErrNoResponders
	case "409":
		lower := strings.ToLower(description)
		for _, known := range conflicts {
			if strings.Contains(lower, known.text) {
				return known.err
			}
		}
	}
	return fmt.Errorf("the server refused the fetch: %s %s", Shorten(status), Shorten(description))
}

// conflicts are the descriptions of status 409, in lower case.
var conflicts = []struct {
	text string
	err  error
}{
	{"batch completed", ErrBatchDone}, // the bytes are used up
	{"message size exceeds maxbytes", jetstream.ErrMaxBytesExceeded},
	{"consumer deleted", jetstream.ErrConsumerDeleted},
	{"leadership change", jetstream.ErrConsumerLeadershipChanged},
	{"server shutdown", jetstream.ErrServerShutdown},
}
