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
// Memory is bounded, whatever clients publish: some 300 bytes for each of the latest
// 256 deliveries of a subscription, fewer where there are more than 100 subscriptions.
// A delivery that succeeds allocates nothing here and takes some tens of nanoseconds:
//
//	go test -run '^$' -bench Delivery ./dashboards/live
package live

import (
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	jsbroker "go-micro-jetstream/broker"
)

// What the page remembers at most. What goes beyond is dropped, the oldest first,
// except that further topics are counted together, and further subscriptions are not
// shown.
const (
	maxTopics        = 200 // topics published to
	maxFailures      = 200 // failures and dead letters
	maxRetries       = 500 // retries that wait
	maxRecent        = 256 // deliveries of each subscription that are over
	minRecent        = 8   // of each of very many subscriptions
	fullRecent       = 100 // subscriptions that have maxRecent each
	maxEnded         = 20  // subscriptions that have ended
	maxBrokers       = 20  // brokers, those that have closed their connection included
	maxText          = 300 // bytes of an error text or a name
	maxSubscriptions = 10_000
)

// retryKept is how long a retry is shown that is due and has not come back here: another
// replica has probably got it.
const retryKept = time.Minute

// remembers says how many deliveries a further subscription remembers.
func remembers(subscriptions int) int {
	return max(maxRecent*fullRecent/max(subscriptions+1, fullRecent), minRecent)
}

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

	topics *topics
}

// contextKey is where a page finds its subscription in the context of a hook. Each
// page has a key of its own, so that two pages may observe one broker.
type contextKey struct{ page *Page }

// New returns a page that has seen nothing yet.
func New() *Page {
	p := &Page{started: time.Now(), topics: newTopics()}
	p.key = contextKey{p}
	p.failures.size = maxFailures
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
		Fetched:           observe(p, (*subscription).fetched),
		FetchError:        observe(p, (*subscription).fetchFailed),
		Backoff:           observe(p, (*subscription).backedOff),
		ConsumerState:     observe(p, (*subscription).consumerState),
		Held:              observe(p, (*subscription).held),
		ActiveChanged:     observe(p, (*subscription).activeChanged),
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
				if e.Err != nil || e.Snoozed || e.SettleErr != nil {
					p.unfinished(s, &e)
				}
				s.handled(&e)
			}
		},
		DeadLettered: p.deadLettered,
		Exhausted:    p.exhausted,
	}
}

// observe makes a hook of what a subscription does with an event.
func observe[E any](p *Page, do func(*subscription, *E)) func(context.Context, E) {
	return func(ctx context.Context, e E) {
		if s := p.of(ctx); s != nil {
			do(s, &e)
		}
	}
}

// of returns the subscription that a hook is about, or nil.
func (p *Page) of(ctx context.Context) *subscription {
	s, _ := ctx.Value(p.key).(*subscription)
	return s
}

func (p *Page) subscriptionStart(ctx context.Context, e jsbroker.SubscriptionStart) context.Context {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.subscriptions) >= maxSubscriptions {
		return ctx
	}
	s := newSubscription(&e, remembers(len(p.subscriptions)))
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

// unfinished remembers a handler's failure, the retry that it or a snooze leads to, and
// an acknowledgement that was not sent.
func (p *Page) unfinished(s *subscription, e *jsbroker.Handled) {
	now := time.Now()
	f := failure{at: now, of: s.name, message: s.messageOf(&e.Delivery), what: "failed", result: string(e.Result), err: text(e.Err)}
	switch {
	case e.Panicked:
		f.what = "panicked"
	case e.Err == nil && e.SettleErr != nil:
		f.what, f.err = "not settled", text(e.SettleErr)
	}
	if e.Err != nil {
		s.failed(f.err, now)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if e.Result == jsbroker.ResultNak {
		f.delay = e.Delay
		p.addRetry(&retry{s: s, message: f.message, due: now.Add(e.Delay), snoozed: e.Snoozed})
	}
	if e.Err != nil || e.SettleErr != nil {
		p.failures.add(&f)
	}
}

// addRetry is for callers that hold the lock.
func (p *Page) addRetry(r *retry) {
	p.removeRetry(r.s, r.message.sequence)
	if len(p.retries) >= maxRetries {
		p.dropRetries(time.Now())
	}
	if len(p.retries) >= maxRetries {
		p.retries = slices.Delete(p.retries, 0, 1)
	}
	p.retries = append(p.retries, *r)
}

// dropRetries forgets those that others have got. It is for callers that hold the lock.
func (p *Page) dropRetries(now time.Time) {
	p.retries = slices.DeleteFunc(p.retries, func(r retry) bool { return now.Sub(r.due) > retryKept })
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
			p.retries = slices.Delete(p.retries, i, i+1)
			return
		}
	}
}

func (p *Page) deadLettered(ctx context.Context, e jsbroker.DeadLettered) {
	f := p.failureOf(ctx, &e.Delivery, "dead letter in "+cut(e.DeadLetterTopic), e.Cause)
	if e.Err != nil {
		f.what, f.err = "dead letter not stored", text(e.Err)
	}
	p.add(f)
}

func (p *Page) exhausted(ctx context.Context, e jsbroker.Exhausted) {
	p.add(p.failureOf(ctx, &e.Delivery, "given up, not delivered again", e.Cause))
}

// failureOf makes a failure of a message whose handler has run.
func (p *Page) failureOf(ctx context.Context, d *jsbroker.Delivery, what string, cause error) *failure {
	f := &failure{at: time.Now(), of: d.Subscription, what: what, err: text(cause)}
	if s := p.of(ctx); s != nil {
		f.message = s.messageOf(d)
	} else {
		f.message = messageOf(d, "")
	}
	return f
}

func (p *Page) add(f *failure) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.failures.add(f)
}

func (p *Page) subscribeFailed(_ context.Context, e jsbroker.SubscribeFailed) {
	p.add(&failure{
		at: time.Now(), of: jsbroker.Subscription{Topic: strings.Clone(cut(e.Topic)), Queue: strings.Clone(cut(e.Queue))},
		what: "subscribe failed", result: e.Reason, err: text(e.Err),
	})
}
