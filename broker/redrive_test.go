package broker_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go-micro.dev/v5/broker"
	"go-micro.dev/v5/logger"

	jsbroker "go-micro-jetstream/broker"
	"go-micro-jetstream/internal/natstest"
)

// shop has n dead letters of orders.created on graves. Its handler fails until mended
// is set, and passes on the messages that it has handled.
type shop struct {
	s       *server.Server
	js      jetstream.JetStream
	b       broker.Broker
	mended  atomic.Bool
	handled chan *broker.Message
}

func newShop(t *testing.T, n int, change ...func(*server.Options)) *shop {
	t.Helper()
	sh := &shop{s: startServer(t, change...), handled: make(chan *broker.Message, 1000)}
	var opts []nats.Option
	url := broker.Addrs(sh.s.ClientURL())
	if len(change) > 0 {
		opts, url = append(opts, nats.UserInfo("admin", "admin")), as("admin:admin", sh.s)
	}
	_, sh.js = natsConn(t, sh.s, opts...)
	sh.b = newBroker(t, sh.s, url, jsbroker.WithDeadLetter("graves"), jsbroker.WithConsumerConfig(jetstream.ConsumerConfig{MaxDeliver: 1}))
	subscribe(t, sh.b, "orders.created", func(e broker.Event) error {
		if !sh.mended.Load() {
			return errors.New("not yet")
		}
		sh.handled <- e.Message()
		return nil
	}, broker.Queue("q"))
	for i := range n {
		noErr(t, sh.b.Publish("orders.created", &broker.Message{Header: map[string]string{"Tenant": "acme"}, Body: fmt.Append(nil, i)}))
	}
	if n > 0 {
		sh.wait(t, n)
	}
	return sh
}

// wait waits until there are so many letters, and nothing else.
func (sh *shop) wait(t *testing.T, n int) {
	t.Helper()
	eventually(t, "the letters are there", func() bool {
		return streamInfo(t, sh.js, "ORDERS").State.Msgs == 0 && streamInfo(t, sh.js, "GRAVES").State.Msgs == uint64(n)
	})
}

func TestRedrivePublishesInOrderAndRemoves(t *testing.T) {
	t.Parallel()
	const n = 20
	sh := newShop(t, n)
	sh.mended.Store(true)
	got, err := jsbroker.Redrive(testContext(t), sh.b, "graves")
	if got != n || err != nil {
		t.Fatalf("%d, %v", got, err)
	}
	for i := range n {
		m := receive(t, sh.handled)
		if string(m.Body) != fmt.Sprint(i) || m.Header["Tenant"] != "acme" || m.Header["Micro-Dead-Letter-Redriven"] != "1" || m.Header["Micro-Dead-Letter-Reason"] != "" {
			t.Errorf("%d: %q %v", i, m.Body, m.Header)
		}
	}
	sh.wait(t, 0)
	if got, err := jsbroker.Redrive(testContext(t), sh.b, "graves"); got != 0 || err != nil {
		t.Errorf("the second run: %d, %v", got, err)
	}
}

func TestRedrivenMessageThatFailsAgainHasItsHistory(t *testing.T) {
	t.Parallel()
	const n = 3
	sh := newShop(t, n)
	for round := range 7 { // more than MaxHops
		if got, err := jsbroker.Redrive(testContext(t), sh.b, "graves"); got != n || err != nil {
			t.Fatalf("%d, %v", got, err)
		}
		sh.wait(t, n)
		h := natstest.LastMessage(t, sh.js, "GRAVES", "graves").Header
		if h.Get("Micro-Dead-Letter-Redriven") != fmt.Sprint(round+1) || h.Get("Micro-Dead-Letter-Hops") != "1" || h.Get("Micro-Dead-Letter-Topic") != "orders.created" {
			t.Errorf("round %d: %v", round, h)
		}
	}
}

