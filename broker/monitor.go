package broker

import "time"

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
		for _, sub := range s.subs.all() {
			if s.conn.Up() && !sub.core.Stopped() {
				sub.core.RefreshIfOlder(monitorInterval)
			}
		}
	}
}
