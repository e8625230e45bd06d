package broker_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go-micro.dev/v5/broker"

	jsbroker "go-micro-jetstream/broker"
	"go-micro-jetstream/internal/natstest"
)

func TestPublishedMessagesArriveInOrder(t *testing.T) {
	t.Parallel()
	b := newBroker(t, startServer(t))
	h, got := collector()
	for _, body := range []string{"1", "2", "3"} {
		publish(t, b, "orders.created", body)
	}
	subscribe(t, b, "orders.created", h)
	for _, want := range []string{"1", "2", "3"} {
		if body := receive(t, got); body != want {
			t.Fatalf("got %q, want %q", body, want)
		}
	}
}

func TestPublishReturnsWhenTheMessageIsStored(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	_, js := natsConn(t, s)
	published, onPublished := hookChan[jsbroker.Published]()
	b := newBroker(t, s, jsbroker.WithHooks(jsbroker.Hooks{Published: onPublished}))
	for n := uint64(1); n <= 20; n++ {
		publish(t, b, "orders.created", "x")
		if stored := streamInfo(t, js, "ORDERS").State.Msgs; stored != n {
			t.Fatalf("%d messages stored after %d publishes", stored, n)
		}
		e := receive(t, published)
		if e.Topic != "orders.created" || e.Stream != "ORDERS" || e.Sequence != n || e.Size != 1 ||
			e.MessageID == "" || e.Duplicate || e.Err != nil || e.Reason != "" || e.Duration <= 0 {
			t.Fatalf("event %+v", e)
		}
	}
}

func TestEachPublishHasItsOwnMessageID(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	_, js := natsConn(t, s)
	b := newBroker(t, s)
	m := message("same")
	for range 3 {
		if err := b.Publish("orders", m); err != nil {
			t.Fatal(err)
		}
	}
	if n := streamInfo(t, js, "ORDERS").State.Msgs; n != 3 {
		t.Fatalf("%d stored, want 3: equal messages are no duplicates", n)
	}
	if id := natstest.LastMessage(t, js, "ORDERS", "orders").Header.Get(nats.MsgIdHdr); id == "" {
		t.Fatal("no message id on the wire: the client's retries would store twice")
	}
}

func TestDuplicateMessageIDSucceedsStoresNothingAndShowsInTheEvent(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	_, js := natsConn(t, s)
	published, onPublished := hookChan[jsbroker.Published]()
	b := newBroker(t, s, jsbroker.WithHooks(jsbroker.Hooks{Published: onPublished}))
	for i := range 3 {
		publish(t, b, "orders.created", "x", jsbroker.MessageID("order-1"))
		e := receive(t, published)
		if e.Duplicate != (i > 0) || e.MessageID != "order-1" || e.Sequence != 1 || e.Stream != "ORDERS" || e.Err != nil {
			t.Fatalf("publish %d: event %+v", i, e)
		}
	}
	if n := streamInfo(t, js, "ORDERS").State.Msgs; n != 1 {
		t.Fatalf("%d messages stored, want 1", n)
	}
	// Another broker, as after a restart, and the same id.
	publish(t, newBroker(t, s), "orders.created", "x", jsbroker.MessageID("order-1"))
	if n := streamInfo(t, js, "ORDERS").State.Msgs; n != 1 {
		t.Fatalf("%d messages stored, want 1", n)
	}
}

type contextKey struct{}

// foreignPublishOption is how other packages write options: on top of the
// context that is there.
func foreignPublishOption(o *broker.PublishOptions) {
	ctx := o.Context
	if ctx == nil {
		ctx = context.Background()
	}
	o.Context = context.WithValue(ctx, contextKey{}, "foreign")
}

func TestPublishOptionsWorkInEitherOrder(t *testing.T) {
	t.Parallel()
	type seen struct {
		id    string
		value any
		err   error
	}
	starts := make(chan seen, 100)
	b := newBroker(t, startServer(t), jsbroker.WithHooks(jsbroker.Hooks{
		PublishStart: func(ctx context.Context, e jsbroker.PublishStart) context.Context {
			starts <- seen{e.MessageID, ctx.Value(contextKey{}), ctx.Err()}
			return nil
		},
	}))
	with := broker.PublishContext(context.WithValue(context.Background(), contextKey{}, "mine"))
	cancelled, cancel := context.WithCancel(context.Background())
	cancel()
	for name, c := range map[string]struct {
		opts []broker.PublishOption
		want seen
	}{
		"id first":              {[]broker.PublishOption{jsbroker.MessageID("a"), with}, seen{"a", "mine", nil}},
		"context first":         {[]broker.PublishOption{with, jsbroker.MessageID("b")}, seen{"b", "mine", nil}},
		"last id":               {[]broker.PublishOption{jsbroker.MessageID("x"), with, jsbroker.MessageID("c")}, seen{"c", "mine", nil}},
		"nil option":            {[]broker.PublishOption{nil, jsbroker.MessageID("d"), nil}, seen{"d", nil, nil}},
		"nil context":           {[]broker.PublishOption{jsbroker.MessageID("e"), broker.PublishContext(nilContext)}, seen{"e", nil, nil}},
		"foreign after context": {[]broker.PublishOption{jsbroker.MessageID("f"), broker.PublishContext(cancelled), foreignPublishOption}, seen{"f", "foreign", context.Canceled}},
		"id after foreign":      {[]broker.PublishOption{foreignPublishOption, jsbroker.MessageID("g")}, seen{"g", "foreign", nil}},
	} {
		err := b.Publish("orders", message("x"), c.opts...)
		if !errors.Is(err, c.want.err) {
			t.Errorf("%s: %v", name, err)
		}
		if got := receive(t, starts); got != c.want {
			t.Errorf("%s: the publish ran with %+v, want %+v", name, got, c.want)
		}
	}
}

