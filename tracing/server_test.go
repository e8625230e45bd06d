package tracing_test

import (
	"context"
	"maps"
	"testing"

	"go.opentelemetry.io/otel/attribute"

	jsbroker "go-micro-jetstream/broker"
)

func serverOf(kvs []attribute.KeyValue) map[string]any {
	all := attributes(kvs)
	maps.DeleteFunc(all, func(k string, _ any) bool { return k != "server.address" && k != "server.port" })
	return all
}

func TestSpansNameTheServer(t *testing.T) {
	t.Parallel()
	const one, two = "nats://nats-1.example:4222", "tls://[::1]:4223"
	first := map[string]any{"server.address": "nats-1.example", "server.port": int64(4222)}
	second := map[string]any{"server.address": "::1", "server.port": int64(4223)}
	unknown := map[string]any{}
	b := setup(t)
	for i, step := range []struct {
		broker string
		state  jsbroker.ConnectionState
		url    string
		want   map[string]any
	}{
		{want: unknown},
		{"a", jsbroker.StateConnected, one, first},
		{"a", jsbroker.StateDisconnected, "", first},
		{"a", jsbroker.StateReconnected, two, second},
		{"b", jsbroker.StateConnected, two, second},
		{"b", jsbroker.StateReconnected, one, unknown},
		{"a", jsbroker.StateClosed, "", first},
		{"b", jsbroker.StateClosed, "", unknown},
		{"b", jsbroker.StateConnected, "nats://nats-1.example", map[string]any{"server.address": "nats-1.example"}},
		{"b", jsbroker.StateConnected, "", unknown},
		{"b", jsbroker.StateConnected, "nats://%zz", unknown},
		{"b", jsbroker.StateConnected, one, first},
	} {
		if step.broker != "" {
			b.hooks.ConnectionChanged(t.Context(), jsbroker.ConnectionChanged{BrokerID: step.broker, State: step.state, URL: step.url})
		}
		for _, span := range []func(context.Context, map[string]string) []attribute.KeyValue{
			func(ctx context.Context, h map[string]string) []attribute.KeyValue {
				return b.publish(ctx, h).Attributes()
			},
			func(ctx context.Context, h map[string]string) []attribute.KeyValue {
				return b.handle(ctx, h).Attributes()
			},
		} {
			if got := serverOf(span(t.Context(), map[string]string{})); !maps.Equal(got, step.want) {
				t.Errorf("step %d: %v, want %v", i, got, step.want)
			}
		}
	}
}
