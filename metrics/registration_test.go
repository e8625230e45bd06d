package metrics_test

import (
	"context"
	"errors"
	"math"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	jsbroker "go-micro-jetstream/broker"
	"go-micro-jetstream/metrics"
)

func TestTwoOnOneRegistryAddUp(t *testing.T) {
	wrapped := func(r prometheus.Registerer) prometheus.Registerer {
		return prometheus.WrapRegistererWith(prometheus.Labels{"service": "shop"}, r)
	}
	for _, tt := range []struct {
		name   string
		series string
		reg    func(*prometheus.Registry) prometheus.Registerer
	}{
		{
			"the registry itself",
			`micro_broker_published_total{topic="orders"}`,
			func(r *prometheus.Registry) prometheus.Registerer { return r },
		},
		{
			"with labels", // each time wrapped anew
			`micro_broker_published_total{service="shop",topic="orders"}`,
			func(r *prometheus.Registry) prometheus.Registerer { return wrapped(r) },
		},
		{
			"with labels and a prefix",
			`app_micro_broker_published_total{service="shop",topic="orders"}`,
			func(r *prometheus.Registry) prometheus.Registerer {
				return prometheus.WrapRegistererWithPrefix("app_", wrapped(r))
			},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			reg := prometheus.NewPedanticRegistry()
			for range 3 {
				newHooksOn(t, tt.reg(reg)).Published(context.Background(), jsbroker.Published{Topic: "orders"})
			}
			want(t, reg, map[string]float64{tt.series: 3})
		})
	}
}

func TestRegistrationIsSafeForConcurrentUse(t *testing.T) {
	reg := prometheus.NewPedanticRegistry()
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			h := metrics.New(metrics.WithRegisterer(reg))
			if h.Err != nil {
				t.Error(h.Err)
				return
			}
			h.Published(context.Background(), jsbroker.Published{Topic: "orders"})
		})
	}
	wg.Wait()
	want(t, reg, map[string]float64{`micro_broker_published_total{topic="orders"}`: 16})
}

// Brokers that are to be told apart get a label each.
func TestDifferentLabelsOnOneRegistry(t *testing.T) {
	reg := prometheus.NewPedanticRegistry()
	for i, service := range []string{"shop", "stock"} {
		h := newHooksOn(t, prometheus.WrapRegistererWith(prometheus.Labels{"service": service}, reg))
		for range i + 1 {
			h.Published(context.Background(), jsbroker.Published{Topic: "orders"})
		}
	}
	want(t, reg, map[string]float64{
		`micro_broker_published_total{service="shop",topic="orders"}`:  1,
		`micro_broker_published_total{service="stock",topic="orders"}`: 2,
	})
}

func TestUnregisterStartsAfresh(t *testing.T) {
	reg := &recordingRegisterer{Registry: prometheus.NewRegistry()}
	newHooksOn(t, reg).Published(context.Background(), jsbroker.Published{Topic: "orders"})
	if !reg.Unregister(reg.registered[0]) {
		t.Fatal("not unregistered")
	}
	newHooksOn(t, reg).Published(context.Background(), jsbroker.Published{Topic: "orders"})
	want(t, reg, map[string]float64{`micro_broker_published_total{topic="orders"}`: 1})
}

type recordingRegisterer struct {
	*prometheus.Registry
	registered []prometheus.Collector
}

func (r *recordingRegisterer) Register(c prometheus.Collector) error {
	r.registered = append(r.registered, c)
	return r.Registry.Register(c)
}

// New reports through Err what it cannot do, and its hook observes nothing.
func TestErr(t *testing.T) {
	taken := func(c prometheus.Collector) *prometheus.Registry {
		reg := prometheus.NewRegistry()
		reg.MustRegister(c)
		return reg
	}
	withMetrics := func(opts ...metrics.Option) *prometheus.Registry {
		reg := prometheus.NewRegistry()
		newHooksOn(t, reg, opts...)
		return reg
	}
	on := func(reg prometheus.Registerer, opts ...metrics.Option) []metrics.Option {
		return append(opts, metrics.WithRegisterer(reg))
	}
	fresh := prometheus.NewRegistry()
	for _, tt := range []struct {
		name string
		opts []metrics.Option
		text string
	}{
		{
			"a name with other labels",
			on(taken(prometheus.NewCounterVec(prometheus.CounterOpts{Name: "micro_broker_handled_total"}, []string{"topic"}))),
			`"micro_broker_handled_total"`,
		},
		{
			"a label that is ours",
			on(prometheus.WrapRegistererWith(prometheus.Labels{"topic": "x"}, prometheus.NewRegistry())),
			"topic",
		},
		{"somebody else's collector", on(foreignRegisterer{fresh}), "share one hook"},
		{"a registerer that panics", on(panickingRegisterer{fresh}), "out of order"},
		{"other buckets", on(withMetrics(), metrics.WithDurationBuckets(1, 2)), "other buckets"},
		{"other buckets again", on(withMetrics(metrics.WithDurationBuckets(1, 2)), metrics.WithDurationBuckets(1, 3)), "other buckets"},
		{"buckets out of order", on(fresh, metrics.WithDurationBuckets(1, 3, 2)), "increasing"},
		{"buckets twice", on(fresh, metrics.WithDurationBuckets(1, 1)), "increasing"},
		{"no number", on(fresh, metrics.WithDurationBuckets(math.NaN())), "finite"},
		{"infinite", on(fresh, metrics.WithDurationBuckets(math.Inf(-1), 1)), "finite"},
		{"negative maximum", on(fresh, metrics.WithMaxTopics(-1)), "WithMaxTopics(-1)"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := metrics.New(tt.opts...)
			if h.Err == nil {
				t.Fatal("no error")
			}
			if !errors.Is(h.Err, jsbroker.ErrInvalidConfig) || !strings.HasPrefix(h.Err.Error(), "metrics: ") || !strings.Contains(h.Err.Error(), tt.text) {
				t.Errorf("error %q, want metrics: and ErrInvalidConfig and %q", h.Err, tt.text)
			}
			if h.Published != nil || h.HandleStart != nil || h.Handled != nil {
				t.Error("a hook that failed observes")
			}
		})
	}
	if got := values(t, fresh); len(got) != 0 {
		t.Errorf("something was registered: %v", got)
	}
}

