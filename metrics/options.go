package metrics

import (
	"fmt"
	"math"
	"reflect"

	"github.com/prometheus/client_golang/prometheus"

	jsbroker "go-micro-jetstream/broker"
)

// defaultMaxTopics: a service publishes to a handful of topics by name; a hundred
// leaves room, and bounds the cost of a mistake to a few thousand series.
const defaultMaxTopics = 100

// Option configures [New].
type Option func(*config)

type config struct {
	registerer prometheus.Registerer
	maxTopics  int
	topicLabel func(string) string
	buckets    []float64 // nil: the defaults
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
	return cfg
}

// WithRegisterer sets where the metrics are registered; the default, also for
// nil, is [prometheus.DefaultRegisterer]. Brokers that share a registry share
// the metrics. Where they are to be told apart, or where every series needs a
// label of its own, pass the result of [prometheus.WrapRegistererWith].
func WithRegisterer(r prometheus.Registerer) Option {
	return func(cfg *config) {
		// A nil *prometheus.Registry in the interface is what a forgotten
		// field of a configuration struct looks like.
		if v := reflect.ValueOf(r); !v.IsValid() || v.Kind() == reflect.Pointer && v.IsNil() {
			r = prometheus.DefaultRegisterer
		}
		cfg.registerer = r
	}
}

// WithMaxTopics sets how many different topics get publish series of their own;
// the default is 100. Those that come later are counted together under the topic
// "other". Raise it for a gateway that publishes to many known
// topics; 0 counts everything under "other". A negative number is an error.
//
// The limit is one for the registry: brokers that share it share the topics.
// It bounds the topics of micro_broker_subscribe_errors_total in the same way.
func WithMaxTopics(n int) Option {
	return func(cfg *config) {
		if n < 0 {
			cfg.err = fmt.Errorf("%w: WithMaxTopics(%d): must not be negative", jsbroker.ErrInvalidConfig, n)
			return
		}
		cfg.maxTopics = n
	}
}

// WithTopicLabel maps the topic of a publish to the value of its label, for
// subjects that are generated: "orders.4711.created" and its thousands of
// siblings become one series "orders.*.created" rather than "other". An empty
// result counts under "other". The function runs for every publish, from many
// goroutines at once. Nil means the topic as it is.
//
// Subscriptions need no such mapping: their label is the pattern subscribed to.
func WithTopicLabel(label func(topic string) string) Option {
	return func(cfg *config) { cfg.topicLabel = label }
}

// WithDurationBuckets replaces the upper bounds, in seconds and increasing, of
// the classic buckets of micro_broker_handler_duration_seconds and
// micro_broker_publish_duration_seconds: to have a bound exactly at the
// objective that is to be measured (le="0.25"), for handlers that run for
// hours, or to save series where native histograms are scraped anyway. No
// bounds at all means the defaults.
//
// One registry has one set of buckets: asking for others on a registry that
// has the metrics already is an error.
func WithDurationBuckets(bounds ...float64) Option {
	return func(cfg *config) {
		if len(bounds) == 0 {
			cfg.buckets = nil
			return
		}
		// A copy: the histograms keep the slice, and the caller keeps theirs.
		own := append([]float64(nil), bounds...)
		if math.IsInf(own[len(own)-1], +1) {
			own = own[:len(own)-1] // always there
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
