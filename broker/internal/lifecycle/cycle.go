// Package lifecycle is where a broker is between Connect and Disconnect: what is open, who
// opens or closes it, what has been told of it, and what was left behind.
package lifecycle

import (
	"sync"
	"sync/atomic"
)

// Cycle is where a broker is between Connect and Disconnect: with a session of type S,
// and a shutdown of type D while that is closed. Of both calls, one is under way at a time.
// The zero value is ready; it is safe for concurrent use.
type Cycle[S, D any] struct {
	session atomic.Pointer[S] // nil when not connected; written under mu

	mu      sync.Mutex
	dialing chan struct{} // closed when the Connect under way has ended
	closing *D            // the Disconnect under way
}

// Session returns the session, or nil when not connected.
func (l *Cycle[S, D]) Session() *S { return l.session.Load() }

// BeginDial reports whether the caller is to dial. Otherwise there is a session
// already, or the caller waits: for the Connect under way, which closes the
// channel, or for the Disconnect.
func (l *Cycle[S, D]) BeginDial() (dial bool, s *S, dialing <-chan struct{}, closing *D) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.closing != nil:
		return false, nil, nil, l.closing
	case l.session.Load() != nil:
		return false, l.session.Load(), nil, nil
	case l.dialing != nil:
		return false, nil, l.dialing, nil
	}
	l.dialing = make(chan struct{})
	return true, nil, nil, nil
}

// EndDial ends a dial, with a nil session if it has failed.
func (l *Cycle[S, D]) EndDial(s *S) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if s != nil {
		l.session.Store(s)
	}
	close(l.dialing)
	l.dialing = nil
}

// BeginClose returns the Disconnect under way, or begins one with the shutdown
// that the function makes. It returns nil when not connected. The caller waits
// for a Connect under way and calls again if there is one.
func (l *Cycle[S, D]) BeginClose(begin func(*S) *D) (sd *D, dialing <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.dialing != nil {
		return nil, l.dialing
	}
	if s := l.session.Load(); l.closing == nil && s != nil {
		l.closing = begin(s)
	}
	return l.closing, nil
}

// EndSession is for a shutdown: nobody publishes or subscribes any more.
func (l *Cycle[S, D]) EndSession() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.session.Store(nil)
}

// EndClose ends a Disconnect.
func (l *Cycle[S, D]) EndClose() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closing = nil
}
