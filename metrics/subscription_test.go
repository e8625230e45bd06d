package metrics_test

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	jsbroker "go-micro-jetstream/broker"
)

// zeroSeries is what a subscription brings into being.
var zeroSeries = func() map[string]float64 {
	m := map[string]float64{
		"micro_broker_active_subscriptions" + ordersLabels: 1, // those that are not zero
		"micro_broker_subscription_active" + ordersLabels:  1,
		subscriptionInfo: 1,
	}
	for _, name := range []string{
		"fetched_total", "fetches_total", "backoffs_total", "backoff_seconds",
		"snoozed_total", "handler_errors_total", "handler_panics_total", "redelivered_total",
		"handler_duration_seconds_count", "handler_duration_seconds_sum",
		"delivery_lag_seconds_count", "delivery_lag_seconds_sum",
		"dead_lettered_total", "dead_letter_errors_total", "exhausted_total",
		"fetched_bytes_total", "deferred_total", "discarded_total", "late_deliveries_total",
		"end_to_end_seconds_count", "end_to_end_seconds_sum", "concurrency", "oldest_in_flight_seconds",
		"markers_total", "returned_total", "in_flight", "in_hand", "pending",
		"ack_pending", "max_ack_pending", "retries", "order_full",
	} {
		m["micro_broker_"+name+ordersLabels] = 0
	}
	for _, result := range []string{"ack", "nak", "term", "none"} {
		m[fmt.Sprintf(`micro_broker_handled_total{queue="billing",result=%q,topic="orders.*"}`, result)] = 0
	}
	for _, result := range []string{"ack", "nak", "term"} {
		m[fmt.Sprintf(`micro_broker_settle_errors_total{queue="billing",result=%q,topic="orders.*"}`, result)] = 0
	}
	for _, reason := range fetchReasons {
		m[fetchErrors(reason)] = 0
	}
	for _, reason := range []jsbroker.SkipReason{"expired", "running", "handled", "discarded"} {
		m[skippedTotal(reason)] = 0
	}
	return m
}()

var fetchReasons = []string{
	"consumer_deleted", "disconnected", "leadership_changed", "no_heartbeat",
	"no_responders", "other", "server_shutdown", "stream_not_found", "timeout",
}

var gauges = []string{
	"micro_broker_active_subscriptions" + ordersLabels,
	"micro_broker_subscription_active" + ordersLabels,
	"micro_broker_backoff_seconds" + ordersLabels,
	"micro_broker_in_flight" + ordersLabels,
	"micro_broker_in_hand" + ordersLabels,
	"micro_broker_pending" + ordersLabels,
	"micro_broker_ack_pending" + ordersLabels,
	"micro_broker_max_ack_pending" + ordersLabels,
	"micro_broker_retries" + ordersLabels,
	"micro_broker_order_full" + ordersLabels,
	"micro_broker_concurrency" + ordersLabels,
	"micro_broker_oldest_in_flight_seconds" + ordersLabels,
	subscriptionInfo,
}

const subscriptionInfo = `micro_broker_subscription_info{consumer="billing",queue="billing",stream="ORDERS",topic="orders.*"}`

func skippedTotal(reason jsbroker.SkipReason) string {
	return fmt.Sprintf(`micro_broker_skipped_total{queue="billing",reason=%q,topic="orders.*"}`, string(reason))
}

func fetchErrors(reason string) string {
	return fmt.Sprintf(`micro_broker_fetch_errors_total{queue="billing",reason=%q,topic="orders.*"}`, reason)
}

func handledTotal(result jsbroker.Result) string {
	return fmt.Sprintf(`micro_broker_handled_total{queue="billing",result=%q,topic="orders.*"}`, string(result))
}

func TestSeriesExistFromSubscribe(t *testing.T) {
	h, reg := newHooks(t)
	if got := values(t, reg); len(got) != 0 {
		t.Errorf("series before anything happened: %v", got)
	}
	subscribe(h, orders)
	if got := values(t, reg); !maps.Equal(got, zeroSeries) {
		t.Errorf("series after Subscribe:\n got %v\nwant %v", got, zeroSeries)
	}
}

