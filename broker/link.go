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
	watch atomic.Pointer[watch] // nil: ask the client

	mu    sync.Mutex // held while the client is asked
	epoch uint64
}

// watch says that the client is connected, as long as the channel is empty. Under the
// lock under which its state changes, the client writes there that it does; nobody
// reads it, so that what is lost stays lost.
type watch struct {
	lost  chan nats.Status
	epoch uint64
}

// connected reports whether the connection is up.
func (l *link) connected() bool {
	up, _ := l.state()
	return up
}

// state also returns a number that is another one after each loss.
func (l *link) state() (up bool, epoch uint64) {
	if w := l.watch.Load(); w != nil && len(w.lost) == 0 {
		return true, w.epoch
	}
	return l.ask()
}

func (l *link) ask() (up bool, epoch uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if w := l.watch.Load(); w != nil {
		if len(w.lost) == 0 { // somebody else has asked
			return true, w.epoch
		}
		l.watch.Store(nil)
		l.nc.RemoveStatusListener(w.lost)
		l.epoch++
	}
	if !l.nc.IsConnected() {
		return false, l.epoch
	}
	w := &watch{lost: l.nc.StatusChanged(nats.DISCONNECTED, nats.CONNECTING, nats.RECONNECTING, nats.CLOSED), epoch: l.epoch}
	if !l.nc.IsConnected() { // it was lost before there was a watch
		l.nc.RemoveStatusListener(w.lost)
		return false, l.epoch
	}
	l.watch.Store(w)
	return true, w.epoch
}
