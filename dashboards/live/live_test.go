package live_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"go-micro.dev/v5/broker"

	jsbroker "go-micro-jetstream/broker"
	"go-micro-jetstream/dashboards/live"
	"go-micro-jetstream/internal/natstest"
)

// state is what the tests read of the page's JSON.
type state struct {
	Connections []struct {
		State, Server                     string
		AsyncWindowUsed, AsyncWindowLimit int
	}
	Subscriptions []struct {
		Topic, Queue, Stream string
		Running, Concurrency int
		InHand               int
		Pending              uint64
		Handled              map[string]uint64
		Failures             uint64
		BackoffAttempt       int
		Ended, PausedUntil   *time.Time
		AckPending           *int
		MaxAckPending        int
		Active               *bool
		Held                 int
		LastFailure          string
	}
	InFlight, Retries, Found []item
	Failures                 []struct {
		What, Error, Result string
		Message             item
	}
	Topics []struct {
		Topic       string
		Published   int64
		Failures    int64
		Outstanding int64
		LastReason  string
	}
}

type item struct {
	Subject, MessageID, TraceID, State string
	Sequence, Delivery                 uint64
	Seconds                            float64
}

func get(t *testing.T, h http.Handler, query string) (s state) {
	t.Helper()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/?format=json&q="+query, nil))
	if w.Code != http.StatusOK {
		t.Fatalf("status %d: %s", w.Code, w.Body)
	}
	if err := json.Unmarshal(w.Body.Bytes(), &s); err != nil {
		t.Fatal(err)
	}
	return s
}

const trace = "4bf92f3577b34da6a3ce929d0e0e4736"

// world is a broker with a page, one message in its handler, one that failed, one that
// became a dead letter and a hostile one.
func world(t *testing.T) (page *live.Page, release func()) {
	t.Helper()
	page = live.New()
	s := natstest.Start(t)
	b := jsbroker.NewBroker(broker.Addrs(s.ClientURL()), broker.Logger(natstest.Quiet()),
		jsbroker.WithHooks(page.Hooks()), jsbroker.WithDeadLetter("dead.orders"))
	if err := b.Connect(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Disconnect() })
	hangs, released := make(chan struct{}), make(chan struct{})
	_, err := b.Subscribe("orders.>", func(e broker.Event) error {
		switch string(e.Message().Body) {
		case "hang":
			close(hangs)
			<-released
		case "fail":
			return jsbroker.RetryAfter(time.Hour, errors.New("<script>alert('error')</script>"))
		case "discard":
			return jsbroker.Discard(errors.New("malformed"))
		}
		return nil
	}, broker.Queue("billing"))
	if err != nil {
		t.Fatal(err)
	}
	for _, body := range []string{"ok", "fail", "discard", "hang"} {
		m := &broker.Message{Header: map[string]string{"traceparent": "00-" + trace + "-00f067aa0ba902b7-01"}, Body: []byte(body)}
		if err := b.Publish("orders."+body, m, jsbroker.MessageID("id-"+body)); err != nil {
			t.Fatal(err)
		}
	}
	_ = b.Publish("orders..x", &broker.Message{})
	natstest.Receive(t, hangs)
	return page, func() { close(released) }
}

