package fault_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"go-micro-jetstream/broker/internal/fault"
)

func TestReason(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		err  error
		want string
	}{
		{nil, ""},
		{errors.New("something else"), "other"},
		{fault.ErrNoConnection, "not_connected"},
		{fault.ErrShuttingDown, "not_connected"},
		{fault.Outage(context.DeadlineExceeded), "disconnected"},
		{fmt.Errorf("%w: %w", fault.ErrPublishUnknown, context.DeadlineExceeded), "outcome_unknown"},
		{fault.Permission(nats.ErrPermissionViolation), "permission"},
		{fault.API(nats.ErrNoResponders), "jetstream_unavailable"},
		{fmt.Errorf("%w: %w", fault.ErrConsumerNotFound, jetstream.ErrConsumerNotFound), "consumer_not_found"},
		{jetstream.ErrConsumerNotFound, "consumer_deleted"},
		{fault.API(&jetstream.APIError{ErrorCode: fault.CodeConsumerOffline}), "offline"},
		{fault.API(&jetstream.APIError{ErrorCode: fault.CodeStreamOfflineReason}), "offline"},
		{fault.API(&jetstream.APIError{ErrorCode: fault.CodeTemporarilyAway}), "cluster_unavailable"},
		{fault.API(&jetstream.APIError{ErrorCode: fault.CodeNoPeers}), "cluster_unavailable"},
		{fmt.Errorf("%w: x", fault.ErrStreamLimit), "stream_limit"},
		{fmt.Errorf("%w: x", fault.ErrConsumerLimit), "consumer_limit"},
		{jetstream.ErrStreamNotFound, "stream_not_found"},
		{nats.ErrNoResponders, "no_responders"},
		{context.Canceled, "canceled"},
		{fmt.Errorf("look-up: %w", context.DeadlineExceeded), "timeout"},
	} {
		if got := fault.Reason(tt.err); got != tt.want {
			t.Errorf("%v: %q, want %q", tt.err, got, tt.want)
		}
	}
}

func TestErrorsWrapTheirCause(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		err  error
		text string
		is   []error
	}{
		{fault.Outage(context.Canceled), "not connected: connection to the server is down and did not come back in time: context canceled",
			[]error{fault.ErrNotConnected, fault.ErrConnectionLost, context.Canceled}},
		{fault.Permission(nats.ErrPermissionViolation), "permission denied: nats: permissions violation", []error{fault.ErrPermission, nats.ErrPermissionViolation}},
		{fault.ErrNoConnection, "not connected: Connect has not been called, or Disconnect has", []error{fault.ErrNotConnected}},
		{fault.ErrShuttingDown, "not connected: the broker is shutting down", []error{fault.ErrNotConnected}},
	} {
		if tt.err.Error() != tt.text {
			t.Errorf("got  %s\nwant %s", tt.err, tt.text)
		}
		for _, is := range tt.is {
			if !errors.Is(tt.err, is) {
				t.Errorf("%v does not wrap %v", tt.err, is)
			}
		}
	}
}

func TestAPI(t *testing.T) {
	t.Parallel()
	if err := fault.API(nil); err != nil {
		t.Errorf("nil became %v", err)
	}
	if err := fault.API(errors.New("other")); err.Error() != "other" {
		t.Errorf("an unknown error became %v", err)
	}
	for _, tt := range []struct{ err, want error }{
		{jetstream.ErrJetStreamNotEnabled, fault.ErrJetStreamUnavailable},
		{jetstream.ErrJetStreamNotEnabledForAccount, fault.ErrJetStreamUnavailable},
		{nats.ErrNoResponders, fault.ErrJetStreamUnavailable},
		{nats.ErrConnectionClosed, fault.ErrNotConnected},
		{nats.ErrConnectionDraining, fault.ErrNotConnected},
	} {
		if err := fault.API(tt.err); !errors.Is(err, tt.want) || !errors.Is(err, tt.err) {
			t.Errorf("%v became %v", tt.err, err)
		}
	}
}

func TestHasCode(t *testing.T) {
	t.Parallel()
	away := fmt.Errorf("look-up: %w", &jetstream.APIError{ErrorCode: fault.CodeTemporarilyAway})
	for _, tt := range []struct {
		err   error
		codes []jetstream.ErrorCode
		want  bool
	}{
		{away, []jetstream.ErrorCode{fault.CodeStreamOffline, fault.CodeTemporarilyAway}, true},
		{away, []jetstream.ErrorCode{fault.CodeStreamOffline}, false},
		{away, nil, false},
		{jetstream.ErrStreamNotFound, []jetstream.ErrorCode{jetstream.JSErrCodeStreamNotFound}, true},
		{errors.New("10008"), []jetstream.ErrorCode{fault.CodeTemporarilyAway}, false},
		{nil, []jetstream.ErrorCode{fault.CodeTemporarilyAway}, false},
	} {
		if got := fault.HasCode(tt.err, tt.codes...); got != tt.want {
			t.Errorf("%v has one of %v: %v", tt.err, tt.codes, got)
		}
	}
}
