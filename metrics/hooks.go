package metrics

import (
	"context"
	"fmt"
	"time"

	jsbroker "go-micro-jetstream/broker"
)

// New returns hooks for [jsbroker.WithHooks] that keep the metrics of the package
// documentation. It registers them with [prometheus.DefaultRegisterer] unless
// [WithRegisterer] says otherwise. One value may serve several brokers. Several
// values on one registry share the metrics, and their counts add up.
//
// New does not fail. If an option is invalid or the metrics cannot be registered,
// for example because another metric has one of the names, the hooks observe
// nothing and their Err is set. The broker's Connect then returns that error.
func New(opts ...Option) jsbroker.Hooks {
	cfg := newConfig(opts)
	if cfg.err != nil {
		return jsbroker.Hooks{Err: fmt.Errorf("metrics: %w", cfg.err)}
	}
	c, err := newCollector(newBounds(cfg.shape, cfg.buckets)).register(cfg.registerer, cfg.shape != allBuckets || cfg.buckets != nil)
	if err != nil {
		return jsbroker.Hooks{Err: fmt.Errorf("metrics: %w", err)}
	}
	o := &observer{c: c, maxTopics: cfg.maxTopics, topicLabel: cfg.topicLabel}
	return jsbroker.Hooks{
		Published:         o.published,
		SubscriptionStart: o.subscriptionStart,
		SubscriptionEnd:   o.subscriptionEnd,
		SubscribeFailed:   o.subscribeFailed,
		Fetched:           o.fetched,
		FetchError:        o.fetchError,
		Backoff:           o.backoff,
		ConsumerState:     o.consumerState,
		Held:              o.held,
		ActiveChanged:     o.activeChanged,
		HandleStart:       o.handleStart,
		Settled:           o.settled,
		DeadLettered:      o.deadLettered,
		Exhausted:         o.exhausted,
		Skipped:           o.skipped,
		Handled:           o.handled,
		ConnectionChanged: o.connectionChanged,
	}
}

// observer is what one [New] adds to the collector of its registry.
type observer struct {
	c          *collector
	maxTopics  int
	topicLabel func(string) string
}

// subscriptionKey is the context key of a subscription. It contains the collector,
// so that hooks with different registries each find their own subscription.
type subscriptionKey struct{ c *collector }

func (o *observer) subscription(ctx context.Context) *subscription {
	sub, _ := ctx.Value(subscriptionKey{o.c}).(*subscription)
	return sub
}

func (o *observer) published(ctx context.Context, e jsbroker.Published) {
	p := o.c.publishTopics.get(o.publishTopic(e), o.maxTopics, o.c.publishes.newSeries)
	traceID, sampled := sampledTrace(ctx)
	p.duration.observe(e.Duration, traceID, sampled)
	if e.Err != nil {
		p.err(reason(e.Reason, e.Err)).Inc()
		return
	}
	p.published.Inc()
	p.bytes.Add(float64(max(e.Size, 0)))
	switch {
	case e.Duplicate:
		p.duplicates.Inc()
	case e.DeliverAt.After(time.Now().Add(-e.Duration)): // else its time had passed, and it did not wait
		p.vectors.scheduled.WithLabelValues(p.topic).Inc()
	}
}

// publishTopic returns the topic to count a publish under; empty for topicOther.
func (o *observer) publishTopic(e jsbroker.Published) string {
	switch {
	case e.Reason == reasonInvalidTopic:
		return "" // anybody can make up invalid topics
	case o.topicLabel != nil:
		return o.topicLabel(e.Topic)
	default:
		return e.Topic
	}
}

func (o *observer) subscriptionStart(ctx context.Context, e jsbroker.SubscriptionStart) context.Context {
	sub := o.c.subscriptions.start(&e, o.subscription(ctx))
	return context.WithValue(ctx, subscriptionKey{o.c}, sub)
}

func (o *observer) subscriptionEnd(ctx context.Context, _ jsbroker.SubscriptionEnd) {
	if sub := o.subscription(ctx); sub != nil {
		o.c.subscriptions.end(sub)
	}
}

func (o *observer) subscribeFailed(_ context.Context, e jsbroker.SubscribeFailed) {
	topic := e.Topic
	if e.Reason == reasonInvalidTopic {
		topic = ""
	}
	topic = o.c.subscribeTopics.get(topic, o.maxTopics, func(label string) string { return label })
	o.c.subscribeErrors.WithLabelValues(topic, reason(e.Reason, e.Err)).Inc()
}

func (o *observer) fetched(ctx context.Context, e jsbroker.Fetched) {
	if sub := o.subscription(ctx); sub != nil {
		sub.fetches.Inc()
		sub.fetched.Add(float64(max(e.Messages, 0)))
		sub.fetchedBytes.Add(float64(max(e.Bytes, 0)))
		sub.pending.Store(e.NumPending)
	}
}

