package broker

import (
	"context"
	"fmt"
	"log/slog"
	"reflect"
	"runtime"
	"strings"
	"time"

	"go-micro.dev/v5/broker"

	"go-micro-jetstream/broker/internal/consume"
	"go-micro-jetstream/broker/internal/fault"
	"go-micro-jetstream/broker/internal/goroutine"
	"go-micro-jetstream/broker/internal/logging"
	"go-micro-jetstream/broker/internal/pull"
	"go-micro-jetstream/broker/internal/wire"
)

const (
	// subscribeTimeout bounds Subscribe: go-micro calls it with the mutex of its
	// server held.
	subscribeTimeout = 10 * time.Second
	// unsubscribeTimeout bounds the wait of Unsubscribe for the last worker, where
	// no handler runs.
	unsubscribeTimeout = 5 * time.Second
)

var _ broker.Subscriber = (*subscription)(nil)

// subscription is one Subscribe: the user's handler and the hooks around what
// package consume fetches.
type subscription struct {
	session *session
	cfg     *config
	hooks   *dispatcher
	log     *slog.Logger // with topic, queue, stream and consumer
	lines   logging.Limiter

	topic   string
	queue   string
	opts    broker.SubscribeOptions
	handler broker.Handler
	ordered bool // by OrderBy: retries are made here

	core     *consume.Subscription
	base     context.Context // the parent of the handlers' contexts, with what hooks have put there
	consumer string          // the name of the one that it began with
	bodies   [][]byte        // by worker, and only that worker's; see keepBody
	unwatch  func() bool     // of the SubscribeContext
}

// Subscribe starts a subscription: with broker.Queue on a durable consumer of
// that name, without it on a consumer of its own, which ends with it. See the
// package documentation for what the handler's return means, and
// docs/streams-and-consumers.md for how topics, streams and consumers relate. Subscribe answers within 10
// seconds, leaves nothing behind when it fails, and can be tried again. When
// the context of broker.SubscribeContext is cancelled, the subscription ends as
// with Unsubscribe.
//
// Errors: [ErrNotConnected], [ErrInvalidTopic], [ErrInvalidQueue],
// [ErrInvalidHandler], [ErrInvalidConfig], [ErrWorkQueueConflict],
// [ErrConsumerConflict], [ErrConsumerNotFound], [ErrStreamMismatch],
// [ErrStreamNotFound], [ErrStreamLimit], [ErrConsumerLimit], [ErrStoredTwice],
// [ErrSubscriptionLimit], [ErrJetStreamUnavailable], [ErrOffline],
// [ErrClusterUnavailable], [ErrPermission], and [ErrUnsupported] for [SingleActive]
// with an older server.
func (b *jetstreamBroker) Subscribe(topic string, handler broker.Handler, opts ...broker.SubscribeOption) (broker.Subscriber, error) {
	request := subscribeOptionsOf(opts)
	cfg := b.cfg.Load()
	s, err := subscribe(b.life.Session(), cfg, topic, handler, request)
	if err == nil {
		return s, nil
	}
	queue := request.Queue
	if queue != "" {
		err = fmt.Errorf("jetstream: subscribe to %q with queue %q: %w", wire.Shorten(topic), wire.Shorten(queue), err)
	} else {
		err = fmt.Errorf("jetstream: subscribe to %q: %w", wire.Shorten(topic), err)
	}
	if cfg != nil {
		emit(cfg.dispatch.subscribeFailed, request.Context, SubscribeFailed{Topic: topic, Queue: queue, Err: err, Reason: Reason(err)})
	}
	return nil, err
}

func subscribe(ses *session, cfg *config, topic string, handler broker.Handler, request subscribeOptions) (*subscription, error) {
	if err := checkSubscribe(ses, cfg, topic, handler, request); err != nil {
		return nil, err
	}
	s, state, err := ses.newSubscription(cfg, topic, handler, request)
	if err != nil {
		return nil, err
	}
	s.base = start(s.hooks.subscriptionStart, s.core.Context(), SubscriptionStart{Subscription: s.identity(), Concurrency: len(s.bodies), InHand: s.core.InHand})
	observer{s}.Learned(state)
	if request.single {
		observer{s}.Turned(false)
	}
	s.unwatch = context.AfterFunc(request.Context, func() { _ = s.Unsubscribe() })
	if cfg.rules.DeadLetter != "" && s.core.Consumer().Limit == 0 {
		s.log.Info(fmt.Sprintf("without MaxDeliver a message may fail for ever, and only messages that a handler discards become dead letters in %s: set MaxDeliver in the consumer template", cfg.rules.DeadLetter))
	}
	if t := cfg.rules.StreamTemplate; cfg.rules.DeadLetter != "" && t != nil && t.MaxMsgsPerSubject > 0 {
		s.log.Warn(fmt.Sprintf("WithStreamConfig has MaxMsgsPerSubject %d, and all dead letters have the one subject %s: a stream of theirs that is made from it keeps the last %d; make their stream yourself", t.MaxMsgsPerSubject, cfg.rules.DeadLetter, t.MaxMsgsPerSubject))
	}
	if request.keySet && len(s.bodies) == 1 && !request.concurrencySet {
		s.log.Warn("OrderBy runs one handler at a time here, so keys wait for each other: add Concurrency(n), or Concurrency(1) if you want that")
	}
	s.core.Begin(s.base, headStart(handler))
	return s, nil
}

