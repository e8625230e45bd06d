package metrics

import (
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

const namespace = "micro_broker"

// handlerBuckets are the classic buckets for handlers. Objectives of services lie
// between 10 ms and 10 s. There each bound is at most 1.7 times the one before,
// which limits the error of a quantile that Prometheus interpolates: a p95 of
// 0.19 s reads as at most 0.2 s. Outside that range the order of magnitude is
// enough, and wider steps save series. The default ack wait of 30 s is a bound, so
// that handlers slower than it can be counted.
var handlerBuckets = []float64{
	.0001, .0002, .0005, .001, .002, .005,
	.01, .015, .02, .03, .05, .07,
	.1, .15, .2, .3, .5, .7,
	1, 1.5, 2, 3, 5, 7,
	10, 20, 30, 60, 120, 300,
}

// publishBuckets end at 30 s: every publish has succeeded or failed long before.
var publishBuckets = handlerBuckets[:slices.Index(handlerBuckets, 30)+1]

// lagBuckets cover a wide range rather than a fine one: the lag is a few
// milliseconds while consumers keep up, and hours after an outage. They start at
// 1 ms because the lag is the difference of two clocks.
var lagBuckets = []float64{
	.001, .002, .005, .01, .02, .03, .05, .07,
	.1, .15, .2, .3, .5, .7,
	1, 2, 3, 5, 10, 20, 30, 60, 120, 300, 600,
	1800, 3600, 3 * 3600, 12 * 3600, 24 * 3600,
}

// endToEndBuckets are coarser than those of the lag, to save series: what they measure
// is judged in orders of magnitude.
var endToEndBuckets = []float64{.01, .1, .5, 1, 5, 10, 30, 60, 300, 600, 1800, 3600, 6 * 3600, 24 * 3600}

// vectors lists the counters and histograms of a registry.
type vectors []prometheus.Collector

func (vs *vectors) counter(name, help string, labels ...string) *prometheus.CounterVec {
	v := prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: namespace, Name: name, Help: help}, labels)
	*vs = append(*vs, v)
	return v
}

func (vs *vectors) histogram(name, help string, buckets []float64, labels ...string) histogramVec {
	v := prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Namespace: namespace,
		Name:      name,
		Help:      help,
		Buckets:   buckets,
		// Each native bucket is at most a tenth wider than the one before, so that the
		// range from 0.1 ms to a minute has about 150. A series that needs more than
		// 160 is reset, or gets wider buckets if the last reset was less than an hour
		// ago.
		NativeHistogramBucketFactor:     1.1,
		NativeHistogramMaxBucketNumber:  160,
		NativeHistogramMinResetDuration: time.Hour,
	}, labels)
	*vs = append(*vs, v)
	return histogramVec{v, buckets}
}

// desc describes a gauge.
func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(prometheus.BuildFQName(namespace, "", name), help, labels, nil)
}

// publishVectors are the metrics of publishing.
type publishVectors struct {
	published  *prometheus.CounterVec
	bytes      *prometheus.CounterVec
	errors     *prometheus.CounterVec
	duplicates *prometheus.CounterVec
	scheduled  *prometheus.CounterVec
	duration   histogramVec
}

func newPublishVectors(vs *vectors, buckets []float64) publishVectors {
	return publishVectors{
		published:  vs.counter("published_total", "Messages published: acknowledged by the stream, duplicates included.", "topic"),
		bytes:      vs.counter("published_bytes_total", "Bytes of the bodies of published messages, duplicates included.", "topic"),
		errors:     vs.counter("publish_errors_total", "Publishes that failed, by reason.", "topic", "reason"),
		duplicates: vs.counter("duplicates_total", "Messages published with an id that the stream already had: acknowledged, but not stored again.", "topic"),
		scheduled:  vs.counter("scheduled_total", "Messages published to be delivered later, with DeliverAfter or DeliverAt: they wait from now on. Duplicates are not among them.", "topic"),
		duration:   vs.histogram("publish_duration_seconds", "Duration in seconds from the call of Publish until the outcome is known, look-ups, retries and failures included.", buckets, "topic"),
	}
}

// subscriptionVectors are the metrics of fetching and handling. Their first two
// labels are topic and queue.
type subscriptionVectors struct {
	arrivalVectors
	resultVectors
	fateVectors

	handlerErrors   *prometheus.CounterVec
	handlerPanics   *prometheus.CounterVec
	handlerDuration histogramVec
	deliveryLag     histogramVec
	endToEnd        histogramVec
	redelivered     *prometheus.CounterVec
	settleErrors    *prometheus.CounterVec
}

type arrivalVectors struct {
	fetched      *prometheus.CounterVec
	fetchedBytes *prometheus.CounterVec
	fetches      *prometheus.CounterVec
	fetchErrors  *prometheus.CounterVec
	backoffs     *prometheus.CounterVec
}

type resultVectors struct {
	handled   *prometheus.CounterVec
	snoozed   *prometheus.CounterVec
	deferred  *prometheus.CounterVec
	discarded *prometheus.CounterVec
	late      *prometheus.CounterVec
}

