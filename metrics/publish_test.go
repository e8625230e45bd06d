package metrics_test

import (
	"context"
	"fmt"
	"maps"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	jsbroker "go-micro-jetstream/broker"
	"go-micro-jetstream/metrics"
)

func publishErrors(topic, reason string) string {
	return fmt.Sprintf(`micro_broker_publish_errors_total{reason=%q,topic=%q}`, reason, topic)
}

func TestPublish(t *testing.T) {
	h, reg := newHooks(t)
	ctx := context.Background()
	h.Published(ctx, jsbroker.Published{Topic: "orders.created", Duration: time.Second})

	// All series of the topic are there from its first publish.
	expected := map[string]float64{
		`micro_broker_published_total{topic="orders.created"}`:                1,
		`micro_broker_duplicates_total{topic="orders.created"}`:               0,
		`micro_broker_published_bytes_total{topic="orders.created"}`:          0,
		`micro_broker_publish_duration_seconds_count{topic="orders.created"}`: 1,
		`micro_broker_publish_duration_seconds_sum{topic="orders.created"}`:   1,
	}
	for _, reason := range []string{"disconnected", "no_responders", "other", "outcome_unknown", "stream_full", "timeout"} {
		expected[publishErrors("orders.created", reason)] = 0
	}
	if got := values(t, reg); !maps.Equal(got, expected) {
		t.Errorf("series after the first publish:\n got %v\nwant %v", got, expected)
	}

	h.Published(ctx, jsbroker.Published{Topic: "orders.created", Duplicate: true})
	h.Published(ctx, jsbroker.Published{Topic: "orders.created", Err: errBoom, Reason: "stream_full", Duration: time.Second})
	h.Published(ctx, jsbroker.Published{Topic: "orders.created", Err: errBoom, Reason: "message_too_large"})
	h.Published(ctx, jsbroker.Published{Topic: "orders.created", Err: errBoom})
	want(t, reg, map[string]float64{
		`micro_broker_published_total{topic="orders.created"}`:                2,
		`micro_broker_duplicates_total{topic="orders.created"}`:               1,
		publishErrors("orders.created", "stream_full"):                        1,
		publishErrors("orders.created", "message_too_large"):                  1,
		publishErrors("orders.created", "other"):                              1,
		`micro_broker_publish_duration_seconds_count{topic="orders.created"}`: 5,
		`micro_broker_publish_duration_seconds_sum{topic="orders.created"}`:   2,
	})
}

// Only what waits from now on counts.
func TestScheduled(t *testing.T) {
	h, reg := newHooks(t)
	ctx := context.Background()
	now := time.Now()
	for _, e := range []jsbroker.Published{
		{DeliverAt: now.Add(time.Hour)},
		{DeliverAt: now.Add(-time.Second), Duration: time.Minute}, // it was due while it was being published
		{DeliverAt: now.Add(-time.Second)},
		{DeliverAt: now.Add(time.Hour), Duplicate: true},
		{DeliverAt: now.Add(time.Hour), Err: errBoom},
		{},
	} {
		e.Topic = "orders.created"
		h.Published(ctx, e)
	}
	want(t, reg, map[string]float64{
		`micro_broker_published_total{topic="orders.created"}`: 5,
		`micro_broker_scheduled_total{topic="orders.created"}`: 2,
	})
}

func TestInvalidTopicsAreNoLabels(t *testing.T) {
	h, reg := newHooks(t)
	ctx := context.Background()
	for _, topic := range []string{"", "a b", "a..b", "orders.*", "\xff", strings.Repeat("x", 1<<16)} {
		h.Published(ctx, jsbroker.Published{Topic: topic, Err: jsbroker.ErrInvalidTopic, Reason: "invalid_topic"})
		h.SubscribeFailed(ctx, jsbroker.SubscribeFailed{Topic: topic, Err: jsbroker.ErrInvalidTopic, Reason: "invalid_topic"})
	}
	want(t, reg, map[string]float64{
		publishErrors("other", "invalid_topic"):                                     6,
		`micro_broker_publish_duration_seconds_count{topic="other"}`:                6,
		`micro_broker_subscribe_errors_total{reason="invalid_topic",topic="other"}`: 6,
	})
	wantTopics(t, reg, 1)
}