func TestRedriveOptions(t *testing.T) {
	t.Parallel()
	sh := newShop(t, 6)
	sh.mended.Store(true)
	ctx := testContext(t)
	var seen []jsbroker.DeadLetter
	all := func(l jsbroker.DeadLetter) bool { seen = append(seen, l); return true }
	if got, err := jsbroker.Redrive(ctx, sh.b, "graves", jsbroker.RedriveDryRun(), jsbroker.RedriveFilter(all)); got != 6 || err != nil {
		t.Fatalf("%d, %v", got, err)
	}
	sh.wait(t, 6)
	l := seen[5]
	if len(seen) != 6 || l.Stream != "GRAVES" || l.Sequence != 6 || l.Subject != "graves" || l.Topic != "orders.created" || l.OriginalStream != "ORDERS" || l.OriginalSequence != 6 ||
		l.Queue != "q" || l.Reason != "not yet" || l.Deliveries != 1 || l.Redriven != 0 || l.Cut != "" || string(l.Body) != "5" || l.Header["Tenant"] != "acme" || l.StoredAt.IsZero() {
		t.Errorf("%d letters, the last is %+v", len(seen), l)
	}
	odd := func(l jsbroker.DeadLetter) bool { return l.Sequence%2 == 1 }
	if got, err := jsbroker.Redrive(ctx, sh.b, "graves", jsbroker.RedriveFilter(odd), jsbroker.RedriveLimit(2)); got != 2 || err != nil {
		t.Fatalf("%d, %v", got, err)
	}
	if a, b := receive(t, sh.handled), receive(t, sh.handled); string(a.Body)+string(b.Body) != "02" {
		t.Errorf("%s, %s", a.Body, b.Body)
	}
	sh.wait(t, 4)
	_, err := jsbroker.Redrive(ctx, sh.b, "graves", jsbroker.RedriveLimit(0))
	wantError(t, err, jsbroker.ErrInvalidConfig, "RedriveLimit(0)", "at least 1")
	_, err = jsbroker.Redrive(ctx, sh.b, "graves", jsbroker.RedriveFilter(nil))
	wantError(t, err, jsbroker.ErrInvalidConfig, "RedriveFilter", "nil")
	_, err = jsbroker.Redrive(ctx, sh.b, "a..b")
	wantError(t, err, jsbroker.ErrInvalidTopic)
	_, err = jsbroker.Redrive(ctx, sh.b, "nowhere")
	wantError(t, err, jsbroker.ErrStreamNotFound, "nowhere")
	_, err = jsbroker.Redrive(ctx, broker.NewMemoryBroker(), "graves")
	wantError(t, err, jsbroker.ErrForeign, "NewBroker")
	_, err = jsbroker.Redrive(ctx, jsbroker.NewBroker(quiet()), "graves")
	wantError(t, err, jsbroker.ErrNotConnected)
}

// Between publishing a letter and removing it, the worst moment.
func TestRedriveThatIsInterruptedDoublesAndLosesNothing(t *testing.T) {
	t.Parallel()
	const n = 5
	sh := newShop(t, n, natstest.Limited(natstest.NoPublish("$JS.API.STREAM.MSG.DELETE.GRAVES")))
	sh.mended.Store(true)
	limited := newBroker(t, sh.s, as("limited:pw", sh.s))
	got, err := jsbroker.Redrive(testContext(t), limited, "graves")
	wantError(t, err, jsbroker.ErrPermission, "published, but not removed", "MSG.DELETE.GRAVES")
	if got != 0 {
		t.Errorf("%d", got)
	}
	ctx, cancel := context.WithCancel(testContext(t))
	calls := 0
	got, err = jsbroker.Redrive(ctx, sh.b, "graves", jsbroker.RedriveFilter(func(jsbroker.DeadLetter) bool {
		if calls++; calls == 3 {
			cancel()
		}
		return true
	}))
	if got != 2 || !errors.Is(err, context.Canceled) {
		t.Errorf("%d, %v", got, err)
	}
	if got, err := jsbroker.Redrive(testContext(t), sh.b, "graves"); got != n-2 || err != nil {
		t.Errorf("%d, %v", got, err)
	}
	sh.wait(t, 0)
	var bodies []string
	for range n {
		bodies = append(bodies, string(receive(t, sh.handled).Body))
	}
	if want := []string{"0", "1", "2", "3", "4"}; !slices.Equal(bodies, want) || len(sh.handled) > 0 {
		t.Errorf("handled %v, and %d more", bodies, len(sh.handled))
	}
}