func TestGaugesGoWithTheSubscription(t *testing.T) {
	h, reg := newHooks(t)
	ctx := subscribe(h, orders)
	h.ConsumerState(ctx, jsbroker.ConsumerState{Subscription: orders, Pending: 7})
	h.Backoff(ctx, jsbroker.Backoff{Subscription: orders, Attempt: 1, Delay: time.Second})
	handle(h, ctx, jsbroker.Handled{Delivery: delivery(orders), Result: jsbroker.ResultAck})
	before := values(t, reg)

	h.SubscriptionEnd(ctx, jsbroker.SubscriptionEnd{Subscription: orders})

	after := maps.Clone(before)
	for _, g := range gauges {
		delete(after, g)
	}
	if got := values(t, reg); !maps.Equal(got, after) {
		t.Errorf("series after the end:\n got %v\nwant %v", got, after)
	}
	// What comes late changes no gauge back into being, and is not lost.
	h.Settled(ctx, jsbroker.Settled{Delivery: delivery(orders), Result: jsbroker.ResultNak, Returned: true})
	h.ConsumerState(ctx, jsbroker.ConsumerState{Subscription: orders, Pending: 8})
	wantGone(t, reg, gauges...)
	want(t, reg, map[string]float64{"micro_broker_returned_total" + ordersLabels: 1})

	// The next one counts on, with gauges that know nothing of the first.
	ctx = subscribe(h, orders)
	handle(h, ctx, jsbroker.Handled{Delivery: delivery(orders), Result: jsbroker.ResultAck})
	want(t, reg, map[string]float64{
		handledTotal(jsbroker.ResultAck):                   2,
		"micro_broker_active_subscriptions" + ordersLabels: 1,
		"micro_broker_backoff_seconds" + ordersLabels:      0,
		"micro_broker_pending" + ordersLabels:              0,
	})
}

// A library installs the hooks on a broker, and so does the service that uses it: what
// they count adds up, and the gauges go all the same.
func TestTwiceOnOneBroker(t *testing.T) {
	reg := prometheus.NewPedanticRegistry()
	a, b := newHooksOn(t, reg), newHooksOn(t, reg)
	for range 2 {
		ctx := b.SubscriptionStart(subscribe(a, orders), jsbroker.SubscriptionStart{Subscription: orders})
		want(t, reg, map[string]float64{"micro_broker_active_subscriptions" + ordersLabels: 2})
		for _, h := range []jsbroker.Hooks{b, a} {
			h.SubscriptionEnd(ctx, jsbroker.SubscriptionEnd{Subscription: orders})
		}
		wantGone(t, reg, gauges...)
	}
}

// Two brokers, or two calls of Subscribe, with the same topic and queue write
// to the same series.
func TestSubscriptionsShareSeries(t *testing.T) {
	h, reg := newHooks(t)
	a, b := subscribe(h, orders), subscribe(h, orders)
	start := func(ctx context.Context, pending uint64) {
		h.Fetched(ctx, jsbroker.Fetched{Subscription: orders, Messages: 1, NumPending: pending})
		h.HandleStart(ctx, jsbroker.HandleStart{Delivery: delivery(orders)})
	}
	start(a, 5)
	start(b, 4)
	h.Backoff(a, jsbroker.Backoff{Subscription: orders, Attempt: 3, Delay: 4 * time.Second})
	h.Backoff(b, jsbroker.Backoff{Subscription: orders, Attempt: 1, Delay: time.Second})
	want(t, reg, map[string]float64{
		"micro_broker_active_subscriptions" + ordersLabels: 2,
		"micro_broker_in_flight" + ordersLabels:            2,
		"micro_broker_pending" + ordersLabels:              4,
		"micro_broker_backoff_seconds" + ordersLabels:      4,
		"micro_broker_backoffs_total" + ordersLabels:       2,
	})

	// b is well again; a is not, and must stay visible.
	h.Backoff(b, jsbroker.Backoff{Subscription: orders})
	want(t, reg, map[string]float64{
		"micro_broker_backoff_seconds" + ordersLabels: 4,
		"micro_broker_backoffs_total" + ordersLabels:  2,
	})

	// a ends in its pause; b is left, and healthy. An end that comes twice
	// takes nothing from b.
	h.Handled(a, jsbroker.Handled{Delivery: delivery(orders), Result: jsbroker.ResultAck})
	h.SubscriptionEnd(a, jsbroker.SubscriptionEnd{Subscription: orders})
	h.SubscriptionEnd(a, jsbroker.SubscriptionEnd{Subscription: orders})
	want(t, reg, map[string]float64{
		"micro_broker_active_subscriptions" + ordersLabels: 1,
		"micro_broker_in_flight" + ordersLabels:            1,
		"micro_broker_backoff_seconds" + ordersLabels:      0,
	})
	h.Handled(b, jsbroker.Handled{Delivery: delivery(orders), Result: jsbroker.ResultAck})
	h.SubscriptionEnd(b, jsbroker.SubscriptionEnd{Subscription: orders})
	wantGone(t, reg, gauges...)
	want(t, reg, map[string]float64{handledTotal(jsbroker.ResultAck): 2})
}

