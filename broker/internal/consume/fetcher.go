package consume

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"go-micro-jetstream/broker/internal/backoff"
	"go-micro-jetstream/broker/internal/fault"
	"go-micro-jetstream/broker/internal/hand"
	"go-micro-jetstream/broker/internal/hanging"
)

// mendTimeout bounds an attempt to put a consumer right.
const mendTimeout = 10 * time.Second

// fetcher fetches messages for all workers: a worker that finds none waiting takes the
// token, fetches until some have come, and gives the token back.
type fetcher struct {
	s       *Subscription
	token   chan struct{}         // full while a worker fetches
	refused chan error            // what the server refused the subscription
	trouble atomic.Pointer[error] // see Trouble
	told    *hanging.Call         // what the observer does while fetching waits for it

	// Only the worker that holds the token uses these.
	silent   *time.Timer // how long nothing may come
	again    *time.Timer // when to look at the backlog again
	failures uint64      // in a row
	setback  setback     // the latest failure, until the subscription has recovered
	lastSaid string      // what the log has last warned of since fetching worked
	looked   time.Time   // see lookAtFloor
	backlog  backlog
}

// setback is a failed fetch that the subscription has not recovered from. Messages in
// hand do not wait until it has, so it is kept from one fetch to the next.
type setback struct {
	err     error // nil: there is none
	until   time.Time
	changed <-chan struct{} // of the connection, since the failure
	down    bool            // the connection was seen down
	lookUp  bool            // it was not the fetch that failed, but to find the consumer
}

func newFetcher(s *Subscription) *fetcher {
	f := &fetcher{s: s, told: s.newCall(HeldUp{}), token: make(chan struct{}, 1), refused: make(chan error, 1), silent: time.NewTimer(time.Hour), again: time.NewTimer(time.Hour)}
	f.silent.Stop()
	f.again.Stop()
	return f
}

// fetch waits until messages have come. It returns false when the subscription is
// stopped. The caller has put the token in; fetch takes it out.
func (f *fetcher) fetch() bool {
	defer func() { <-f.token }()
	for {
		if f.setback.err != nil && !f.pauseAndMend() {
			return !f.s.Stopped()
		}
		f.lookAtFloor()
		f.lookAtBacklog()
		over, err := f.try()
		if over {
			return true
		}
		if f.s.Stopped() {
			return false
		}
		if err != nil {
			f.fail(err)
		}
	}
}

// refuse makes the fetch under way fail, or else the next one.
func (f *fetcher) refuse(err error) {
	select {
	case f.refused <- err:
	default: // one is enough
	}
}

// try waits for messages once. It is over when messages wait to be handled, which
// another worker may start.
func (f *fetcher) try() (over bool, err error) {
	changed := f.s.cfg.Conn.Changed() // before the look at its state
	m, wanted := f.s.hand.Look()
	if wanted {
		if err := f.down(); err != nil {
			return false, err
		}
		silence, err := f.s.hand.Ask()
		if err != nil {
			return false, err
		}
		f.clearTransientTrouble()
		if s := f.s.hand.Pin(); s != nil && s.StandsBy() {
			f.healthy() // there is nothing to fetch
		}
		f.lookAround()
		m, err = f.await(changed, silence)
		if m == nil {
			return false, err
		}
	}
	if m == nil {
		return true, nil
	}
	a := f.collect(m)
	if a.Err == nil && a.Alive {
		f.healthy()
	}
	return false, a.Err
}

// What follows tells the observer, and can be held up by it.

func (f *fetcher) collect(m *nats.Msg) hand.Arrivals {
	f.told.Begin()
	defer f.told.End()
	return f.s.collect(m)
}

func (f *fetcher) lookAround() {
	if f.s.cfg.Key == nil {
		return
	}
	f.told.Begin()
	defer f.told.End()
	f.s.lookAround()
}

func (f *fetcher) learned(info *jetstream.ConsumerInfo) State {
	f.told.Begin()
	defer f.told.End()
	return f.s.learned(info)
}

// Trouble returns why the subscription does not fetch, or nil if it does.
func (s *Subscription) Trouble() error {
	if err := s.fetcher.trouble.Load(); err != nil {
		return *err
	}
	return nil
}

// clearTransientTrouble ends a trouble that has passed by itself, once there is a request again: with
// an empty stream the next sign of life may take long.
func (f *fetcher) clearTransientTrouble() {
	if err := f.s.Trouble(); err != nil && (ordinary(err) || errors.Is(err, fault.ErrConnectionLost)) {
		f.trouble.Store(nil)
	}
}

