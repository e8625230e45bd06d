package consume

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go-micro-jetstream/broker/internal/consumers"
	"go-micro-jetstream/broker/internal/goroutine"
	"go-micro-jetstream/broker/internal/link"
)

const (
	// drainTimeout bounds drain.
	drainTimeout = 500 * time.Millisecond
	// drainSilence is how long a backlog delivers nothing before it counts as
	// delivered, on top of the time to the consumer's leader and back.
	drainSilence = 100 * time.Millisecond
)

// StopWithin ends the fetching and gives back what was not started. It does not wait for
// handlers, and not longer than that for the observer: what is left goes on on a
// goroutine of its own. It reports whether this was the first call; other calls return at
// once, as they may come from what the observer does in the first one.
func (s *Subscription) StopWithin(bound time.Duration) (first bool) {
	if !s.stopping.CompareAndSwap(false, true) {
		return false
	}
	go s.stop()
	timer := time.NewTimer(bound)
	defer timer.Stop()
	select {
	case <-s.returned:
	case <-timer.C:
	}
	return true
}

func (s *Subscription) stop() {
	s.stopper.Store(goroutine.ID())
	defer s.stopper.Store(0)
	defer close(s.returned)
	s.end()
	s.drain()
	s.hand.Pull().Close()
	s.awaitFetcher()
	s.clearRequests()
	s.giveBack()
}

// Returned reports whether StopWithin has given back what was not started.
func (s *Subscription) Returned() bool {
	select {
	case <-s.returned:
		return true
	default:
		return false
	}
}

// clearRequests has the server drop the requests whose inbox is closed, as it does when
// it is asked for the consumer (infoWithSnapAndReply in server/consumer.go). It is for
// an order. With a request that nobody listens to, the server takes the first message
// that is given back for it, and then puts it behind the others (loopAndGatherMsgs).
func (s *Subscription) clearRequests() {
	if s.cfg.Key == nil || !s.cfg.Conn.Up() {
		return
	}
	s.askForConsumer() // without an answer nothing is lost but the order
}

// awaitFetcher waits until the worker that fetches has taken in what it has in its hand,
// so that this is given back in its turn. It waits at most for drainTimeout: the
// observer may hold that worker up.
func (s *Subscription) awaitFetcher() {
	if s.works(s.stopper.Load()) {
		return
	}
	timer := time.NewTimer(drainTimeout)
	defer timer.Stop()
	select {
	case s.fetcher.token <- struct{}{}:
		<-s.fetcher.token
	case <-timer.C:
	}
}

// AwaitReturned waits until StopWithin has given back what was not started, but
// at most 2.5 seconds: the observer may hold it up.
func (s *Subscription) AwaitReturned() {
	timer := time.NewTimer(drainTimeout + link.CloseTimeout)
	defer timer.Stop()
	select {
	case <-s.returned:
	case <-timer.C:
	}
}

// drain takes in what the requests under way still deliver. In a cluster, or behind a
// leaf node, that may be on its way from the consumer's leader to the client's server, and what finds no
// inbox there is lost until AckWait. With a backlog the requests soon end. Without
// one little is on its way, and nothing tells when that is over: drain waits as long
// as it takes to ask the leader.
//
// For an order the same holds without a cluster. What the server still has in its queue
// for this inbox when that is closed, it delivers again, mixed with what is given back.
func (s *Subscription) drain() {
	more := s.takeRest()
	s.hand.AwaitRequests() // so that no request follows the end of the inbox
	if !more || s.cfg.Key == nil && s.cfg.Conn.IsDirect() {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), drainTimeout)
	defer cancel()
	began := time.Now()
	info, err := s.cfg.Consumers.Info(ctx, s.Consumer())
	silence := time.Since(began)
	if err != nil || info.NumPending > 0 || s.hand.Behind(info) {
		silence += drainSilence
	}
	for s.takeRest() {
		timer := time.NewTimer(silence)
		select {
		case m := <-s.hand.Pull().Messages():
			s.collect(m)
		case <-timer.C:
			return
		case <-ctx.Done():
			return
		}
		timer.Stop()
	}
}

// giveBack naks what was fetched and not started, so that another subscriber of the
// consumer gets it now rather than after AckWait.
//
// When it returns, the server knows, if it answers in time: a subscriber that comes
// after that gets these messages before others.
func (s *Subscription) giveBack() {
	s.takeRest()
	s.giveAllBack(s.hand.Unstarted())
}

// giveAllBack is giveBack for what was taken out.
func (s *Subscription) giveAllBack(ds []*Delivery) {
	for i, d := range ds {
		d.GiveBack(i == len(ds)-1)
		if d.IsLast() {
			s.cfg.Observer.Exhausted(d, errGivenBack)
		}
	}
}

// finish is the end of the last worker.
func (s *Subscription) finish() {
	s.hand.End()
	s.endSingle()
	s.deleteConsumer()
	s.giveUp()
	s.cfg.Observer.Ended()
	s.log.Info(fmt.Sprintf("unsubscribed from %s (%s)", s.cfg.Topic, s.describe()))
	close(s.done)
}

// deleteConsumer deletes an ephemeral consumer, so that the next subscriber can have
// its own at once.
func (s *Subscription) deleteConsumer() {
	if err := s.cfg.Consumers.Delete(context.Background(), s.Consumer()); err != nil {
		s.log.Warn(fmt.Sprintf("%v; the server removes it in %v", err, consumers.InactiveThreshold))
	}
}

// errGivenBack is why a message is exhausted that no handler has seen on its last
// delivery.
var errGivenBack = errors.New("given back, as its subscription ended, on the last delivery that MaxDeliver permits")
