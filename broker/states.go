package broker

import (
	"cmp"
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"go-micro.dev/v5/logger"
)

// states tells the hooks of the states of a broker's connections, in the order in
// which these came, on a goroutine that there is as long as there is something to
// tell. A hook that is slow, or that calls the broker, holds up the next state, and
// not the client: that has one goroutine for all that it calls back.
type states struct {
	mu      sync.Mutex
	queue   []state
	running bool
	id      atomic.Uint64 // the goroutine; 0: there is none
}

type state struct {
	hooks *dispatcher
	event ConnectionChanged
	told  chan struct{}
}

// tell returns a channel that is closed when the hooks have been told.
func (s *states) tell(d *dispatcher, e ConnectionChanged) (told <-chan struct{}) {
	next := state{hooks: d, event: e, told: make(chan struct{})}
	if len(d.connectionChanged) == 0 {
		close(next.told)
		return next.told
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.queue = append(s.queue, next)
	if !s.running {
		s.running = true
		go s.run()
	}
	return next.told
}

func (s *states) run() {
	ended := false
	defer func() {
		if !ended { // a hook has ended the goroutine
			go s.run()
		}
	}()
	s.id.Store(goroutineID())
	for {
		next, ok := s.take()
		if !ok {
			ended = true
			return
		}
		next.emit()
	}
}

func (s *states) take() (next state, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.queue) == 0 {
		s.queue, s.running = nil, false
		s.id.Store(0)
		return state{}, false
	}
	next, s.queue = s.queue[0], s.queue[1:]
	return next, true
}

func (next state) emit() {
	defer close(next.told)
	emit(next.hooks, next.hooks.connectionChanged, context.Background(), next.event)
}

// runsOn reports whether a hook that is being told runs on the goroutine.
func (s *states) runsOn(id uint64) bool { return id != 0 && s.id.Load() == id }

// await waits until hooks have been told, but not for ever, as one may hang, and not in
// a hook. It reports whether they have been.
func (s *states) await(told <-chan struct{}, bound time.Duration) bool {
	if told == nil || s.runsOn(goroutineID()) {
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

// told is what hooks have been told of a connection.
type told struct {
	mu    sync.Mutex
	begun bool // Connect has succeeded; before that they are told of nothing
	ever  bool // that it is up
	state ConnectionState
	err   error
	last  <-chan struct{} // closed when they have been told of the state
}

// toldLast returns a channel that is closed when hooks have been told of the latest
// state, or nil if there is none.
func (c *connection) toldLast() <-chan struct{} {
	c.told.mu.Lock()
	defer c.told.mu.Unlock()
	return c.told.last
}

// begin tells hooks of the state that the connection has when Connect succeeds. What
// the client has called back about before is part of that.
func (c *connection) begin() {
	c.told.mu.Lock()
	c.told.begun = true
	s, url, err := StateDisconnected, "", cmp.Or(c.nc.LastError(), nats.ErrNoServers)
	switch {
	case c.link.connected():
		s, url, err = StateConnected, c.serverURL(), nil
	case c.nc.IsClosed():
		s, err = StateClosed, c.nc.LastError()
	}
	c.tellLocked(s, url, err)
	c.told.mu.Unlock()
	switch s {
	case StateConnected:
		c.logf(logger.InfoLevel, "connected to %s", url)
	case StateDisconnected:
		c.logf(logger.WarnLevel, "not connected yet, and connecting goes on")
	}
}

// tell tells hooks of a state.
func (c *connection) tell(s ConnectionState, url string, err error) {
	c.told.mu.Lock()
	first := c.tellLocked(s, url, err)
	c.told.mu.Unlock()
	if first {
		c.logf(logger.InfoLevel, "connected to %s", url)
	}
}

// tellLocked reports whether the connection is up for the first time. The caller holds
// told.mu.
func (c *connection) tellLocked(s ConnectionState, url string, err error) (first bool) {
	up := func(s ConnectionState) bool { return s == StateConnected || s == StateReconnected }
	t := &c.told
	switch {
	case !t.begun:
		return false
	case t.state == StateClosed && (s != StateClosed || t.err == nil || err != nil):
		return false // nothing comes after the end, but Disconnect where the client has given up
	case t.state == s, up(t.state) && up(s):
		if s != StateClosed {
			return false // the client calls back later than it is in another state
		}
	}
	if first = up(s) && !t.ever; first {
		s, t.ever = StateConnected, true
	}
	t.state, t.err = s, err
	t.last = c.broker.states.tell(c.hooks, ConnectionChanged{
		BrokerID:   c.broker.id,
		ClientName: c.name,
		State:      s,
		URL:        url,
		Err:        err,
	})
	return first
}
