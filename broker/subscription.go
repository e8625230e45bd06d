package broker

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go-micro.dev/v5/broker"
	"go-micro.dev/v5/logger"
)

// subscribeTimeout bounds Subscribe: go-micro calls it with its server's mutex
// held.
const subscribeTimeout = 10 * time.Second

var _ broker.Subscriber = (*subscription)(nil)

// subscription is one Subscribe: its consumer, its workers and what they have
// in hand.
type subscription struct {
	Subscription                              // as it began
	renamed      atomic.Pointer[Subscription] // see identity

	conn    *connection
	cfg     *config
	hooks   *dispatcher
	opts    broker.SubscribeOptions
	handler broker.Handler

	trouble chan error // what the server refused the fetching worker

	base   context.Context    // the parent of all contexts of this subscription
	giveUp context.CancelFunc // cancels it

	filling  chan struct{}      // held by the worker that fetches
	silent   *time.Timer        // how long nothing may come; that worker's
	life     context.Context    // ends with stop
	end      context.CancelFunc // ends it
	returned chan struct{}      // closed when unstarted messages have been given back
	done     chan struct{}      // closed when the last worker has ended
	stopping atomic.Bool
	stopper  atomic.Uint64 // the goroutine that gives back what was not started, while it does
	unwatch  func() bool   // of the SubscribeContext

	mu        sync.Mutex
	consumer  *consumer
	pull      *pull
	waiting   []item      // fetched, not started; in order
	room      []item      // the array behind waiting, used again
	running   []*event    // by worker; nil when it has nothing in hand
	bodies    [][]byte    // by worker, and its own; see keepBody
	fetching  bool        // a worker waits on pull.messages
	workers   int         // that have not ended
	ids       []uint64    // goroutines of the workers, before that the one that subscribes
	keeper    *time.Timer // nil until something is in hand
	keeping   bool        // the keeper is armed
	abandoned bool        // Disconnect has given up waiting
	last      uint64      // the highest stream sequence handled, or before the first
	known     time.Time   // when the number of pending messages was last learned

	limits limits

	acked, terminated latest              // to recognise second deliveries
	again             uint64              // first deliveries below it may be second ones, too
	owed              map[uint64]struct{} // see owe
	owedFrom          uint64              // the lowest that owed had no room for; 0: none

	// Only the fetching worker uses these.
	failures uint64    // fetches in a row
	setback  setback   // the latest of them, until the subscription has recovered
	lastSaid string    // what the log has last warned of in this streak
	looked   time.Time // see lookAtFloor

	lines limiter
}

// item is a message in hand, with the times that its ack deadline depends on.
type item struct {
	msg      *nats.Msg
	received time.Time
	extended time.Duration // since then, when the server was last told to wait
}

// Subscribe starts a subscription: with broker.Queue on a durable consumer of
// that name, without on one of its own that ends with it. See the package
// documentation for what the handler's return means, and the README for how
// topics, streams and consumers relate. It answers within 10 seconds, leaves
// nothing behind when it fails, and can be tried again. Cancelling
// broker.SubscribeContext ends the subscription as Unsubscribe does.
//
// Errors: [ErrNotConnected], [ErrInvalidTopic], [ErrInvalidQueue],
// [ErrInvalidHandler], [ErrInvalidConfig], [ErrWorkQueueConflict],
// [ErrConsumerConflict], [ErrConsumerNotFound], [ErrStreamMismatch],
// [ErrStreamNotFound], [ErrJetStreamUnavailable], [ErrPermission].
func (b *jetstreamBroker) Subscribe(topic string, handler broker.Handler, opts ...broker.SubscribeOption) (broker.Subscriber, error) {
	so, concurrency, set := subscribeOptionsOf(opts)
	c, cfg := b.conn.Load(), b.cfg.Load()
	s, err := subscribe(c, cfg, topic, handler, so, concurrency, set)
	if err == nil {
		return s, nil
	}
	if so.Queue != "" {
		err = fmt.Errorf("jetstream: subscribe to %q with queue %q: %w", shorten(topic), shorten(so.Queue), err)
	} else {
		err = fmt.Errorf("jetstream: subscribe to %q: %w", shorten(topic), err)
	}
	if cfg != nil {
		emit(cfg.dispatch, cfg.dispatch.subscribeFailed, so.Context, SubscribeFailed{Topic: topic, Queue: so.Queue, Err: err, Reason: Reason(err)})
	}
	return nil, err
}

