package fault

import (
	"errors"
	"slices"

	"github.com/nats-io/nats.go/jetstream"
)

// Error codes of the server that nats.go has no name for. They are listed in
// nats-server's server/errors.json.
const (
	CodeAccountResources        jetstream.ErrorCode = 10002 // a limit of the account
	CodeTemporarilyAway         jetstream.ErrorCode = 10008 // no leader at the moment
	CodeInsufficientCluster     jetstream.ErrorCode = 10023 // no room in the cluster
	CodeStorageExceeded         jetstream.ErrorCode = 10047 // a limit of the server
	CodeStreamStoreFailed       jetstream.ErrorCode = 10049 // creating a stream failed on the disk
	CodeStreamSubjectOverlap    jetstream.ErrorCode = 10065 // another stream has the subjects
	CodeStoreFailed             jetstream.ErrorCode = 10077 // the description says which limit was reached
	CodeHeaderTooLarge          jetstream.ErrorCode = 10097 // headers beyond 64 KiB
	CodeConsumerWQNotUnfiltered jetstream.ErrorCode = 10099 // WorkQueue: a consumer for all subjects exists or is asked for
	CodeConsumerWQNotUnique     jetstream.ErrorCode = 10100 // WorkQueue: another consumer has the subject
	CodeStreamOffline           jetstream.ErrorCode = 10118 // the stream's servers are down or starting
	CodeDuplicateInProcess      jetstream.ErrorCode = 10158 // an earlier copy is on its way into the stream
	CodeTooManyRequests         jetstream.ErrorCode = 10167 // the stream's ingest buffer is full; nothing was stored
)

// HasCode reports whether err is, or wraps, an error of the JetStream API that
// has one of the codes.
func HasCode(err error, codes ...jetstream.ErrorCode) bool {
	var api *jetstream.APIError
	return errors.As(err, &api) && slices.Contains(codes, api.ErrorCode)
}
