package metrics

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	jsbroker "go-micro-jetstream/broker"
)

// subscriptions knows the active subscriptions and their series. All methods are
// safe for concurrent use.
type subscriptions struct {
	vectors *subscriptionVectors

	active   *prometheus.Desc
	inFlight *prometheus.Desc
	pending  *prometheus.Desc
	backoff  *prometheus.Desc

	ackPending    *prometheus.Desc
	maxAckPending *prometheus.Desc
	retries       *prometheus.Desc
	orderFull     *prometheus.Desc
	singleActive  *prometheus.Desc

	loads loadDescs

	mu    sync.Mutex
	live  map[labels]*series // those with an active subscription
	ended []labels           // those whose counters are kept without one; the oldest first
}

// maxEnded is how many topics and queues keep their counters after their last
// subscription has ended. A service that restarts its subscriptions continues its
// counters. A service that subscribes to ever new topics would otherwise add some
// thirty series with each of them, for ever.
const maxEnded = 1000

// subscription is one subscription and the series that it shares with all others
// of the same topic and queue.
type subscription struct {
	*series
	// backoff is the current pause in nanoseconds. It is not in series: a worker
	// that has recovered would hide one that has not, and a worker that ended
	// during its pause would leave the pause behind.
	backoff atomic.Int64
	retries atomic.Int64 // not in series either: each subscription knows its own
	full    atomic.Bool  // as much is in hand as OrderBy permits
	standby atomic.Bool  // with SingleActive, and another replica is active
	running running

	of          jsbroker.Subscription // as it was at the start
	concurrency int
	inHand      func() int // nil: unknown

	// outer is the subscription in whose context this one started. A broker that has
	// these hooks twice starts each subscription twice, one inside the other.
	outer *subscription
	ended bool // guarded by subscriptions.mu
}

func newSubscriptions(vs *vectors, b bounds) *subscriptions {
	return &subscriptions{
		vectors:  newSubscriptionVectors(vs, b),
		active:   desc("active_subscriptions", "Subscriptions that are active now.", "topic", "queue"),
		inFlight: desc("in_flight", "Handlers that are running now.", "topic", "queue"),
		pending:  desc("pending", "Messages in the stream that were not yet delivered to this consumer.", "topic", "queue"),
		backoff:  desc("backoff_seconds", "Current pause in seconds between failed fetches; 0 while healthy.", "topic", "queue"),

		ackPending:    desc("ack_pending", "Messages delivered to any subscriber of this consumer and not settled, when the server last said so.", "topic", "queue"),
		maxAckPending: desc("max_ack_pending", "How large ack_pending may become before the server delivers nothing new; 0 if there is no bound.", "topic", "queue"),
		retries:       desc("retries", "Messages that failed here and waited for their retry, when the server was last asked about the consumer.", "topic", "queue"),
		orderFull:     desc("order_full", "Subscriptions with OrderBy that fetch no more, because stuck keys have as many messages in hand as permitted.", "topic", "queue"),
		singleActive:  desc("subscription_active", "Subscriptions that the server delivers to: 0 if this replica stands by, with SingleActive.", "topic", "queue"),

		loads: loadDescs{
			info:        desc("subscription_info", "Always 1. The stream and the consumer that the subscription began with.", "topic", "queue", "stream", "consumer"),
			concurrency: desc("concurrency", "How many handlers may run at a time.", "topic", "queue"),
			oldest:      desc("oldest_in_flight_seconds", "For how many seconds the handler runs that has started first; 0 while none runs.", "topic", "queue"),
			inHand:      desc("in_hand", "Messages that are fetched and not being handled now.", "topic", "queue"),
		},

		live: make(map[labels]*series),
	}
}

// loadDescs are gauges of what a subscription is and may do.
type loadDescs struct{ info, concurrency, oldest, inHand *prometheus.Desc }