// foreignRegisterer hides what is registered behind a type of its own.
type foreignRegisterer struct{ prometheus.Registerer }

func (foreignRegisterer) Register(c prometheus.Collector) error {
	return prometheus.AlreadyRegisteredError{ExistingCollector: struct{ prometheus.Collector }{c}, NewCollector: c}
}

type panickingRegisterer struct{ prometheus.Registerer }

func (panickingRegisterer) Register(prometheus.Collector) error { panic("out of order") }

func TestNilOptions(t *testing.T) {
	// The default registerer, for this test.
	reg := prometheus.NewRegistry()
	restore := prometheus.DefaultRegisterer
	prometheus.DefaultRegisterer = reg
	t.Cleanup(func() { prometheus.DefaultRegisterer = restore })

	var forgotten *prometheus.Registry
	for _, opts := range [][]metrics.Option{
		nil,
		{nil},
		{metrics.WithRegisterer(nil)},
		{metrics.WithRegisterer(forgotten)},
		{metrics.WithTopicLabel(nil)},
		{metrics.WithDurationBuckets()},
	} {
		h := metrics.New(opts...)
		if h.Err != nil {
			t.Fatal(h.Err)
		}
		h.Published(context.Background(), jsbroker.Published{Topic: "orders"})
	}
	want(t, reg, map[string]float64{`micro_broker_published_total{topic="orders"}`: 6})
}

func TestDurationBuckets(t *testing.T) {
	bounds := []float64{.05, .25, math.Inf(+1)}
	h, reg := newHooks(t, metrics.WithDurationBuckets(bounds...))
	// Whoever does not care takes what is there; the same again is no conflict.
	newHooksOn(t, reg)
	newHooksOn(t, reg, metrics.WithDurationBuckets(.05, .25))
	bounds[0] = 7 // the caller's own

	ctx := subscribe(h, orders)
	handle(h, ctx, jsbroker.Handled{Delivery: delivery(orders), Duration: 100 * time.Millisecond})
	h.Published(ctx, jsbroker.Published{Topic: "orders", Duration: 100 * time.Millisecond})
	for _, f := range gather(t, reg) {
		switch name := f.GetName(); name {
		case "micro_broker_handler_duration_seconds", "micro_broker_publish_duration_seconds":
			b := f.Metric[0].Histogram.Bucket
			if len(b) != 2 || b[0].GetUpperBound() != .05 || b[0].GetCumulativeCount() != 0 ||
				b[1].GetUpperBound() != .25 || b[1].GetCumulativeCount() != 1 {
				t.Errorf("%s has the buckets %v", name, b)
			}
		case "micro_broker_delivery_lag_seconds":
			if len(f.Metric[0].Histogram.Bucket) < 10 {
				t.Errorf("%s lost its buckets", name)
			}
		}
	}
}

func TestLint(t *testing.T) {
	h, reg := newHooks(t)
	driveEverything(h)
	problems, err := testutil.GatherAndLint(reg)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
	for _, f := range gather(t, reg) {
		if strings.HasSuffix(f.GetName(), "_seconds") && !strings.Contains(f.GetHelp(), "second") {
			t.Errorf("%s: the help %q does not say the unit", f.GetName(), f.GetHelp())
		}
	}
}

// driveEverything fires events until every metric has a series.
func driveEverything(h jsbroker.Hooks) {
	ctx := subscribe(h, orders)
	handle(h, ctx, jsbroker.Handled{Delivery: delivery(orders), Result: jsbroker.ResultAck})
	h.Published(ctx, jsbroker.Published{Topic: "orders.created"})
	h.Published(ctx, jsbroker.Published{Topic: "orders.created", DeliverAt: time.Now().Add(time.Hour)})
	h.SubscribeFailed(ctx, jsbroker.SubscribeFailed{Topic: "users", Reason: "timeout", Err: errBoom})
	h.ConnectionChanged(ctx, jsbroker.ConnectionChanged{BrokerID: "1", ClientName: "shop", State: jsbroker.StateConnected, AsyncWindow: func() (used, limit int) { return 1, 2 }})
}
