// Package live is a page that shows what the brokers of a service are doing now.
// It needs no Grafana and no Prometheus:
//
//	page := live.New()
//	b := jsbroker.NewBroker(jsbroker.WithHooks(page.Hooks()))
//	http.Handle("/debug/jetstream", page)
//
// The page shows the connection, each subscription with its backlog, its back-off
// and its last error, every message that a handler is working on and for how long,
// the retries that wait, the last failures and dead letters, and what is published.
// It finds a message by its id, its stream sequence or its trace id, among those
// that it remembers. It updates itself. With ?format=json the same is JSON.
//
// The page shows subjects, message ids and error texts, but no bodies and no
// headers. It has no access control: serve it on an internal port.
//
// # Costs
//
// Memory is bounded, whatever clients publish: see the constants of this package.
// A delivery allocates nothing here.
package live

import (
	"context"
	"sync"
	"time"

	jsbroker "go-micro-jetstream/broker"
)

// What the page remembers at most. What goes beyond is dropped, the oldest first,
// except that further topics are counted under the topic "other".
const (
	maxTopics        = 200 // topics published to
	maxFailures      = 200 // failures and dead letters
	maxRetries       = 500 // retries that wait
	maxRecent        = 256 // deliveries of each subscription that are over
	maxEnded         = 20  // subscriptions that have ended
	maxBrokers       = 20  // brokers that have closed their connection
	maxText          = 300 // bytes of an error text or a name
	maxSubscriptions = 10_000
)

// Page is the hooks that observe brokers and the [net/http.Handler] that shows what
// they have seen. Several brokers of one process may share a page. All methods are
// safe for concurrent use.
type Page struct {
	started time.Time
	key     contextKey

	mu            sync.Mutex
	brokers       []*connection
	subscriptions []*subscription // the active ones
	ended         []*subscription
	failures      ring[failure]
	retries       []retry

	topics topics
}

// contextKey is where a page finds its subscription in the context of a hook. Each
// page has a key of its own, so that two pages may observe one broker.
type contextKey struct{ page *Page }

// New returns a page that has seen nothing yet.
func New() *Page {
	p := &Page{started: time.Now()}
	p.key = contextKey{p}
	p.failures.size = maxFailures
	p.topics.byName = make(map[string]*topic)
	return p
}

// Hooks returns the hooks for broker.WithHooks. It may be called for several brokers.
func (p *Page) Hooks() jsbroker.Hooks {
	return jsbroker.Hooks{
		ConnectionChanged: p.connectionChanged,
		PublishStart: func(ctx context.Context, e jsbroker.PublishStart) context.Context {
			p.topics.get(e.Topic).outstanding.Add(1)
			return ctx
		},
		Published:         p.published,
		SubscriptionStart: p.subscriptionStart,
		SubscriptionEnd:   p.subscriptionEnd,
		SubscribeFailed:   p.subscribeFailed,
		Fetched: func(ctx context.Context, e jsbroker.Fetched) {
			if s := p.of(ctx); s != nil {
				s.learned(e.NumPending)
			}
		},
		FetchError: func(ctx context.Context, e jsbroker.FetchError) {
			if s := p.of(ctx); s != nil {
				s.fetchFailed(e)
			}
		},
		Backoff: func(ctx context.Context, e jsbroker.Backoff) {
			if s := p.of(ctx); s != nil {
				s.backedOff(e)
			}
		},
		ConsumerState: func(ctx context.Context, e jsbroker.ConsumerState) {
			if s := p.of(ctx); s != nil {
				s.consumerState(e)
			}
		},
		HandleStart: func(ctx context.Context, e jsbroker.HandleStart) context.Context {
			if s := p.of(ctx); s != nil {
				s.handleStart(&e)
				if e.NumDelivered > 1 {
					p.retried(s, e.StreamSequence)
				}
			}
			return ctx
		},
		Handled: func(ctx context.Context, e jsbroker.Handled) {
			if s := p.of(ctx); s != nil {
				trace := s.handled(&e)
				if e.Err != nil || e.Snoozed {
					p.unfinished(s, &e, trace)
				}
			}
		},
		DeadLettered: p.deadLettered,
	}
}