func TestPublishWithAnEndedContextSendsNothing(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	nc, js := natsConn(t, s)
	b := newBroker(t, s)
	count := natstest.CountRequests(t, nc, ">")
	cancelled, cancel := context.WithCancel(context.Background())
	cancel()
	late, cancel := context.WithDeadline(context.Background(), time.Now().Add(-time.Second))
	defer cancel()
	for ctx, want := range map[context.Context]error{cancelled: context.Canceled, late: context.DeadlineExceeded} {
		err := b.Publish("orders", message("x"), broker.PublishContext(ctx))
		wantError(t, err, want, "orders", "not sent")
		if errors.Is(err, jsbroker.ErrPublishUnknown) {
			t.Errorf("nothing was sent, and yet: %v", err)
		}
	}
	if n := count.Seen(t); n != 0 {
		t.Errorf("%d messages on the wire", n)
	}
	if _, err := js.Stream(testContext(t), "ORDERS"); !errors.Is(err, jetstream.ErrStreamNotFound) {
		t.Errorf("a stream was created: %v", err)
	}
}

func TestPublishWithoutConnection(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	b := jsbroker.NewBroker(broker.Addrs(s.ClientURL()), quiet())
	wantError(t, b.Publish("orders", message("x")), jsbroker.ErrNotConnected, "orders")
	if err := b.Connect(); err != nil {
		t.Fatal(err)
	}
	publish(t, b, "orders", "x")
	if err := b.Disconnect(); err != nil {
		t.Fatal(err)
	}
	wantError(t, b.Publish("orders", message("x")), jsbroker.ErrNotConnected, "orders")
	if err := b.Connect(); err != nil {
		t.Fatal(err)
	}
	publish(t, b, "orders", "x")
	if err := b.Disconnect(); err != nil {
		t.Fatal(err)
	}
}

func TestPublishNilMessageIsAnError(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	wantError(t, newBroker(t, s).Publish("orders", nil), jsbroker.ErrInvalidMessage, "orders")
	published, onPublished := hookChan[jsbroker.Published]()
	b := newBroker(t, s, jsbroker.WithHooks(jsbroker.Hooks{Published: onPublished}))
	wantError(t, b.Publish("orders", nil), jsbroker.ErrInvalidMessage)
	if e := receive(t, published); e.Reason != "invalid_message" || e.Err == nil || e.Topic != "orders" {
		t.Fatalf("event %+v", e)
	}
	wantError(t, jsbroker.NewBroker(quiet()).Publish("orders", nil), jsbroker.ErrInvalidMessage)
}

func TestPublishEmptyMessageIsFine(t *testing.T) {
	t.Parallel()
	b := newBroker(t, startServer(t))
	if err := b.Publish("orders", &broker.Message{}); err != nil {
		t.Fatal(err)
	}
	got := make(chan *broker.Message, 1)
	subscribe(t, b, "orders", func(e broker.Event) error { got <- e.Message(); return nil })
	if m := receive(t, got); len(m.Body) != 0 || m.Header == nil {
		t.Fatalf("got %+v", m)
	}
}

// illegalTopics cannot be published to, nor subscribed to.
var illegalTopics = map[string]string{
	"empty":            "",
	"empty token":      "a..b",
	"leading dot":      ".a",
	"trailing dot":     "a.",
	"dot":              ".",
	"blank":            "a b",
	"tab":              "a.\tb",
	"CRLF":             "a\r\nPUB b 0\r\n",
	"NUL":              "a\x00b",
	"DEL":              "a\x7f",
	"bad UTF-8":        "a\xff",
	"JetStream's API":  "$JS.API.STREAM.DELETE.ORDERS",
	"system":           "$SYS.REQ.SERVER.PING",
	"dollar":           "$",
	"inbox":            "_INBOX.abc",
	"bare inbox":       "_INBOX",
	"partial wildcard": "orders.a*",
	"partial >":        "orders.>x",
	"wildcard first":   "*.created",
	"everything":       ">",
	"star":             "*",
	"> in the middle":  "orders.>.x",
	"next line":        "orders.a\u0085b",
	"no-break space":   "orders.a\u00a0b",
	"line separator":   "orders.\u2028b",
	"over-long":        strings.Repeat("x", 256),
	"over-long tokens": strings.Repeat("x.", 200) + "x",
}

func TestIllegalTopicsAreRefusedBeforeAnythingIsSent(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	nc, _ := natsConn(t, s)
	b := newBroker(t, s)
	count := natstest.CountRequests(t, nc, "$JS.API.>")
	for name, topic := range illegalTopics {
		err := b.Publish(topic, message("x"))
		if !errors.Is(err, jsbroker.ErrInvalidTopic) {
			t.Errorf("publish, %s: %v", name, err)
		}
		if err != nil && len(err.Error()) > 400 {
			t.Errorf("publish, %s: an error of %d bytes floods the log", name, len(err.Error()))
		}
		if _, err := b.Subscribe(topic, ignore); !errors.Is(err, jsbroker.ErrInvalidTopic) {
			t.Errorf("subscribe, %s: %v", name, err)
		}
	}
	for _, topic := range []string{"orders.*", "orders.>", "orders.*.x"} {
		wantError(t, b.Publish(topic, message("x")), jsbroker.ErrInvalidTopic, topic, "Subscribe")
	}
	if n := count.Seen(t); n != 0 {
		t.Errorf("%d requests to the server", n)
	}
}