func TestLateEndDoesNotEndASuccessor(t *testing.T) {
	h, reg := newHooks(t)
	old := subscribe(h, orders)
	h.SubscriptionEnd(old, jsbroker.SubscriptionEnd{Subscription: orders})
	subscribe(h, orders)
	h.SubscriptionEnd(old, jsbroker.SubscriptionEnd{Subscription: orders})
	want(t, reg, map[string]float64{"micro_broker_active_subscriptions" + ordersLabels: 1})
}

func TestDeliveries(t *testing.T) {
	first, second := delivery(orders), delivery(orders)
	second.NumDelivered = 2
	for _, tt := range []struct {
		name   string
		events []jsbroker.Handled
		want   map[string]float64
	}{
		{
			name: "ack",
			events: []jsbroker.Handled{
				{Delivery: first, Result: jsbroker.ResultAck, Duration: 250 * time.Millisecond, Lag: 2 * time.Second},
			},
			want: map[string]float64{
				handledTotal(jsbroker.ResultAck):                             1,
				"micro_broker_handler_duration_seconds_count" + ordersLabels: 1,
				"micro_broker_handler_duration_seconds_sum" + ordersLabels:   .25,
				"micro_broker_delivery_lag_seconds_count" + ordersLabels:     1,
				"micro_broker_delivery_lag_seconds_sum" + ordersLabels:       2,
			},
		},
		{
			name: "an error, then the second delivery succeeds",
			events: []jsbroker.Handled{
				{Delivery: first, Result: jsbroker.ResultNak, Err: errBoom, Duration: time.Second, Lag: time.Second},
				{Delivery: second, Result: jsbroker.ResultAck, Duration: time.Second, Lag: 9 * time.Second},
			},
			want: map[string]float64{
				handledTotal(jsbroker.ResultAck):                             1,
				handledTotal(jsbroker.ResultNak):                             1,
				"micro_broker_handler_errors_total" + ordersLabels:           1,
				"micro_broker_redelivered_total" + ordersLabels:              1,
				"micro_broker_handler_duration_seconds_count" + ordersLabels: 2,
				"micro_broker_handler_duration_seconds_sum" + ordersLabels:   2,
				"micro_broker_delivery_lag_seconds_count" + ordersLabels:     1,
				"micro_broker_delivery_lag_seconds_sum" + ordersLabels:       1,
			},
		},
		{
			name: "a panic is no error too",
			events: []jsbroker.Handled{
				{Delivery: first, Result: jsbroker.ResultNak, Err: &jsbroker.PanicError{Value: "oops"}, Panicked: true},
			},
			want: map[string]float64{
				handledTotal(jsbroker.ResultNak):                             1,
				"micro_broker_handler_panics_total" + ordersLabels:           1,
				"micro_broker_handler_duration_seconds_count" + ordersLabels: 1,
				"micro_broker_delivery_lag_seconds_count" + ordersLabels:     1,
			},
		},
		{
			name:   "discarded",
			events: []jsbroker.Handled{{Delivery: first, Result: jsbroker.ResultTerm, Err: errBoom}},
			want: map[string]float64{
				handledTotal(jsbroker.ResultTerm):                            1,
				"micro_broker_handler_errors_total" + ordersLabels:           1,
				"micro_broker_handler_duration_seconds_count" + ordersLabels: 1,
				"micro_broker_delivery_lag_seconds_count" + ordersLabels:     1,
			},
		},
		{
			name:   "left unsettled",
			events: []jsbroker.Handled{{Delivery: first, Result: jsbroker.ResultNone}},
			want: map[string]float64{
				handledTotal(jsbroker.ResultNone):                            1,
				"micro_broker_handler_duration_seconds_count" + ordersLabels: 1,
				"micro_broker_delivery_lag_seconds_count" + ordersLabels:     1,
			},
		},
		{
			name:   "the ack was not sent",
			events: []jsbroker.Handled{{Delivery: first, Result: jsbroker.ResultAck, SettleErr: errBoom}},
			want: map[string]float64{
				handledTotal(jsbroker.ResultAck): 1,
				`micro_broker_settle_errors_total{queue="billing",result="ack",topic="orders.*"}`: 1,
				"micro_broker_handler_duration_seconds_count" + ordersLabels:                      1,
				"micro_broker_delivery_lag_seconds_count" + ordersLabels:                          1,
			},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h, reg := newHooks(t)
			ctx := subscribe(h, orders)
			for _, e := range tt.events {
				handle(h, ctx, e)
			}
			// All others stay at zero.
			expected := maps.Clone(zeroSeries)
			maps.Copy(expected, tt.want)
			for _, e := range tt.events { // what is finished counts its whole time
				if e.Result == jsbroker.ResultAck || e.Result == jsbroker.ResultTerm {
					expected["micro_broker_end_to_end_seconds_count"+ordersLabels]++
					expected["micro_broker_end_to_end_seconds_sum"+ordersLabels] += (e.Lag + e.Duration).Seconds()
				}
			}
			if got := values(t, reg); !maps.Equal(got, expected) {
				for name := range expected {
					if got[name] != expected[name] {
						t.Errorf("%s is %v, want %v", name, got[name], expected[name])
					}
				}
				if len(got) != len(expected) {
					t.Errorf("series %v, want %v", slices.Sorted(maps.Keys(got)), slices.Sorted(maps.Keys(expected)))
				}
			}
		})
	}
}

