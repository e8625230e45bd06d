package broker

import (
	"sync"
	"sync/atomic"

	"github.com/nats-io/nats.go"
)

// link tells whether the client is connected, as [nats.Conn.IsConnected] does, but
// without the client's lock: that is held while the client writes, and who waits for it
// has to be woken again, for every question.
type link struct {
	nc    *nats.Conn
	watch atomic.Pointer[watch] // nil before there was one

	mu     sync.Mutex // held while the watch is replaced
	number uint64     // of the latest
}

// watch says that the client is connected, as long as the channel is empty. Under the
// lock under which its state changes, the client writes there that it does; nobody
// reads it, so that what is lost stays lost.
type watch struct {
	lost   chan nats.Status
	number uint64
}

// connected reports whether the connection is up.
func (l *link) connected() bool {
	up, _ := l.state()
	return up
}

// state also returns a number that is another one after each loss, and 0 while the
// connection is down.
func (l *link) state() (up bool, number uint64) {
	if w := l.watch.Load(); w != nil && len(w.lost) == 0 {
		return true, w.number
	}
	// The client, while it dials, lets those that ask it in together now and then. They
	// must not wait for each other as well.
	if !l.nc.IsConnected() {
		return false, 0
	}
	return l.renew()
}

// renew replaces the watch, which has seen a loss, for a connection that seems up.
func (l *link) renew() (up bool, number uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if w := l.watch.Load(); w != nil {
		if len(w.lost) == 0 { // somebody else has replaced it
			return true, w.number
		}
		l.nc.RemoveStatusListener(w.lost)
	}
	l.number++
	w := &watch{lost: l.nc.StatusChanged(nats.DISCONNECTED, nats.CONNECTING, nats.RECONNECTING, nats.CLOSED), number: l.number}
	if !l.nc.IsConnected() { // it was lost before there was this watch
		l.nc.RemoveStatusListener(w.lost)
		return false, 0
	}
	l.watch.Store(w)
	return true, w.number
}