func TestUnusualTopicsWork(t *testing.T) {
	t.Parallel()
	ended, onEnd := hookChan[jsbroker.SubscriptionEnd]()
	b := newBroker(t, startServer(t), jsbroker.WithHooks(jsbroker.Hooks{SubscriptionEnd: onEnd}))
	for _, topic := range []string{
		"a", "1", "-", "_x", "grüße.größe", "日本.東京", "a.$b", "a._INBOX", "go.micro.Topic-1",
		"x." + strings.Repeat("y", 253), strings.Repeat("z", 255),
		"deep." + strings.Repeat("a.", 100) + "a", "slash.a/b\\c", `quote."x"`, "percent.%s%d",
	} {
		for _, opts := range [][]broker.SubscribeOption{nil, {broker.Queue("q")}} {
			h, got := collector()
			publish(t, b, topic, "x")
			sub := subscribe(t, b, topic, h, opts...)
			if body := receive(t, got); body != "x" {
				t.Errorf("%q: got %q", topic, body)
			}
			if err := sub.Unsubscribe(); err != nil {
				t.Fatal(err)
			}
			receive(t, ended)
		}
	}
}

func TestTooLargeMessageIsRefusedWithSizeAndLimit(t *testing.T) {
	t.Parallel()
	s := startServer(t, func(o *server.Options) { o.MaxPayload = 2000 })
	_, js := natsConn(t, s)
	b := newBroker(t, s)
	publish(t, b, "orders", "first")
	err := b.Publish("orders", message(strings.Repeat("x", 5000)))
	wantError(t, err, jsbroker.ErrMessageTooLarge, "5", "2000")

	// Headers count, the broker's own too. What the server counts is found by
	// trying: exactly at the limit it is stored, one byte above it is not.
	id := jsbroker.MessageID("id-0")
	header := map[string]string{"Key": strings.Repeat("v", 500)}
	fits := 0
	for size := 2000; size > 0; size-- {
		err := b.Publish("orders", &broker.Message{Header: header, Body: make([]byte, size)}, id)
		if err == nil {
			fits = size
			break
		}
		wantError(t, err, jsbroker.ErrMessageTooLarge, "2000")
		if errors.Is(err, jsbroker.ErrPublishUnknown) {
			t.Fatal(err)
		}
	}
	m := natstest.LastMessage(t, js, "ORDERS", "orders")
	onWire := (&nats.Msg{Header: m.Header, Data: m.Data}).Size()
	if onWire != 2000 || len(m.Data) != fits {
		t.Fatalf("the largest accepted message has %d bytes, want exactly 2000", onWire)
	}
	err = b.Publish("orders", &broker.Message{Header: header, Body: make([]byte, fits+1)}, id)
	wantError(t, err, jsbroker.ErrMessageTooLarge, "2001", "2000")
	// The connection survived all that.
	publish(t, b, "orders", "last")
	if conns := s.NumClients(); conns != 2 {
		t.Fatalf("%d clients", conns)
	}
}

func TestRefusalsOfTheStreamAreTyped(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	_, js := natsConn(t, s)
	b := newBroker(t, s)
	large := strings.Repeat("x", 2000)
	for _, c := range []struct {
		cfg    jetstream.StreamConfig
		bodies []string // all but the last are accepted
		want   error
	}{
		{jetstream.StreamConfig{Name: "MSGS", MaxMsgs: 2, Discard: jetstream.DiscardNew}, []string{"1", "2", "3"}, jsbroker.ErrStreamFull},
		{jetstream.StreamConfig{Name: "BYTES", MaxBytes: 3000, Discard: jetstream.DiscardNew}, []string{large, large}, jsbroker.ErrStreamFull},
		{jetstream.StreamConfig{Name: "PERSUBJECT", MaxMsgsPerSubject: 1, DiscardNewPerSubject: true, Discard: jetstream.DiscardNew}, []string{"1", "2"}, jsbroker.ErrStreamFull},
		{jetstream.StreamConfig{Name: "SIZE", MaxMsgSize: 1000}, []string{"1", large}, jsbroker.ErrMessageTooLarge},
		{jetstream.StreamConfig{Name: "SEALED", Sealed: false, MaxMsgs: 1, Discard: jetstream.DiscardNew, Retention: jetstream.WorkQueuePolicy}, []string{"1", "2"}, jsbroker.ErrStreamFull},
	} {
		topic := strings.ToLower(c.cfg.Name)
		c.cfg.Subjects = []string{topic}
		natstest.MakeStream(t, js, c.cfg)
		for _, body := range c.bodies[:len(c.bodies)-1] {
			publish(t, b, topic, body)
		}
		var err error
		atOnce(t, "a definite refusal by "+c.cfg.Name, func() { err = b.Publish(topic, message(c.bodies[len(c.bodies)-1])) })
		wantError(t, err, c.want, topic, c.cfg.Name)
		if errors.Is(err, jsbroker.ErrPublishUnknown) {
			t.Errorf("nothing was stored, and yet: %v", err)
		}
		if n := streamInfo(t, js, c.cfg.Name).State.Msgs; n != uint64(len(c.bodies)-1) {
			t.Errorf("%s: %d messages stored", c.cfg.Name, n)
		}
	}
}