func subscribe(c *connection, cfg *config, topic string, handler broker.Handler, so broker.SubscribeOptions, concurrency int, set bool) (*subscription, error) {
	if err := checkSubscribeTopic(topic); err != nil {
		return nil, err
	}
	if so.Queue != "" {
		if err := checkQueue(so.Queue); err != nil {
			return nil, err
		}
	}
	if handler == nil {
		return nil, fmt.Errorf("%w: it is nil", ErrInvalidHandler)
	}
	if set && concurrency < 1 {
		return nil, fmt.Errorf("%w: Concurrency(%d): want at least 1", ErrInvalidConfig, concurrency)
	}
	if err := so.Context.Err(); err != nil {
		return nil, fmt.Errorf("the context of broker.SubscribeContext has ended: %w", err)
	}
	if c == nil {
		return nil, errNoConnection
	}
	if so.Queue == "" && cfg.othersConsumers {
		return nil, fmt.Errorf("%w: a subscriber without a queue has a consumer of its own, and with WithExistingConsumers the broker creates none: name a queue", ErrInvalidConfig)
	}
	if !set {
		concurrency = cfg.concurrency
	}
	s, info, err := c.newSubscription(cfg, topic, handler, so, concurrency)
	if err != nil {
		return nil, err
	}
	held := false
	defer func() {
		if !held { // a hook has ended the goroutine, so that nobody can unsubscribe
			s.unwatch = func() bool { return false }
			s.stop()
			s.begin(0) // for its end
		}
	}()
	s.base = start(s.hooks, s.hooks.subscriptionStart, s.base, SubscriptionStart{Subscription: s.Subscription})
	s.learned(info.NumPending, info.NumAckPending)
	held = true
	s.unwatch = context.AfterFunc(so.Context, func() { _ = s.Unsubscribe() })
	s.log(logger.InfoLevel, nil, "subscribed to %s (%s)", topic, s.describe())
	s.begin(headStart(handler))
	return s, nil
}

// newSubscription makes all that a subscription needs, and registers it. Disconnect
// waits for it: what has been made for one that comes too late is to be deleted.
func (c *connection) newSubscription(cfg *config, topic string, handler broker.Handler, so broker.SubscribeOptions, concurrency int) (*subscription, *jetstream.ConsumerInfo, error) {
	if !c.subscribes.enter() {
		return nil, nil, errShuttingDown
	}
	defer c.subscribes.leave()
	ctx, cancel := context.WithTimeout(so.Context, subscribeTimeout)
	defer cancel()
	st, err := c.streamForConsumer(ctx, cfg, topic)
	if err != nil {
		return nil, nil, err
	}
	cons, info, err := c.bindConsumer(ctx, cfg, st, topic, so.Queue)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		// Deleted since we saw it. Look once more.
		if err = c.forgetStream(ctx, st); err == nil {
			if st, err = c.streamForConsumer(ctx, cfg, topic); err == nil {
				cons, info, err = c.bindConsumer(ctx, cfg, st, topic, so.Queue)
			}
		}
	}
	if err != nil {
		return nil, nil, err
	}

	s := &subscription{
		Subscription: Subscription{Topic: topic, Queue: so.Queue, Stream: st.name, Consumer: cons.name},
		conn:         c,
		cfg:          cfg,
		hooks:        c.hooks,
		opts:         so,
		handler:      handler,
		filling:      make(chan struct{}, 1),
		returned:     make(chan struct{}),
		done:         make(chan struct{}),
		trouble:      make(chan error, 1),
		consumer:     cons,
		running:      make([]*event, concurrency),
		bodies:       make([][]byte, concurrency),
		ids:          make([]uint64, concurrency),
		workers:      concurrency,
		last:         info.AckFloor.Stream, // where a consumer for new messages begins
		known:        time.Now(),           // so that no one asks before it has begun
	}
	if s.pull, err = openPull(c, cons, cfg); err != nil {
		s.deleteConsumer()
		return nil, nil, fmt.Errorf("open the inbox: %w", apiError(err))
	}
	// A cancelled SubscribeContext stops the pulling; a handler that runs then
	// goes on with its work, so its context must not end with it.
	s.base, s.giveUp = context.WithCancel(context.WithoutCancel(so.Context))
	s.life, s.end = context.WithCancel(context.Background())
	s.silent = time.NewTimer(time.Hour)
	s.silent.Stop()
	s.ids[0] = goroutineID()
	if err := c.add(s); err != nil {
		_ = s.pull.sub.Unsubscribe()
		s.deleteConsumer()
		s.end()
		s.giveUp()
		return nil, nil, err
	}
	return s, info, nil
}

// serverHeadStart is how long the worker of a go-micro server's subscription
// waits before its first fetch. The server registers the user's handler only
// after Subscribe has returned, and tells us that it handled what comes before:
// the message would be acknowledged and lost. It needs microseconds, but a busy
// machine may not give it these at once.
const serverHeadStart = 100 * time.Millisecond

// headStart recognises the handlers of go-micro's server.
func headStart(handler broker.Handler) time.Duration {
	if f := runtime.FuncForPC(reflect.ValueOf(handler).Pointer()); f != nil && strings.HasPrefix(f.Name(), "go-micro.dev/v5/server.") {
		return serverHeadStart
	}
	return 0
}

