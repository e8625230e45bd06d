package broker

import (
	"sync"
	"sync/atomic"
)

// lifecycle is where a broker is between Connect and Disconnect. Of both, one call
// is under way at a time.
type lifecycle struct {
	session atomic.Pointer[session] // nil when not connected; written under mu

	mu      sync.Mutex
	dialing chan struct{} // closed when the Connect under way has ended
	closing *shutdown     // the Disconnect under way
}

// beginDial reports whether the caller is to dial. Otherwise there is a session
// already, or the caller waits: for the Connect under way, which closes the
// channel, or for the Disconnect.
func (l *lifecycle) beginDial() (dial bool, s *session, dialing <-chan struct{}, closing *shutdown) {
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

// endDial ends a dial, with a nil session if it has failed.
func (l *lifecycle) endDial(s *session) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if s != nil {
		l.session.Store(s)
	}
	close(l.dialing)
	l.dialing = nil
}

// beginClose returns the Disconnect under way, or begins one with the shutdown
// that the function makes. It returns nil when not connected. The caller waits
// for a Connect under way and calls again if there is one.
func (l *lifecycle) beginClose(begin func(*session) *shutdown) (sd *shutdown, dialing <-chan struct{}) {
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

// endSession is for a shutdown: nobody publishes or subscribes any more.
func (l *lifecycle) endSession() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.session.Store(nil)
}

// endClose ends a Disconnect.
func (l *lifecycle) endClose() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closing = nil
}