func TestThePageShowsWhatGoesOn(t *testing.T) {
	page, release := world(t)
	s := get(t, page, "")
	if len(s.Connections) != 1 || s.Connections[0].State != "connected" || s.Connections[0].Server == "" || s.Connections[0].AsyncWindowLimit == 0 {
		t.Errorf("connections %+v", s.Connections)
	}
	sub := s.Subscriptions[0]
	if sub.Topic != "orders.>" || sub.Queue != "billing" || sub.Stream != "ORDERS" || sub.Running != 1 || sub.Concurrency != 1 || sub.Failures != 2 ||
		sub.Handled["ack"] != 1 || sub.Handled["nak"] != 1 || sub.Handled["term"] != 1 {
		t.Errorf("subscription %+v", sub)
	}
	if len(s.InFlight) != 1 || s.InFlight[0].Subject != "orders.hang" || s.InFlight[0].MessageID != "id-hang" || s.InFlight[0].TraceID != trace {
		t.Errorf("in flight %+v", s.InFlight)
	}
	if len(s.Retries) != 1 || s.Retries[0].Subject != "orders.fail" {
		t.Errorf("retries %+v", s.Retries)
	}
	var what []string
	for _, f := range s.Failures {
		what = append(what, f.What)
		if f.Message.TraceID != trace {
			t.Errorf("%s has no trace: %+v", f.What, f)
		}
	}
	if got := strings.Join(what, ", "); got != "failed, dead letter in dead.orders, failed" {
		t.Errorf("failures: %s", got)
	}
	if n := len(s.Topics); n != 6 { // one is the dead-letter topic
		t.Errorf("%d topics: %+v", n, s.Topics)
	}
	for _, topic := range s.Topics {
		if topic.Topic == "orders..x" && (topic.Failures != 1 || topic.LastReason != "invalid_topic") || topic.Outstanding != 0 {
			t.Errorf("topic %+v", topic)
		}
	}
	release()
	natstest.Eventually(t, "the handler has returned", func() bool { return get(t, page, "").Subscriptions[0].Handled["ack"] == 2 })
}

func TestMessagesAreFound(t *testing.T) {
	page, release := world(t)
	defer release()
	for query, want := range map[string][]string{
		"id-ok":   {"ack"},
		"id-hang": {"running"},
		"2":       {"nak", "waits for its retry", "failed"},
		trace:     {"running", "term", "nak", "ack", "waits for its retry", "failed", "dead letter in dead.orders", "failed"},
		"nothing": nil,
	} {
		var got []string
		for _, m := range get(t, page, query).Found {
			got = append(got, m.State)
		}
		if strings.Join(got, ", ") != strings.Join(want, ", ") {
			t.Errorf("%s: found %q, want %q", query, got, want)
		}
	}
}

func TestThePageIsReadOnlyAndLoadsNothing(t *testing.T) {
	page := live.New()
	w := httptest.NewRecorder()
	page.ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/", nil))
	if w.Code != http.StatusMethodNotAllowed {
		t.Errorf("POST: status %d", w.Code)
	}
	w = httptest.NewRecorder()
	page.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/", nil))
	if csp := w.Header().Get("Content-Security-Policy"); !strings.Contains(csp, "default-src 'none'") || strings.Contains(csp, "unsafe") {
		t.Errorf("policy %q", csp)
	}
	for _, outside := range []string{"http://", "https://", "src=\"", "@import", "innerHTML"} {
		if strings.Contains(w.Body.String(), outside) {
			t.Errorf("the page contains %q", outside)
		}
	}
}

// Whatever clients publish, the page keeps its bounds.
func TestHostileInputIsBounded(t *testing.T) {
	page := live.New()
	h := page.Hooks()
	name := strings.Repeat("<script>\xff\n\"", 1000)
	sub := jsbroker.Subscription{Topic: name, Queue: name, Stream: name, Consumer: name}
	ctx := h.SubscriptionStart(context.Background(), jsbroker.SubscriptionStart{Subscription: sub})
	for i := range 10_000 {
		d := jsbroker.Delivery{Subscription: sub, Subject: name, MessageID: name, StreamSequence: uint64(i), ConsumerSequence: uint64(i), NumDelivered: 1}
		h.HandleStart(ctx, jsbroker.HandleStart{Delivery: d, Header: map[string]string{"traceparent": name}})
		h.Handled(ctx, jsbroker.Handled{Delivery: d, Result: jsbroker.ResultNak, Err: errors.New(name)})
		topic := fmt.Sprint(name, i)
		h.PublishStart(ctx, jsbroker.PublishStart{Topic: topic})
		h.Published(ctx, jsbroker.Published{Topic: topic, Err: errors.New(name)})
	}
	w := httptest.NewRecorder()
	page.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/?format=json", nil))
	if n := w.Body.Len(); n > 4<<20 {
		t.Errorf("the page has %d bytes", n)
	}
	if !json.Valid(w.Body.Bytes()) {
		t.Error("the page is not valid JSON")
	}
}