func TestRedriveLeavesWhatItCannotPublish(t *testing.T) {
	t.Parallel()
	sh := newShop(t, 2)
	sh.mended.Store(true)
	for header, value := range map[string]string{"Micro-Dead-Letter-Topic": "orders.%00", "Other": "x"} {
		m := nats.NewMsg("graves")
		m.Header.Set(header, value)
		_, err := sh.js.PublishMsg(testContext(t), m)
		noErr(t, err)
	}
	got, err := jsbroker.Redrive(testContext(t), sh.b, "graves")
	wantError(t, err, jsbroker.ErrInvalidTopic, "of stream GRAVES")
	if got != 2 {
		t.Errorf("%d", got)
	}
	sh.wait(t, 2)
}

// A body that does not fit the dead-letter topic stays in its stream, whoever counts the
// deliveries, and whatever the stream does with what is settled.
func TestRedriveTakesTheOriginalOfALetterThatWasCut(t *testing.T) {
	t.Parallel()
	byKey := jsbroker.OrderBy(func(e broker.Event) string { return e.Topic() })
	failed := func(broker.Event) error { return errors.New("no") }
	for name, test := range map[string]struct {
		retention jetstream.RetentionPolicy
		byServer  bool
		fails     broker.Handler
		opts      []broker.SubscribeOption
	}{
		"counted by the server":     {jetstream.WorkQueuePolicy, true, failed, nil},
		"WorkQueue":                 {jetstream.WorkQueuePolicy, false, failed, nil},
		"Interest":                  {jetstream.InterestPolicy, false, failed, nil},
		"Limits":                    {jetstream.LimitsPolicy, false, failed, nil},
		"in order":                  {jetstream.WorkQueuePolicy, false, failed, []broker.SubscribeOption{byKey, jsbroker.Concurrency(2)}},
		"one active replica":        {jetstream.WorkQueuePolicy, false, failed, []broker.SubscribeOption{byKey, jsbroker.SingleActive()}},
		"discarded":                 {jetstream.InterestPolicy, false, func(broker.Event) error { return jsbroker.Discard(nil) }, nil},
		"terminated by the handler": {jetstream.WorkQueuePolicy, false, func(e broker.Event) error { return jsbroker.Terminate(e, "no") }, []broker.SubscribeOption{broker.DisableAutoAck()}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := startServer(t)
			_, js := natsConn(t, s)
			natstest.MakeStream(t, js, jetstream.StreamConfig{Name: "GRAVES", Subjects: []string{"graves"}, MaxMsgSize: 500})
			natstest.MakeStream(t, js, jetstream.StreamConfig{Name: "ORDERS", Subjects: []string{"orders", "orders.>"}, Retention: test.retention})
			if test.byServer {
				natstest.MakeConsumer(t, js, "ORDERS", jetstream.ConsumerConfig{Durable: "q", FilterSubject: "orders.>", AckPolicy: jetstream.AckExplicitPolicy, MaxDeliver: 1})
			}
			letters, onLetter := hookChan[jsbroker.DeadLettered]()
			log := natstest.NewLog()
			b := newBroker(t, s, jsbroker.WithConsumerConfig(jetstream.ConsumerConfig{MaxDeliver: 1}), jsbroker.WithDeadLetter("graves"),
				jsbroker.WithHooks(jsbroker.Hooks{DeadLettered: onLetter}), broker.Logger(log))
			var mended atomic.Bool
			got := make(chan *broker.Message, 10)
			subscribe(t, b, "orders.>", func(e broker.Event) error {
				if !mended.Load() && e.Message().Header["Tenant"] != "good" {
					return test.fails(e)
				}
				got <- e.Message()
				return e.Ack()
			}, append(test.opts, broker.Queue("q"))...)
			body := string(make([]byte, 2000))
			noErr(t, b.Publish("orders.created", &broker.Message{Header: map[string]string{"Tenant": "acme"}, Body: []byte(body)}))
			if l := receive(t, letters); l.Err != nil || l.Cut != "body" {
				t.Errorf("%+v", l)
			}
			// Others, also of its key, go on.
			noErr(t, b.Publish("orders.created", &broker.Message{Header: map[string]string{"Tenant": "good"}}))
			receive(t, got)
			if lines := log.With("the original stays in stream ORDERS"); len(lines) != 1 || lines[0].Level != logger.ErrorLevel {
				t.Errorf("%v", lines)
			}
			mended.Store(true)
			if n, err := jsbroker.Redrive(testContext(t), b, "graves"); n != 1 || err != nil {
				t.Fatalf("%d, %v", n, err)
			}
			if m := receive(t, got); string(m.Body) != body || m.Header["Tenant"] != "acme" {
				t.Errorf("%d bytes, %v", len(m.Body), m.Header)
			}
			eventually(t, "nothing is left", func() bool {
				left := streamInfo(t, js, "ORDERS").State.Msgs
				return (left == 0 || test.retention == jetstream.LimitsPolicy) && streamInfo(t, js, "GRAVES").State.Msgs == 0
			})
			eventually(t, "nothing is unsettled", func() bool {
				c, err := js.Consumer(testContext(t), "ORDERS", "q")
				noErr(t, err)
				return c.CachedInfo().NumAckPending == 0
			})
		})
	}
}