// start adds a subscription. If it is the only one of its topic and queue, all
// their series exist from now on, at zero.
func (s *subscriptions) start(e *jsbroker.SubscriptionStart, outer *subscription) *subscription {
	of := e.Subscription
	l := labels{topic: label(of.Topic), queue: label(of.Queue)}
	s.mu.Lock()
	defer s.mu.Unlock()
	shared := s.live[l]
	if shared == nil {
		if i := slices.Index(s.ended, l); i >= 0 {
			s.ended = slices.Delete(s.ended, i, i+1)
		}
		shared = newSeries(s.vectors, l)
		s.live[l] = shared
	}
	sub := &subscription{series: shared, outer: outer, of: of, concurrency: e.Concurrency, inHand: e.InHand}
	shared.subscriptions[sub] = struct{}{}
	return sub
}

// end removes a subscription. The last one of its topic and queue takes their
// gauges with it. The counters stay, and a later start continues them, until
// [maxEnded] others have ended since.
//
// A broker that has these hooks twice calls end twice, both times with the
// subscription that started last. The second call ends the outer one.
func (s *subscriptions) end(sub *subscription) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for sub.ended && sub.outer != nil {
		sub = sub.outer
	}
	sub.ended = true
	delete(sub.subscriptions, sub)
	// A needless second end must not remove series that have started since.
	if len(sub.subscriptions) == 0 && s.live[sub.labels] == sub.series {
		delete(s.live, sub.labels)
		s.ended = append(s.ended, sub.labels)
		if len(s.ended) > maxEnded {
			s.vectors.remove(s.ended[0])
			s.ended = slices.Delete(s.ended, 0, 1)
		}
	}
}

func (s *subscriptions) describe(ch chan<- *prometheus.Desc) {
	ch <- s.active
	ch <- s.inFlight
	ch <- s.pending
	ch <- s.backoff
	ch <- s.ackPending
	ch <- s.maxAckPending
	ch <- s.retries
	ch <- s.orderFull
	ch <- s.singleActive
	ch <- s.loads.info
	ch <- s.loads.concurrency
	ch <- s.loads.oldest
	ch <- s.loads.inHand
}

// sums are what the subscriptions of one topic and queue have together.
type sums struct {
	backoff, oldest                    time.Duration // the longest
	retries, full, active, concurrency int64
	inHand                             int
	consumers                          map[jsbroker.Subscription]bool
}

func sumOf(all map[*subscription]struct{}, now time.Time) sums {
	s := sums{consumers: map[jsbroker.Subscription]bool{}}
	for sub := range all {
		s.backoff = max(s.backoff, time.Duration(sub.backoff.Load()))
		s.oldest = max(s.oldest, sub.running.oldest(now))
		s.retries += sub.retries.Load()
		s.concurrency += int64(sub.concurrency)
		s.consumers[sub.of] = true
		if sub.inHand != nil {
			s.inHand += sub.inHand()
		}
		if !sub.standby.Load() {
			s.active++
		}
		if sub.full.Load() {
			s.full++
		}
	}
	return s
}

// gauges returns the gauges of the active subscriptions.
func (s *subscriptions) gauges() []prometheus.Metric {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	ms := make([]prometheus.Metric, 0, 12*len(s.live))
	for l, shared := range s.live {
		gauge := func(d *prometheus.Desc, v float64) {
			ms = append(ms, prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, l.topic, l.queue))
		}
		sum := sumOf(shared.subscriptions, now)
		for of := range sum.consumers {
			ms = append(ms, prometheus.MustNewConstMetric(s.loads.info, prometheus.GaugeValue, 1, l.topic, l.queue, label(of.Stream), label(of.Consumer)))
		}
		gauge(s.loads.concurrency, float64(sum.concurrency))
		gauge(s.loads.oldest, sum.oldest.Seconds())
		gauge(s.loads.inHand, float64(sum.inHand))
		gauge(s.active, float64(len(shared.subscriptions)))
		gauge(s.inFlight, float64(shared.inFlight.Load()))
		gauge(s.pending, float64(shared.pending.Load()))
		gauge(s.backoff, sum.backoff.Seconds())
		gauge(s.ackPending, float64(shared.ackPending.Load()))
		gauge(s.maxAckPending, float64(shared.maxAckPending.Load()))
		gauge(s.retries, float64(sum.retries))
		gauge(s.orderFull, float64(sum.full))
		gauge(s.singleActive, float64(sum.active))
	}
	return ms
}
