package fault

import (
	"context"
	"errors"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// reasons maps errors to a small closed set of names. Errors often wrap several
// of these; the first in the table wins.
var reasons = []struct {
	err    error
	reason string
}{
	{ErrPublishUnknown, "outcome_unknown"}, // before its cause
	{ErrConnectionLost, "disconnected"},    // before ErrNotConnected, which often wraps it
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
	{ErrStreamLimit, "stream_limit"},
	{ErrConsumerLimit, "consumer_limit"},
	{ErrSubscriptionLimit, "subscription_limit"},
	{ErrOffline, "offline"},
	{ErrClusterUnavailable, "cluster_unavailable"},
	{ErrWorkQueueConflict, "workqueue_conflict"},
	{ErrConsumerConflict, "consumer_conflict"},
	{ErrConsumerNotFound, "consumer_not_found"},
	{ErrStreamMismatch, "stream_mismatch"},
	{ErrStoredTwice, "stored_twice"},
	{ErrUnsupported, "unsupported"},
	{ErrNotScheduled, "not_scheduled"},
	{ErrPermission, "permission"},
	{ErrForeign, "foreign"},
	{ErrDeadLetterLoop, "dead_letter_loop"},
	{ErrDeadLetterCut, "dead_letter_cut"},
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

// Reason maps an error to a short, stable name from a closed set, fit for a
// metric label: "not_connected", "timeout", "stream_full" and so on. It returns
// "other" for errors that it does not know, and "" for nil.
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