// Somebody has removed the original, or a second letter of it was redriven before.
func TestRedriveOfALetterWithoutItsOriginal(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	nc, js := natsConn(t, s)
	// The window of duplicates is over when a message is given up again.
	natstest.MakeStream(t, js, jetstream.StreamConfig{Name: "GRAVES", Subjects: []string{"graves"}, MaxMsgSize: 500, Duplicates: 100 * time.Millisecond})
	b := newBroker(t, s, counting(t, js, true), jsbroker.WithDeadLetter("graves"))
	var mended atomic.Bool
	got := make(chan *broker.Message, 10)
	subscribe(t, b, "orders.>", func(e broker.Event) error {
		if !mended.Load() {
			return errors.New("no")
		}
		got <- e.Message()
		return nil
	}, broker.Queue("q"))
	letters := func(n int) {
		t.Helper()
		eventually(t, "the letters are there", func() bool { return streamInfo(t, js, "GRAVES").State.Msgs == uint64(n) })
	}
	publish(t, b, "orders.created", string(make([]byte, 2000)))
	letters(1)
	first := natstest.LastMessage(t, js, "GRAVES", "graves")
	st, err := js.Stream(testContext(t), "ORDERS")
	noErr(t, err)
	noErr(t, st.Purge(testContext(t)))
	n, err := jsbroker.Redrive(testContext(t), b, "graves")
	wantError(t, err, jsbroker.ErrDeadLetterCut, "ORDERS", "body")
	if n != 0 || streamInfo(t, js, "GRAVES").State.Msgs != 1 {
		t.Errorf("%d", n)
	}
	graves, err := js.Stream(testContext(t), "GRAVES")
	noErr(t, err)
	noErr(t, graves.DeleteMsg(testContext(t), first.Sequence))

	publish(t, b, "orders.created", string(make([]byte, 2000)))
	letters(1)
	again := nats.NewMsg("graves")
	again.Header = natstest.LastMessage(t, js, "GRAVES", "graves").Header
	eventually(t, "the second letter is stored", func() bool {
		noErr(t, nc.PublishMsg(again))
		noErr(t, nc.Flush())
		return streamInfo(t, js, "GRAVES").State.Msgs == 2
	})
	mended.Store(true)
	if n, err := jsbroker.Redrive(testContext(t), b, "graves"); n != 2 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	receive(t, got)
	letters(0)
}

