package metrics_test

import (
	"context"
	"testing"

	jsbroker "go-micro-jetstream/broker"
)

func TestConnection(t *testing.T) {
	h, reg := newHooks(t)
	for _, step := range []struct {
		state                 jsbroker.ConnectionState
		connected, reconnects float64
	}{
		{jsbroker.StateConnected, 1, 0},
		{jsbroker.StateDisconnected, 0, 0},
		{jsbroker.StateReconnected, 1, 1},
		{jsbroker.StateDisconnected, 0, 1},
		{jsbroker.StateReconnected, 1, 2},
		{"of a later version", 1, 2},
		{jsbroker.StateClosed, 0, 2},
		{jsbroker.StateConnected, 1, 2}, // Connect after Disconnect
	} {
		h.ConnectionChanged(context.Background(), jsbroker.ConnectionChanged{BrokerID: "1", ClientName: "shop", State: step.state})
		want(t, reg, map[string]float64{
			`micro_broker_connected{broker="shop"}`:        step.connected,
			`micro_broker_reconnects_total{broker="shop"}`: step.reconnects,
		})
	}
	if got := values(t, reg); len(got) != 2 {
		t.Errorf("series %v, want the two of the one broker", got)
	}
}

// Brokers of one name must not overwrite each other's state.
func TestBrokersAreToldApart(t *testing.T) {
	h, reg := newHooks(t)
	other := newHooksOn(t, reg)
	change := func(h jsbroker.Hooks, id, name string, state jsbroker.ConnectionState) {
		h.ConnectionChanged(context.Background(), jsbroker.ConnectionChanged{BrokerID: id, ClientName: name, State: state})
	}
	change(h, "a", "shop", jsbroker.StateConnected)
	change(h, "b", "shop-2", jsbroker.StateConnected) // takes the name that would be next
	change(other, "c", "shop", jsbroker.StateConnected)
	change(h, "d", "", jsbroker.StateConnected)
	change(other, "e", "", jsbroker.StateConnected)

	change(h, "a", "shop", jsbroker.StateDisconnected)
	change(other, "c", "renamed", jsbroker.StateReconnected) // stays what it was
	change(h, "d", "", jsbroker.StateClosed)
	want(t, reg, map[string]float64{
		`micro_broker_connected{broker="shop"}`:          0,
		`micro_broker_connected{broker="shop-2"}`:        1,
		`micro_broker_connected{broker="shop-3"}`:        1,
		`micro_broker_reconnects_total{broker="shop"}`:   0,
		`micro_broker_reconnects_total{broker="shop-3"}`: 1,
		`micro_broker_connected{broker="jetstream"}`:     0,
		`micro_broker_connected{broker="jetstream-2"}`:   1,
	})
	if got := values(t, reg); len(got) != 10 {
		t.Errorf("series %v, want those of five brokers", got)
	}
}