func (o *observer) fetchError(ctx context.Context, e jsbroker.FetchError) {
	if sub := o.subscription(ctx); sub != nil {
		sub.fetchError(reason(e.Reason, e.Err)).Inc()
	}
}

func (o *observer) backoff(ctx context.Context, e jsbroker.Backoff) {
	if sub := o.subscription(ctx); sub != nil {
		sub.backoff.Store(int64(e.Delay))
		if e.Delay > 0 {
			sub.backoffs.Inc()
		}
	}
}

func (o *observer) consumerState(ctx context.Context, e jsbroker.ConsumerState) {
	if sub := o.subscription(ctx); sub != nil {
		sub.pending.Store(e.Pending)
		sub.ackPending.Store(int64(e.AckPending))
		sub.maxAckPending.Store(int64(e.MaxAckPending))
		sub.retries.Store(int64(e.Retries))
	}
}

func (o *observer) activeChanged(ctx context.Context, e jsbroker.ActiveChanged) {
	if sub := o.subscription(ctx); sub != nil {
		sub.standby.Store(!e.Active)
	}
}

func (o *observer) held(ctx context.Context, e jsbroker.Held) {
	if sub := o.subscription(ctx); sub != nil {
		sub.full.Store(e.Full)
	}
}

func (o *observer) handleStart(ctx context.Context, e jsbroker.HandleStart) context.Context {
	if sub := o.subscription(ctx); sub != nil {
		sub.inFlight.Add(1)
		sub.running.begin(e.StreamSequence, e.ConsumerSequence)
		if e.NumDelivered > 1 {
			sub.redelivered.Inc()
		}
	}
	return ctx
}

// settled counts what handled does not: failures, and messages that were given back
// without a handler.
func (o *observer) settled(ctx context.Context, e jsbroker.Settled) {
	if e.Err == nil && !e.Returned {
		return
	}
	sub := o.subscription(ctx)
	switch {
	case sub == nil:
	case e.Err != nil:
		sub.settleError(e.Result).Inc()
	default:
		sub.returned.Inc()
	}
}

func (o *observer) deadLettered(ctx context.Context, e jsbroker.DeadLettered) {
	sub := o.subscription(ctx)
	switch {
	case sub == nil:
	case e.Err != nil:
		sub.deadLetterErrors.Inc()
	default:
		sub.deadLettered.Inc()
	}
}

func (o *observer) exhausted(ctx context.Context, _ jsbroker.Exhausted) {
	if sub := o.subscription(ctx); sub != nil {
		sub.exhausted.Inc()
	}
}

func (o *observer) skipped(ctx context.Context, e jsbroker.Skipped) {
	sub := o.subscription(ctx)
	switch {
	case sub == nil:
	case e.Reason == jsbroker.SkipMarker:
		sub.markers.Inc()
	default:
		sub.skip(e.Reason).Inc()
	}
}

// handled observes the duration and also the lag, which is known since the handler
// started. It waits because the exemplar needs the consumer span: here the context
// has it, whichever hooks were installed first.
func (o *observer) handled(ctx context.Context, e jsbroker.Handled) {
	sub := o.subscription(ctx)
	if sub == nil {
		return
	}
	sub.inFlight.Add(-1)
	sub.running.end(e.StreamSequence, e.ConsumerSequence)
	sub.handled(e.Result).Inc()
	switch {
	case e.Panicked:
		sub.handlerPanics.Inc()
	case e.Err != nil:
		sub.failed(&e)
	case e.Snoozed:
		sub.results.snoozed.Inc()
	}
	if e.NumDelivered >= manyDeliveries && !e.Snoozed {
		sub.results.late.Inc()
	}
	traceID, sampled := sampledTrace(ctx)
	sub.handlerDuration.observe(e.Duration, traceID, sampled)
	if e.NumDelivered <= 1 {
		sub.deliveryLag.observe(e.Lag, traceID, sampled)
	}
	if e.Result == jsbroker.ResultAck || e.Result == jsbroker.ResultTerm {
		sub.endToEnd.observe(e.Lag+e.Duration, traceID, sampled)
	}
}

func (o *observer) connectionChanged(_ context.Context, e jsbroker.ConnectionChanged) {
	o.c.brokers.change(e)
}

// reason returns the label of an error. It is never empty, because Prometheus takes
// an empty label for a missing one.
func reason(r string, err error) string {
	if r == "" {
		r = jsbroker.Reason(err)
	}
	if r == "" {
		r = reasonOther
	}
	return label(r)
}
