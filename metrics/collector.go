package metrics

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	jsbroker "go-micro-jetstream/broker"
)

const namespace = "micro_broker"

// The classic buckets. Where a service has its objectives, between 10 ms and
// 10 s, a bucket is at most 1.7 times as wide as the one before: the quantile
// that Prometheus interpolates is then off by less than that, and a p95 of
// 0.19 s reads as at most 0.2 s. Below and above, where only the order of
// magnitude matters, the steps are wider, to save series. The default AckWait
// of 30 s is a bound, so that "too slow for the deadline" can be counted.
var handlerBuckets = []float64{
	.0001, .0002, .0005, .001, .002, .005,
	.01, .015, .02, .03, .05, .07,
	.1, .15, .2, .3, .5, .7,
	1, 1.5, 2, 3, 5, 7,
	10, 20, 30, 60, 120, 300,
}

// A publish that takes longer than half a minute has failed long before.
var publishBuckets = handlerBuckets[:slices.Index(handlerBuckets, 30)+1]

// The lag is a few milliseconds while consumers keep up and hours after they
// did not: the range matters more than the resolution. Two clocks make
// anything below a millisecond noise.
var lagBuckets = []float64{
	.001, .002, .005, .01, .02, .03, .05, .07,
	.1, .15, .2, .3, .5, .7,
	1, 2, 3, 5, 10, 20, 30, 60, 120, 300, 600,
	1800, 3600, 3 * 3600, 12 * 3600, 24 * 3600,
}

// The reasons whose series exist, at zero, before anything went wrong, so that
// rate() sees the first failure: what a correctly configured service can meet
// in operation. Faults of configuration and of the caller come when they
// happen.
var (
	fetchReasons = []string{
		"consumer_deleted", "disconnected", "leadership_changed", "no_heartbeat",
		"no_responders", "server_shutdown", "stream_not_found", "timeout", reasonOther,
	}
	publishReasons = []string{
		"disconnected", "no_responders", "outcome_unknown", "stream_full", "timeout", reasonOther,
	}
)

const (
	topicOther         = "other"         // the label of topics beyond the guard
	reasonOther        = "other"         // of [jsbroker.Reason]
	reasonInvalidTopic = "invalid_topic" // of [jsbroker.Reason]
	unnamedBroker      = "jetstream"     // the label of a broker without a client name
)

// collector holds every metric of one registry. It is one
// [prometheus.Collector], and not one for each vector, so that a second [New]
// on the registry finds all of it again or nothing: see register.
type collector struct {
	buckets []float64 // of [WithDurationBuckets]; nil: the defaults

	published       *prometheus.CounterVec
	publishErrors   *prometheus.CounterVec
	duplicates      *prometheus.CounterVec
	publishDuration histogramVec

	subscribeErrors *prometheus.CounterVec

	fetched          *prometheus.CounterVec
	fetches          *prometheus.CounterVec
	fetchErrors      *prometheus.CounterVec
	backoffs         *prometheus.CounterVec
	handled          *prometheus.CounterVec
	handlerErrors    *prometheus.CounterVec
	handlerPanics    *prometheus.CounterVec
	handlerDuration  histogramVec
	deliveryLag      histogramVec
	redelivered      *prometheus.CounterVec
	deadLettered     *prometheus.CounterVec
	deadLetterErrors *prometheus.CounterVec
	exhausted        *prometheus.CounterVec
	skipped          *prometheus.CounterVec
	returned         *prometheus.CounterVec
	settleErrors     *prometheus.CounterVec

	reconnects *prometheus.CounterVec

	vectors []prometheus.Collector // all of the above

	// The gauges are not vectors: they are made at each scrape from the brokers
	// and subscriptions that live. So they cost the messages next to nothing, and
	// there is no way to forget one that has ended.
	connected           *prometheus.Desc
	activeSubscriptions *prometheus.Desc
	inFlight            *prometheus.Desc
	pending             *prometheus.Desc
	backoff             *prometheus.Desc

	mu      sync.Mutex
	live    map[labels]*series       // what has a subscription now
	brokers map[string]*brokerSeries // by BrokerID

	publishTopics   guard[*publishSeries]
	subscribeTopics guard[string]
}