// down returns why no request can be sent, or nil.
func (f *fetcher) down() error {
	switch {
	case f.s.cfg.Conn.Up():
		return nil
	case f.s.cfg.Conn.Over():
		return nats.ErrConnectionClosed
	}
	return fault.ErrConnectionLost
}

// await waits for a message. It returns none when the connection has changed or the
// subscription is stopped.
func (f *fetcher) await(changed <-chan struct{}, silence time.Duration) (*nats.Msg, error) {
	var lost error = jetstream.ErrNoHeartbeat
	if silence == 0 { // there was no room for more
		silence, lost = f.s.noRoom(), nil
	}
	f.silent.Reset(silence)
	defer f.silent.Stop()
	if wait, wanted := f.backlog.next(); wanted {
		f.again.Reset(wait)
		defer f.again.Stop()
	}
	select {
	case m := <-f.s.hand.Pull().Messages():
		return m, nil
	case <-f.s.hand.Wake():
		return nil, nil // a message may be started
	case <-f.s.hand.Roomy():
		return nil, nil
	case <-changed:
		return nil, nil // the request may have died with the connection
	case <-f.again.C:
		return nil, nil
	case <-f.silent.C:
		if m := f.s.hand.Poll(); m != nil {
			return m, nil // it came at this very moment
		}
		return nil, lost
	case err := <-f.refused:
		return nil, err
	case <-f.s.life.Done():
		return nil, nil
	}
}

// floorInterval is how old the known ack floor of a shared consumer may become. If the
// consumer is lost, messages that were acked since then are delivered again.
const floorInterval = 5 * time.Second

// lookAtFloor asks now and then for the ack floor of a shared consumer for new messages.
// If that consumer is lost, the next one begins there.
func (f *fetcher) lookAtFloor() {
	cs := f.s.Consumer()
	if cs.Ephemeral || !cs.Ours || !cs.GoesOn() || time.Since(f.looked) < floorInterval || !f.s.cfg.Conn.Up() {
		return
	}
	f.looked = time.Now()
	f.told.Begin()
	defer f.told.End()
	f.s.refresh()
}

// healthy ends a series of failures: messages have come, or the server has said that
// there are none.
func (f *fetcher) healthy() {
	if f.failures == 0 {
		return
	}
	level := slog.LevelInfo
	if f.lastSaid == "" { // nobody has heard of them
		level = slog.LevelDebug
	}
	f.log(level, fmt.Sprintf("fetching again; failed fetches before: %d", f.failures))
	f.failures, f.lastSaid = 0, ""
	f.trouble.Store(nil)
	f.told.Begin()
	defer f.told.End()
	f.s.cfg.Observer.Recovered()
}

// fail reports a failed fetch. The next one waits for pauseAndMend.
func (f *fetcher) fail(err error) {
	f.s.hand.Abandon()
	f.failures++
	f.trouble.Store(&err)
	delay := backoff.Delay(f.failures)
	f.logFailure(err, delay)
	f.setback = setback{
		err:     err,
		until:   time.Now().Add(delay),
		changed: f.s.cfg.Conn.Changed(),
		down:    errors.Is(err, fault.ErrConnectionLost), // and may be back already
	}
	f.told.Begin()
	defer f.told.End()
	f.s.cfg.Observer.FetchFailed(err, int(f.failures), delay)
}

// logFailure warns of each kind of failure once in a series.
func (f *fetcher) logFailure(err error, delay time.Duration) {
	const text = "fetch failed, next try in %v: %v%s"
	level, more := slog.LevelDebug, ""
	if !ordinary(err) && err.Error() != f.lastSaid {
		if m, ok := f.s.lines.Allow(text); ok { // otherwise the next failure tells
			level, more, f.lastSaid = slog.LevelWarn, m, err.Error()
		}
	}
	f.log(level, fmt.Sprintf(text, delay, err, more))
}

func (f *fetcher) log(level slog.Level, text string) {
	f.s.log.Log(context.Background(), level, text)
}

// ordinary reports whether a failure is part of the ordinary life of a cluster.
func ordinary(err error) bool {
	return errors.Is(err, jetstream.ErrConsumerLeadershipChanged) || errors.Is(err, jetstream.ErrServerShutdown)
}