// The page keeps none of the headers that its texts are parts of.
func TestHeadersAreNotKept(t *testing.T) {
	page := live.New()
	h := page.Hooks()
	sub := jsbroker.Subscription{Topic: "orders"}
	ctx := h.SubscriptionStart(context.Background(), jsbroker.SubscriptionStart{Subscription: sub})
	used := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := used()
	for i := range uint64(300) {
		headers := strings.Repeat("0123456789", 100_000)
		d := jsbroker.Delivery{Subscription: sub, Subject: headers[:9], MessageID: headers[:20], StreamSequence: i, ConsumerSequence: i, NumDelivered: 1}
		h.HandleStart(ctx, jsbroker.HandleStart{Delivery: d, Header: map[string]string{"traceparent": headers[:55]}})
		h.Handled(ctx, jsbroker.Handled{Delivery: d, Result: jsbroker.ResultNak, Err: errors.New("failed")})
	}
	if more := int64(used() - before); more > 10<<20 {
		t.Errorf("the page keeps %d bytes of 300 messages", more)
	}
	runtime.KeepAlive(page)
}

// A delivery whose handler hangs stays in flight, whatever comes after it.
func TestWhatHangsStaysInFlight(t *testing.T) {
	page := live.New()
	h := page.Hooks()
	sub := jsbroker.Subscription{Topic: "orders"}
	ctx := h.SubscriptionStart(context.Background(), jsbroker.SubscriptionStart{Subscription: sub, Concurrency: 2})
	began := time.Now().Add(-time.Minute)
	delivery := func(i uint64) jsbroker.Delivery {
		return jsbroker.Delivery{Subscription: sub, Subject: "orders", MessageID: fmt.Sprint("id-", i), StreamSequence: i, ConsumerSequence: i, NumDelivered: 1, StoredAt: began}
	}
	h.HandleStart(ctx, jsbroker.HandleStart{Delivery: delivery(1), Lag: time.Second})
	for i := uint64(2); i < 1000; i++ {
		h.HandleStart(ctx, jsbroker.HandleStart{Delivery: delivery(i), Lag: time.Minute})
		h.Handled(ctx, jsbroker.Handled{Delivery: delivery(i), Result: jsbroker.ResultAck, Duration: time.Second})
	}
	s := get(t, page, "1")
	if len(s.InFlight) != 1 || s.InFlight[0].MessageID != "id-1" || s.InFlight[0].Seconds < 58 || len(s.Found) != 1 {
		t.Errorf("in flight %+v, found %+v", s.InFlight, s.Found)
	}
	if s := get(t, page, "id-999"); len(s.Found) != 1 || s.Found[0].State != "ack" || s.Found[0].Seconds != 1 {
		t.Errorf("found %+v", s.Found)
	}
	if s := get(t, page, "id-2"); len(s.Found) != 0 {
		t.Errorf("found %+v", s.Found)
	}
	// As many as run at a time are shown, also if they are more than the page was told.
	for i := uint64(1000); i < 1500; i++ {
		h.HandleStart(ctx, jsbroker.HandleStart{Delivery: delivery(i), Lag: time.Minute})
	}
	if got := get(t, page, "").Subscriptions[0].Running; got != 501 {
		t.Errorf("%d are being handled", got)
	}
}

