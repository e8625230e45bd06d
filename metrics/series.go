package metrics

import (
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"

	jsbroker "go-micro-jetstream/broker"
)

// The reasons whose series exist, at zero, before the first failure, so that
// rate() sees that failure. They are the failures that a correctly configured
// service can meet in operation. A series for another reason, such as a wrong
// configuration or a mistake of the caller, starts when it happens.
var (
	fetchReasons = []string{
		"consumer_deleted", "disconnected", "leadership_changed", "no_heartbeat",
		"no_responders", "server_shutdown", "stream_not_found", "timeout", reasonOther,
	}
	publishReasons = []string{
		"disconnected", "no_responders", "outcome_unknown", "stream_full", "timeout", reasonOther,
	}
)

// Reasons that [jsbroker.Reason] returns.
const (
	reasonOther        = "other"
	reasonInvalidTopic = "invalid_topic"
)

// labels identifies the series of a subscription.
type labels struct{ topic, queue string }

// counter returns the counter of these labels and more.
func (l labels) counter(v *prometheus.CounterVec, more ...string) prometheus.Counter {
	return v.WithLabelValues(append([]string{l.topic, l.queue}, more...)...)
}

// series are all metrics of one topic and queue. They are looked up once because a
// look-up takes 60 ns and an increment 3 ns.
type series struct {
	labels  labels
	vectors *subscriptionVectors

	arrivals
	results         results
	handlerErrors   prometheus.Counter
	handlerPanics   prometheus.Counter
	handlerDuration *histogram
	deliveryLag     *histogram
	endToEnd        *histogram
	redelivered     prometheus.Counter

	fates

	inFlight atomic.Int64

	// The latest values, whichever subscription learned them.
	pending       atomic.Uint64
	ackPending    atomic.Int64
	maxAckPending atomic.Int64

	subscriptions map[*subscription]struct{} // the active ones; guarded by subscriptions.mu
}

// arrivals count what is fetched, and what fails in it.
type arrivals struct {
	fetched      prometheus.Counter
	fetchedBytes prometheus.Counter
	fetches      prometheus.Counter
	fetchErrors  map[string]prometheus.Counter // by fetchReasons; read-only
	backoffs     prometheus.Counter
}

// results are the counters of handled_total, and of those among them that the handler
// snoozed, deferred or discarded, and that are late: the message had come often.
type results struct{ ack, nak, term, none, snoozed, deferred, discarded, late prometheus.Counter }

// manyDeliveries is from which delivery of its message on one counts as late. With the
// default pauses that is after 15 seconds of failures: no hiccup any more.
const manyDeliveries = 5

// fates are what else becomes of a message than being handled.
type fates struct {
	deadLettered, deadLetterErrors, exhausted, markers, returned prometheus.Counter

	skipped map[jsbroker.SkipReason]prometheus.Counter // by skipReasons; read-only
}

var skipReasons = []jsbroker.SkipReason{jsbroker.SkipExpired, jsbroker.SkipRunning, jsbroker.SkipHandled, jsbroker.SkipDiscarded}