func TestInFlightAndPending(t *testing.T) {
	h, reg := newHooks(t)
	ctx := subscribe(h, orders)
	check := func(inFlight, pending float64) {
		t.Helper()
		want(t, reg, map[string]float64{
			"micro_broker_in_flight" + ordersLabels: inFlight,
			"micro_broker_pending" + ordersLabels:   pending,
		})
	}
	h.ConsumerState(ctx, jsbroker.ConsumerState{Subscription: orders, Pending: 9, AckPending: 3, MaxAckPending: 5, Retries: 2})
	check(0, 9)
	want(t, reg, map[string]float64{
		"micro_broker_ack_pending" + ordersLabels:     3,
		"micro_broker_max_ack_pending" + ordersLabels: 5,
		"micro_broker_retries" + ordersLabels:         2,
	})
	h.Fetched(ctx, jsbroker.Fetched{Subscription: orders, Messages: 2, NumPending: 7})
	check(0, 7)
	d := delivery(orders)
	one := h.HandleStart(ctx, jsbroker.HandleStart{Delivery: d})
	check(1, 7)
	// While the first is handled more has come. What the second says of that is as
	// old as its fetch.
	h.ConsumerState(ctx, jsbroker.ConsumerState{Subscription: orders, Pending: 500, AckPending: 2})
	d.NumPending = 7
	two := h.HandleStart(ctx, jsbroker.HandleStart{Delivery: d})
	check(2, 500)
	h.Handled(one, jsbroker.Handled{Delivery: d, Result: jsbroker.ResultAck})
	check(1, 500)
	h.Handled(two, jsbroker.Handled{Delivery: d, Result: jsbroker.ResultNak, Panicked: true})
	check(0, 500)
}

