package broker_test

import (
	"context"
	"errors"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"
	"go-micro.dev/v5/broker"

	jsbroker "go-micro-jetstream/broker"
	"go-micro-jetstream/internal/natstest"
)

// stamped is when a body arrived, with what.
type stamped struct {
	body   string
	at     time.Time
	header map[string]string
	topic  string
}

func stamper() (broker.Handler, <-chan stamped) {
	ch := make(chan stamped, 20000)
	return func(e broker.Event) error {
		ch <- stamped{string(e.Message().Body), time.Now(), maps.Clone(e.Message().Header), e.Topic()}
		return nil
	}, ch
}

func TestDeliverAfterOnStreamsOfAllKinds(t *testing.T) {
	t.Parallel()
	for name, cfg := range map[string]jetstream.StreamConfig{
		"WorkQueue":              {Retention: jetstream.WorkQueuePolicy},
		"WorkQueue, DiscardNew":  {Retention: jetstream.WorkQueuePolicy, Discard: jetstream.DiscardNew, MaxMsgs: 100},
		"Interest":               {Retention: jetstream.InterestPolicy},
		"Limits, DiscardNew":     {Retention: jetstream.LimitsPolicy, Discard: jetstream.DiscardNew, MaxMsgs: 100},
		"Limits, memory, MaxAge": {Retention: jetstream.LimitsPolicy, Storage: jetstream.MemoryStorage, MaxAge: time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBroker(t, startServer(t), jsbroker.WithStreamConfig(cfg))
			h, got := stamper()
			subscribe(t, b, "orders.>", h, broker.Queue("q")) // makes the stream as it was made before
			publish(t, b, "orders.created", "before")
			if r := receive(t, got); r.body != "before" {
				t.Fatalf("got %+v", r)
			}
			begin := time.Now()
			const delay = 3300 * time.Millisecond
			trace := "00-11111111111111111111111111111111-1111111111111111-01"
			err := b.Publish("orders.created", &broker.Message{Header: map[string]string{"Tenant": "a", "traceparent": trace}, Body: []byte("later")},
				jsbroker.DeliverAfter(delay), jsbroker.TTL(time.Hour))
			noErr(t, err)
			publish(t, b, "orders.created", "at once")
			if r := receive(t, got); r.body != "at once" {
				t.Fatalf("got %+v", r)
			}
			r := receive(t, got)
			if r.body != "later" || r.topic != "orders.created" || !maps.Equal(r.header, map[string]string{"Tenant": "a", "traceparent": trace}) {
				t.Fatalf("got %+v", r)
			}
			if took := r.at.Sub(begin); took < delay {
				t.Errorf("delivered after %v, too early", took)
			}
			publish(t, b, "orders.created", "end")
			if r := receive(t, got); r.body != "end" {
				t.Fatalf("got %+v", r)
			}
		})
	}
}

func TestDeliverAtATimeThatHasPassed(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	b := newBroker(t, s)
	h, got := stamper()
	subscribe(t, b, "orders", h)
	publish(t, b, "orders", "1", jsbroker.DeliverAt(time.Now().Add(-time.Hour)))
	publish(t, b, "orders", "2", jsbroker.DeliverAfter(-time.Second))
	for _, body := range []string{"1", "2"} {
		if r := receive(t, got); r.body != body {
			t.Fatalf("got %+v", r)
		}
	}
	// The same again once it is due is no second delivery.
	at := time.Now().Add(time.Second)
	publish(t, b, "orders", "3", jsbroker.DeliverAt(at), jsbroker.MessageID("three"))
	if r := receive(t, got); r.body != "3" || r.at.Before(at) {
		t.Fatalf("got %+v", r)
	}
	publish(t, b, "orders", "3 again", jsbroker.DeliverAt(at), jsbroker.MessageID("three"))
	publish(t, b, "orders", "4", jsbroker.DeliverAt(at), jsbroker.MessageID("four"))
	if r := receive(t, got); r.body != "4" {
		t.Fatalf("got %+v", r)
	}
}