// The server's clock is an hour ahead: what has just begun is young, and grows older.
func TestAnotherClock(t *testing.T) {
	page := live.New()
	h := page.Hooks()
	sub := jsbroker.Subscription{Topic: "orders"}
	ctx := h.SubscriptionStart(context.Background(), jsbroker.SubscriptionStart{Subscription: sub})
	h.HandleStart(ctx, jsbroker.HandleStart{Delivery: jsbroker.Delivery{Subscription: sub, StoredAt: time.Now().Add(time.Hour)}})
	natstest.Eventually(t, "the delivery is older than 20 ms", func() bool { return get(t, page, "").InFlight[0].Seconds > .02 })
}

// The page shows which replica is active, what stuck keys hold up, and what fails beside
// a handler.
func TestTheStateOfASubscription(t *testing.T) {
	page := live.New()
	h := page.Hooks()
	sub := jsbroker.Subscription{Topic: "orders", Queue: "billing"}
	ctx := h.SubscriptionStart(context.Background(), jsbroker.SubscriptionStart{Subscription: sub, InHand: func() int { return 17 }})
	if s := get(t, page, "").Subscriptions[0]; s.Active != nil || s.Held != 0 || s.InHand != 17 {
		t.Errorf("at the start: %+v", s)
	}
	h.ActiveChanged(ctx, jsbroker.ActiveChanged{Subscription: sub})
	h.Held(ctx, jsbroker.Held{Subscription: sub, Messages: 500, Keys: 3, Full: true})
	if s := get(t, page, "").Subscriptions[0]; s.Active == nil || *s.Active || s.Held != 500 {
		t.Errorf("it stands by: %+v", s)
	}
	h.ActiveChanged(ctx, jsbroker.ActiveChanged{Subscription: sub, Active: true})
	h.Held(ctx, jsbroker.Held{Subscription: sub, Messages: 250, Keys: 3})
	if s := get(t, page, "").Subscriptions[0]; s.Active == nil || !*s.Active || s.Held != 0 {
		t.Errorf("it is active: %+v", s)
	}
	d := jsbroker.Delivery{Subscription: sub, Subject: "orders", StreamSequence: 7, ConsumerSequence: 1, NumDelivered: 5}
	h.HandleStart(ctx, jsbroker.HandleStart{Delivery: d})
	h.Exhausted(ctx, jsbroker.Exhausted{Delivery: d, Cause: errors.New("no such order")})
	h.Handled(ctx, jsbroker.Handled{Delivery: d, Result: jsbroker.ResultAck, SettleErr: errors.New("connection closed")})
	failures := get(t, page, "").Failures
	if len(failures) != 2 || failures[0].What != "not settled" || failures[0].Error != "connection closed" ||
		failures[1].What != "given up, not delivered again" || failures[1].Error != "no such order" || failures[1].Message.Sequence != 7 {
		t.Errorf("failures %+v", failures)
	}
}

// A retry that is long due and has not come back here was got by another replica.
func TestRetriesThatOthersHaveGotAreForgotten(t *testing.T) {
	page := live.New()
	h := page.Hooks()
	sub := jsbroker.Subscription{Topic: "orders"}
	ctx := h.SubscriptionStart(context.Background(), jsbroker.SubscriptionStart{Subscription: sub})
	for i, delay := range []time.Duration{-2 * time.Minute, -30 * time.Second, time.Minute} {
		d := jsbroker.Delivery{Subscription: sub, Subject: "orders", StreamSequence: uint64(i), ConsumerSequence: uint64(i), NumDelivered: 1}
		h.HandleStart(ctx, jsbroker.HandleStart{Delivery: d})
		h.Handled(ctx, jsbroker.Handled{Delivery: d, Result: jsbroker.ResultNak, Delay: delay, Err: errors.New("failed")})
	}
	retries := get(t, page, "").Retries
	if len(retries) != 2 || retries[0].Sequence != 1 || retries[1].Sequence != 2 {
		t.Errorf("retries %+v", retries)
	}
}