var _ prometheus.Collector = (*collector)(nil)

// labels is what tells the series of subscriptions apart.
type labels struct{ topic, queue string }

func newCollector(buckets []float64) *collector {
	c := &collector{
		buckets: buckets,
		live:    make(map[labels]*series),
		brokers: make(map[string]*brokerSeries),
	}
	forHandlers, forPublishes := handlerBuckets, publishBuckets
	if buckets != nil {
		forHandlers, forPublishes = buckets, buckets
	}

	c.published = c.counter("published_total", "Messages published: acknowledged by the stream, duplicates included.", "topic")
	c.publishErrors = c.counter("publish_errors_total", "Publishes that failed, by reason.", "topic", "reason")
	c.duplicates = c.counter("duplicates_total", "Messages published with an id that the stream already had: acknowledged, but not stored again.", "topic")
	c.publishDuration = c.histogram("publish_duration_seconds", "Duration in seconds from the call of Publish until the outcome is known, look-ups, retries and failures included.", forPublishes, "topic")

	c.subscribeErrors = c.counter("subscribe_errors_total", "Subscribe calls that returned an error, by reason. go-micro only logs them and tries again.", "topic", "reason")

	c.fetched = c.counter("fetched_total", "Messages fetched from the stream.", "topic", "queue")
	c.fetches = c.counter("fetches_total", "Fetches that brought at least one message. fetched_total by this is the batch size.", "topic", "queue")
	c.fetchErrors = c.counter("fetch_errors_total", "Failed fetches, by reason. An idle poll is none.", "topic", "queue", "reason")
	c.backoffs = c.counter("backoffs_total", "Pauses after a failed fetch.", "topic", "queue")
	c.handled = c.counter("handled_total", "Deliveries handled, by how they were settled: ack, nak, term, or none for left unsettled.", "topic", "queue", "result")
	c.handlerErrors = c.counter("handler_errors_total", "Deliveries whose handler returned an error. Panics are not among them.", "topic", "queue")
	c.handlerPanics = c.counter("handler_panics_total", "Deliveries whose handler panicked or ended its goroutine.", "topic", "queue")
	c.handlerDuration = c.histogram("handler_duration_seconds", "Duration of handlers in seconds, once per delivery, failures included.", forHandlers, "topic", "queue")
	c.deliveryLag = c.histogram("delivery_lag_seconds", "Time in seconds from when the stream stored a message to when its handler started, first deliveries only.", lagBuckets, "topic", "queue")
	c.redelivered = c.counter("redelivered_total", "Deliveries handed to a handler that were not the first of their message.", "topic", "queue")
	c.deadLettered = c.counter("dead_lettered_total", "Messages published to the dead-letter topic.", "topic", "queue")
	c.deadLetterErrors = c.counter("dead_letter_errors_total", "Messages that could not be published to the dead-letter topic. The original was kept.", "topic", "queue")
	c.exhausted = c.counter("exhausted_total", "Messages whose last permitted delivery failed and that were not dead-lettered: they stay in the stream and are not delivered again.", "topic", "queue")
	c.skipped = c.counter("skipped_total", "Fetched messages not handled: their ack deadline had passed while they waited, so they are delivered again, or they were second deliveries of messages that are or were handled.", "topic", "queue")
	c.returned = c.counter("returned_total", "Fetched messages given back unhandled because the subscription ended. They are delivered again.", "topic", "queue")
	c.settleErrors = c.counter("settle_errors_total", "Acknowledgements that could not be sent or were not confirmed, by what they said: ack, nak or term.", "topic", "queue", "result")

	c.reconnects = c.counter("reconnects_total", "Connections restored after they were lost.", "broker")

	c.connected = desc("connected", "1 while the broker is connected to a server, else 0. It goes a minute after Disconnect.", "broker")
	c.activeSubscriptions = desc("active_subscriptions", "Subscriptions that are active now.", "topic", "queue")
	c.inFlight = desc("in_flight", "Handlers that are running now.", "topic", "queue")
	c.pending = desc("pending", "Messages in the stream that were not yet delivered to this consumer.", "topic", "queue")
	c.backoff = desc("backoff_seconds", "Current pause in seconds between failed fetches; 0 while healthy.", "topic", "queue")
	return c
}