// newCutShop is newShop with letters that lack their body.
func newCutShop(t *testing.T, n int, change ...func(*server.Options)) *shop {
	t.Helper()
	sh := newShop(t, 0, change...)
	natstest.MakeStream(t, sh.js, jetstream.StreamConfig{Name: "GRAVES", Subjects: []string{"graves"}, MaxMsgSize: 500})
	sh.fill(t, n)
	return sh
}

// fill gives messages up that are too large for their letters.
func (sh *shop) fill(t *testing.T, n int) {
	t.Helper()
	before := streamInfo(t, sh.js, "GRAVES").State.Msgs
	for i := range n {
		publish(t, sh.b, "orders.created", fmt.Sprintf("%d %02000d", i, 0))
	}
	eventually(t, "the letters are there", func() bool { return streamInfo(t, sh.js, "GRAVES").State.Msgs == before+uint64(n) })
}

// once waits until each of the messages was handled, and nothing is left.
func (sh *shop) once(t *testing.T, n int) {
	t.Helper()
	sh.wait(t, 0)
	seen := map[string]bool{}
	for range n {
		body := string(receive(t, sh.handled).Body)
		if seen[body] {
			t.Errorf("%.10s is handled twice", body)
		}
		seen[body] = true
	}
	if more := len(sh.handled); more > 0 {
		t.Errorf("%d more", more)
	}
}

// The original of a letter must not go before it: the next call could not tell whether
// it was published.
func TestRedriveOfACutLetterByAUserWhoMayNotRemove(t *testing.T) {
	t.Parallel()
	for name, denied := range map[string]string{"the letter": "$JS.API.STREAM.MSG.DELETE.GRAVES", "the original": "$JS.API.STREAM.MSG.DELETE.ORDERS"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			sh := newCutShop(t, 3, natstest.Limited(natstest.NoPublish(denied)))
			sh.mended.Store(true)
			limited := newBroker(t, sh.s, as("limited:pw", sh.s))
			for range 2 {
				n, err := jsbroker.Redrive(testContext(t), limited, "graves")
				wantError(t, err, jsbroker.ErrPermission, "letter 1 of stream GRAVES", denied)
				if n != 0 || streamInfo(t, sh.js, "GRAVES").State.Msgs != 3 {
					t.Errorf("%d redriven", n)
				}
			}
			if n, err := jsbroker.Redrive(testContext(t), sh.b, "graves"); n != 3 || err != nil {
				t.Errorf("%d, %v", n, err)
			}
			sh.once(t, 3)
		})
	}
}

// Each call is interrupted a request later than the one before.
func TestRedriveOfCutLettersInterruptedAtAnyRequest(t *testing.T) {
	t.Parallel()
	const n = 10
	sh := newCutShop(t, n)
	sh.mended.Store(true)
	nc, _ := natsConn(t, sh.s)
	requests := make(chan struct{}, 1000)
	for _, subject := range []string{"$JS.API.STREAM.>", "orders.created"} {
		_, err := nc.Subscribe(subject, func(*nats.Msg) { requests <- struct{}{} })
		noErr(t, err)
	}
	noErr(t, nc.Flush())
	all := 0
	for after := 3; ; after++ {
		ctx, cancel := context.WithCancel(testContext(t))
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			for range after {
				select {
				case <-requests:
				case <-ctx.Done():
					return
				}
			}
			cancel()
		}()
		got, err := jsbroker.Redrive(ctx, sh.b, "graves")
		all += got
		done := err == nil
		cancel()
		<-ended
		if done {
			break
		}
		if !errors.Is(err, context.Canceled) {
			t.Fatalf("interrupted after %d requests: %v", after, err)
		}
		for len(requests) > 0 {
			<-requests
		}
	}
	if all != n {
		t.Errorf("%d letters of %d", all, n)
	}
	sh.once(t, n)
}