type fateVectors struct {
	deadLettered     *prometheus.CounterVec
	deadLetterErrors *prometheus.CounterVec
	exhausted        *prometheus.CounterVec
	skipped          *prometheus.CounterVec
	markers          *prometheus.CounterVec
	returned         *prometheus.CounterVec
}

func newSubscriptionVectors(vs *vectors, b bounds) *subscriptionVectors {
	return &subscriptionVectors{
		arrivalVectors: arrivalVectors{
			fetched:      vs.counter("fetched_total", "Messages fetched from the stream.", "topic", "queue"),
			fetchedBytes: vs.counter("fetched_bytes_total", "Bytes fetched from the stream, headers included.", "topic", "queue"),
			fetches:      vs.counter("fetches_total", "Fetches that brought at least one message. fetched_total by this is the batch size.", "topic", "queue"),
			fetchErrors:  vs.counter("fetch_errors_total", "Failed fetches, by reason. An idle poll is none.", "topic", "queue", "reason"),
			backoffs:     vs.counter("backoffs_total", "Pauses after a failed fetch.", "topic", "queue"),
		},
		resultVectors: resultVectors{
			handled:   vs.counter("handled_total", "Deliveries handled, by how they were settled: ack, nak, term, or none for left unsettled.", "topic", "queue", "result"),
			snoozed:   vs.counter("snoozed_total", "Deliveries that the handler snoozed: nakked, and no failure.", "topic", "queue"),
			deferred:  vs.counter("deferred_total", "Deliveries whose handler returned RetryAfter: it has said itself when to try again. They are among handler_errors_total.", "topic", "queue"),
			discarded: vs.counter("discarded_total", "Deliveries whose handler returned Discard. They are among handler_errors_total.", "topic", "queue"),
			late:      vs.counter("late_deliveries_total", "Handled deliveries that were the fifth of their message or a later one, those that were snoozed aside.", "topic", "queue"),
		},
		handlerErrors:   vs.counter("handler_errors_total", "Deliveries whose handler returned an error. Panics are not among them.", "topic", "queue"),
		handlerPanics:   vs.counter("handler_panics_total", "Deliveries whose handler panicked or ended its goroutine.", "topic", "queue"),
		handlerDuration: vs.histogram("handler_duration_seconds", "Duration of handlers in seconds, once per delivery, failures included.", b.handler, "topic", "queue"),
		deliveryLag:     vs.histogram("delivery_lag_seconds", "Time in seconds from when the stream stored a message to when its handler started, first deliveries only.", b.lag, "topic", "queue"),
		endToEnd:        vs.histogram("end_to_end_seconds", "Time in seconds from when the stream stored a message to when it was finished, acked or terminated, retries included.", b.endToEnd, "topic", "queue"),
		redelivered:     vs.counter("redelivered_total", "Deliveries handed to a handler that were not the first of their message.", "topic", "queue"),

		settleErrors: vs.counter("settle_errors_total", "Acknowledgements that could not be sent or were not confirmed, by what they said: ack, nak or term.", "topic", "queue", "result"),
		fateVectors: fateVectors{
			deadLettered:     vs.counter("dead_lettered_total", "Messages published to the dead-letter topic.", "topic", "queue"),
			deadLetterErrors: vs.counter("dead_letter_errors_total", "Messages that could not be published to the dead-letter topic. The original was kept.", "topic", "queue"),
			exhausted:        vs.counter("exhausted_total", "Messages whose last permitted delivery failed and that were not dead-lettered: they stay in the stream and are not delivered again.", "topic", "queue"),
			skipped:          vs.counter("skipped_total", "Fetched messages not handled, by reason: expired, their ack deadline had passed while they waited, so they are delivered again; or a second delivery of a message that is running, was handled or was discarded.", "topic", "queue", "reason"),
			markers:          vs.counter("markers_total", "Delete markers of the stream, which were acknowledged and not handled. They are not in skipped_total.", "topic", "queue"),
			returned:         vs.counter("returned_total", "Fetched messages given back unhandled because the subscription ended, or because the handlers before them hang. They are delivered again.", "topic", "queue"),
		},
	}
}

// remove deletes the series of a topic and queue.
func (v *subscriptionVectors) remove(l labels) {
	for _, vec := range []*prometheus.MetricVec{
		v.fetched.MetricVec, v.fetchedBytes.MetricVec, v.fetches.MetricVec, v.backoffs.MetricVec,
		v.snoozed.MetricVec, v.deferred.MetricVec, v.discarded.MetricVec, v.late.MetricVec, v.endToEnd.MetricVec, v.handlerErrors.MetricVec, v.handlerPanics.MetricVec, v.handlerDuration.MetricVec, v.deliveryLag.MetricVec, v.redelivered.MetricVec,
		v.deadLettered.MetricVec, v.deadLetterErrors.MetricVec, v.exhausted.MetricVec, v.markers.MetricVec, v.returned.MetricVec,
	} {
		vec.DeleteLabelValues(l.topic, l.queue)
	}
	for _, vec := range []*prometheus.MetricVec{v.fetchErrors.MetricVec, v.skipped.MetricVec, v.handled.MetricVec, v.settleErrors.MetricVec} {
		vec.DeletePartialMatch(prometheus.Labels{"topic": l.topic, "queue": l.queue})
	}
}