// pauseAndMend pauses after a failed fetch, and then mends what it can. It returns false when
// the subscription is stopped, or when there are messages to handle first, because their
// ack deadlines do not wait for the end of the pause. The next call continues the pause.
func (f *fetcher) pauseAndMend() bool {
	for f.setback.err != nil {
		if !f.pauseOrCollect() {
			return false
		}
		select {
		case more := <-f.refused: // about what has failed: the next request is another one
			f.log(slog.LevelDebug, fmt.Sprintf("refused meanwhile: %v", more))
		default:
		}
		cause := f.setback.err
		f.setback = setback{}
		err := f.mend(cause)
		if f.s.Stopped() {
			return false
		}
		if err != nil {
			f.fail(err)
			f.setback.lookUp = unfound(err)
		}
	}
	return true
}

// unfound reports whether mend has failed because the consumer could not be found. Only
// then does an answer about the consumer mean that the pause may end.
func unfound(err error) bool {
	return !errors.Is(err, fault.ErrPermission) && !errors.Is(err, fault.ErrSubscriptionLimit) && !errors.Is(err, fault.ErrConsumerConflict)
}

// pauseOrCollect pauses after a failed fetch. It returns false when the subscription is
// stopped, or when there are messages to handle. Those that come in the pause belong to
// requests from before the failure.
func (f *fetcher) pauseOrCollect() bool {
	if !f.s.hand.Pausing() {
		return false
	}
	for {
		p := pause{length: time.Until(f.setback.until), changed: f.setback.changed, down: f.setback.down, wake: f.s.hand.Wake()}
		look := f.setback.lookUp && p.length > probeInterval
		if look {
			p.length = probeInterval
		}
		m, goOn := f.s.pause(p, f.s.hand.Pull().Messages())
		if m == nil {
			if look && goOn && f.stillLost() {
				continue
			}
			return goOn
		}
		if f.collect(m).Messages > 0 { // an error would be of no request that counts
			return false
		}
	}
}

// probeInterval is how often a pause is interrupted for a look whether the consumer is
// there again: if a server was away, its return does not wait for the end of the pause.
const probeInterval = time.Second

// stillLost looks whether the consumer of a setback still cannot be found.
func (f *fetcher) stillLost() bool {
	if !f.s.cfg.Conn.Up() || time.Until(f.setback.until) <= 0 {
		return false
	}
	return !f.s.cfg.Conn.MayProbe() || !f.s.cfg.Consumers.Answers(f.s.life, f.s.Consumer())
}

// mend removes the cause of a failed fetch if it can: it creates the consumer and its
// stream again if this module had created them and they are gone. It returns an error if
// fetching still cannot work.
func (f *fetcher) mend(cause error) error {
	if !f.s.cfg.Conn.Up() {
		return nil // the next fetch tells
	}
	if ordinary(cause) || errors.Is(cause, fault.ErrConnectionLost) {
		return nil // it passes by itself
	}
	ctx, cancel := context.WithTimeout(f.s.life, mendTimeout)
	defer cancel()
	former := f.s.Consumer()
	m, err := f.s.cfg.Consumers.Mend(ctx, f.s.cfg.Rules, former, f.s.cfg.Topic, f.s.cfg.Queue, f.s.hand.ResumeAt)
	if m.Consumer != nil {
		f.s.hand.Mended(m)
	} else if f.s.hand.Pin() != nil && errors.Is(err, fault.ErrConsumerConflict) {
		f.s.withdraw(nil)
	}
	if err == nil {
		err = f.listenAgain(cause)
	}
	switch {
	case err != nil:
		return err
	case m.Info != nil:
		f.learned(m.Info)
	case m.Remade:
		renamed := ""
		if m.Consumer.Name != former.Name {
			renamed = ", as " + m.Consumer.Name
		}
		f.log(slog.LevelWarn, fmt.Sprintf("consumer %s of stream %s was deleted and has been made again%s", former.Name, former.Stream.Name, renamed))
	}
	return nil
}

// listenAgain subscribes to the inbox once more if nothing comes there, and the server has
// refused subscriptions on this connection: after a reconnect it may have been this one.
func (f *fetcher) listenAgain(cause error) error {
	if !errors.Is(cause, jetstream.ErrNoHeartbeat) && !errors.Is(cause, fault.ErrSubscriptionLimit) || f.s.cfg.Conn.SubscriptionsRefused() == 0 {
		return nil
	}
	return f.s.hand.Pull().Again()
}