func TestRedriveOfCutLettersBesideAnotherCall(t *testing.T) {
	t.Parallel()
	const n = 20
	sh := newCutShop(t, n)
	sh.mended.Store(true)
	ctx := testContext(t)
	inner := 0
	// The inner call comes between reading the first letter and reading its original.
	outer, err := jsbroker.Redrive(ctx, sh.b, "graves", jsbroker.RedriveFilter(func(l jsbroker.DeadLetter) bool {
		if l.Sequence == 1 {
			var err error
			if inner, err = jsbroker.Redrive(ctx, sh.b, "graves", jsbroker.RedriveLimit(n/2)); err != nil {
				t.Error(err)
			}
		}
		return true
	}))
	if err != nil || inner != n/2 || outer != n/2 {
		t.Errorf("%d and %d of %d letters: %v", inner, outer, n, err)
	}
	sh.once(t, n)
	sh.mended.Store(false)
	sh.fill(t, n)
	sh.mended.Store(true)
	fourRedrive(t, sh.b, n)
	sh.once(t, n)
}

// fourRedrive calls Redrive four times at a time: together they count each of n letters
// once.
func fourRedrive(t *testing.T, b broker.Broker, n int) {
	t.Helper()
	ctx := testContext(t)
	var all atomic.Int64
	var calls sync.WaitGroup
	for range 4 {
		calls.Go(func() {
			got, err := jsbroker.Redrive(ctx, b, "graves")
			if err != nil {
				t.Error(err)
			}
			all.Add(int64(got))
		})
	}
	calls.Wait()
	if all.Load() != int64(n) {
		t.Errorf("four calls count %d of %d letters", all.Load(), n)
	}
}

// Two queues have given up the same message, and each letter refers to it.
func TestRedriveOfCutLettersOfTwoQueues(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	_, js := natsConn(t, s)
	natstest.MakeStream(t, js, jetstream.StreamConfig{Name: "GRAVES", Subjects: []string{"graves"}, MaxMsgSize: 500})
	b := newBroker(t, s, jsbroker.WithStreamConfig(jetstream.StreamConfig{Retention: jetstream.InterestPolicy}),
		jsbroker.WithConsumerConfig(jetstream.ConsumerConfig{MaxDeliver: 1}), jsbroker.WithDeadLetter("graves"))
	var mended atomic.Bool
	got := make(chan string, 10)
	for _, queue := range []string{"billing", "shipping"} {
		subscribe(t, b, "orders.created", func(broker.Event) error {
			if !mended.Load() {
				return errors.New("no")
			}
			got <- queue
			return nil
		}, broker.Queue(queue))
	}
	giveUp := func() {
		t.Helper()
		mended.Store(false)
		publish(t, b, "orders.created", string(make([]byte, 2000)))
		eventually(t, "the letters are there", func() bool { return streamInfo(t, js, "GRAVES").State.Msgs == 2 })
		mended.Store(true)
	}
	each := func() {
		t.Helper()
		if one, two := receive(t, got), receive(t, got); one == two {
			t.Errorf("%s gets it twice", one)
		}
		eventually(t, "nothing is left", func() bool { return streamInfo(t, js, "ORDERS").State.Msgs == 0 })
	}
	giveUp()
	if n, err := jsbroker.Redrive(testContext(t), b, "graves"); n != 2 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	each()
	giveUp()
	billing := func(l jsbroker.DeadLetter) bool { return l.Queue == "billing" }
	if n, err := jsbroker.Redrive(testContext(t), b, "graves", jsbroker.RedriveFilter(billing)); n != 1 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	each()
	n, err := jsbroker.Redrive(testContext(t), b, "graves")
	wantError(t, err, jsbroker.ErrDeadLetterCut, "another letter of the same message", `"redrive:ORDERS:3:`, "remove the letter")
	if n != 0 || len(got) > 0 {
		t.Errorf("%d letters, %d messages", n, len(got))
	}
}

