package produce

import (
	"fmt"
	"strings"

	"github.com/nats-io/nats.go/jetstream"

	"go-micro-jetstream/broker/internal/asset"
	"go-micro-jetstream/broker/internal/fault"
)

// maxFileRecord is the largest message of a stream on disk, in bytes (rlBadThresh in
// nats-server's server/filestore.go).
const maxFileRecord = 32 << 20

// refusal is the result of a try that the stream has answered with an error.
func refusal(err *jetstream.APIError, st *asset.Stream) result {
	switch err.ErrorCode {
	case fault.CodeTemporarilyAway, fault.CodeStreamOffline, fault.CodeTooManyRequests:
		return result{outcome: busy, err: fault.API(err)}
	case fault.CodeWrongLastSequence:
		return alreadyWaits(err, st)
	case fault.CodeTTLDisabled, fault.CodeSchedulesDisabled:
		return result{outcome: outdated, err: err}
	case fault.CodeDuplicateInProcess, fault.CodeWrongLastSequencePending:
		return result{outcome: inProcess, err: err}
	}
	return result{outcome: refused, err: refusalError(err, st)}
}

// refusalError adds the sentinel that callers look for to a refusal by the stream.
func refusalError(err *jetstream.APIError, st *asset.Stream) error {
	switch {
	case err.ErrorCode == jetstream.JSErrCodeStreamMessageExceedsMaximum:
		return fmt.Errorf("%w: it exceeds the MaxMsgSize of stream %s: store the body elsewhere, or raise that: %w", fault.ErrMessageTooLarge, st.Name, err)
	case err.ErrorCode == fault.CodeHeaderTooLarge:
		return fmt.Errorf("%w: the server accepts 64 KiB of headers: %w", fault.ErrMessageTooLarge, err)
	case err.ErrorCode == fault.CodeStoreFailed && strings.Contains(err.Description, "too large"):
		return fmt.Errorf("%w: the file store of stream %s takes %d MiB at most, headers included: %w", fault.ErrMessageTooLarge, st.Name, maxFileRecord>>20, err)
	case err.ErrorCode == fault.CodeStoreFailed && strings.Contains(err.Description, "maximum"),
		err.ErrorCode == fault.CodeAccountResources,
		err.ErrorCode == fault.CodeInsufficientCluster,
		err.ErrorCode == fault.CodeStorageExceeded:
		return fmt.Errorf("%w: stream %s: %w", fault.ErrStreamFull, st.Name, err)
	}
	return fmt.Errorf("stream %s refused it: %w", st.Name, fault.API(err))
}