func TestTwoPagesAndTwoBrokers(t *testing.T) {
	one, two := live.New(), live.New()
	s := natstest.Start(t)
	for _, topic := range []string{"a", "b"} {
		b := jsbroker.NewBroker(broker.Addrs(s.ClientURL()), broker.Logger(natstest.Quiet()), jsbroker.WithHooks(one.Hooks(), two.Hooks()))
		if err := b.Connect(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = b.Disconnect() })
		done := make(chan struct{})
		if _, err := b.Subscribe(topic, func(broker.Event) error { close(done); return nil }, broker.Queue("q")); err != nil {
			t.Fatal(err)
		}
		if err := b.Publish(topic, &broker.Message{Body: []byte("x")}); err != nil {
			t.Fatal(err)
		}
		natstest.Receive(t, done)
	}
	for _, page := range []*live.Page{one, two} {
		natstest.Eventually(t, "both messages are counted", func() bool {
			acked := uint64(0)
			for _, sub := range get(t, page, "").Subscriptions {
				acked += sub.Handled["ack"]
			}
			return acked == 2
		})
		if n := len(get(t, page, "").Connections); n != 2 {
			t.Errorf("%d connections", n)
		}
	}
}

func TestWhatTheServerSaysOfTheConsumerIsShown(t *testing.T) {
	page := live.New()
	h := page.Hooks()
	ctx := h.SubscriptionStart(context.Background(), jsbroker.SubscriptionStart{Subscription: jsbroker.Subscription{Topic: "orders"}})
	until := time.Now().Add(time.Hour)
	h.ConsumerState(ctx, jsbroker.ConsumerState{Pending: 9, AckPending: 3, MaxAckPending: 5, PausedUntil: until})
	s := get(t, page, "").Subscriptions[0]
	if s.Pending != 9 || *s.AckPending != 3 || s.MaxAckPending != 5 || s.PausedUntil == nil || !s.PausedUntil.Equal(until) {
		t.Errorf("subscription %+v", s)
	}
	h.ConsumerState(ctx, jsbroker.ConsumerState{})
	if s := get(t, page, "").Subscriptions[0]; s.PausedUntil != nil {
		t.Errorf("still paused until %v", s.PausedUntil)
	}
}

// What a handler has put off is among the retries, and no failure.
func TestSnoozedMessagesWait(t *testing.T) {
	page := live.New()
	h := page.Hooks()
	sub := jsbroker.Subscription{Topic: "orders"}
	ctx := h.SubscriptionStart(context.Background(), jsbroker.SubscriptionStart{Subscription: sub})
	d := jsbroker.Delivery{Subscription: sub, Subject: "orders", StreamSequence: 7, ConsumerSequence: 1, NumDelivered: 1}
	h.HandleStart(ctx, jsbroker.HandleStart{Delivery: d})
	h.Handled(ctx, jsbroker.Handled{Delivery: d, Result: jsbroker.ResultNak, Delay: time.Hour, Snoozed: true})
	s := get(t, page, "7")
	if len(s.Retries) != 1 || s.Retries[0].State != "snoozed" || len(s.Failures) != 0 || s.Subscriptions[0].LastFailure != "" || len(s.Found) != 2 {
		t.Errorf("retries %+v, failures %+v, found %+v", s.Retries, s.Failures, s.Found)
	}
	d.NumDelivered, d.ConsumerSequence = 2, 2
	h.HandleStart(ctx, jsbroker.HandleStart{Delivery: d})
	if s := get(t, page, ""); len(s.Retries) != 0 {
		t.Errorf("retries %+v", s.Retries)
	}
}

func TestEndedSubscriptionsAreShown(t *testing.T) {
	page := live.New()
	h := page.Hooks()
	ctx := h.SubscriptionStart(context.Background(), jsbroker.SubscriptionStart{Subscription: jsbroker.Subscription{Topic: "orders"}})
	h.SubscriptionEnd(ctx, jsbroker.SubscriptionEnd{})
	if s := get(t, page, "").Subscriptions; len(s) != 1 || s[0].Ended == nil {
		t.Errorf("subscriptions %+v", s)
	}
}

