package broker

import (
	"cmp"
	"context"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"go-micro-jetstream/broker/internal/goroutine"
)

// stateQueue tells hooks of the states of a broker's connections, in the order
// of these states and on a goroutine of its own. A hook that is slow, or that
// calls the broker, delays the next state. It does not delay the client, which
// has one goroutine for all its callbacks.
type stateQueue struct{ queue goroutine.Queue }

// stateChange is one state to tell hooks of.
type stateChange struct {
	hooks *dispatcher
	event ConnectionChanged
	told  chan struct{} // closed when they have been told
}

// Run tells the hooks.
func (c *stateChange) Run() {
	defer close(c.told)
	emit(c.hooks.connectionChanged, context.Background(), c.event)
}

// tell returns a channel that is closed when the hooks have been told.
func (q *stateQueue) tell(d *dispatcher, e ConnectionChanged) (told <-chan struct{}) {
	c := &stateChange{hooks: d, event: e, told: make(chan struct{})}
	if len(d.connectionChanged) == 0 {
		close(c.told)
		return c.told
	}
	q.queue.Add(c)
	return c.told
}

// runsOn reports whether the goroutine is the one on which hooks are told.
func (q *stateQueue) runsOn(id uint64) bool { return q.queue.RunsOn(id) }

// await waits until hooks have been told, and reports whether they have been.
// It waits no longer than the bound, because a hook may hang, and not at all in
// a hook that is being told.
func (q *stateQueue) await(told <-chan struct{}, bound time.Duration) bool {
	if told == nil || q.runsOn(goroutine.ID()) {
		return true
	}
	timer := time.NewTimer(bound)
	defer timer.Stop()
	select {
	case <-told:
		return true
	case <-timer.C:
		return false
	}
}

// connectionReport is what hooks have been told of a connection.
type connectionReport struct {
	mu    sync.Mutex
	begun bool // Connect has succeeded; before that hooks are told nothing
	up    bool // they have been told once that it is up
	state ConnectionState
	err   error
	told  <-chan struct{} // closed when they have been told of the state
}

// last returns a channel that is closed when hooks have been told of the latest
// state, or nil if there is none.
func (r *connectionReport) last() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.told
}

// begin is next for the state at the end of a Connect. The states before that
// one are not told.
func (r *connectionReport) begin(s ConnectionState, err error, tell func(ConnectionState) <-chan struct{}) {
	r.mu.Lock()
	r.begun = true
	r.mu.Unlock()
	r.next(s, err, tell)
}

// next tells hooks of a state unless they know it. It reports whether the
// connection is up for the first time. The states are queued in the order of
// these calls; tell must not wait.
func (r *connectionReport) next(s ConnectionState, err error, tell func(ConnectionState) <-chan struct{}) (first bool) {
	isUp := func(s ConnectionState) bool { return s == StateConnected || s == StateReconnected }
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case !r.begun:
		return false
	case r.state == StateClosed && (s != StateClosed || r.err == nil || err != nil):
		return false // nothing comes after the end, except Disconnect where the client has given up
	case s != StateClosed && (r.state == s || isUp(r.state) && isUp(s)):
		return false // the client calls back later than it changes its state
	}
	if first = isUp(s) && !r.up; first {
		s, r.up = StateConnected, true
	}
	r.state, r.err = s, err
	r.told = tell(s)
	return first
}

// reportFirst tells hooks of the state that the connection has when Connect
// succeeds. What the client has called back about before is part of that.
func (s *session) reportFirst() {
	state, url, err := StateDisconnected, "", cmp.Or(s.conn.NATS().LastError(), nats.ErrNoServers)
	switch {
	case s.conn.Up():
		state, url, err = StateConnected, s.conn.URL(), nil
	case s.conn.Over():
		state, err = StateClosed, s.conn.NATS().LastError()
	}
	s.reported.begin(state, err, s.teller(url, err))
	switch state {
	case StateConnected:
		s.log.Info("connected to "+url, "server", s.conn.URL())
	case StateDisconnected:
		s.log.Warn("not connected yet, and connecting goes on", "server", s.conn.URL())
	}
}

// report tells hooks of a state.
func (s *session) report(state ConnectionState, url string, err error) {
	if s.reported.next(state, err, s.teller(url, err)) {
		s.log.Info("connected to "+url, "server", s.conn.URL())
	}
}

// teller returns a function that queues a state for the hooks.
func (s *session) teller(url string, err error) func(ConnectionState) <-chan struct{} {
	return func(state ConnectionState) <-chan struct{} {
		return s.broker.states.tell(s.hooks, ConnectionChanged{
			BrokerID:    s.broker.id,
			ClientName:  s.conn.Name(),
			State:       state,
			URL:         url,
			Err:         err,
			AsyncWindow: s.publisher.Window,
		})
	}
}
