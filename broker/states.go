package broker

import (
	"context"
	"sync"
	"sync/atomic"
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
