package metrics_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

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

// Disconnect is no outage: its gauge goes before an alert would fire. A loss stays.
func TestGaugeGoesAfterDisconnect(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, reg := newHooks(t)
		change := func(id string, state jsbroker.ConnectionState, err error) {
			h.ConnectionChanged(context.Background(), jsbroker.ConnectionChanged{BrokerID: id, ClientName: id, State: state, Err: err})
		}
		for _, id := range []string{"disconnected", "again", "lost", "given up"} {
			change(id, jsbroker.StateConnected, nil)
		}
		change("disconnected", jsbroker.StateClosed, nil)
		change("again", jsbroker.StateClosed, nil)
		change("lost", jsbroker.StateDisconnected, errors.New("EOF"))
		change("given up", jsbroker.StateClosed, errors.New("EOF"))
		time.Sleep(29 * time.Second)
		want(t, reg, map[string]float64{
			`micro_broker_connected{broker="disconnected"}`: 0,
			`micro_broker_connected{broker="again"}`:        0,
		})
		change("again", jsbroker.StateConnected, nil)
		time.Sleep(time.Hour)
		want(t, reg, map[string]float64{
			`micro_broker_connected{broker="again"}`:               1,
			`micro_broker_connected{broker="lost"}`:                0,
			`micro_broker_connected{broker="given up"}`:            0,
			`micro_broker_reconnects_total{broker="disconnected"}`: 0,
		})
		wantGone(t, reg, `micro_broker_connected{broker="disconnected"}`)
	})
}

// A process that makes a broker for each job has one series, not one for each.
func TestOneBrokerAfterAnother(t *testing.T) {
	h, reg := newHooks(t)
	for i := range 10 {
		for _, state := range []jsbroker.ConnectionState{jsbroker.StateConnected, jsbroker.StateDisconnected, jsbroker.StateReconnected, jsbroker.StateClosed} {
			h.ConnectionChanged(context.Background(), jsbroker.ConnectionChanged{BrokerID: fmt.Sprint(i), ClientName: "shop", State: state})
		}
	}
	if got := values(t, reg); len(got) != 2 || got[`micro_broker_reconnects_total{broker="shop"}`] != 10 {
		t.Errorf("series %v, want the two of one broker", got)
	}
}
