package client

import (
	"sync"
	"sync/atomic"

	"github.com/nats-io/nats.go"
)

// watch tells whether the client is connected, as [nats.Conn.IsConnected] does, but
// without the client's lock. The client holds that lock while it writes, and who waits
// for it has to be woken again, for every question. The zero value is ready.
type watch struct {
	seen atomic.Pointer[sighting] // the latest; nil before there was one

	mu     sync.Mutex // held while the sighting is replaced
	number uint64     // of the latest
}

// sighting is a connection that was seen to be up. The client writes a status into lost
// when the connection goes down, under the lock under which it changes its state. While
// lost is empty, the connection is still up. Nobody reads from lost, so a connection that
// is lost stays lost.
type sighting struct {
	lost   chan nats.Status
	number uint64
}

// state reports whether the connection is up, and returns its number: another one after
// each loss, and 0 while the connection is down.
func (w *watch) state(nc *nats.Conn) (up bool, number uint64) {
	if s := w.seen.Load(); s != nil && len(s.lost) == 0 {
		return true, s.number
	}
	// The client may be slow to answer while it dials. Those that ask wait for the
	// client together, and not for each other as well: so this comes before the lock.
	if !nc.IsConnected() {
		return false, 0
	}
	return w.renew(nc)
}

// renew replaces a sighting that was lost, for a connection that seems up.
func (w *watch) renew(nc *nats.Conn) (up bool, number uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if s := w.seen.Load(); s != nil {
		if len(s.lost) == 0 { // somebody else has replaced it
			return true, s.number
		}
		nc.RemoveStatusListener(s.lost)
	}
	w.number++
	s := &sighting{lost: nc.StatusChanged(nats.DISCONNECTED, nats.CONNECTING, nats.RECONNECTING, nats.CLOSED), number: w.number}
	if !nc.IsConnected() { // it was lost before the client wrote to this one
		nc.RemoveStatusListener(s.lost)
		return false, 0
	}
	w.seen.Store(s)
	return true, s.number
}
