package lifecycle

import "sync"

// State is a state of a connection.
type State string

// The states of a connection.
const (
	Connected    State = "connected"
	Disconnected State = "disconnected"
	Reconnected  State = "reconnected"
	Closed       State = "closed"
)

// Report is what hooks have been told of a connection. The zero value is ready; it is
// safe for concurrent use.
type Report struct {
	mu    sync.Mutex
	begun bool // Connect has succeeded; before that hooks are told nothing
	up    bool // they have been told once that it is up
	state State
	err   error
	told  <-chan struct{} // closed when they have been told of the state
}

// Last returns a channel that is closed when hooks have been told of the latest
// state, or nil if there is none.
func (r *Report) Last() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.told
}

// Begin is Next for the state at the end of a Connect. The states before that
// one are not told.
func (r *Report) Begin(s State, err error, tell func(State) <-chan struct{}) {
	r.mu.Lock()
	r.begun = true
	r.mu.Unlock()
	r.Next(s, err, tell)
}

// Next tells hooks of a state unless they know it. It reports whether the
// connection is up for the first time. The states are queued in the order of
// these calls; tell must not wait.
func (r *Report) Next(s State, err error, tell func(State) <-chan struct{}) (first bool) {
	isUp := func(s State) bool { return s == Connected || s == Reconnected }
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case !r.begun:
		return false
	case r.state == Closed && (s != Closed || r.err == nil || err != nil):
		return false // nothing comes after the end, except Disconnect where the client has given up
	case s != Closed && (r.state == s || isUp(r.state) && isUp(s)):
		return false // the client calls back later than it changes its state
	}
	if first = isUp(s) && !r.up; first {
		s, r.up = Connected, true
	}
	r.state, r.err = s, err
	r.told = tell(s)
	return first
}
