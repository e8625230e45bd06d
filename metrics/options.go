package metrics

import (
	"fmt"
	"math"
	"reflect"
	"slices"

	"github.com/prometheus/client_golang/prometheus"

	jsbroker "go-micro-jetstream/broker"
)

// defaultMaxTopics is far above the handful of topics that a service publishes to
// by name, and limits a mistake to a few thousand series.
const defaultMaxTopics = 100

// Option configures [New]. A nil Option is skipped.
type Option func(*config)

type config struct {
	registerer prometheus.Registerer
	maxTopics  int
	topicLabel func(string) string
	buckets    []float64 // of [WithDurationBuckets]; nil: not set
	shape      shape
	err        error
}

func newConfig(opts []Option) config {
	cfg := config{
		registerer: prometheus.DefaultRegisterer,
		maxTopics:  defaultMaxTopics,
	}
	for _, opt := range opts {
		if opt != nil {
			opt(&cfg)
		}
	}
	if cfg.shape == noBuckets && cfg.buckets != nil {
		cfg.err = fmt.Errorf("%w: WithDurationBuckets(%v) and WithNativeHistogramsOnly: with native histograms only there are no such buckets: choose one of the two", jsbroker.ErrInvalidConfig, cfg.buckets)
	}
	return cfg
}

// WithRegisterer sets where the metrics are registered. The default, also for nil,
// is [prometheus.DefaultRegisterer].
//
// Brokers that share a registry share the metrics. To tell them apart, or to add a
// label to every series, pass the result of [prometheus.WrapRegistererWith].
func WithRegisterer(r prometheus.Registerer) Option {
	return func(cfg *config) {
		// A *prometheus.Registry field that was never set is nil, but not as an
		// interface.
		if v := reflect.ValueOf(r); !v.IsValid() || v.Kind() == reflect.Pointer && v.IsNil() {
			r = prometheus.DefaultRegisterer
		}
		cfg.registerer = r
	}
}

// WithMaxTopics limits how many topics get publish series of their own. The default
// is 100. All further topics are counted together under the topic "other". Raise
// the limit for a gateway that publishes to many known topics. With 0, everything
// is counted under "other". A negative number is an error.
//
// The limit is for all brokers on a registry together. It also limits the topics of
// micro_broker_subscribe_errors_total, which are counted separately.
func WithMaxTopics(n int) Option {
	return func(cfg *config) {
		if n < 0 {
			cfg.err = fmt.Errorf("%w: WithMaxTopics(%d): must not be negative", jsbroker.ErrInvalidConfig, n)
			return
		}
		cfg.maxTopics = n
	}
}

// WithTopicLabel sets a function that maps the topic of a publish to its label. Use
// it for generated subjects: "orders.4711.created" and thousands like it can become
// the one series "orders.*.created", where they would otherwise end up in "other".
// An empty result is counted under "other". Without a function, or with nil, the
// label is the topic.
//
// The function is called for every publish, also concurrently. Subscriptions do not
// need it: their label is the pattern that was subscribed to.
func WithTopicLabel(label func(topic string) string) Option {
	return func(cfg *config) { cfg.topicLabel = label }
}

// WithDurationBuckets sets the classic buckets of
// micro_broker_handler_duration_seconds and micro_broker_publish_duration_seconds.
// The bounds are upper bounds in seconds, in increasing order. Use it to get a
// bound exactly at your objective (le="0.25"), to measure handlers that run for
// hours, or to save series where native histograms are scraped. Without bounds the
// defaults remain.
//
// All hooks on one registry have the same buckets. Different ones for metrics that
// are registered already are an error.
func WithDurationBuckets(bounds ...float64) Option {
	return func(cfg *config) {
		if len(bounds) == 0 {
			cfg.buckets = nil
			return
		}
		own := slices.Clone(bounds) // the histograms keep it
		if math.IsInf(own[len(own)-1], +1) {
			own = own[:len(own)-1] // every histogram has this bound
		}
		for i, b := range own {
			// The histogram would panic, but only at the first message.
			if math.IsNaN(b) || math.IsInf(b, 0) || i > 0 && b <= own[i-1] {
				cfg.err = fmt.Errorf("%w: WithDurationBuckets(%v): bounds must be finite and increasing", jsbroker.ErrInvalidConfig, bounds)
				return
			}
		}
		cfg.buckets = own
	}
}

// WithFewerBuckets makes histograms show only the order of magnitude: 7
// classic buckets for handlers where there are 30 by default. A subscription then costs
// 83 series in a scrape of text rather than 132. Quantiles
// become rough: a p95 of 60 ms reads as up to 250 ms. Every bound that the rules and
// dashboards of this module name is kept. Native histograms do not change.
//
// [WithDurationBuckets] still sets the buckets that it is for. All hooks on one registry
// have the same buckets; others for metrics that are registered already are an error.
func WithFewerBuckets() Option { return func(cfg *config) { cfg.shape = fewBuckets } }

// WithNativeHistogramsOnly leaves out the classic buckets: use it where Prometheus
// scrapes native histograms, and everything that asks for quantiles uses them. A
// histogram is then one series, in a scrape that negotiates protobuf. In a scrape of
// text it has a sum and a count, and no quantiles at all.
//
// The rules and dashboards of this module ask for classic buckets, as every version of
// Prometheus has them: their quantiles and heatmaps stay empty. Everything else works.
//
// With [WithDurationBuckets] it is an error. All hooks on one registry have the same
// buckets; others for metrics that are registered already are an error.
func WithNativeHistogramsOnly() Option { return func(cfg *config) { cfg.shape = noBuckets } }