func (c *collector) counter(name, help string, labels ...string) *prometheus.CounterVec {
	v := prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: namespace, Name: name, Help: help}, labels)
	c.vectors = append(c.vectors, v)
	return v
}

func (c *collector) histogram(name, help string, buckets []float64, labels ...string) histogramVec {
	v := prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Namespace: namespace,
		Name:      name,
		Help:      help,
		Buckets:   buckets,
		// Native buckets that grow by a tenth. From a tenth of a millisecond to
		// a minute they are 160, and a series that has seen more widens its
		// buckets, or starts afresh if it did not do so in the last hour.
		NativeHistogramBucketFactor:     1.1,
		NativeHistogramMaxBucketNumber:  160,
		NativeHistogramMinResetDuration: time.Hour,
	}, labels)
	c.vectors = append(c.vectors, v)
	return histogramVec{v, buckets}
}

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(prometheus.BuildFQName(namespace, "", name), help, labels, nil)
}

// register registers c, or returns the collector that an earlier New has
// registered there: the registry is the place that both know. A registerer of
// [prometheus.WrapRegistererWith] is no obstacle: the registry takes the
// wrapping off again before it reports what exists.
func (c *collector) register(r prometheus.Registerer) (_ *collector, err error) {
	// Metrics must not bring a service down, whatever implements Registerer.
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%w: the registerer panicked: %v", jsbroker.ErrInvalidConfig, p)
		}
	}()
	err = r.Register(c)
	if err == nil {
		return c, nil
	}
	var already prometheus.AlreadyRegisteredError
	if !errors.As(err, &already) {
		return nil, fmt.Errorf("%w: %w", jsbroker.ErrInvalidConfig, err)
	}
	existing, ok := already.ExistingCollector.(*collector)
	if !ok {
		return nil, fmt.Errorf("%w: the metrics are registered there already by a %T: share one hook between the brokers instead, or use another registerer: %w",
			jsbroker.ErrInvalidConfig, already.ExistingCollector, err)
	}
	if c.buckets != nil && !slices.Equal(c.buckets, existing.buckets) {
		return nil, fmt.Errorf("%w: WithDurationBuckets(%v): the registry has the metrics already, with other buckets", jsbroker.ErrInvalidConfig, c.buckets)
	}
	return existing, nil
}

// Describe implements [prometheus.Collector].
func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	for _, v := range c.vectors {
		v.Describe(ch)
	}
	ch <- c.connected
	ch <- c.activeSubscriptions
	ch <- c.inFlight
	ch <- c.pending
	ch <- c.backoff
}

// Collect implements [prometheus.Collector].
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	for _, v := range c.vectors {
		v.Collect(ch)
	}
	// A slow reader of ch must not hold up a Subscribe: send without the lock.
	for _, m := range c.gauges() {
		ch <- m
	}
}

func (c *collector) gauges() []prometheus.Metric {
	c.mu.Lock()
	defer c.mu.Unlock()
	ms := make([]prometheus.Metric, 0, 4*len(c.live)+len(c.brokers))
	for _, b := range c.openBrokers() {
		connected := 0.0
		if b.connected {
			connected = 1
		}
		ms = append(ms, prometheus.MustNewConstMetric(c.connected, prometheus.GaugeValue, connected, b.label))
	}
	for l, s := range c.live {
		gauge := func(d *prometheus.Desc, v float64) {
			ms = append(ms, prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, l.topic, l.queue))
		}
		var backoff time.Duration
		for sub := range s.subscriptions {
			backoff = max(backoff, time.Duration(sub.backoff.Load()))
		}
		gauge(c.activeSubscriptions, float64(len(s.subscriptions)))
		gauge(c.inFlight, float64(s.inFlight.Load()))
		gauge(c.pending, float64(s.pending.Load()))
		gauge(c.backoff, backoff.Seconds())
	}
	return ms
}

// label makes any string fit for a label: client_golang panics on invalid
// UTF-8, and NATS does not mind it.
func label(s string) string { return strings.ToValidUTF8(s, "\uFFFD") }