func newSeries(v *subscriptionVectors, l labels) *series {
	s := &series{
		labels:  l,
		vectors: v,
		arrivals: arrivals{
			fetched:      l.counter(v.fetched),
			fetchedBytes: l.counter(v.fetchedBytes),
			fetches:      l.counter(v.fetches),
			fetchErrors:  make(map[string]prometheus.Counter, len(fetchReasons)),
			backoffs:     l.counter(v.backoffs),
		},
		results: results{
			ack:  l.counter(v.handled, string(jsbroker.ResultAck)),
			nak:  l.counter(v.handled, string(jsbroker.ResultNak)),
			term: l.counter(v.handled, string(jsbroker.ResultTerm)),
			none: l.counter(v.handled, string(jsbroker.ResultNone)),

			snoozed:   l.counter(v.snoozed),
			deferred:  l.counter(v.deferred),
			discarded: l.counter(v.discarded),
			late:      l.counter(v.late),
		},
		handlerErrors:   l.counter(v.handlerErrors),
		handlerPanics:   l.counter(v.handlerPanics),
		handlerDuration: v.handlerDuration.child(l.topic, l.queue),
		deliveryLag:     v.deliveryLag.child(l.topic, l.queue),
		endToEnd:        v.endToEnd.child(l.topic, l.queue),
		redelivered:     l.counter(v.redelivered),
		fates: fates{
			deadLettered:     l.counter(v.deadLettered),
			deadLetterErrors: l.counter(v.deadLetterErrors),
			exhausted:        l.counter(v.exhausted),
			markers:          l.counter(v.markers),
			returned:         l.counter(v.returned),
			skipped:          make(map[jsbroker.SkipReason]prometheus.Counter, len(skipReasons)),
		},
		subscriptions: make(map[*subscription]struct{}),
	}
	for _, reason := range fetchReasons {
		s.fetchErrors[reason] = l.counter(v.fetchErrors, reason)
	}
	for _, reason := range skipReasons {
		s.skipped[reason] = l.counter(v.skipped, string(reason))
	}
	for _, r := range []jsbroker.Result{jsbroker.ResultAck, jsbroker.ResultNak, jsbroker.ResultTerm} {
		s.settleError(r) // exists, at zero, from now on
	}
	return s
}

func (s *series) fetchError(reason string) prometheus.Counter {
	if counter, ok := s.fetchErrors[reason]; ok {
		return counter
	}
	return s.labels.counter(s.vectors.fetchErrors, reason)
}

// failed counts a handler's error, and what the handler has decided with it.
func (s *series) failed(e *jsbroker.Handled) {
	s.handlerErrors.Inc()
	switch {
	case e.Discarded:
		s.results.discarded.Inc()
	case e.Deferred:
		s.results.deferred.Inc()
	}
}

func (s *series) skip(r jsbroker.SkipReason) prometheus.Counter {
	if counter, ok := s.skipped[r]; ok {
		return counter
	}
	return s.labels.counter(s.vectors.skipped, label(string(r))) // from a later version of the broker
}

func (s *series) handled(r jsbroker.Result) prometheus.Counter {
	switch r {
	case jsbroker.ResultAck:
		return s.results.ack
	case jsbroker.ResultNak:
		return s.results.nak
	case jsbroker.ResultTerm:
		return s.results.term
	case jsbroker.ResultNone:
		return s.results.none
	default: // from a later version of the broker
		return s.labels.counter(s.vectors.handled, label(string(r)))
	}
}

// settleError looks its counter up each time: such errors are rare.
func (s *series) settleError(r jsbroker.Result) prometheus.Counter {
	return s.labels.counter(s.vectors.settleErrors, label(string(r)))
}

// publishSeries are all metrics of one published topic.
type publishSeries struct {
	topic   string
	vectors *publishVectors

	published  prometheus.Counter
	bytes      prometheus.Counter
	duplicates prometheus.Counter
	duration   *histogram
	errors     map[string]prometheus.Counter // by publishReasons; read-only
}

// newSeries returns the series of a topic. All of them exist, at zero, from now on.
func (v *publishVectors) newSeries(topic string) *publishSeries {
	p := &publishSeries{
		topic:      topic,
		vectors:    v,
		published:  v.published.WithLabelValues(topic),
		bytes:      v.bytes.WithLabelValues(topic),
		duplicates: v.duplicates.WithLabelValues(topic),
		duration:   v.duration.child(topic),
		errors:     make(map[string]prometheus.Counter, len(publishReasons)),
	}
	for _, reason := range publishReasons {
		p.errors[reason] = v.errors.WithLabelValues(topic, reason)
	}
	return p
}

func (p *publishSeries) err(reason string) prometheus.Counter {
	if counter, ok := p.errors[reason]; ok {
		return counter
	}
	return p.vectors.errors.WithLabelValues(p.topic, reason)
}
