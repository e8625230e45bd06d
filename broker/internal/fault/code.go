package fault

import (
	"errors"
	"slices"

	"github.com/nats-io/nats.go/jetstream"
)

// Error codes of the server that nats.go has no name for. They are listed in
// nats-server's server/errors.json.
const (
	CodeAccountResources         jetstream.ErrorCode = 10002 // a limit of the account
	CodeNoPeers                  jetstream.ErrorCode = 10005 // no servers fit for a new stream; the description says why
	CodeTemporarilyAway          jetstream.ErrorCode = 10008 // no leader at the moment
	CodeNotLeader                jetstream.ErrorCode = 10009 // the server does not lead any more
	CodeInsufficientCluster      jetstream.ErrorCode = 10023 // no room in the cluster
	CodeMaxConsumers             jetstream.ErrorCode = 10026 // of the stream, the account or the server
	CodeMaxStreams               jetstream.ErrorCode = 10027 // of the account
	CodeMemoryExceeded           jetstream.ErrorCode = 10028 // of the account or the server
	CodeStorageExceeded          jetstream.ErrorCode = 10047 // a limit of the server
	CodeStreamStoreFailed        jetstream.ErrorCode = 10049 // creating a stream failed on the disk
	CodeStreamNotMatch           jetstream.ErrorCode = 10060 // the publisher expects another stream
	CodeStreamSubjectOverlap     jetstream.ErrorCode = 10065 // another stream has the subjects
	CodeStoreFailed              jetstream.ErrorCode = 10077 // the description says which limit was reached
	CodeMsgDeleteFailed          jetstream.ErrorCode = 10057 // there is no such message
	CodeTTLDisabled              jetstream.ErrorCode = 10166 // the stream lacks allow_msg_ttl
	CodeSchedulesDisabled        jetstream.ErrorCode = 10188 // the stream lacks allow_msg_schedules
	CodeWrongLastSequence        jetstream.ErrorCode = 10071 // the subject has a message already
	CodeWrongLastSequencePending jetstream.ErrorCode = 10164 // one is on its way
	CodeHeaderTooLarge           jetstream.ErrorCode = 10097 // headers beyond 64 KiB
	CodeConsumerWQNotUnfiltered  jetstream.ErrorCode = 10099 // WorkQueue: a consumer for all subjects exists or is asked for
	CodeConsumerWQNotUnique      jetstream.ErrorCode = 10100 // WorkQueue: another consumer has the subject
	CodeMaxBytesRequired         jetstream.ErrorCode = 10113 // the account wants a MaxBytes for each stream
	CodeStreamOffline            jetstream.ErrorCode = 10118 // the stream's servers are down or starting
	CodeConsumerOffline          jetstream.ErrorCode = 10119 // the consumer's servers are down or starting
	CodeNoTier                   jetstream.ErrorCode = 10120 // the account has no limits for so many replicas
	CodeMaxAckPending            jetstream.ErrorCode = 10121 // beyond the limit of the stream, the account or the server
	CodeMaxStreamBytes           jetstream.ErrorCode = 10122 // beyond the account's limit for one stream
	CodeMaxRequestBatch          jetstream.ErrorCode = 10125 // beyond the limit of the server
	CodeInactiveThreshold        jetstream.ErrorCode = 10153 // beyond the limit of the stream
	CodeDuplicateInProcess       jetstream.ErrorCode = 10158 // an earlier copy is on its way into the stream
	CodeTooManyRequests          jetstream.ErrorCode = 10167 // the stream's ingest buffer is full; nothing was stored
	CodeStreamOfflineReason      jetstream.ErrorCode = 10194 // the server cannot run the stream; the description says why
	CodeConsumerOfflineReason    jetstream.ErrorCode = 10195 // the server cannot run the consumer; the description says why
)

// HasCode reports whether err is, or wraps, an error of the JetStream API that
// has one of the codes.
func HasCode(err error, codes ...jetstream.ErrorCode) bool {
	var api *jetstream.APIError
	return errors.As(err, &api) && slices.Contains(codes, api.ErrorCode)
}

// offline are the codes of streams and consumers that no server runs now.
var offline = []jetstream.ErrorCode{CodeStreamOffline, CodeConsumerOffline, CodeStreamOfflineReason, CodeConsumerOfflineReason}

// leaderless are the codes of a cluster that cannot decide or place anything now.
var leaderless = []jetstream.ErrorCode{CodeTemporarilyAway, CodeNotLeader, CodeNoPeers}

// Passing reports whether err is one that a cluster returns while servers are down,
// start, or elect a leader, so that the same request may succeed a moment later.
func Passing(err error) bool {
	return HasCode(err, CodeTemporarilyAway, CodeNotLeader, CodeNoPeers, CodeStreamOffline, CodeConsumerOffline)
}
