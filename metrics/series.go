package metrics

import (
	"fmt"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	jsbroker "go-micro-jetstream/broker"
)

// series are all metrics of one pair of labels, looked up once: an increment
// of a resolved child takes 3 ns, with the look-up 60.
type series struct {
	c      *collector
	labels labels

	fetched          prometheus.Counter
	fetches          prometheus.Counter
	fetchErrors      map[string]prometheus.Counter // fetchReasons; read-only
	backoffs         prometheus.Counter
	acked            prometheus.Counter
	naked            prometheus.Counter
	termed           prometheus.Counter
	unsettled        prometheus.Counter
	handlerErrors    prometheus.Counter
	handlerPanics    prometheus.Counter
	handlerDuration  *histogram
	deliveryLag      *histogram
	redelivered      prometheus.Counter
	deadLettered     prometheus.Counter
	deadLetterErrors prometheus.Counter
	exhausted        prometheus.Counter
	skipped          prometheus.Counter
	returned         prometheus.Counter

	inFlight atomic.Int64
	pending  atomic.Uint64 // of one consumer, whoever learned it last

	subscriptions map[*subscription]struct{} // guarded by collector.mu
}

// subscription is one subscription's share of the series of its labels.
type subscription struct {
	*series
	// backoff is each worker's own. In the series, a worker that recovered
	// would hide one that did not, and one that ended in a pause would leave
	// it there.
	backoff atomic.Int64 // nanoseconds

	outer *subscription // in whose context it has started: the same one's, if a broker has these hooks twice
	ended bool          // guarded by collector.mu
}

// start adds a subscription. The first of its labels brings the series into
// being, all of them, at zero.
func (c *collector) start(s jsbroker.Subscription, outer *subscription) *subscription {
	l := labels{topic: label(s.Topic), queue: label(s.Queue)}
	c.mu.Lock()
	defer c.mu.Unlock()
	sr := c.live[l]
	if sr == nil {
		sr = c.newSeries(l)
		c.live[l] = sr
	}
	sub := &subscription{series: sr, outer: outer}
	sr.subscriptions[sub] = struct{}{}
	return sub
}

// end removes a subscription. With the last of its labels the gauges go; the
// counters stay in their vectors, where the next start finds them.
//
// Where a broker has these hooks twice there are two starts, the second in the
// context of the first, and two ends, each with the context of the second.
func (c *collector) end(sub *subscription) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for sub.ended && sub.outer != nil {
		sub = sub.outer
	}
	sub.ended = true
	delete(sub.subscriptions, sub)
	// An end that comes twice must not take away what has started since.
	if len(sub.subscriptions) == 0 && c.live[sub.labels] == sub.series {
		delete(c.live, sub.labels)
	}
}

func (c *collector) newSeries(l labels) *series {
	result := func(v *prometheus.CounterVec, r jsbroker.Result) prometheus.Counter {
		return v.WithLabelValues(l.topic, l.queue, string(r))
	}
	s := &series{
		c:                c,
		labels:           l,
		fetched:          c.fetched.WithLabelValues(l.topic, l.queue),
		fetches:          c.fetches.WithLabelValues(l.topic, l.queue),
		fetchErrors:      make(map[string]prometheus.Counter, len(fetchReasons)),
		backoffs:         c.backoffs.WithLabelValues(l.topic, l.queue),
		acked:            result(c.handled, jsbroker.ResultAck),
		naked:            result(c.handled, jsbroker.ResultNak),
		termed:           result(c.handled, jsbroker.ResultTerm),
		unsettled:        result(c.handled, jsbroker.ResultNone),
		handlerErrors:    c.handlerErrors.WithLabelValues(l.topic, l.queue),
		handlerPanics:    c.handlerPanics.WithLabelValues(l.topic, l.queue),
		handlerDuration:  c.handlerDuration.child(l.topic, l.queue),
		deliveryLag:      c.deliveryLag.child(l.topic, l.queue),
		redelivered:      c.redelivered.WithLabelValues(l.topic, l.queue),
		deadLettered:     c.deadLettered.WithLabelValues(l.topic, l.queue),
		deadLetterErrors: c.deadLetterErrors.WithLabelValues(l.topic, l.queue),
		exhausted:        c.exhausted.WithLabelValues(l.topic, l.queue),
		skipped:          c.skipped.WithLabelValues(l.topic, l.queue),
		returned:         c.returned.WithLabelValues(l.topic, l.queue),
		subscriptions:    make(map[*subscription]struct{}),
	}
	for _, reason := range fetchReasons {
		s.fetchErrors[reason] = c.fetchErrors.WithLabelValues(l.topic, l.queue, reason)
	}
	for _, r := range []jsbroker.Result{jsbroker.ResultAck, jsbroker.ResultNak, jsbroker.ResultTerm} {
		result(c.settleErrors, r)
	}
	return s
}