func TestASecondMessageOfAnIDIsNoSecondDelivery(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	ended, onEnd := hookChan[jsbroker.Published]()
	started, onStart := hookChan[jsbroker.HandleStart]()
	// The window is over before the message is due.
	b := newBroker(t, s, jsbroker.WithStreamConfig(jetstream.StreamConfig{Duplicates: 100 * time.Millisecond}), jsbroker.WithHooks(jsbroker.Hooks{Published: onEnd, HandleStart: noContext(onStart)}))
	h, got := stamper()
	subscribe(t, b, "orders.>", h)
	at := time.Now().Add(6 * time.Second)
	id := "an id with blanks and a ."
	for i := range 4 {
		publish(t, b, "orders.created", "first", jsbroker.DeliverAt(at.Add(time.Duration(i)*time.Hour)), jsbroker.MessageID(id))
		if e := receive(t, ended); e.Duplicate != (i > 0) || e.Stream != "ORDERS-later" || e.Sequence != 1 || e.DeliverAt.IsZero() {
			t.Errorf("publish %d: %+v", i, e)
		}
		if i == 1 {
			<-time.After(200 * time.Millisecond) // past the window
		}
	}
	publish(t, b, "orders.paid", "second", jsbroker.DeliverAt(at), jsbroker.MessageID(id+"2"))
	var bodies []string
	for range 2 {
		r := receive(t, got)
		bodies = append(bodies, r.body)
		if r.at.Before(at) {
			t.Errorf("too early by %v", at.Sub(r.at))
		}
		if e := receive(t, started); e.MessageID != id && e.MessageID != id+"2" {
			t.Errorf("message id %q", e.MessageID)
		}
	}
	slices.Sort(bodies)
	if !slices.Equal(bodies, []string{"first", "second"}) {
		t.Errorf("got %q", bodies)
	}
}

// Each try of a publish asks for its stream again. If nobody answers that, the message
// is sent as before, schedule included.
func TestALostLookUpLeavesTheScheduleOfAMessage(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	_, js := natsConn(t, s)
	p := natstest.StartProxy(t, s)
	b := newBroker(t, s, broker.Addrs(p.URL()))
	publish(t, b, "orders", "first", jsbroker.DeliverAfter(time.Hour))
	var lost sync.WaitGroup
	lost.Go(func() {
		for _, request := range []string{"PUB _later", "PUB _later", "STREAM.INFO.ORDERS-later"} {
			happened := p.Lose(request)
			eventually(t, request+" is lost", happened)
		}
	})
	at := time.Now().Add(time.Hour)
	ctx, cancel := context.WithTimeout(t.Context(), natstest.Patience)
	defer cancel()
	noErr(t, b.Publish("orders", message("x"), jsbroker.DeliverAt(at), broker.PublishContext(ctx)))
	lost.Wait()
	m := natstest.LastMessage(t, js, "ORDERS-later", "_later.>")
	if string(m.Data) != "x" || m.Header.Get("Nats-Schedule") == "" {
		t.Errorf("stored %s %q without its schedule: %v", m.Subject, m.Data, m.Header)
	}
}

func TestCancelDelivery(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	_, js := natsConn(t, s)
	b := newBroker(t, s)
	other := newBroker(t, s) // knows nothing of the stream
	ctx := testContext(t)
	wantError(t, jsbroker.CancelDelivery(ctx, other, "orders", "1"), jsbroker.ErrNotScheduled, "orders", "1")
	h, got := stamper()
	subscribe(t, b, "orders", h)
	at := time.Now().Add(6 * time.Second)
	for i := range 4 {
		publish(t, b, "orders", strconv.Itoa(i), jsbroker.DeliverAt(at), jsbroker.MessageID(strconv.Itoa(i)))
	}
	noErr(t, jsbroker.CancelDelivery(ctx, b, "orders", "1"))
	noErr(t, jsbroker.CancelDelivery(ctx, other, "orders", "2"))
	wantError(t, jsbroker.CancelDelivery(ctx, b, "orders", "1"), jsbroker.ErrNotScheduled)
	wantError(t, jsbroker.CancelDelivery(ctx, b, "orders.other", "0"), jsbroker.ErrNotScheduled)
	bodies := []string{receive(t, got).body, receive(t, got).body}
	slices.Sort(bodies)
	if !slices.Equal(bodies, []string{"0", "3"}) {
		t.Errorf("got %q", bodies)
	}
	wantError(t, jsbroker.CancelDelivery(ctx, b, "orders", "0"), jsbroker.ErrNotScheduled)
	wantError(t, jsbroker.CancelDelivery(ctx, jsbroker.NewBroker(), "orders", "0"), jsbroker.ErrNotConnected)
	wantError(t, jsbroker.CancelDelivery(ctx, broker.NewMemoryBroker(), "orders", "0"), jsbroker.ErrForeign)
	eventually(t, "nothing waits any more", func() bool { return streamInfo(t, js, "ORDERS-later").State.Msgs == 0 })
}