func TestFetching(t *testing.T) {
	h, reg := newHooks(t)
	ctx := subscribe(h, orders)
	h.Fetched(ctx, jsbroker.Fetched{Subscription: orders, Messages: 10})
	h.Fetched(ctx, jsbroker.Fetched{Subscription: orders, Messages: 3})
	h.Fetched(ctx, jsbroker.Fetched{Subscription: orders, Messages: -1}) // a counter would panic
	for i, e := range []jsbroker.FetchError{
		{Reason: "consumer_deleted"},
		{Reason: "consumer_deleted"},
		{Reason: "permission"}, // not known beforehand
		{Err: jsbroker.ErrNotConnected},
		{},
	} {
		e.Subscription = orders
		h.FetchError(ctx, e)
		h.Backoff(ctx, jsbroker.Backoff{Subscription: orders, Attempt: i + 1, Delay: time.Second << i})
	}
	want(t, reg, map[string]float64{
		"micro_broker_fetched_total" + ordersLabels:   13,
		"micro_broker_fetches_total" + ordersLabels:   3,
		fetchErrors("consumer_deleted"):               2,
		fetchErrors("permission"):                     1,
		fetchErrors("not_connected"):                  1,
		fetchErrors("other"):                          1,
		"micro_broker_backoffs_total" + ordersLabels:  5,
		"micro_broker_backoff_seconds" + ordersLabels: 16,
	})
	h.Backoff(ctx, jsbroker.Backoff{Subscription: orders})
	want(t, reg, map[string]float64{
		"micro_broker_backoffs_total" + ordersLabels:  5,
		"micro_broker_backoff_seconds" + ordersLabels: 0,
	})
}

func TestFatesOfMessages(t *testing.T) {
	h, reg := newHooks(t)
	ctx := subscribe(h, orders)
	d := delivery(orders)
	h.DeadLettered(ctx, jsbroker.DeadLettered{Delivery: d, DeadLetterTopic: "dead"})
	h.DeadLettered(ctx, jsbroker.DeadLettered{Delivery: d, DeadLetterTopic: "dead", Err: errBoom})
	h.DeadLettered(ctx, jsbroker.DeadLettered{Delivery: d, DeadLetterTopic: "dead", Err: errBoom})
	h.Exhausted(ctx, jsbroker.Exhausted{Delivery: d, Cause: errBoom})
	h.Skipped(ctx, jsbroker.Skipped{Delivery: d, Reason: jsbroker.SkipHandled})
	h.Skipped(ctx, jsbroker.Skipped{Delivery: d, Reason: jsbroker.SkipExpired})
	h.Skipped(ctx, jsbroker.Skipped{Delivery: d, Reason: jsbroker.SkipMarker})
	h.Settled(ctx, jsbroker.Settled{Delivery: d, Result: jsbroker.ResultNak, Returned: true})
	h.Settled(ctx, jsbroker.Settled{Delivery: d, Result: jsbroker.ResultNak, Returned: true, Err: errBoom}) // not given back
	h.Settled(ctx, jsbroker.Settled{Delivery: d, Result: jsbroker.ResultTerm, Err: errBoom})
	want(t, reg, map[string]float64{
		"micro_broker_dead_lettered_total" + ordersLabels:                                  1,
		"micro_broker_dead_letter_errors_total" + ordersLabels:                             2,
		"micro_broker_exhausted_total" + ordersLabels:                                      1,
		skippedTotal(jsbroker.SkipHandled):                                                 1,
		skippedTotal(jsbroker.SkipExpired):                                                 1,
		"micro_broker_markers_total" + ordersLabels:                                        1,
		"micro_broker_returned_total" + ordersLabels:                                       1,
		`micro_broker_settle_errors_total{queue="billing",result="ack",topic="orders.*"}`:  0,
		`micro_broker_settle_errors_total{queue="billing",result="nak",topic="orders.*"}`:  1,
		`micro_broker_settle_errors_total{queue="billing",result="term",topic="orders.*"}`: 1,
		handledTotal(jsbroker.ResultNak):                                                   0,
	})
}

func TestSnoozeIsNoError(t *testing.T) {
	h, reg := newHooks(t)
	ctx := subscribe(h, orders)
	handle(h, ctx, jsbroker.Handled{Delivery: delivery(orders), Result: jsbroker.ResultNak, Snoozed: true})
	want(t, reg, map[string]float64{
		handledTotal(jsbroker.ResultNak):                   1,
		"micro_broker_snoozed_total" + ordersLabels:        1,
		"micro_broker_handler_errors_total" + ordersLabels: 0,
		"micro_broker_handler_panics_total" + ordersLabels: 0,
	})
}