func TestStreamThatWasFullAcceptsAgain(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	b := newBroker(t, s, jsbroker.WithStreamConfig(jetstream.StreamConfig{MaxMsgs: 1, Discard: jetstream.DiscardNew, Retention: jetstream.WorkQueuePolicy}))
	publish(t, b, "orders", "1")
	wantError(t, b.Publish("orders", message("2")), jsbroker.ErrStreamFull, "ORDERS")
	h, got := collector()
	subscribe(t, b, "orders", h)
	receive(t, got)
	eventually(t, "there is room again", func() bool { return b.Publish("orders", message("3")) == nil })
}

func TestPublishedMessageBelongsToTheCaller(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	spoil := func(_ context.Context, e jsbroker.PublishStart) context.Context {
		for k := range e.Header {
			delete(e.Header, k)
		}
		e.Header["Hook"] = "was here"
		return nil
	}
	for name, b := range map[string]broker.Broker{
		"without hooks": newBroker(t, s),
		"with hooks":    newBroker(t, s, jsbroker.WithHooks(jsbroker.Hooks{PublishStart: spoil})),
	} {
		header := map[string]string{"traceparent": "a", "Traceparent": "b", ":path": "c", "X": " y "}
		m := &broker.Message{Header: header, Body: []byte("body")}
		if err := b.Publish("orders", m); err != nil {
			t.Fatal(err)
		}
		if len(header) != 4 || header["traceparent"] != "a" || header["Traceparent"] != "b" || header[":path"] != "c" || header["X"] != " y " || string(m.Body) != "body" {
			t.Errorf("%s: the caller's message is now %v %q", name, header, m.Body)
		}
		without := message("x")
		if err := b.Publish("orders", without); err != nil {
			t.Fatal(err)
		}
		if without.Header != nil {
			t.Errorf("%s: a header was put into the caller's message: %v", name, without.Header)
		}
	}
}

