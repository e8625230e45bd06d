package broker

import (
	"cmp"
	"context"

	"go-micro-jetstream/broker/internal/lifecycle"

	"github.com/nats-io/nats.go"
)

// reportFirst tells hooks of the state that the connection has when Connect
// succeeds. What the client has called back about before is part of that.
func (s *session) reportFirst() {
	state, url, err := lifecycle.Disconnected, "", cmp.Or(s.conn.NATS().LastError(), nats.ErrNoServers)
	switch {
	case s.conn.Up():
		state, url, err = lifecycle.Connected, s.conn.URL(), nil
	case s.conn.Over():
		state, err = lifecycle.Closed, s.conn.NATS().LastError()
	}
	s.reported.Begin(state, err, s.teller(url, err))
	switch state {
	case lifecycle.Connected:
		s.log.Info("connected to "+url, "server", s.conn.URL())
	case lifecycle.Disconnected:
		s.log.Warn("not connected yet, and connecting goes on", "server", s.conn.URL())
	}
}

// report tells hooks of a state.
func (s *session) report(state lifecycle.State, url string, err error) {
	if s.reported.Next(state, err, s.teller(url, err)) {
		s.log.Info("connected to "+url, "server", s.conn.URL())
	}
}

// teller returns a function that queues a state for the hooks.
func (s *session) teller(url string, err error) func(lifecycle.State) <-chan struct{} {
	return func(state lifecycle.State) <-chan struct{} {
		if len(s.hooks.connectionChanged) == 0 {
			return s.broker.states.Tell(nil)
		}
		event := ConnectionChanged{
			BrokerID:    s.broker.id,
			ClientName:  s.conn.Name(),
			State:       ConnectionState(state),
			URL:         url,
			Err:         err,
			AsyncWindow: s.publisher.Window,
		}
		return s.broker.states.Tell(func() { emit(s.hooks.connectionChanged, context.Background(), event) })
	}
}