// begin starts the workers, after a delay: the last act of Subscribe.
func (s *subscription) begin(delay time.Duration) {
	s.mu.Lock()
	s.ids[0] = 0
	s.mu.Unlock()
	for i := range s.workers {
		go func() {
			if delay > 0 {
				s.pauseFor(delay)
			}
			s.work(i)
		}()
	}
}

// pauseFor waits, but not longer than the subscription lives.
func (s *subscription) pauseFor(d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-s.life.Done():
	}
}

// add registers a subscription unless the connection is being closed.
func (c *connection) add(s *subscription) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.noSubs {
		return errShuttingDown
	}
	c.subs[s] = struct{}{}
	return nil
}

func (c *connection) remove(s *subscription) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.subs, s)
}

// Options returns the options of the Subscribe.
func (s *subscription) Options() broker.SubscribeOptions { return s.opts }

// Topic returns what was subscribed to, wildcards included.
func (s *subscription) Topic() string { return s.Subscription.Topic }

// identity is the subscription as it is now: a consumer that was made again may have
// another name.
func (s *subscription) identity() Subscription {
	if now := s.renamed.Load(); now != nil {
		return *now
	}
	return s.Subscription
}

func (s *subscription) describe() string {
	kind := "queue " + s.Queue + ", "
	if s.Queue == "" {
		kind = ""
	}
	return fmt.Sprintf("%sstream %s, consumer %s", kind, s.Stream, s.identity().Consumer)
}

// Unsubscribe ends the subscription: it stops pulling and gives back at once
// what was fetched and not started. It does not wait for handlers that run, as
// go-micro calls it with its server's mutex held; they still settle their
// messages. If none runs, everything is over when it returns. In a cluster it
// waits up to half a second for what is on its way. A durable consumer stays; the
// consumer of a queue-less subscription is deleted. Further calls do nothing. It
// always returns nil.
func (s *subscription) Unsubscribe() error {
	if !s.stop() {
		return nil
	}
	if s.runningHandlers() > 0 || s.runsOn(goroutineID()) {
		return nil
	}
	bound := time.NewTimer(apiTimeout)
	defer bound.Stop()
	select {
	case <-s.done:
	case <-bound.C:
	}
	return nil
}

// stop ends the pulling, gives back what was not started, and reports whether
// this was the first call. Others do not wait for it: they may be its hooks.
func (s *subscription) stop() (first bool) {
	if !s.stopping.CompareAndSwap(false, true) {
		return false
	}
	s.stopper.Store(goroutineID())
	defer s.stopper.Store(0)
	defer close(s.returned) // also if a hook ends the goroutine: the workers give back the rest
	s.end()
	s.drain()
	s.pull.close()
	s.giveBack()
	return true
}

// awaitReturned waits for a stop under way, unless that waits for its hooks.
func (s *subscription) awaitReturned() {
	timer := time.NewTimer(drainTimeout + closeTimeout)
	defer timer.Stop()
	select {
	case <-s.returned:
	case <-timer.C:
	}
}

func (s *subscription) isStopped() bool {
	return s.life.Err() != nil
}

const (
	// drainTimeout bounds drain.
	drainTimeout = 500 * time.Millisecond
	// drainSilence is how long nothing comes of a backlog when no more does, the way
	// to the consumer's leader and back aside.
	drainSilence = 100 * time.Millisecond
)

// drain takes in what the requests under way still bring. In a cluster that may be on
// its way from the consumer's leader to the client's server, and what finds no inbox
// there any more is lost until AckWait. With a backlog the requests soon come to their
// end. Without, little is on its way, and there is no sign of its end: drain waits as
// long as the leader is away.
func (s *subscription) drain() {
	if !s.takeRest() || s.conn.nc.ConnectedClusterName() == "" {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), drainTimeout)
	defer cancel()
	cs, began := s.currentConsumer(), time.Now()
	info, err := s.conn.consumerInfo(ctx, cs.stream.name, cs.name)
	silence := time.Since(began)
	if err != nil || info.NumPending > 0 {
		silence += drainSilence
	}
	for s.takeRest() {
		timer := time.NewTimer(silence)
		select {
		case m := <-s.pull.messages:
			s.collect(m)
		case <-timer.C:
			return
		case <-ctx.Done():
			return
		}
		timer.Stop()
	}
}