// checkSubscribe checks what can be checked without the server.
func checkSubscribe(ses *session, cfg *config, topic string, handler broker.Handler, request subscribeOptions) error {
	if err := wire.CheckSubscribeTopic(topic); err != nil {
		return err
	}
	if request.Queue != "" {
		if err := wire.CheckQueue(request.Queue); err != nil {
			return err
		}
	}
	switch {
	case handler == nil:
		return fmt.Errorf("%w: it is nil", ErrInvalidHandler)
	case request.concurrencySet && request.concurrency < 1:
		return fmt.Errorf("%w: Concurrency(%d): want at least 1", ErrInvalidConfig, request.concurrency)
	case request.Context.Err() != nil:
		return fmt.Errorf("the context of broker.SubscribeContext has ended: %w", request.Context.Err())
	case ses == nil:
		return fault.ErrNoConnection
	case request.Queue == "" && cfg.rules.NeverCreateConsumers:
		return fmt.Errorf("%w: a subscriber without a queue has a consumer of its own, and with WithExistingConsumers the broker creates none: name a queue", ErrInvalidConfig)
	}
	if err := request.checkOrder(cfg); err != nil {
		return err
	}
	if request.single && request.Queue == "" {
		return fmt.Errorf("%w: SingleActive is for replicas that share a queue, and this subscriber has none: name one (broker.Queue)", ErrInvalidConfig)
	}
	return request.checkTemplate(&cfg.rules)
}

// newSubscription makes all that a subscription needs, and registers it. A
// Disconnect waits for it, so that nothing that was made here is left behind.
func (s *session) newSubscription(cfg *config, topic string, handler broker.Handler, request subscribeOptions) (*subscription, consume.State, error) {
	var none consume.State
	if !s.subscribes.Enter() {
		return nil, none, fault.ErrShuttingDown
	}
	defer s.subscribes.Leave()
	ctx, cancel := context.WithTimeout(request.Context, subscribeTimeout)
	defer cancel()
	concurrency := cfg.concurrency
	if request.concurrencySet {
		concurrency = request.concurrency
	}
	sub := &subscription{
		session: s,
		cfg:     cfg,
		hooks:   s.hooks,
		topic:   topic,
		queue:   request.Queue,
		opts:    request.SubscribeOptions,
		handler: handler,
		ordered: request.key != nil,
		bodies:  make([][]byte, concurrency),
	}
	core, info, err := consume.Open(ctx, consume.Config{
		Conn:            s.conn,
		Consumers:       s.consumers,
		Rules:           request.rules(&cfg.rules),
		Topic:           topic,
		Queue:           request.Queue,
		Concurrency:     concurrency,
		Limits:          pull.Limits{Batch: cfg.batchSize, Bytes: cfg.fetchBytes, Wait: cfg.fetchWait},
		MaxAckExtension: cfg.maxAckExtension,
		Parent:          request.Context,
		Handle:          sub.handle,
		Key:             keyFunc(request.key),
		Observer:        observer{sub},
		Log:             s.log,
	})
	if err != nil {
		return nil, none, err
	}
	sub.core, sub.base, sub.log, sub.consumer = core, core.Context(), core.Log(), core.Consumer().Name
	if !s.subs.Add(sub) {
		core.Discard()
		return nil, none, fault.ErrShuttingDown
	}
	return sub, consume.StateOf(info), nil
}

// serverHeadStart is how long the worker of a go-micro server's subscription
// waits before its first fetch. The server registers the user's handler only
// after Subscribe has returned. It tells us that it has handled what comes
// before: the message would be acknowledged and lost. It needs microseconds,
// but a busy machine may not give it these at once.
const serverHeadStart = 100 * time.Millisecond

// headStart recognises the handlers of go-micro's server.
func headStart(handler broker.Handler) time.Duration {
	if f := runtime.FuncForPC(reflect.ValueOf(handler).Pointer()); f != nil && strings.HasPrefix(f.Name(), "go-micro.dev/v5/server.") {
		return serverHeadStart
	}
	return 0
}

// Options returns the options of the Subscribe.
func (s *subscription) Options() broker.SubscribeOptions { return s.opts }

// Topic returns what was subscribed to, wildcards included.
func (s *subscription) Topic() string { return s.topic }

// Unsubscribe ends the subscription. It stops pulling and gives back at once
// what was fetched and not started. It does not wait for handlers that run,
// because go-micro calls it with the mutex of its server held. They still settle
// their messages. If none runs, everything is over when it returns. In a cluster,
// and with [OrderBy], it waits up to half a second for messages on their way.
//
// A durable consumer stays. The consumer of a queue-less subscription is
// deleted. Further calls do nothing and return nil.
//
// It returns within 5 seconds. The error is [ErrShutdownTimeout] if a hook still
// runs then, and names it. The subscription ends when that has returned.
func (s *subscription) Unsubscribe() error {
	bound := time.NewTimer(unsubscribeTimeout)
	defer bound.Stop()
	within := s.runsOn(goroutine.ID())
	if !s.core.StopWithin(unsubscribeTimeout) {
		return nil
	}
	if within || s.core.Returned() && s.core.Running() > 0 {
		return nil
	}
	select {
	case <-s.core.Done():
	case <-bound.C:
		if hooks := s.hooks.inside.names(); hooks != "" {
			return fmt.Errorf("jetstream: unsubscribe from %q: %w after %v: hooks still running: %s", wire.Shorten(s.topic), ErrShutdownTimeout, unsubscribeTimeout, hooks)
		}
	}
	return nil
}

// runsOn reports whether the goroutine is one of those that the end of the
// subscription waits for.
func (s *subscription) runsOn(id uint64) bool { return s.core.RunsOn(id) }

// identity is the subscription as it is now: a consumer that was made again may
// have another name.
func (s *subscription) identity() Subscription {
	cs := s.core.Consumer()
	return Subscription{Topic: s.topic, Queue: s.queue, Stream: cs.Stream.Name, Consumer: cs.Name}
}