func TestConcurrentPublishers(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	_, js := natsConn(t, s)
	b := newBroker(t, s)
	m := &broker.Message{Header: map[string]string{"k": "v"}, Body: []byte("shared")}
	const publishers, each = 8, 25
	var wg sync.WaitGroup
	for p := range publishers {
		wg.Go(func() {
			for i := range each {
				if err := b.Publish(fmt.Sprintf("orders.p%d.%d", p, i%3), m); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if n := streamInfo(t, js, "ORDERS").State.Msgs; n != publishers*each {
		t.Fatalf("%d stored, want %d", n, publishers*each)
	}
}

// One of several publishers writes the messages of all. Whoever gives up has its
// body back when Publish returns, and is told the truth about the message.
func TestPublishersThatGiveUpAmongOthers(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	_, js := natsConn(t, s)
	b := newBroker(t, s)
	publish(t, b, "orders", "first")
	var mu sync.Mutex
	stored, unknown := map[string]bool{}, map[string]bool{}
	var publishers sync.WaitGroup
	for i := range 16 {
		publishers.Go(func() {
			body := make([]byte, 4<<10)
			for j := range 100 {
				id := fmt.Sprintf("%02d-%03d", i, j)
				fill(body, id)
				ctx, cancel := context.WithTimeout(context.Background(), time.Duration(rand.IntN(1000))*time.Microsecond)
				err := b.Publish("orders", &broker.Message{Body: body}, broker.PublishContext(ctx))
				fill(body, "xx-xxx")
				cancel()
				mu.Lock()
				switch {
				case err == nil:
					stored[id] = true
				case errors.Is(err, jsbroker.ErrPublishUnknown):
					unknown[id] = true
				}
				mu.Unlock()
			}
		})
	}
	publishers.Wait()
	publish(t, b, "orders", "last") // what was sent before is stored
	st, err := js.Stream(testContext(t), "ORDERS")
	if err != nil {
		t.Fatal(err)
	}
	for seq := uint64(2); seq < streamInfo(t, js, "ORDERS").State.LastSeq; seq++ {
		m, err := st.GetMsg(testContext(t), seq)
		if err != nil {
			t.Fatal(err)
		}
		id := string(m.Data[:6])
		if want := make([]byte, len(m.Data)); !bytes.Equal(fill(want, id), m.Data) {
			t.Fatalf("message %s was sent while its publisher changed it", id)
		}
		if !stored[id] && !unknown[id] {
			t.Errorf("%s is stored, and its publisher was told that it is not", id)
		}
		delete(stored, id)
	}
	if len(stored) > 0 {
		t.Errorf("%d messages are said to be stored and are not", len(stored))
	}
}

// fill repeats a text until the body is full.
func fill(body []byte, text string) []byte {
	for n := 0; n < len(body); {
		n += copy(body[n:], text)
	}
	return body
}

func TestDeadlineOnAStalledServerLeavesTheOutcomeUnknownAndTheRetrySafe(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	_, js := natsConn(t, s)
	p := natstest.StartProxy(t, s)
	published, onPublished := hookChan[jsbroker.Published]()
	b := newBroker(t, s, broker.Addrs(p.URL()), jsbroker.WithHooks(jsbroker.Hooks{Published: onPublished}))
	publish(t, b, "orders", "first")
	receive(t, published)

	p.Stall()
	ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
	defer cancel()
	var err error
	atOnce(t, "a Publish with a deadline of 200ms", func() { err = b.Publish("orders", message("second"), broker.PublishContext(ctx)) })
	wantError(t, err, jsbroker.ErrPublishUnknown, "orders")
	wantError(t, err, context.DeadlineExceeded)
	var failed *jsbroker.PublishError
	if !errors.As(err, &failed) || failed.MessageID == "" || failed.Topic != "orders" {
		t.Fatalf("no message id to retry with: %#v", err)
	}
	if e := receive(t, published); e.Reason != "outcome_unknown" || e.MessageID != failed.MessageID {
		t.Fatalf("event %+v", e)
	}
	// It is stored: only the answer is missing.
	eventually(t, "the second message is stored", func() bool { return streamInfo(t, js, "ORDERS").State.Msgs == 2 })
	p.Resume()
	publish(t, b, "orders", "second", jsbroker.MessageID(failed.MessageID))
	if e := receive(t, published); !e.Duplicate {
		t.Fatalf("event %+v, want a duplicate", e)
	}
	if n := streamInfo(t, js, "ORDERS").State.Msgs; n != 2 {
		t.Fatalf("%d stored, want 2", n)
	}
}

func TestCancellationEndsAWaitingPublish(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	p := natstest.StartProxy(t, s)
	b := newBroker(t, s, broker.Addrs(p.URL()))
	publish(t, b, "orders", "first")
	p.Stall()
	ctx, cancel := context.WithCancel(context.Background())
	_, js := natsConn(t, s)
	result := make(chan error, 1)
	go func() { result <- b.Publish("orders", message("second"), broker.PublishContext(ctx)) }()
	eventually(t, "it is sent", func() bool { return streamInfo(t, js, "ORDERS").State.Msgs == 2 })
	cancel()
	err := receive(t, result)
	wantError(t, err, context.Canceled)
	wantError(t, err, jsbroker.ErrPublishUnknown)
	p.Resume()
}

func TestLostAnswerIsAskedForAgainWithTheSameID(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	nc, js := natsConn(t, s)
	p := natstest.StartProxy(t, s)
	b := newBroker(t, s, broker.Addrs(p.URL()))
	publish(t, b, "orders", "first")
	sent := natstest.Listen(t, nc, "orders")
	p.Stall()
	result := make(chan error, 1)
	go func() { result <- b.Publish("orders", message("second"), broker.PublishContext(testContext(t))) }()
	first, again := receive(t, sent), receive(t, sent)
	if a, b := first.Header.Get(nats.MsgIdHdr), again.Header.Get(nats.MsgIdHdr); a == "" || a != b {
		t.Fatalf("sent with the ids %q and %q", a, b)
	}
	p.Resume()
	if err := receive(t, result); err != nil {
		t.Fatal(err)
	}
	if n := streamInfo(t, js, "ORDERS").State.Msgs; n != 2 {
		t.Fatalf("%d stored, want 2", n)
	}
}

// A server that takes longer for an answer than a try waits is asked again, and the
// answer to the earlier copy counts: else no publish would end before its deadline.
func TestAnswersThatTakeLongCount(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	nc, js := natsConn(t, s)
	slow := natstest.StartDelay(t, s)
	b := newBroker(t, s, broker.Addrs(slow.URL()))
	publish(t, b, "orders", "first")
	copies, err := nc.SubscribeSync("orders")
	noErr(t, err)
	noErr(t, nc.Flush())
	slow.Set(1500 * time.Millisecond) // an answer takes three seconds, and a try waits for two
	publish(t, b, "orders", "second")
	publishAsync(t, b, "orders", "third")
	eventually(t, "all are stored", func() bool { return streamInfo(t, js, "ORDERS").State.Msgs == 3 })
	slow.Set(0)
	publish(t, b, "orders", "fourth")
	noErr(t, nc.Flush())
	if n, _, _ := copies.Pending(); n > 9 { // three each is what five seconds allow
		t.Errorf("%d copies were sent of 3 messages", n)
	}
}

// An acknowledgement that comes between two tries counts, too: the publish ends with it, and
// not with the look-up of a stream that has not answered two tries.
func TestAnswersBetweenTriesCount(t *testing.T) {
	t.Parallel()
	for name, publishIt := range map[string]func(broker.Broker, func(error)){
		"sync": func(b broker.Broker, done func(error)) {
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			done(b.Publish("orders", message("second"), broker.PublishContext(ctx)))
		},
		"async": func(b broker.Broker, done func(error)) {
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			if err := b.Publish("orders", message("second"), broker.PublishContext(ctx), jsbroker.Async(done)); err != nil {
				done(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := startServer(t)
			nc, js := natsConn(t, s)
			proxy := natstest.StartProxy(t, s)
			b := newBroker(t, s, broker.Addrs(proxy.URL()))
			publish(t, b, "orders", "first")
			cfg := streamInfo(t, js, "ORDERS").Config
			cfg.NoAck = true
			natstest.UpdateStream(t, js, cfg)
			copies := natstest.Listen(t, nc, "orders")
			looking := proxy.Lose("STREAM.NAMES")
			got := make(chan error, 1)
			go publishIt(b, func(err error) { got <- err })
			first := receive(t, copies)
			eventually(t, "the stream is looked up", looking)
			noErr(t, first.Respond([]byte(`{"stream":"ORDERS","seq":2}`)))
			noErr(t, receive(t, got))
			if n := len(copies); n != 1 {
				t.Errorf("%d more copies were sent", n)
			}
		})
	}
}

// The stream calls a repeated try a duplicate, but nobody has published twice.
func TestOwnRetryIsNoDuplicate(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	_, js := natsConn(t, s)
	p := natstest.StartProxy(t, s)
	published, onPublished := hookChan[jsbroker.Published]()
	b := newBroker(t, s, broker.Addrs(p.URL()), jsbroker.WithHooks(jsbroker.Hooks{Published: onPublished}),
		jsbroker.WithNATSOptions(nats.ReconnectWait(10*time.Millisecond), nats.ReconnectJitter(0, 0)))
	publish(t, b, "orders", "first")
	receive(t, published)
	for id, duplicate := range map[string]bool{"": false, "mine": true} { // of one's own the broker cannot know
		before := streamInfo(t, js, "ORDERS").State.Msgs
		p.Stall()
		result := make(chan error, 1)
		go func() {
			result <- b.Publish("orders", message("second"), broker.PublishContext(testContext(t)), jsbroker.MessageID(id))
		}()
		eventually(t, "it is stored", func() bool { return streamInfo(t, js, "ORDERS").State.Msgs > before })
		p.Cut() // the answer is lost
		p.Resume()
		if err := receive(t, result); err != nil {
			t.Fatal(err)
		}
		if e := receive(t, published); e.Duplicate != duplicate || e.Sequence != before+1 {
			t.Errorf("with the id %q: %+v", id, e)
		}
	}
}

func TestPublishWaitsForTheServerToComeBack(t *testing.T) {
	t.Parallel()
	s := natstest.StartRestartable(t)
	states, onState := hookChan[jsbroker.ConnectionChanged]()
	b := newBroker(t, s.Server, jsbroker.WithHooks(jsbroker.Hooks{ConnectionChanged: onState}),
		jsbroker.WithNATSOptions(nats.ReconnectWait(20*time.Millisecond), nats.ReconnectJitter(0, 0)))
	publish(t, b, "orders", "before")
	s.Stop()
	for receive(t, states).State != jsbroker.StateDisconnected {
	}
	// One without the time to wait fails, knows that nothing was sent, and why.
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	err := b.Publish("orders", message("too soon"), broker.PublishContext(ctx))
	wantError(t, err, jsbroker.ErrNotConnected)
	wantError(t, err, context.DeadlineExceeded)
	if errors.Is(err, jsbroker.ErrPublishUnknown) {
		t.Errorf("nothing was sent, and yet: %v", err)
	}

	result := make(chan error, 1)
	go func() { result <- b.Publish("orders", message("during"), broker.PublishContext(testContext(t))) }()
	s.Start(t)
	if err := receive(t, result); err != nil {
		t.Fatal(err)
	}
	_, js := natsConn(t, s.Server)
	if n := streamInfo(t, js, "ORDERS").State.Msgs; n != 2 {
		t.Fatalf("%d stored, want 2: what failed must not be sent later", n)
	}
}

func as(user string, s *server.Server) broker.Option {
	return broker.Addrs(strings.Replace(s.ClientURL(), "nats://", "nats://"+user+"@", 1))
}

func TestPublishWithoutPermissionSaysSoAtOnce(t *testing.T) {
	t.Parallel()
	for denied, part := range map[string]string{
		"orders.secret":           `"orders.secret"`,
		"$JS.API.STREAM.NAMES":    `"$JS.API.STREAM.NAMES"`,
		"$JS.API.STREAM.CREATE.>": `"$JS.API.STREAM.CREATE.ORDERS"`,
	} {
		s := startServer(t, natstest.Limited(natstest.NoPublish(denied)))
		if denied == "orders.secret" {
			publish(t, newBroker(t, s, as("admin:admin", s)), "orders.secret", "by the admin")
		}
		b := newBroker(t, s, as("limited:pw", s))
		var err error
		atOnce(t, "to say that "+denied+" is denied", func() { err = b.Publish("orders.secret", message("x")) })
		wantError(t, err, jsbroker.ErrPermission, "orders.secret", "Permissions Violation", part)
		if errors.Is(err, jsbroker.ErrPublishUnknown) {
			t.Errorf("nothing was stored, and yet: %v", err)
		}
		if reason := jsbroker.Reason(err); reason != "permission" {
			t.Errorf("reason %q", reason)
		}
	}
}

// The server writes subjects as Go source does.
func TestPublishWithoutPermissionToAnUnusualTopic(t *testing.T) {
	t.Parallel()
	for _, topic := range []string{`orders.a"b`, `orders.a\b`, "orders.\u200b"} {
		s := startServer(t, natstest.Limited(natstest.NoPublish(topic)))
		publish(t, newBroker(t, s, as("admin:admin", s)), "orders.created", "by the admin")
		err := newBroker(t, s, as("limited:pw", s)).Publish(topic, message("x"))
		wantError(t, err, jsbroker.ErrPermission)
		if errors.Is(err, jsbroker.ErrPublishUnknown) {
			t.Errorf("%q: nothing was stored, and yet: %v", topic, err)
		}
	}
}

// The client tells late that it has connected: that ends no publish.
func TestPublishBeforeTheClientTellsOfTheConnection(t *testing.T) {
	t.Parallel()
	s := startServer(t, natstest.Limited(natstest.NoPublish("orders.paid")))
	publish(t, newBroker(t, s, as("admin:admin", s)), "orders.created", "by the admin")
	for range 50 {
		err := newBroker(t, s, as("limited:pw", s)).Publish("orders.paid", message("x"))
		wantError(t, err, jsbroker.ErrPermission)
		if errors.Is(err, jsbroker.ErrPublishUnknown) {
			t.Fatalf("nothing was stored, and yet: %v", err)
		}
	}
}

// A user's own subscription on the broker's connection is nothing to its publishes.
func TestRefusedSubscriptionIsNoRefusedPublish(t *testing.T) {
	t.Parallel()
	s := startServer(t, natstest.Limited(natstest.NoSubscribe("orders")))
	_, js := natsConn(t, s, nats.UserInfo("admin", "admin"))
	silent := jetstream.StreamConfig{Name: "ORDERS", Subjects: []string{"orders"}}
	natstest.MakeStream(t, js, silent)
	conns, refused := make(chan *nats.Conn, 1), make(chan struct{}, 1)
	b := newBroker(t, s, as("limited:pw", s), jsbroker.WithNATSOptions(
		nats.ConnectHandler(func(c *nats.Conn) { conns <- c }),
		nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) { refused <- struct{}{} })))
	publish(t, b, "orders", "first")
	silent.NoAck = true
	natstest.UpdateStream(t, js, silent)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	result := make(chan error, 1)
	go func() { result <- b.Publish("orders", message("stored"), broker.PublishContext(ctx)) }()
	eventually(t, "it is stored", func() bool { return streamInfo(t, js, "ORDERS").State.Msgs == 2 })
	if _, err := receive(t, conns).SubscribeSync("orders"); err != nil {
		t.Fatal(err)
	}
	receive(t, refused) // the broker has been told before
	cancel()
	err := receive(t, result)
	wantError(t, err, jsbroker.ErrPublishUnknown)
	if errors.Is(err, jsbroker.ErrPermission) {
		t.Errorf("it was permitted, and yet: %v", err)
	}
}

// What was sent before a permission was taken away has not been refused.
func TestPublishBeforeThePermissionIsTakenAway(t *testing.T) {
	t.Parallel()
	s, reload := natstest.StartReloadable(t, natstest.Limited(natstest.NoPublish("none")))
	_, js := natsConn(t, s, nats.UserInfo("admin", "admin"))
	silent := jetstream.StreamConfig{Name: "ORDERS", Subjects: []string{"orders"}}
	natstest.MakeStream(t, js, silent)
	b := newBroker(t, s, as("limited:pw", s))
	publish(t, b, "orders", "first")
	silent.NoAck = true
	natstest.UpdateStream(t, js, silent)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	before := make(chan error, 1)
	go func() { before <- b.Publish("orders", message("stored"), broker.PublishContext(ctx)) }()
	eventually(t, "it is stored", func() bool { return streamInfo(t, js, "ORDERS").State.Msgs == 2 })
	reload(natstest.Limited(natstest.NoPublish("orders")))
	const afterwards = 3
	refused := make(chan error, afterwards)
	for range afterwards {
		err := b.Publish("orders", message("refused"), jsbroker.Async(func(err error) { refused <- err }))
		if err != nil {
			t.Fatal(err)
		}
	}
	for range afterwards {
		err := receive(t, refused)
		wantError(t, err, jsbroker.ErrPermission)
		if errors.Is(err, jsbroker.ErrPublishUnknown) {
			t.Errorf("nothing was stored, and yet: %v", err)
		}
	}
	cancel()
	err := receive(t, before)
	wantError(t, err, jsbroker.ErrPublishUnknown)
	if errors.Is(err, jsbroker.ErrPermission) {
		t.Errorf("it was permitted, and yet: %v", err)
	}
}

// A message that may be stored is not sent again to a stream that would not know it,
// although it would have when the message was sent first.
func TestUnansweredIsNotRepeatedWhereItIsForgotten(t *testing.T) {
	t.Parallel()
	for name, before := range map[string]bool{"known before": true, "known afterwards": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := startServer(t)
			nc, js := natsConn(t, s)
			p := natstest.StartProxy(t, s)
			cfg := jetstream.StreamConfig{Name: "ORDERS", Subjects: []string{"orders.>"}}
			natstest.MakeStream(t, js, cfg)
			cfg.Duplicates = 100 * time.Millisecond
			b := newBroker(t, s, broker.Addrs(p.URL()), jsbroker.WithNATSOptions(nats.ReconnectWait(20*time.Millisecond)))
			publish(t, b, "orders.created", "first")
			if before {
				natstest.UpdateStream(t, js, cfg)
				looks := natstest.CountRequests(t, nc, "$JS.API.STREAM.INFO.ORDERS")
				eventually(t, "Subscribe looks at the stream, which it does once a second", func() bool {
					sub := subscribe(t, b, "orders.created", ignore, broker.Queue("q"), broker.DisableAutoAck())
					if err := sub.Unsubscribe(); err != nil {
						t.Fatal(err)
					}
					return looks.Seen(t) > 0
				})
			}
			p.Stall()
			result := make(chan error, 1)
			go func() {
				result <- b.Publish("orders.created", message("once"), broker.PublishContext(testContext(t)))
			}()
			stored := func() (n int) {
				st, err := js.Stream(testContext(t), "ORDERS")
				if err != nil {
					t.Fatal(err)
				}
				for seq := uint64(1); seq <= streamInfo(t, js, "ORDERS").State.LastSeq; seq++ {
					if m, err := st.GetMsg(testContext(t), seq); err == nil && string(m.Data) == "once" {
						n++
					}
				}
				return n
			}
			eventually(t, "it is stored", func() bool { return stored() == 1 })
			if !before {
				natstest.UpdateStream(t, js, cfg)
				ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
				defer cancel()
				// Without an answer it has the stream looked up again.
				wantError(t, b.Publish("orders.other", message("x"), broker.PublishContext(ctx)), jsbroker.ErrPublishUnknown)
			}
			probe := func() *jetstream.PubAck {
				ack, err := js.Publish(testContext(t), "orders.probe", nil, jetstream.WithMsgID("probe"))
				if err != nil {
					t.Fatal(err)
				}
				return ack
			}
			probe()
			eventually(t, "the stream has forgotten it", func() bool {
				if !probe().Duplicate {
					return true
				}
				// The server's timer may read the window before an update has changed it, and
				// then rests for the old two minutes (stream.update, nats-server 2.15): each
				// other window wakes it again.
				cfg.Duplicates += time.Millisecond
				natstest.UpdateStream(t, js, cfg)
				return false
			})
			p.Cut()
			p.Resume()
			wantError(t, receive(t, result), jsbroker.ErrPublishUnknown)
			if n := stored(); n != 1 {
				t.Errorf("stored %d times", n)
			}
		})
	}
}

// A deadline beyond the duplicates window, or as long, does not keep a publish from being
// repeated within the window.
func TestUnansweredIsRepeatedWhileItIsKnown(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ deadline, window time.Duration }{
		"long deadline": {3 * time.Minute, 2 * time.Minute},
		"short window":  {5 * time.Second, 5 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := startServer(t)
			_, js := natsConn(t, s)
			p := natstest.StartProxy(t, s)
			b := newBroker(t, s, broker.Addrs(p.URL()), jsbroker.WithStreamConfig(jetstream.StreamConfig{Duplicates: c.window}))
			publish(t, b, "orders", "first")
			p.Lose("PUB orders")
			ctx, cancel := context.WithTimeout(context.Background(), c.deadline)
			defer cancel()
			noErr(t, b.Publish("orders", message("lost once"), broker.PublishContext(ctx)))
			if n := streamInfo(t, js, "ORDERS").State.Msgs; n != 2 {
				t.Errorf("%d stored", n)
			}
		})
	}
}

