package broker

import (
	"context"
	"time"
)

// monitorInterval is how old the number of pending messages may become before
// the broker asks the server for it. Deliveries tell it for free; it is when
// none come that somebody wants to know.
const monitorInterval = 15 * time.Second

// monitor keeps [Hooks.ConsumerState] informed while a handler is slow or
// fetches fail. One goroutine per connection, and only if a hook listens.
func (c *connection) monitor() {
	tick := time.NewTicker(monitorInterval / 3)
	defer tick.Stop()
	for {
		select {
		case <-c.closed:
			return
		case <-tick.C:
		}
		for _, s := range c.subscriptions() {
			if c.nc.IsConnected() && !s.isStopped() && s.uninformed() {
				s.refresh()
			}
		}
	}
}

func (s *subscription) uninformed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return time.Since(s.known) >= monitorInterval
}

func (s *subscription) refresh() {
	ctx, cancel := context.WithTimeout(s.base, apiTimeout)
	defer cancel()
	cs := s.currentConsumer()
	if info, err := s.conn.consumerInfo(ctx, cs.stream.name, cs.name); err == nil && !s.isStopped() {
		s.adopt(cs, info)
		s.learned(info.NumPending, info.NumAckPending)
	}
}
