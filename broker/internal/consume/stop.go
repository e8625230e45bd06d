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
// handlers. It returns after the bound even if the observer holds it up; the rest is then
// done on another goroutine. It reports whether this was the first call. Later calls
// return at once, because the observer may make one during the first.
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

// awaitFetcher waits until the worker that fetches has taken in the message that it has
// read from the inbox, so that this one is given back in its turn. It waits at most for
// drainTimeout, because the observer may hold that worker up.
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
// leaf node, messages may be on their way from the consumer's leader to the client's
// server. Those that find no inbox there are not delivered again before AckWait. With a
// backlog the requests soon end. Without one little is on its way, and nothing tells when
// it has arrived: so drain waits as long as it takes to ask the leader.
//
// With an order it also does so without a cluster. What the server still has queued for
// this inbox when it is closed would be delivered again, mixed with what is given back.
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
// consumer gets it now rather than after AckWait. It waits a moment for the server to
// confirm the last nak: a subscriber that comes after that gets these messages first.
func (s *Subscription) giveBack() {
	s.takeRest()
	s.giveAllBack(s.hand.Unstarted())
}

// giveAllBack naks messages that were taken out of the hand.
func (s *Subscription) giveAllBack(ds []*Delivery) {
	for i, d := range ds {
		d.GiveBack(i == len(ds)-1)
		if d.IsLast() {
			s.cfg.Observer.Exhausted(d, errGivenBack)
		}
	}
}

// finish ends the subscription. The last worker calls it.
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