// browser finds chromium. Without it the test is skipped, unless REQUIRE_CHROMIUM is set,
// as in CI.
func browser(t *testing.T) (path string) {
	t.Helper()
	path, err := exec.LookPath("chromium")
	if err != nil {
		if os.Getenv("REQUIRE_CHROMIUM") != "" {
			t.Fatal("REQUIRE_CHROMIUM is set, and there is no chromium")
		}
		t.Skip("there is no chromium")
	}
	return path
}

// The page in a real browser: it fills itself, and shows markup of clients as text.
func TestThePageInABrowser(t *testing.T) {
	chromium := browser(t)
	page, release := world(t)
	defer release()
	server := httptest.NewServer(page)
	defer server.Close()
	dom := domOf(t, chromium, server.URL, 3*time.Second)
	for _, want := range []string{"orders.hang", "id-hang", trace, "billing", "dead letter in dead.orders", "&lt;script&gt;alert"} {
		if !strings.Contains(dom, want) {
			t.Errorf("the page does not show %s", want)
		}
	}
	if strings.Contains(dom, "<script>alert") {
		t.Error("an error text became markup")
	}
}

// What the page costs per delivery: both sides in turns in one run, because other work on
// the machine changes what either of them takes. The unit of the difference is
// page-ns/op, the median over the turns.
func BenchmarkDelivery(b *testing.B) {
	const turn = 2000 // deliveries
	without, with := delivering(bare), delivering(live.New().Hooks())
	var bases, costs []float64
	took := func(deliver func()) float64 {
		began := time.Now()
		for range turn {
			deliver()
		}
		return float64(time.Since(began).Nanoseconds()) / turn
	}
	for b.Loop() {
		base := took(without)
		bases, costs = append(bases, base), append(costs, took(with)-base)
	}
	slices.Sort(bases)
	slices.Sort(costs)
	b.ReportMetric(0, "ns/op") // of whole turns
	b.ReportMetric(bases[len(bases)/2], "without-ns")
	b.ReportMetric(costs[len(costs)/2], "page-ns")
	b.ReportMetric(costs[len(costs)/10], "page-p10-ns")
	b.ReportMetric(costs[len(costs)*9/10], "page-p90-ns")
}

// bare are hooks that do nothing.
var bare = jsbroker.Hooks{
	SubscriptionStart: func(ctx context.Context, _ jsbroker.SubscriptionStart) context.Context { return ctx },
	HandleStart:       func(ctx context.Context, _ jsbroker.HandleStart) context.Context { return ctx },
	Handled:           func(context.Context, jsbroker.Handled) {},
}

// delivering returns a function that tells the hooks of one delivery.
func delivering(h jsbroker.Hooks) func() {
	sub := jsbroker.Subscription{Topic: "orders.>", Queue: "billing", Stream: "ORDERS", Consumer: "billing"}
	header := map[string]string{"traceparent": "00-" + trace + "-00f067aa0ba902b7-01", "Content-Type": "application/json", "Micro-Topic": "orders.created"}
	ctx := h.SubscriptionStart(context.Background(), jsbroker.SubscriptionStart{Subscription: sub, Concurrency: 1})
	d := jsbroker.Delivery{Subscription: sub, Subject: "orders.created", MessageID: "b0a1c1f0-6c1b-4d2e-9d5f-0a7c3e2f1b4d", NumDelivered: 1, StoredAt: time.Now()}
	return func() {
		d.ConsumerSequence++
		d.StreamSequence++
		h.HandleStart(ctx, jsbroker.HandleStart{Delivery: d, Header: header, Lag: time.Millisecond})
		h.Handled(ctx, jsbroker.Handled{Delivery: d, Result: jsbroker.ResultAck})
	}
}

// The page allocates nothing for a delivery that succeeds.
func TestADeliveryAllocatesNothing(t *testing.T) {
	deliver := delivering(live.New().Hooks())
	for range 1000 { // until all slots are in use
		deliver()
	}
	if n := testing.AllocsPerRun(1000, deliver); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