// What waits outlives its stream. It can be taken back all the same.
func TestCancelDeliveryWithoutTheStream(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	_, js := natsConn(t, s)
	b := newBroker(t, s)
	ctx := testContext(t)
	at := time.Now().Add(time.Hour)
	for _, id := range []string{"1", "2", "3"} {
		publish(t, b, "orders.a", id, jsbroker.DeliverAt(at), jsbroker.MessageID(id))
	}
	noErr(t, js.DeleteStream(ctx, "ORDERS"))
	noErr(t, jsbroker.CancelDelivery(ctx, newBroker(t, s), "orders.a", "1")) // knows nothing of the stream
	noErr(t, jsbroker.CancelDelivery(ctx, b, "orders.a", "2"))               // knows the stream that is gone
	wantError(t, jsbroker.CancelDelivery(ctx, newBroker(t, s), "orders.a", "2"), jsbroker.ErrNotScheduled)
	wantError(t, jsbroker.CancelDelivery(ctx, newBroker(t, s), "bills.a", "3"), jsbroker.ErrNotScheduled)
	if n := streamInfo(t, js, "ORDERS-later").State.Msgs; n != 1 {
		t.Errorf("%d wait, want 1", n)
	}
	// The template names another stream, or none for this topic.
	named := newBroker(t, s, jsbroker.WithStreamConfig(jetstream.StreamConfig{Name: "ORDERS", Subjects: []string{"orders.>"}}))
	wantError(t, jsbroker.CancelDelivery(ctx, named, "bills.a", "3"), jsbroker.ErrNotScheduled)
	noErr(t, jsbroker.CancelDelivery(ctx, named, "orders.a", "3"))
}

func TestTTL(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	_, js := natsConn(t, s)
	log := natstest.NewLog()
	b := newBroker(t, s, broker.Logger(log))
	publish(t, b, "orders", "stays")
	for range 3 {
		publish(t, b, "orders", "goes", jsbroker.TTL(1500*time.Millisecond))
	}
	if h := natstest.LastMessage(t, js, "ORDERS", "orders").Header; h.Get("Nats-TTL") != "2" {
		t.Errorf("on the wire: %v", h)
	}
	eventually(t, "three are gone", func() bool { return streamInfo(t, js, "ORDERS").State.Msgs == 1 })
	if n := len(log.With("allow_msg_ttl")); n != 1 {
		t.Errorf("%d lines: %s", n, log.Text())
	}
	wantError(t, b.Publish("orders", message("x"), jsbroker.TTL(math.MaxInt64)), jsbroker.ErrInvalidConfig, "TTL", "at most")
	for _, d := range []time.Duration{0, -time.Second, math.MinInt64, 999 * time.Millisecond} {
		wantError(t, b.Publish("orders", message("x"), jsbroker.TTL(d)), jsbroker.ErrInvalidConfig, "TTL", "1s")
	}
}

