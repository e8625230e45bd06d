package wire_test

import (
	"testing"

	"github.com/nats-io/nats.go"

	"go-micro-jetstream/broker/internal/wire"
)

func TestIsDeleteMarker(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		header nats.Header
		body   string
		want   bool
	}{
		{"expired", nats.Header{"Nats-Marker-Reason": {"MaxAge"}, "Nats-TTL": {"1m0s"}, "Nats-Rollup": {"sub"}}, "", true},
		{"removed", nats.Header{"Nats-Marker-Reason": {"Remove"}}, "", true},
		{"for a consumer of headers only", nats.Header{"Nats-Marker-Reason": {"MaxAge"}, "Nats-Msg-Size": {"0"}}, "", true},
		{"somebody's, for a consumer of headers only", nats.Header{"Nats-Marker-Reason": {"MaxAge"}, "Nats-Msg-Size": {"3"}}, "", false},
		{"somebody's", nats.Header{"Nats-Marker-Reason": {"MaxAge"}}, "x", false},
		{"another spelling", nats.Header{"nats-marker-reason": {"MaxAge"}}, "", false},
		{"no reason", nats.Header{"Nats-Marker-Reason": {""}}, "", false},
		{"of a key-value bucket, which the handler sees", nats.Header{"KV-Operation": {"PURGE"}}, "", false},
		{"empty", nil, "", false},
	} {
		if got := wire.IsDeleteMarker(&nats.Msg{Header: tt.header, Data: []byte(tt.body)}); got != tt.want {
			t.Errorf("%s: %v", tt.name, got)
		}
	}
}