// A later broker may know more results than this package.
func TestUnknownResult(t *testing.T) {
	h, reg := newHooks(t)
	ctx := subscribe(h, orders)
	handle(h, ctx, jsbroker.Handled{Delivery: delivery(orders), Result: "parked"})
	want(t, reg, map[string]float64{handledTotal("parked"): 1})
}

// NATS subjects and queue names are bytes, labels are UTF-8.
func TestLabelsAreValidUTF8(t *testing.T) {
	h, reg := newHooks(t)
	s := jsbroker.Subscription{Topic: "orders.\xff\xfe", Queue: "bill\xc3"}
	ctx := subscribe(h, s)
	handle(h, ctx, jsbroker.Handled{Delivery: delivery(s), Result: "\xff"})
	h.FetchError(ctx, jsbroker.FetchError{Subscription: s, Reason: "\xff"})
	h.Settled(ctx, jsbroker.Settled{Delivery: delivery(s), Result: "\xff", Err: errBoom})
	h.Published(ctx, jsbroker.Published{Topic: "orders.\xff", Reason: "\xff", Err: errBoom})
	h.SubscribeFailed(ctx, jsbroker.SubscribeFailed{Topic: "orders.\xff", Reason: "\xff", Err: errBoom})
	h.ConnectionChanged(ctx, jsbroker.ConnectionChanged{BrokerID: "\xff", ClientName: "\xff", State: jsbroker.StateConnected})
	want(t, reg, map[string]float64{
		"micro_broker_active_subscriptions{queue=\"bill\uFFFD\",topic=\"orders.\uFFFD\"}": 1,
		"micro_broker_publish_duration_seconds_count{topic=\"orders.\uFFFD\"}":            1,
		"micro_broker_connected{broker=\"\uFFFD\"}":                                       1,
	})
}

// A hook that loses our context costs its user the metrics, not the service.
func TestEventsWithoutTheirSubscription(t *testing.T) {
	h, reg := newHooks(t)
	ctx := context.Background()
	d := delivery(orders)
	h.Fetched(ctx, jsbroker.Fetched{Subscription: orders, Messages: 1})
	h.FetchError(ctx, jsbroker.FetchError{Subscription: orders})
	h.Backoff(ctx, jsbroker.Backoff{Subscription: orders, Delay: 1})
	h.ConsumerState(ctx, jsbroker.ConsumerState{Subscription: orders})
	handle(h, ctx, jsbroker.Handled{Delivery: d, SettleErr: errBoom})
	h.Settled(ctx, jsbroker.Settled{Delivery: d, Returned: true})
	h.DeadLettered(ctx, jsbroker.DeadLettered{Delivery: d})
	h.Exhausted(ctx, jsbroker.Exhausted{Delivery: d})
	h.Skipped(ctx, jsbroker.Skipped{Delivery: d})
	h.SubscriptionEnd(ctx, jsbroker.SubscriptionEnd{Subscription: orders})
	if got := values(t, reg); len(got) != 0 {
		t.Errorf("series: %v", got)
	}
}

// Two hooks in one broker see the same contexts.
func TestRegistriesDoNotMix(t *testing.T) {
	h1, reg1 := newHooks(t)
	h2, reg2 := newHooks(t)
	e := jsbroker.SubscriptionStart{Subscription: orders}
	ctx := h2.SubscriptionStart(h1.SubscriptionStart(context.Background(), e), e)
	handle(h1, ctx, jsbroker.Handled{Delivery: delivery(orders), Result: jsbroker.ResultAck})
	h2.Fetched(ctx, jsbroker.Fetched{Subscription: orders, Messages: 2})
	want(t, reg1, map[string]float64{handledTotal(jsbroker.ResultAck): 1, "micro_broker_fetched_total" + ordersLabels: 0})
	want(t, reg2, map[string]float64{handledTotal(jsbroker.ResultAck): 0, "micro_broker_fetched_total" + ordersLabels: 2})
	h1.SubscriptionEnd(ctx, jsbroker.SubscriptionEnd{Subscription: orders})
	wantGone(t, reg1, gauges...)
	want(t, reg2, map[string]float64{"micro_broker_active_subscriptions" + ordersLabels: 1})
}

