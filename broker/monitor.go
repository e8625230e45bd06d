package broker

import (
	"context"
	"sync"
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
			if c.link.connected() && !s.isStopped() && s.uninformed() {
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

// limitAge is how old what is known of the consumer may be when a message has failed:
// an operator may have set its MaxDeliver, and the server delivers the message no more
// and says nothing. It is less than the shortest delay of a redelivery, so that a
// message whose first failure came after the change does not slip through.
const limitAge = minBackoff / 2

// limits are what is known of a consumer's limit of deliveries.
type limits struct {
	sync.Mutex           // held while the server is asked, so that others wait for the answer
	next       time.Time // when it is asked again
}

// learnLimit is for messages that have failed. However many do, it asks the server twice
// in a second at most, and leaves it alone for a while if that does not answer soon.
func (s *subscription) learnLimit() {
	s.limits.Lock()
	defer s.limits.Unlock()
	if time.Now().Before(s.limits.next) || !s.conn.link.connected() {
		return
	}
	ctx, cancel := context.WithTimeout(s.base, lookUpTimeout)
	defer cancel()
	cs := s.currentConsumer()
	info, err := s.conn.consumerInfo(ctx, cs.stream.name, cs.name)
	if err != nil {
		s.limits.next = time.Now().Add(monitorInterval)
		return
	}
	s.limits.next = time.Now().Add(limitAge)
	s.adopt(cs, info)
}
