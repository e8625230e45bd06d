package metrics

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/prometheus/client_golang/prometheus"

	jsbroker "go-micro-jetstream/broker"
)

// collector holds all metrics of one registry. It is registered as one
// [prometheus.Collector], so that a later [New] on the same registry finds either
// all metrics or none; see register.
type collector struct {
	bounds bounds

	vectors         vectors // every counter and histogram
	publishes       publishVectors
	subscribeErrors *prometheus.CounterVec
	subscriptions   *subscriptions
	brokers         *brokers
	build           prometheus.Metric

	publishTopics   guard[*publishSeries]
	subscribeTopics guard[string]
}

var _ prometheus.Collector = (*collector)(nil)

// newCollector returns a collector whose histograms have these classic buckets.
func newCollector(b bounds) *collector {
	c := &collector{bounds: b, build: newBuildInfo()}
	c.publishes = newPublishVectors(&c.vectors, b.publish)
	c.subscribeErrors = c.vectors.counter("subscribe_errors_total", "Subscribe calls that returned an error, by reason. go-micro only logs them and tries again.", "topic", "reason")
	c.subscriptions = newSubscriptions(&c.vectors, b)
	c.brokers = newBrokers(&c.vectors)
	return c
}

// register registers c with r. If an earlier New has registered a collector there,
// register returns that one, so that both share the metrics. This also works
// through [prometheus.WrapRegistererWith]: the registry unwraps the collector that
// it reports.
//
// That one must have the same buckets, unless particular is false.
func (c *collector) register(r prometheus.Registerer, particular bool) (_ *collector, err error) {
	// r may be any implementation, and its panic must not stop the service.
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
		return nil, fmt.Errorf("%w: the registerer has these metrics already, from a %T: share one hook between the brokers or use another registerer: %w",
			jsbroker.ErrInvalidConfig, already.ExistingCollector, err)
	}
	if particular && !c.bounds.equal(existing.bounds) {
		return nil, fmt.Errorf("%w: WithDurationBuckets, WithFewerBuckets or WithNativeHistogramsOnly: the registry has these metrics already, with other buckets: give all hooks on it the same options", jsbroker.ErrInvalidConfig)
	}
	return existing, nil
}

// Describe implements [prometheus.Collector].
func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	for _, v := range c.vectors {
		v.Describe(ch)
	}
	c.subscriptions.describe(ch)
	c.brokers.describe(ch)
	ch <- c.build.Desc()
}

// Collect implements [prometheus.Collector].
//
// The gauges are no vectors. Each scrape makes them from the subscriptions and
// brokers that exist, so messages do not pay for them and none is left behind when
// its subscription ends.
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	for _, v := range c.vectors {
		v.Collect(ch)
	}
	// The gauges are sent without a lock: ch may be slow, and Subscribe would wait.
	for _, m := range slices.Concat(c.subscriptions.gauges(), c.brokers.gauges()) {
		ch <- m
	}
	ch <- c.build
}

// label makes any string a valid label value. client_golang panics on invalid
// UTF-8, but NATS accepts it in subjects.
func label(s string) string { return strings.ToValidUTF8(s, "\uFFFD") }
