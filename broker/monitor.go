package broker

import (
	"time"

	"go-micro-jetstream/broker/internal/goroutine"
)

// monitorInterval is how old the number of pending messages may become before
// the broker asks the server for it. Deliveries tell it for free, but it is when
// none come that somebody wants to know.
const monitorInterval = 15 * time.Second

// monitor keeps [Hooks.ConsumerState] informed while a handler is slow or
// fetches fail. There is one goroutine per connection, and only if a hook
// listens.
func (s *session) monitor() {
	tick := time.NewTicker(monitorInterval / 3)
	defer tick.Stop()
	for {
		select {
		case <-s.conn.Closed():
			return
		case <-tick.C:
		}
		if !s.look() {
			return
		}
	}
}

// look asks for what is too old. A Disconnect waits for it, as it does for a Subscribe.
// It returns false when the session is over.
func (s *session) look() (goOn bool) {
	if !s.subscribes.Enter() {
		return false
	}
	defer s.subscribes.Leave()
	s.watcher.Store(goroutine.ID())
	defer s.watcher.Store(0)
	for _, sub := range s.subs.All() {
		if s.conn.Up() && !sub.core.Stopped() {
			sub.core.RefreshIfOlder(monitorInterval)
		}
	}
	return true
}