func (s *series) fetchError(reason string) prometheus.Counter {
	if counter, ok := s.fetchErrors[reason]; ok {
		return counter
	}
	return s.c.fetchErrors.WithLabelValues(s.labels.topic, s.labels.queue, reason)
}

func (s *series) handled(r jsbroker.Result) prometheus.Counter {
	switch r {
	case jsbroker.ResultAck:
		return s.acked
	case jsbroker.ResultNak:
		return s.naked
	case jsbroker.ResultTerm:
		return s.termed
	case jsbroker.ResultNone:
		return s.unsettled
	default: // of a later version of the broker
		return s.c.handled.WithLabelValues(s.labels.topic, s.labels.queue, label(string(r)))
	}
}

// settleError is rare enough to be looked up each time.
func (s *series) settleError(r jsbroker.Result) prometheus.Counter {
	return s.c.settleErrors.WithLabelValues(s.labels.topic, s.labels.queue, label(string(r)))
}

// publishSeries are all metrics of one published topic.
type publishSeries struct {
	c     *collector
	topic string

	published  prometheus.Counter
	duplicates prometheus.Counter
	duration   *histogram
	errors     map[string]prometheus.Counter // publishReasons; read-only
}

func (c *collector) newPublishSeries(topic string) *publishSeries {
	p := &publishSeries{
		c:          c,
		topic:      topic,
		published:  c.published.WithLabelValues(topic),
		duplicates: c.duplicates.WithLabelValues(topic),
		duration:   c.publishDuration.child(topic),
		errors:     make(map[string]prometheus.Counter, len(publishReasons)),
	}
	for _, reason := range publishReasons {
		p.errors[reason] = c.publishErrors.WithLabelValues(topic, reason)
	}
	return p
}

func (p *publishSeries) err(reason string) prometheus.Counter {
	if counter, ok := p.errors[reason]; ok {
		return counter
	}
	return p.c.publishErrors.WithLabelValues(p.topic, reason)
}

// disconnectedFor is how long the gauge of a broker is 0 after its Disconnect. That is
// no outage, so it goes before MicroBrokerDisconnected would fire, after two minutes;
// and a process that makes one broker after the other is not to keep it of each.
const disconnectedFor = time.Minute

// brokerSeries are the metrics of one broker.
type brokerSeries struct {
	label      string
	connected  bool      // guarded by collector.mu
	closed     time.Time // by Disconnect; zero: it is not. Guarded by collector.mu
	reconnects prometheus.Counter
}

// setConnected notes the state of the broker with that id. Its label is the client
// name of its first event, as long as it is in use. A second broker of the same name
// would write to the same gauge, and one that is down would look connected: it gets
// "name-2".
func (c *collector) setConnected(id, clientName string, connected, closed bool) *brokerSeries {
	c.mu.Lock()
	defer c.mu.Unlock()
	b := c.brokers[id]
	if b == nil {
		b = c.newBroker(clientName)
		c.brokers[id] = b
	}
	b.connected, b.closed = connected, time.Time{}
	if closed {
		b.closed = time.Now()
	}
	return b
}

// newBroker returns the series for another broker. The caller holds c.mu.
func (c *collector) newBroker(clientName string) *brokerSeries {
	name := label(clientName)
	if name == "" {
		name = unnamedBroker
	}
	value := name
	for n := 2; !c.freeBroker(value); n++ {
		value = fmt.Sprintf("%s-%d", name, n)
	}
	return &brokerSeries{label: value, reconnects: c.reconnects.WithLabelValues(value)}
}

// freeBroker reports whether a label is free for another broker: that of one that is
// disconnected is. The caller holds c.mu.
func (c *collector) freeBroker(value string) bool {
	for id, b := range c.brokers {
		if b.label == value {
			if b.closed.IsZero() {
				return false
			}
			delete(c.brokers, id)
		}
	}
	return true
}

// openBrokers returns the brokers whose gauges there are. The caller holds c.mu.
func (c *collector) openBrokers() map[string]*brokerSeries {
	for id, b := range c.brokers {
		if !b.closed.IsZero() && time.Since(b.closed) >= disconnectedFor {
			delete(c.brokers, id)
		}
	}
	return c.brokers
}