// takeRest takes in what has come, and reports whether more may.
func (s *subscription) takeRest() (more bool) {
	if m := s.arrived(); m != nil {
		s.collect(m)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.pull.open > 0 && !s.pull.outlived()
}

// giveBack naks what was fetched and not started, so that another subscriber of
// the consumer gets it now rather than after AckWait.
func (s *subscription) giveBack() {
	s.takeRest()
	for {
		s.mu.Lock()
		if len(s.waiting) == 0 {
			s.waiting, s.room = nil, nil
			s.mu.Unlock()
			return
		}
		e := s.newEvent(s.waiting[0])
		s.waiting = s.waiting[1:]
		s.mu.Unlock()
		_ = s.send(e, ResultNak, 0, true)
		if exhausted, byServer := s.exhausted(e); exhausted && byServer {
			s.reportExhausted(e, errGivenBack)
		}
	}
}

// giveBackLate is giveBack for a worker that ends: what it took out of the inbox
// while the subscription was being stopped came too late for stop.
func (s *subscription) giveBackLate() {
	<-s.returned
	s.giveBack()
}

// errGivenBack is why a message is exhausted that no handler has seen on its last
// delivery.
var errGivenBack = errors.New("given back, as its subscription ended, on the last delivery that MaxDeliver permits")

// refuse tells the fetching worker of a permission violation if it is about its
// requests, or about the answers to them.
func (s *subscription) refuse(violation error) {
	subject, _ := refusedSubject(violation, publishViolation)
	if subject != nextSubject(s.currentConsumer()) && !strings.Contains(violation.Error(), s.pull.inbox) {
		return
	}
	select {
	case s.trouble <- fmt.Errorf("%w: %w", ErrPermission, violation):
	default:
	}
}

// arrived returns a message from the inbox if there is one.
func (s *subscription) arrived() *nats.Msg {
	select {
	case m := <-s.pull.messages:
		return m
	default:
		return nil
	}
}

func (s *subscription) runningHandlers() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, r := range s.running {
		if r != nil {
			n++
		}
	}
	return n
}

// runsOn reports whether the goroutine is one of those that end the subscription.
func (s *subscription) runsOn(id uint64) bool {
	if id != 0 && s.stopper.Load() == id {
		return true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, own := range s.ids {
		if own == id && id != 0 {
			return true
		}
	}
	return false
}

// abandon tells the handlers that run that nobody waits for them any more.
func (s *subscription) abandon() {
	s.mu.Lock()
	s.abandoned = true
	s.mu.Unlock()
	s.giveUp()
}

// finish is the end of the last worker.
func (s *subscription) finish() {
	s.unwatch()
	s.mu.Lock()
	if s.keeper != nil {
		s.keeper.Stop()
	}
	s.mu.Unlock()
	s.deleteConsumer()
	s.giveUp()
	defer func() { // also if a hook ends the goroutine
		s.conn.remove(s)
		s.log(logger.InfoLevel, nil, "unsubscribed from %s (%s)", s.Subscription.Topic, s.describe())
		close(s.done)
	}()
	emit(s.hooks, s.hooks.subscriptionEnd, s.base, SubscriptionEnd{Subscription: s.identity()})
}

// deleteConsumer removes the consumer of a queue-less subscription, so that the
// next one can subscribe at once. The server removes those of crashed ones.
func (s *subscription) deleteConsumer() {
	cs := s.currentConsumer()
	if !cs.ephemeral || !cs.ours {
		return
	}
	if !s.conn.link.connected() {
		// In an outage the client sends it when it is connected again. With what is
		// closed there is nothing left to do.
		_ = s.conn.nc.Publish("$JS.API.CONSUMER.DELETE."+cs.stream.name+"."+cs.name, nil)
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), apiTimeout)
	defer cancel()
	// Acks are processed apart from requests: give those that were sent a
	// moment, or the deleted consumer's messages come again to the next one.
	for range 20 {
		info, err := s.conn.consumerInfo(ctx, cs.stream.name, cs.name)
		if err != nil || info.NumAckPending == 0 {
			break
		}
		select {
		case <-time.After(5 * time.Millisecond):
		case <-s.conn.closed:
			return
		}
	}
	err := s.conn.api(ctx, "CONSUMER.DELETE."+cs.stream.name+"."+cs.name, func(ctx context.Context) error {
		return s.conn.js.DeleteConsumer(ctx, cs.stream.name, cs.name)
	})
	if err != nil && !errors.Is(err, jetstream.ErrConsumerNotFound) && !errors.Is(err, jetstream.ErrStreamNotFound) {
		s.log(logger.WarnLevel, nil, "delete consumer %s of stream %s: %v; the server removes it in %v", cs.name, cs.stream.name, err, inactiveThreshold)
	}
}

func (s *subscription) currentConsumer() *consumer {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.consumer
}

// learned reports how many messages wait in the stream.
func (s *subscription) learned(pending uint64, ackPending int) {
	s.mu.Lock()
	s.known = time.Now()
	s.mu.Unlock()
	emit(s.hooks, s.hooks.consumerState, s.base, ConsumerState{Subscription: s.identity(), Pending: pending, AckPending: ackPending})
}