// Times out of range are refused before anything is sent, and those of the past are now.
func TestDeliverAtTheEdgesOfTime(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	_, js := natsConn(t, s)
	b := newBroker(t, s)
	for name, opt := range map[string]broker.PublishOption{
		"a far day":       jsbroker.DeliverAt(time.Date(2300, 1, 1, 0, 0, 0, 0, time.UTC)),
		"a huge duration": jsbroker.DeliverAfter(math.MaxInt64),
	} {
		for _, opts := range [][]broker.PublishOption{{opt}, {opt, jsbroker.Async(func(error) { t.Error("done is called, too") })}} {
			if err := b.Publish("orders", message("x"), opts...); !errors.Is(err, jsbroker.ErrInvalidConfig) || !strings.Contains(err.Error(), "2262") {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	wantError(t, b.Publish("orders", message("x"), jsbroker.DeliverAfter(time.Hour), jsbroker.TTL(time.Millisecond)), jsbroker.ErrInvalidConfig, "TTL")
	for _, name := range []string{"ORDERS", "ORDERS-later"} {
		if _, err := js.Stream(testContext(t), name); !errors.Is(err, jetstream.ErrStreamNotFound) {
			t.Errorf("stream %s was made: %v", name, err)
		}
	}
	h, got := stamper()
	subscribe(t, b, "orders", h)
	for body, opt := range map[string]broker.PublishOption{
		"no delay":                 jsbroker.DeliverAfter(0),
		"a negative delay":         jsbroker.DeliverAfter(-time.Nanosecond),
		"a huge negative delay":    jsbroker.DeliverAfter(math.MinInt64),
		"no time":                  jsbroker.DeliverAt(time.Time{}),
		"before the server's time": jsbroker.DeliverAt(time.Date(-1, 1, 1, 0, 0, 0, 0, time.UTC)),
	} {
		publish(t, b, "orders", body, opt)
		if r := receive(t, got); r.body != body {
			t.Errorf("got %+v, want %s", r, body)
		}
		publish(t, b, "orders", body, opt, jsbroker.MessageID(body))
		publish(t, b, "orders", body, opt, jsbroker.MessageID(body)) // no second delivery
		if r := receive(t, got); r.body != body {
			t.Errorf("got %+v, want %s", r, body)
		}
	}
	publish(t, b, "orders", "the last one counts", jsbroker.DeliverAfter(time.Hour), jsbroker.DeliverAt(time.Time{}))
	if r := receive(t, got); r.body != "the last one counts" {
		t.Errorf("got %+v", r)
	}
	publish(t, b, "orders", "end")
	if r := receive(t, got); r.body != "end" {
		t.Errorf("%q is a second delivery", r.body)
	}
}

func TestStreamsOfOthersAreNotChangedForLater(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	_, js := natsConn(t, s)
	natstest.MakeStream(t, js, jetstream.StreamConfig{Name: "THEIRS", Subjects: []string{"orders.>"}})
	natstest.MakeStream(t, js, jetstream.StreamConfig{Name: "OPEN", Subjects: []string{"bills.>", "_later.OPEN.>"}, AllowMsgSchedules: true, AllowRollup: true, AllowMsgTTL: true})
	b := newBroker(t, s)
	wantError(t, b.Publish("orders.a", message("x"), jsbroker.TTL(time.Second)), jsbroker.ErrUnsupported, "THEIRS", "allow_msg_ttl")
	wantError(t, b.Publish("orders.a", message("x"), jsbroker.DeliverAfter(time.Second)), jsbroker.ErrUnsupported, "THEIRS", "allow_msg_schedules")
	if info := streamInfo(t, js, "THEIRS"); info.State.Msgs != 0 || info.Config.AllowMsgTTL || len(info.Config.Sources) != 0 {
		t.Errorf("%+v", info)
	}
	h, got := stamper()
	subscribe(t, b, "bills.>", h)
	at := time.Now().Add(time.Second)
	publish(t, b, "bills.a", "x", jsbroker.DeliverAt(at))
	if r := receive(t, got); r.body != "x" || r.topic != "bills.a" || r.at.Before(at) {
		t.Errorf("%+v", r)
	}
	for _, topic := range []string{"_later.x", "_due", "_due.ORDERS.x"} {
		wantError(t, b.Publish(topic, message("x")), jsbroker.ErrInvalidTopic, "later")
	}
	_, err := js.Stream(testContext(t), "THEIRS-later")
	if !errors.Is(err, jetstream.ErrStreamNotFound) {
		t.Errorf("a stream was made: %v", err)
	}
}

// What waits survives a restart of server and clients: each is delivered once, and
// none early.
func TestWhatWaitsSurvivesARestart(t *testing.T) {
	t.Parallel()
	n := 10_000
	if testing.Short() {
		n = 500
	}
	s := natstest.StartRestartable(t)
	b := newBroker(t, s.Server)
	due := make(map[string]time.Time, n)
	start := time.Now()
	for i := range n {
		due[strconv.Itoa(i)] = start.Add(2*time.Second + time.Duration(i%100)*60*time.Millisecond)
	}
	publishLater(t, b, due)
	noErr(t, b.Disconnect())
	s.Stop()
	s.Start(t)
	again := newBroker(t, s.Server)
	h, got := stamper()
	up := time.Now()
	subscribe(t, again, "orders.>", h, broker.Queue("q"), impatient())
	late := make([]time.Duration, 0, n)
	for range n {
		r := receiveLate(t, got)
		at, ok := due[r.body]
		if !ok {
			t.Fatalf("%q is a second delivery", r.body)
		}
		delete(due, r.body)
		if r.at.Before(at) {
			t.Errorf("%q is early by %v", r.body, at.Sub(r.at))
		}
		if at.After(up) {
			late = append(late, r.at.Sub(at))
		}
	}
	slices.Sort(late)
	if len(late) > 0 {
		t.Logf("%d messages: lateness p50 %v, p99 %v, at most %v", len(late), late[len(late)/2], late[len(late)*99/100], late[len(late)-1])
	}
	publish(t, again, "orders.0", "end")
	if r := receive(t, got); r.body != "end" {
		t.Errorf("%q is a second delivery", r.body)
	}
}

// noContext makes a start hook of a function that only looks.
func noContext[E any](look func(context.Context, E)) func(context.Context, E) context.Context {
	return func(ctx context.Context, e E) context.Context {
		look(ctx, e)
		return nil
	}
}

// What waits has as many replicas as the stream that it is for.
func TestWhatWaitsIsAsSafeAsItsStream(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("a cluster takes too long for -short")
	}
	c := natstest.StartCluster(t)
	s := c.Nodes[0].Server
	_, js := natsConn(t, s)
	log := natstest.NewLog()
	replicated := func(n int) broker.Broker {
		return newBroker(t, s, broker.Logger(log), jsbroker.WithStreamConfig(jetstream.StreamConfig{Replicas: n}))
	}
	want := func(n int) {
		t.Helper()
		if got := streamInfo(t, js, "ORDERS-later").Config.Replicas; got != n {
			t.Fatalf("%d replicas, want %d", got, n)
		}
	}
	publish(t, replicated(1), "orders.a", "x", jsbroker.DeliverAfter(time.Hour))
	want(1)
	publish(t, replicated(3), "orders.a", "x") // not delivered later
	want(3)
	const follows = "stream ORDERS-later follows stream ORDERS"
	if lines := log.With(follows); len(lines) != 1 || !strings.Contains(lines[0].Text, "Replicas is now 3, was 1") {
		t.Errorf("%q", lines)
	}
	// An operator changes the companion, which then stays so.
	edit := func(name string, replicas int) {
		t.Helper()
		sc := streamInfo(t, js, name).Config
		sc.Replicas = replicas
		natstest.UpdateStream(t, js, sc)
	}
	edit("ORDERS-later", 1)
	publish(t, replicated(3), "orders.a", "x", jsbroker.DeliverAfter(time.Hour))
	want(1)
	// One that changes the stream has the companion follow with the next message.
	edit("ORDERS-later", 3)
	edit("ORDERS", 1)
	publish(t, newBroker(t, s, broker.Logger(log)), "orders.a", "x", jsbroker.DeliverAfter(time.Hour))
	want(1)
	if lines := log.With(follows); len(lines) != 2 {
		t.Errorf("%q", lines)
	}
	if n := streamInfo(t, js, "ORDERS-later").State.Msgs; n != 3 {
		t.Errorf("%d wait, want 3", n)
	}
}

func TestDeliverAfterOnACluster(t *testing.T) {
	t.Parallel()
	c := natstest.StartCluster(t)
	b := newBroker(t, c.Nodes[0].Server, jsbroker.WithStreamConfig(jetstream.StreamConfig{Replicas: 3, Retention: jetstream.WorkQueuePolicy}))
	h, got := stamper()
	at := time.Now().Add(5 * time.Second)
	due := map[string]bool{}
	for i := range 100 {
		due[strconv.Itoa(i)] = true
		publish(t, b, "orders.created", strconv.Itoa(i), jsbroker.DeliverAt(at), jsbroker.MessageID("id-"+strconv.Itoa(i)))
	}
	subscribe(t, b, "orders.>", h)
	for range 100 {
		r := receive(t, got)
		if !due[r.body] || r.at.Before(at) {
			t.Fatalf("%q early by %v, or twice", r.body, at.Sub(r.at))
		}
		delete(due, r.body)
	}
}

// A message whose time has passed is neither lost beside another one of its id, nor in
// the way of that.
func TestATimeThatHasPassedAndAnIDThatIsInUse(t *testing.T) {
	t.Parallel()
	ended, onEnd := hookChan[jsbroker.Published]()
	b := newBroker(t, startServer(t), jsbroker.WithHooks(jsbroker.Hooks{Published: onEnd}))
	h, got := collector()
	subscribe(t, b, "orders.>", h, broker.Queue("q"))
	passed := jsbroker.DeliverAfter(-time.Second)
	for _, m := range []struct {
		topic, body, id string
		opts            []broker.PublishOption
		duplicate       bool
	}{
		{"orders.a", "now", "a", nil, false},
		{"orders.a", "passed", "a", []broker.PublishOption{passed}, false},
		{"orders.a", "passed again", "a", []broker.PublishOption{passed}, true},
		{"orders.b", "passed, of another topic", "a", []broker.PublishOption{jsbroker.DeliverAt(time.Unix(0, 0))}, true},
		{"orders.b", "passed first", "b", []broker.PublishOption{passed}, false},
		{"orders.b", "then now", "b", nil, false},
		{"orders.b", "now again", "b", nil, true},
		{"orders.b", "end", "c", []broker.PublishOption{passed}, false},
	} {
		publish(t, b, m.topic, m.body, append(m.opts, jsbroker.MessageID(m.id))...)
		if e := receive(t, ended); e.Duplicate != m.duplicate {
			t.Errorf("%s: %+v", m.body, e)
		}
		if m.duplicate {
			continue
		}
		if body := receive(t, got); body != m.body {
			t.Fatalf("got %q, want %q", body, m.body)
		}
	}
}

// The name of the stream is not known then, so nobody can tell what waits.
func TestCancelDeliveryWhenTheStreamCannotBeNamed(t *testing.T) {
	t.Parallel()
	srv := startServer(t)
	_, js := natsConn(t, srv)
	publish(t, newBroker(t, srv), "orders", "x", jsbroker.DeliverAfter(time.Hour), jsbroker.MessageID("a"))
	noErr(t, js.DeleteStream(testContext(t), "ORDERS"))
	b := newBroker(t, srv, jsbroker.WithStreamName(func(string) string { panic("no name") }))
	err := jsbroker.CancelDelivery(testContext(t), b, "orders", "a")
	wantError(t, err, jsbroker.ErrInvalidConfig, "WithStreamName", "no name")
	if errors.Is(err, jsbroker.ErrNotScheduled) {
		t.Errorf("says that nothing waits: %v", err)
	}
}

func TestNoRoomForWhatIsDeliveredLater(t *testing.T) {
	t.Parallel()
	srv := startServer(t)
	acc, err := srv.LookupAccount("$G")
	noErr(t, err)
	noErr(t, acc.UpdateJetStreamLimits(map[string]server.JetStreamAccountLimits{"": {MaxMemory: -1, MaxStore: -1, MaxStreams: 1, MaxConsumers: -1}}))
	b := newBroker(t, srv)
	publish(t, b, "orders", "x")
	wantError(t, b.Publish("orders", message("x"), jsbroker.DeliverAfter(time.Hour)), jsbroker.ErrStreamLimit, "ORDERS-later", "1 of 1", "max_streams")
}