// Subscriptions come and go and messages flow while the registry is scraped.
func TestConcurrentSubscriptions(t *testing.T) {
	reg := prometheus.NewPedanticRegistry()
	const workers, rounds = 8, 50
	var wg sync.WaitGroup
	for range workers {
		// Each worker is a broker with a hook of its own.
		h := newHooksOn(t, reg)
		wg.Go(func() {
			for range rounds {
				ctx := subscribe(h, orders)
				h.Fetched(ctx, jsbroker.Fetched{Subscription: orders, Messages: 1})
				handle(h, ctx, jsbroker.Handled{Delivery: delivery(orders), Result: jsbroker.ResultAck})
				h.SubscriptionEnd(ctx, jsbroker.SubscriptionEnd{Subscription: orders})
			}
		})
	}
	wg.Go(func() {
		for range rounds {
			if _, err := reg.Gather(); err != nil {
				t.Error(err)
			}
		}
	})
	wg.Wait()
	wantGone(t, reg, gauges...)
	want(t, reg, map[string]float64{
		"micro_broker_fetched_total" + ordersLabels:                  workers * rounds,
		handledTotal(jsbroker.ResultAck):                             workers * rounds,
		"micro_broker_handler_duration_seconds_count" + ordersLabels: workers * rounds,
	})
}

// A p95 of 0.19 s has to read as about 0.19 s, and not as the half second
// that wide buckets make of it.
func TestBucketsAreDenseWhereItMatters(t *testing.T) {
	h, reg := newHooks(t)
	subscribe(h, orders)
	h.Published(context.Background(), jsbroker.Published{Topic: "orders"})
	for name, widest := range map[string]float64{
		"micro_broker_handler_duration_seconds": 1.7,
		"micro_broker_publish_duration_seconds": 1.7,
		"micro_broker_delivery_lag_seconds":     2,
	} {
		hist := histogram(t, reg, name)
		last := 0.0
		for _, b := range hist.Bucket {
			ub := b.GetUpperBound()
			if ub > .01 && ub <= 10 && ub/last > widest {
				t.Errorf("%s: from %v to %v is too far", name, last, ub)
			}
			last = ub
		}
		if n := len(hist.Bucket); n > 32 {
			t.Errorf("%s has %d buckets: too many series", name, n)
		}
		if hist.GetSchema() != 3 { // factor 2^(1/8), the largest below 1.1
			t.Errorf("%s: native schema %d, want 3", name, hist.GetSchema())
		}
	}
}

// histogram returns the only series of a histogram.
func histogram(t *testing.T, reg prometheus.Gatherer, name string) *dto.Histogram {
	t.Helper()
	for _, f := range gather(t, reg) {
		if f.GetName() == name && len(f.Metric) == 1 && f.Metric[0].Histogram != nil {
			return f.Metric[0].Histogram
		}
	}
	t.Fatalf("no histogram %s with one series", name)
	return nil
}

// A service that subscribes to ever new topics does not add series for ever, and what
// ended lately is continued.
func TestSeriesOfEndedSubscriptionsAreBounded(t *testing.T) {
	h, reg := newHooks(t)
	run := func(topic string) {
		s := jsbroker.Subscription{Topic: topic, Queue: "q", Stream: "S", Consumer: "q"}
		ctx := subscribe(h, s)
		h.Fetched(ctx, jsbroker.Fetched{Subscription: s, Messages: 1})
		h.FetchError(ctx, jsbroker.FetchError{Subscription: s, Reason: "rare"})
		h.SubscriptionEnd(ctx, jsbroker.SubscriptionEnd{Subscription: s})
	}
	fetched := func() map[string]float64 {
		all := map[string]float64{}
		for name, v := range values(t, reg) {
			if strings.HasPrefix(name, "micro_broker_fetched_total") {
				all[name] = v
			}
		}
		return all
	}
	const kept = 1000
	run("first")
	for i := range 2 * kept {
		run(fmt.Sprintf("topic.%d", i))
		if i == kept/2 {
			run("first") // which is no longer the oldest now
		}
	}
	run(fmt.Sprintf("topic.%d", 2*kept-1))
	got := fetched()
	if len(got) != kept {
		t.Errorf("%d topics have series, want %d", len(got), kept)
	}
	if n := got[fmt.Sprintf(`micro_broker_fetched_total{queue="q",topic="topic.%d"}`, 2*kept-1)]; n != 2 {
		t.Errorf("the latest topic has counted %v, want 2", n)
	}
	for name := range values(t, reg) {
		if strings.Contains(name, `"topic.0"`) {
			t.Errorf("%s is left of a topic that ended long ago", name)
		}
	}
}