func TestSubscribeErrors(t *testing.T) {
	h, reg := newHooks(t, metrics.WithMaxTopics(2))
	ctx := context.Background()
	for _, topic := range []string{"orders", "orders", "users", "carts", "stock"} {
		h.SubscribeFailed(ctx, jsbroker.SubscribeFailed{Topic: topic, Queue: "q", Err: errBoom, Reason: "workqueue_conflict"})
	}
	want(t, reg, map[string]float64{
		`micro_broker_subscribe_errors_total{reason="workqueue_conflict",topic="orders"}`: 2,
		`micro_broker_subscribe_errors_total{reason="workqueue_conflict",topic="users"}`:  1,
		`micro_broker_subscribe_errors_total{reason="workqueue_conflict",topic="other"}`:  2,
	})
	wantTopics(t, reg, 3)
}

// A hundred thousand subjects, made up by many goroutines at once, through two
// hooks that share the registry: as many series as the limit allows.
func TestGeneratedTopicsAreBounded(t *testing.T) {
	reg := prometheus.NewPedanticRegistry()
	const goroutines, each = 8, 12_500
	var wg sync.WaitGroup
	for i := range goroutines {
		h := newHooksOn(t, reg, metrics.WithMaxTopics(50))
		wg.Go(func() {
			ctx := context.Background()
			for n := range each {
				topic := fmt.Sprintf("generated.%d.%d", i, n)
				h.Published(ctx, jsbroker.Published{Topic: topic})
				if n%100 == 0 {
					h.SubscribeFailed(ctx, jsbroker.SubscribeFailed{Topic: topic, Reason: "other"})
				}
			}
		})
	}
	wg.Wait()
	wantTopics(t, reg, 51)
	total := 0.0
	for name, v := range values(t, reg) {
		if strings.HasPrefix(name, "micro_broker_published_total") {
			total += v
		}
	}
	if total != goroutines*each {
		t.Errorf("published_total over all topics is %v, want %v", total, goroutines*each)
	}
}

func TestMaxTopics(t *testing.T) {
	for _, tt := range []struct {
		name  string
		opts  []metrics.Option
		topic int // label values after as many publishes as there are topics
	}{
		{"default", nil, 101},
		{"raised", []metrics.Option{metrics.WithMaxTopics(300)}, 300},
		{"none", []metrics.Option{metrics.WithMaxTopics(0)}, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h, reg := newHooks(t, tt.opts...)
			for range 2 {
				for i := range 300 {
					h.Published(context.Background(), jsbroker.Published{Topic: fmt.Sprintf("topic.%d", i)})
				}
			}
			wantTopics(t, reg, tt.topic)
		})
	}
}

// The topic that is called so shares the series of the rest.
func TestTopicNamedOther(t *testing.T) {
	h, reg := newHooks(t, metrics.WithMaxTopics(1))
	for _, topic := range []string{"other", "orders", "other"} {
		h.Published(context.Background(), jsbroker.Published{Topic: topic})
	}
	want(t, reg, map[string]float64{`micro_broker_published_total{topic="other"}`: 3})
}

func TestTopicLabel(t *testing.T) {
	h, reg := newHooks(t, metrics.WithTopicLabel(func(topic string) string {
		if strings.HasPrefix(topic, "orders.") {
			return "orders.*.created"
		}
		return ""
	}))
	for _, topic := range []string{"orders.1.created", "orders.2.created", "users.created"} {
		h.Published(context.Background(), jsbroker.Published{Topic: topic})
	}
	want(t, reg, map[string]float64{
		`micro_broker_published_total{topic="orders.*.created"}`: 2,
		`micro_broker_published_total{topic="other"}`:            1,
	})
	wantTopics(t, reg, 2)
}

// wantTopics checks how many values the topic label has, in each family.
func wantTopics(t *testing.T, reg prometheus.Gatherer, n int) {
	t.Helper()
	for _, f := range gather(t, reg) {
		topics := map[string]bool{}
		for _, m := range f.Metric {
			for _, l := range m.Label {
				if l.GetName() == "topic" {
					topics[l.GetValue()] = true
				}
			}
		}
		if len(topics) > n || f.GetName() == "micro_broker_published_total" && len(topics) != n {
			t.Errorf("%s has %d topics, want %d", f.GetName(), len(topics), n)
		}
	}
}