// ErrNotConnected would say that nothing was stored.
func TestStoredBeforeAnOutageIsUnknown(t *testing.T) {
	t.Parallel()
	s := natstest.StartRestartable(t)
	_, js := natsConn(t, s.Server)
	p := natstest.StartProxy(t, s.Server)
	b := newBroker(t, s.Server, broker.Addrs(p.URL()), jsbroker.WithNATSOptions(nats.ReconnectWait(20*time.Millisecond)))
	publish(t, b, "orders", "first")
	p.Stall()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	result := make(chan error, 1)
	go func() { result <- b.Publish("orders", message("once"), broker.PublishContext(ctx)) }()
	eventually(t, "it is stored", func() bool { return streamInfo(t, js, "ORDERS").State.Msgs == 2 })
	s.Stop()
	p.Cut()
	eventually(t, "the connection is seen to be down", func() bool {
		short, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
		defer cancel()
		return errors.Is(b.Publish("orders", message("x"), broker.PublishContext(short)), jsbroker.ErrNotConnected)
	})
	cancel()
	err := receive(t, result)
	wantError(t, err, jsbroker.ErrPublishUnknown, "did not come back in time")
	if errors.Is(err, jsbroker.ErrNotConnected) || jsbroker.Reason(err) != "outcome_unknown" {
		t.Errorf("reason %q: %v", jsbroker.Reason(err), err)
	}
}