// of returns the subscription that a hook is about, or nil.
func (p *Page) of(ctx context.Context) *subscription {
	s, _ := ctx.Value(p.key).(*subscription)
	return s
}

func (p *Page) subscriptionStart(ctx context.Context, e jsbroker.SubscriptionStart) context.Context {
	s := &subscription{name: e.Subscription, since: time.Now(), most: e.Concurrency}
	s.recent.size = maxRecent
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.subscriptions) >= maxSubscriptions {
		return ctx
	}
	p.subscriptions = append(p.subscriptions, s)
	return context.WithValue(ctx, p.key, s)
}

func (p *Page) subscriptionEnd(ctx context.Context, _ jsbroker.SubscriptionEnd) {
	s := p.of(ctx)
	if s == nil {
		return
	}
	s.end()
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := range p.subscriptions {
		if p.subscriptions[i] == s {
			p.subscriptions = append(p.subscriptions[:i], p.subscriptions[i+1:]...)
			break
		}
	}
	p.ended = append(p.ended, s)
	if len(p.ended) > maxEnded {
		p.ended = p.ended[1:]
	}
}

func (p *Page) published(_ context.Context, e jsbroker.Published) {
	t := p.topics.get(e.Topic)
	t.outstanding.Add(-1)
	if e.Err == nil {
		t.published.Add(1)
		t.bytes.Add(int64(e.Size))
		return
	}
	t.failed(e.Reason, e.Err)
}

func (p *Page) connectionChanged(_ context.Context, e jsbroker.ConnectionChanged) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var c *connection
	for _, known := range p.brokers {
		if known.broker == e.BrokerID {
			c = known
		}
	}
	if c == nil {
		if len(p.brokers) >= maxBrokers {
			p.brokers = p.brokers[1:]
		}
		c = &connection{broker: e.BrokerID}
		p.brokers = append(p.brokers, c)
	}
	c.change(e)
}

// unfinished remembers a handler's failure, and the retry that it or a snooze leads to.
func (p *Page) unfinished(s *subscription, e *jsbroker.Handled, trace string) {
	now := time.Now()
	f := failure{at: now, of: s.name, message: messageOf(&e.Delivery, trace), what: "failed", result: string(e.Result), err: text(e.Err)}
	if e.Panicked {
		f.what = "panicked"
	}
	if e.Err != nil {
		s.failed(f.err, now)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if e.Result == jsbroker.ResultNak {
		f.delay = e.Delay
		p.removeRetry(s, e.StreamSequence)
		if len(p.retries) >= maxRetries {
			p.retries = p.retries[1:]
		}
		p.retries = append(p.retries, retry{s: s, message: f.message, due: now.Add(e.Delay), snoozed: e.Snoozed})
	}
	if e.Err != nil {
		p.failures.add(&f)
	}
}

// retried forgets a retry that this process has got.
func (p *Page) retried(s *subscription, sequence uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.removeRetry(s, sequence)
}

// removeRetry is retried for callers that hold the lock.
func (p *Page) removeRetry(s *subscription, sequence uint64) {
	for i := range p.retries {
		if p.retries[i].s == s && p.retries[i].message.sequence == sequence {
			p.retries = append(p.retries[:i], p.retries[i+1:]...)
			return
		}
	}
}

func (p *Page) deadLettered(ctx context.Context, e jsbroker.DeadLettered) {
	f := failure{at: time.Now(), of: e.Subscription, message: messageOf(&e.Delivery, ""), what: "dead letter in " + cut(e.DeadLetterTopic), err: text(e.Cause)}
	if s := p.of(ctx); s != nil {
		f.message.trace = s.traceOf(e.ConsumerSequence)
	}
	if e.Err != nil {
		f.what, f.err = "dead letter not stored", text(e.Err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.failures.add(&f)
}

func (p *Page) subscribeFailed(_ context.Context, e jsbroker.SubscribeFailed) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.failures.add(&failure{
		at: time.Now(), of: jsbroker.Subscription{Topic: cut(e.Topic), Queue: cut(e.Queue)},
		what: "subscribe failed", result: e.Reason, err: text(e.Err),
	})
}
