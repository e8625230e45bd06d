package broker

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go-micro-jetstream/broker/internal/goroutine"
	"go-micro-jetstream/broker/internal/lifecycle"
	"go-micro-jetstream/broker/internal/link"
	"go-micro-jetstream/broker/internal/wire"
)

// shutdown is a Disconnect under way.
type shutdown struct {
	session *session
	ended   bool          // the client had closed before
	id      atomic.Uint64 // the goroutine that it runs on, and some hooks with it
	done    chan struct{}
	err     error // valid once done is closed
}

// Disconnect stops all subscriptions, waits for running handlers and publishes
// within [WithShutdownTimeout], flushes acknowledgements and closes the
// connection. A second caller waits for the first and gets the same result.
//
// A handler, a hook that Disconnect waits for, and [Async]'s done may call it,
// too. It then returns nil at once, and completes when they have returned.
//
// A broker belongs to one service. Two services of a process that share one end
// each other's subscriptions: the first that stops disconnects it. Give each a
// broker of its own. A warning in the log says where that may have happened.
//
// Past the bound it closes the connection all the same and returns
// [ErrShutdownTimeout]. The error says how many handlers still run, whose
// messages are delivered again after AckWait, how many publishes have no answer,
// and which hooks still run. When the server does not answer, or a hook hangs,
// Disconnect takes some seconds more than the bound at most.
func (b *jetstreamBroker) Disconnect() error {
	sd, err := b.beginShutdown()
	if err != nil {
		return err
	}
	if sd == nil || sd.calledFromWithin() {
		return nil
	}
	<-sd.done
	if sd.ended {
		b.states.Await(sd.session.reported.Last(), link.CloseTimeout)
	}
	return sd.err
}

// beginShutdown waits for a Connect under way, but not for ever: code of the user, such
// as a dialer, may hang in it.
func (b *jetstreamBroker) beginShutdown() (*shutdown, error) {
	bound := stopGrace
	if cfg := b.cfg.Load(); cfg != nil {
		bound = max(bound, cfg.shutdownTimeout)
	}
	timer := time.NewTimer(bound)
	defer timer.Stop()
	for {
		sd, dialing := b.life.BeginClose(b.shutDown)
		if dialing == nil {
			return sd, nil
		}
		select {
		case <-dialing:
		case <-timer.C:
			return nil, fmt.Errorf("jetstream: disconnect: %w after %v: a Connect is under way, and waits for a server, or for your own code in it, such as a dialer; nothing is disconnected", ErrShutdownTimeout, bound)
		}
	}
}

// shutDown begins to shut a session down.
func (b *jetstreamBroker) shutDown(s *session) *shutdown {
	sd := &shutdown{session: s, ended: s.conn.Over(), done: make(chan struct{})}
	go sd.run(b, b.cfg.Load().shutdownTimeout)
	return sd
}

// calledFromWithin reports whether the calling goroutine is one that the
// shutdown waits for: that of a handler, of a hook, or of [Async]'s done.
func (sd *shutdown) calledFromWithin() bool {
	id := goroutine.ID()
	switch s := sd.session; {
	case id != 0 && (id == sd.id.Load() || id == s.watcher.Load()),
		!sd.ended && s.broker.states.RunsOn(id),
		s.publisher.RunsOn(id):
		return true
	}
	for _, sub := range sd.session.subs.All() {
		if sub.runsOn(id) {
			return true
		}
	}
	return false
}

func (sd *shutdown) run(b *jetstreamBroker, bound time.Duration) {
	s := sd.session
	sd.id.Store(goroutine.ID())
	until := time.Now().Add(bound)
	timeout := time.NewTimer(bound)
	defer timeout.Stop()

	subs := s.subs.Close()
	s.sayShared(subs)
	stopAll(subs, max(bound, stopGrace))
	left, expired := awaitHandlers(subs, timeout.C)
	// Handlers may have published until now.
	for _, ended := range [...]<-chan struct{}{s.subscribes.Close(), s.publisher.Shutdown()} {
		if expired {
			break
		}
		select {
		case <-ended:
		case <-timeout.C:
			expired = true
		}
	}
	left.Hooks = s.hooks.inside.names()
	left.Subscribes, left.Publishes = s.subscribes.Inside(), s.publisher.Inside()
	if left.Looks = s.watcher.Load() != 0; left.Looks {
		left.Subscribes = max(left.Subscribes-1, 0)
	}
	b.life.EndSession()
	s.close()
	// A client that has closed before may have a hook that deals with it in this
	// very call.
	left.States = !sd.ended && !b.states.Await(s.reported.Last(), max(time.Until(until), link.CloseTimeout))
	sd.err = left.TimeoutError(bound, expired)
	b.life.EndClose()
	close(sd.done)
}

// sayShared warns where Disconnect may end the subscriptions of another service: Connect
// was called more than once, and somebody has not unsubscribed, as go-micro's server does
// before it disconnects.
func (s *session) sayShared(subs []*subscription) {
	var topics []string
	for _, sub := range subs {
		if !sub.core.Stopped() {
			topics = append(topics, wire.Shorten(sub.topic))
		}
	}
	if len(topics) == 0 || s.connects.Load() == 0 {
		return
	}
	slices.Sort(topics)
	const most = 10
	more := ""
	if n := len(topics); n > most {
		topics, more = topics[:most], fmt.Sprintf(" and %d more", n-most)
	}
	s.log.Warn(fmt.Sprintf("Disconnect ends subscriptions that nobody has unsubscribed, to %s%s, and Connect was called several times: if two services share this broker, give each service its own broker",
		strings.Join(topics, ", "), more))
}

// stopGrace is how long what was not started may take to be given back, however short
// the bound of Disconnect is. It is enough where the server does not answer.
const stopGrace = 3 * time.Second

// stopAll stops the subscriptions, all at a time: each may wait for a server
// that does not answer.
func stopAll(subs []*subscription, bound time.Duration) {
	var stopping sync.WaitGroup
	for _, s := range subs {
		stopping.Go(func() {
			if !s.core.StopWithin(bound) { // another call is at it
				s.core.AwaitReturned()
			}
		})
	}
	stopping.Wait()
}

// awaitHandlers waits until all subscriptions have ended, or until the timeout,
// when it gives up those that have not.
func awaitHandlers(subs []*subscription, timeout <-chan time.Time) (left lifecycle.Left, expired bool) {
	for _, s := range subs {
		if !expired {
			select {
			case <-s.core.Done():
				continue
			case <-timeout:
				expired = true
			}
		}
		select {
		case <-s.core.Done():
			continue
		default:
		}
		s.core.Abandon()
		if n := s.core.Running(); n > 0 {
			left.Handlers += n
		} else {
			left.Subscriptions++
		}
	}
	return left, expired
}

// close flushes what is still to be sent and closes the connection.
func (s *session) close() {
	url := s.conn.URL()
	s.conn.Close()
	s.publisher.Close()
	s.report(lifecycle.Closed, url, nil)
}