func TestHeadersBeyondTheServersLimit(t *testing.T) {
	t.Parallel()
	m := &broker.Message{Header: map[string]string{"K": strings.Repeat("v", 70<<10)}}
	err := newBroker(t, startServer(t)).Publish("orders.created", m)
	wantError(t, err, jsbroker.ErrMessageTooLarge, "64 KiB")
}

// NATS trims values: two ids would become one.
func TestMessageIDWithOuterBlanksIsRefused(t *testing.T) {
	t.Parallel()
	b := newBroker(t, startServer(t))
	for _, id := range []string{" ", "a ", "\ta"} {
		wantError(t, b.Publish("orders", message("x"), jsbroker.MessageID(id)), jsbroker.ErrInvalidHeader, "Nats-Msg-Id")
	}
	noErr(t, b.Publish("orders", message("x"), jsbroker.MessageID("a b")))
}

func TestPublishErrorNamesWhatItIsAbout(t *testing.T) {
	t.Parallel()
	b := newBroker(t, startServer(t))
	err := b.Publish("orders", nil, jsbroker.MessageID("mine"))
	var failed *jsbroker.PublishError
	if !errors.As(err, &failed) || failed.Topic != "orders" || failed.MessageID != "mine" || !errors.Is(failed.Unwrap(), jsbroker.ErrInvalidMessage) {
		t.Fatalf("got %#v", err)
	}
}

func TestHookThatPanicsDoesNotStopAPublish(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	_, js := natsConn(t, s)
	log := natstest.NewLog()
	b := newBroker(t, s, broker.Logger(log), jsbroker.WithHooks(jsbroker.Hooks{
		PublishStart: func(context.Context, jsbroker.PublishStart) context.Context { panic("start") },
		Published:    func(context.Context, jsbroker.Published) { panic("end") },
	}))
	publish(t, b, "orders", "x")
	if n := streamInfo(t, js, "ORDERS").State.Msgs; n != 1 {
		t.Fatalf("%d stored", n)
	}
	lines := log.Text()
	if !strings.Contains(lines, "start") || !strings.Contains(lines, "end") {
		t.Fatalf("the panics were not logged: %s", lines)
	}
}