// A planned deferral is told apart from an error, and so is a message that is given up.
func TestDecisionsOfHandlers(t *testing.T) {
	h, reg := newHooks(t)
	ctx := subscribe(h, orders)
	handle(h, ctx, jsbroker.Handled{Delivery: delivery(orders), Result: jsbroker.ResultNak, Err: errBoom})
	handle(h, ctx, jsbroker.Handled{Delivery: delivery(orders), Result: jsbroker.ResultNak, Err: errBoom, Deferred: true})
	handle(h, ctx, jsbroker.Handled{Delivery: delivery(orders), Result: jsbroker.ResultTerm, Err: errBoom, Discarded: true})
	want(t, reg, map[string]float64{
		"micro_broker_handler_errors_total" + ordersLabels: 3,
		"micro_broker_deferred_total" + ordersLabels:       1,
		"micro_broker_discarded_total" + ordersLabels:      1,
	})
}

// From its fifth delivery on a message is not one that has failed by chance.
func TestLateDeliveries(t *testing.T) {
	h, reg := newHooks(t)
	ctx := subscribe(h, orders)
	for n := range uint64(7) {
		d := delivery(orders)
		d.NumDelivered = n + 1
		handle(h, ctx, jsbroker.Handled{Delivery: d, Result: jsbroker.ResultNak, Err: errBoom})
		handle(h, ctx, jsbroker.Handled{Delivery: d, Result: jsbroker.ResultNak, Snoozed: true})
	}
	want(t, reg, map[string]float64{"micro_broker_late_deliveries_total" + ordersLabels: 3})
}

// The oldest of the handlers that run, whichever subscription it belongs to.
func TestOldestInFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, reg := newHooks(t)
		start := func(ctx context.Context, sequence uint64) (end func()) {
			d := delivery(orders)
			d.StreamSequence, d.ConsumerSequence = sequence, sequence
			ctx = h.HandleStart(ctx, jsbroker.HandleStart{Delivery: d})
			return func() { h.Handled(ctx, jsbroker.Handled{Delivery: d, Result: jsbroker.ResultAck}) }
		}
		oldest := func(seconds float64) {
			t.Helper()
			want(t, reg, map[string]float64{"micro_broker_oldest_in_flight_seconds" + ordersLabels: seconds})
		}
		a, b := subscribe(h, orders), subscribe(h, orders)
		first := start(a, 1)
		time.Sleep(5 * time.Second)
		second := start(b, 1) // a consumer that was made again counts anew
		third := start(a, 2)
		time.Sleep(time.Second)
		oldest(6)
		first()
		oldest(1)
		time.Sleep(time.Second)
		third()
		oldest(2)
		second()
		oldest(0)
	})
}

// What is said at the start: how many handlers, on which consumer.
func TestSubscriptionInfo(t *testing.T) {
	h, reg := newHooks(t)
	for _, consumer := range []string{"one", "two", "two"} {
		h.SubscriptionStart(context.Background(), jsbroker.SubscriptionStart{
			Subscription: jsbroker.Subscription{Topic: "orders.*", Queue: "billing", Stream: "ORDERS", Consumer: consumer}, Concurrency: 3,
		})
	}
	want(t, reg, map[string]float64{
		`micro_broker_subscription_info{consumer="one",queue="billing",stream="ORDERS",topic="orders.*"}`: 1,
		`micro_broker_subscription_info{consumer="two",queue="billing",stream="ORDERS",topic="orders.*"}`: 1,
		"micro_broker_concurrency" + ordersLabels:                                                         9,
	})
}