func TestRedriveRefusesAStreamThatKeepsEverything(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	_, js := natsConn(t, s)
	natstest.MakeStream(t, js, jetstream.StreamConfig{Name: "GRAVES", Subjects: []string{"graves"}, DenyDelete: true})
	_, err := jsbroker.Redrive(testContext(t), newBroker(t, s), "graves")
	wantError(t, err, jsbroker.ErrInvalidConfig, "DenyDelete", "GRAVES")
}

// Each letter is published once and counted by one call, however many are made at a time.
func TestRedriveBesideAnotherCall(t *testing.T) {
	t.Parallel()
	const n = 40
	sh := newShop(t, n)
	sh.mended.Store(true)
	ctx := testContext(t)
	first := true
	inner := 0
	// The inner call comes between reading and publishing the first letter.
	outer, err := jsbroker.Redrive(ctx, sh.b, "graves", jsbroker.RedriveFilter(func(jsbroker.DeadLetter) bool {
		if first {
			first = false
			var err error
			if inner, err = jsbroker.Redrive(ctx, sh.b, "graves", jsbroker.RedriveLimit(n/2)); err != nil {
				t.Error(err)
			}
		}
		return true
	}))
	if err != nil || inner != n/2 || outer != n/2 {
		t.Errorf("%d and %d of %d letters: %v", inner, outer, n, err)
	}
	sh.wait(t, 0)
	sh.mended.Store(false)
	for i := range n {
		publish(t, sh.b, "orders.created", fmt.Sprint(n+i))
	}
	sh.wait(t, n)
	sh.mended.Store(true)
	fourRedrive(t, sh.b, n)
	sh.wait(t, 0)
	seen := map[string]bool{}
	for range 2 * n {
		body := string(receive(t, sh.handled).Body)
		if seen[body] {
			t.Errorf("%s is handled twice", body)
		}
		seen[body] = true
	}
	if more := len(sh.handled); more > 0 {
		t.Errorf("%d more", more)
	}
}

// A stream with Interest retention acknowledges what no consumer wants, and drops it.
func TestRedriveLeavesWhatAStreamWouldNotKeep(t *testing.T) {
	t.Parallel()
	srv := startServer(t)
	_, js := natsConn(t, srv)
	ctx := testContext(t)
	b := newBroker(t, srv, jsbroker.WithDeadLetter("graves"), jsbroker.WithStreamConfig(jetstream.StreamConfig{Retention: jetstream.InterestPolicy}))
	noErr(t, subscribe(t, newBroker(t, srv), "graves", ignore, broker.Queue("other")).Unsubscribe()) // a WorkQueue stream
	noErr(t, js.DeleteConsumer(ctx, "GRAVES", "other"))
	sub := subscribe(t, b, "orders.created", func(broker.Event) error { return jsbroker.Discard(errors.New("not yet")) }, broker.Queue("q"))
	publish(t, b, "orders.created", "precious")
	eventually(t, "there is a letter", func() bool { return streamInfo(t, js, "GRAVES").State.Msgs == 1 })
	noErr(t, sub.Unsubscribe())
	noErr(t, js.DeleteConsumer(ctx, "ORDERS", "q"))
	subscribe(t, b, "orders.paid", ignore, broker.Queue("q")) // which does not want it

	n, err := jsbroker.Redrive(ctx, b, "graves")
	wantError(t, err, jsbroker.ErrInvalidConfig, "letter 1 of stream GRAVES", "stream ORDERS", "Interest", "orders.created", "subscribe")
	if n != 0 || streamInfo(t, js, "GRAVES").State.Msgs != 1 {
		t.Fatalf("%d redriven, %d letters left", n, streamInfo(t, js, "GRAVES").State.Msgs)
	}

	h, got := collector()
	subscribe(t, b, "orders.created", h, broker.Queue("back"))
	n, err = jsbroker.Redrive(ctx, b, "graves") // at once, within the duplicates window
	noErr(t, err)
	if body := receive(t, got); n != 1 || body != "precious" {
		t.Errorf("%d redriven, got %q", n, body)
	}
	if left := streamInfo(t, js, "GRAVES").State.Msgs; left != 0 {
		t.Errorf("%d letters left", left)
	}
}
