package consume

import (
	"context"
	"fmt"
	"runtime/debug"

	"go-micro-jetstream/broker/internal/delivery"
	"go-micro-jetstream/broker/internal/goroutine"
	"go-micro-jetstream/broker/internal/wire"
)

// work is the life of one worker: take a delivery, hand it on, and repeat until the
// subscription is stopped.
func (s *Subscription) work(slot int) {
	ended := false
	defer func() {
		if ended {
			s.leave()
			return
		}
		// A panic, or a handler that has ended its goroutine. The subscription lives on.
		if r := recover(); r != nil {
			const text = "worker panicked, restarting it: %v\n%s"
			if more, ok := s.lines.Allow(text); ok {
				s.log.Error(fmt.Sprintf(text+"%s", r, debug.Stack(), more))
			}
		}
		go s.work(slot)
	}()
	s.ids[slot].Store(goroutine.ID())
	for {
		d := s.next(slot)
		if d == nil {
			ended = true
			return
		}
		s.handle(slot, d)
	}
}

func (s *Subscription) handle(slot int, d *Delivery) {
	defer s.hand.Finish(slot, d) // also after a panic or Goexit
	if d.Meta.StreamSequence == 0 {
		const text = "delivery with the reply subject %q: %v"
		if more, ok := s.lines.Allow(text); ok {
			s.log.Warn(fmt.Sprintf(text+"%s", wire.Shorten(d.Msg.Reply), wire.ErrNotAckSubject, more), d.Attrs()...)
		}
	}
	s.cfg.Handle(slot, d)
}

// leave ends a worker. It gives back once more, because what the worker took out of the
// inbox while the subscription was being stopped may have come too late for StopWithin.
func (s *Subscription) leave() {
	<-s.returned
	s.giveBack()
	if s.workers.Add(-1) == 0 {
		s.finish()
	}
}

// next returns the next delivery in order. It fetches if there is none, and returns
// nil when the subscription is stopped.
func (s *Subscription) next(slot int) *Delivery {
	for {
		d, refused, also := s.hand.Take(slot)
		switch {
		case refused != nil:
			s.skipAll(append([]*Delivery{d}, also...), refused)
			continue
		case d != nil:
			if s.crowded.Load() {
				s.lookAround()
			}
			return d
		case s.sort():
			continue
		}
		select {
		case s.fetcher.token <- struct{}{}:
		case <-s.hand.Wake():
			continue
		case <-s.life.Done():
			return nil
		}
		if !s.fetcher.fetch() {
			return nil
		}
	}
}

// skipAll skips messages on a worker. If it is the only one, an observer that holds it up
// also holds up fetching.
func (s *Subscription) skipAll(ds []*Delivery, why *delivery.Refusal) {
	if s.cfg.Concurrency == 1 {
		s.fetcher.told.Begin()
		defer s.fetcher.told.End()
	}
	for _, d := range ds {
		s.skip(d, why)
	}
}

// skip settles a message that is not handled, if its refusal says so, and reports it.
func (s *Subscription) skip(d *Delivery, why *delivery.Refusal) {
	if why.Settle != None {
		_ = d.Send(why.Settle, 0, false)
	}
	s.cfg.Observer.Skipped(d, why.Reason)
	more, ok := s.lines.Allow(why.Text)
	if !ok {
		return
	}
	s.log.Log(context.Background(), why.Level, fmt.Sprintf("skipped a message: %s%s", why.Text, more), d.Attrs()...)
	if why.Repeated {
		s.refresh() // AckWait may have been shortened
	}
}
