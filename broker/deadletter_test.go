package broker_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
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

func TestLineAboutAFailureSaysWhatComesNext(t *testing.T) {
	t.Parallel()
	no := errors.New("no")
	for name, test := range map[string]struct {
		handler broker.Handler
		opts    []broker.Option
		want    string
		last    bool // the failure is that of the last delivery
	}{
		"again later":      {func(broker.Event) error { return jsbroker.RetryAfter(2*time.Second, no) }, nil, "handler failed: no; next: again in 2s", false},
		"again soon":       {func(broker.Event) error { return jsbroker.RetryAfter(1500*time.Microsecond, no) }, nil, "handler failed: no; next: again in 1.5ms", false},
		"again at once":    {func(broker.Event) error { return jsbroker.RetryAfter(0, no) }, nil, "handler failed: no; next: again at once", false},
		"growing delay":    {func(broker.Event) error { return no }, nil, "handler failed: no; next: again in 1", false}, // 1s to 1.1s
		"a panic":          {func(broker.Event) error { panic("ouch") }, nil, "handler panicked: ouch; next: again in 1", false},
		"discarded":        {func(broker.Event) error { return jsbroker.Discard(no) }, nil, "handler failed: no", false},
		"acked and failed": {func(e broker.Event) error { _ = e.Ack(); return no }, nil, "handler failed: no; the message was settled before", false},
		"a dead letter": {func(broker.Event) error { return no },
			[]broker.Option{jsbroker.WithDeadLetter("graves")}, "handler failed: no; next: dead letter", true},
		"a discarded dead letter": {func(broker.Event) error { return jsbroker.Discard(no) },
			[]broker.Option{jsbroker.WithDeadLetter("graves")}, "handler failed: no; next: dead letter", false},
		"kept": {func(broker.Event) error { return no }, nil, "handler failed: no; next: nothing, it is kept in the stream", true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			log := natstest.NewLog()
			b := newBroker(t, startServer(t), append(test.opts, broker.Logger(log),
				jsbroker.WithConsumerConfig(jetstream.ConsumerConfig{MaxDeliver: 2}))...)
			subscribe(t, b, "orders", func(e broker.Event) error {
				if test.last && jsbroker.NumDelivered(e) == 1 {
					return jsbroker.RetryAfter(1100*time.Millisecond, errors.New("first")) // lines are a second apart
				}
				return test.handler(e)
			}, broker.Queue("q"))
			publish(t, b, "orders", "x")
			eventually(t, "the log says "+test.want, func() bool { return len(log.With(test.want)) > 0 })
			if line := log.With(test.want)[0]; line.Level != logger.ErrorLevel {
				t.Errorf("level %v", line.Level)
			}
			if name == "discarded" && len(log.With("next:")) > 0 {
				t.Errorf("logged:\n%s", log.Text())
			}
		})
	}
}

func TestEachDeadLetterIsOneLine(t *testing.T) {
	t.Parallel()
	const n = 50
	log := natstest.NewLog()
	s := startServer(t)
	_, js := natsConn(t, s)
	b := newBroker(t, s, broker.Logger(log), jsbroker.WithClientName("payments-1"), jsbroker.WithDeadLetter("graves"),
		jsbroker.WithConsumerConfig(jetstream.ConsumerConfig{MaxDeliver: 1}))
	subscribe(t, b, "orders.*", func(e broker.Event) error {
		if string(e.Message().Body) == "panics" {
			panic("ouch")
		}
		return errors.New("limit\r\nexceeded")
	}, broker.Queue("q"))
	for i := range n {
		header := map[string]string{"traceparent": fmt.Sprintf("00-%032x-b7ad6b7169203331-01", i+1)}
		noErr(t, b.Publish("orders.created", &broker.Message{Header: header, Body: []byte("x")}, jsbroker.MessageID(fmt.Sprint("order-", i))))
	}
	publish(t, b, "orders.paid", "panics", jsbroker.MessageID("panics"))
	eventually(t, "all are dead letters", func() bool { return streamInfo(t, js, "ORDERS").State.Msgs == 0 })
	lines := log.With("dead letter stored in graves: ")
	if len(lines) != n+1 {
		t.Fatalf("%d lines, want %d:\n%s", len(lines), n+1, log.Text())
	}
	wantLine(t, log, logger.WarnLevel, "dead letter stored in graves: limit  exceeded", map[string]any{
		"client": "payments-1", "topic": "orders.*", "queue": "q", "stream": "ORDERS", "consumer": "q",
		"subject": "orders.created", "sequence": "1", "deliveries": "1", "message_id": "order-0", "trace_id": fmt.Sprintf("%032x", 1),
		"dead_letter_topic": "graves", "reason": "limit  exceeded",
	})
	wantLine(t, log, logger.WarnLevel, "dead letter stored in graves: handler panicked: ouch", map[string]any{
		"client": "payments-1", "topic": "orders.*", "queue": "q", "stream": "ORDERS", "consumer": "q",
		"subject": "orders.paid", "sequence": fmt.Sprint(n + 1), "deliveries": "1", "message_id": "panics",
		"dead_letter_topic": "graves", "reason": "handler panicked: ouch",
	})
}

// However a message becomes a dead letter, the log has one line about that.
func TestEachWayToADeadLetterIsOneLine(t *testing.T) {
	t.Parallel()
	no := errors.New("no")
	fails := func(broker.Event) error { return jsbroker.RetryAfter(0, no) }
	terminates := func(e broker.Event) error { return jsbroker.Terminate(e, "no") }
	for name, test := range map[string]struct {
		handler broker.Handler
		opts    []broker.SubscribeOption
		server  bool // it counts the deliveries
	}{
		"the last delivery, counted here":          {handler: fails},
		"the last delivery, counted by the server": {handler: fails, server: true},
		"in the order of keys":                     {handler: fails, opts: []broker.SubscribeOption{jsbroker.OrderBy(func(broker.Event) string { return "k" }), jsbroker.Concurrency(2)}},
		"by one active subscriber":                 {handler: fails, opts: []broker.SubscribeOption{jsbroker.SingleActive()}},
		"discarded":                                {handler: func(broker.Event) error { return jsbroker.Discard(no) }},
		"terminated":                               {handler: terminates},
		"terminated by hand":                       {handler: terminates, opts: []broker.SubscribeOption{broker.DisableAutoAck()}},
		"terminated later":                         {handler: func(e broker.Event) error { go func() { _ = jsbroker.Terminate(e, "no") }(); return nil }, opts: []broker.SubscribeOption{broker.DisableAutoAck()}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := startServer(t)
			_, js := natsConn(t, s)
			natstest.MakeStream(t, js, jetstream.StreamConfig{Name: "ORDERS", Subjects: []string{"orders"}, Retention: jetstream.WorkQueuePolicy})
			if test.server {
				natstest.MakeConsumer(t, js, "ORDERS", jetstream.ConsumerConfig{Durable: "q", FilterSubject: "orders", AckPolicy: jetstream.AckExplicitPolicy, MaxDeliver: 2})
			}
			log := natstest.NewLog()
			b := newBroker(t, s, broker.Logger(log), jsbroker.WithDeadLetter("graves"), jsbroker.WithConsumerConfig(jetstream.ConsumerConfig{MaxDeliver: 2}))
			subscribe(t, b, "orders", test.handler, append(test.opts, broker.Queue("q"))...)
			publish(t, b, "orders", "x")
			eventually(t, "nothing is left", func() bool { return streamInfo(t, js, "ORDERS").State.Msgs == 0 })
			noErr(t, b.Disconnect()) // the line may follow the ack
			if lines := log.With("dead letter stored in graves: no"); len(lines) != 1 || lines[0].Level != logger.WarnLevel || lines[0].Fields["reason"] != "no" {
				t.Errorf("logged:\n%s", log.Text())
			}
		})
	}
}

// letters returns the first messages of a stream, at most so many.
func letters(t *testing.T, js jetstream.JetStream, name string, most int) (all []*jetstream.RawStreamMsg) {
	t.Helper()
	st, err := js.Stream(testContext(t), name)
	noErr(t, err)
	for seq := st.CachedInfo().State.FirstSeq; len(all) < most && seq <= st.CachedInfo().State.LastSeq; seq++ {
		m, err := st.GetMsg(testContext(t), seq)
		noErr(t, err)
		all = append(all, m)
	}
	return all
}

// counting has the server, or the broker, count the deliveries of queue q on orders.>
// up to 1.
func counting(t *testing.T, js jetstream.JetStream, byServer bool) broker.Option {
	t.Helper()
	natstest.MakeStream(t, js, jetstream.StreamConfig{Name: "ORDERS", Subjects: []string{"orders", "orders.>"}, Retention: jetstream.WorkQueuePolicy})
	if byServer {
		natstest.MakeConsumer(t, js, "ORDERS", jetstream.ConsumerConfig{Durable: "q", FilterSubject: "orders.>", AckPolicy: jetstream.AckExplicitPolicy, MaxDeliver: 1})
	}
	return jsbroker.WithConsumerConfig(jetstream.ConsumerConfig{MaxDeliver: 1})
}

// failingButOne fails on all topics but orders.good.
func failingButOne() (broker.Handler, <-chan string) {
	good := make(chan string, 10)
	return func(e broker.Event) error {
		if e.Topic() == "orders.good" {
			good <- e.Topic()
			return nil
		}
		return errors.New(strings.Repeat("reason ", 100))
	}, good
}

// Other clients publish to subjects that a header cannot carry. \x7f is not among them:
// nats-server uses it as a mark in its tree of subjects (noPivot in server/stree), and
// now and then delivers no message that has it.
func TestStrangeSubjectsBecomeDeadLettersAndStopNoQueue(t *testing.T) {
	t.Parallel()
	for _, byServer := range []bool{true, false} {
		t.Run(fmt.Sprintf("counted by the server %v", byServer), func(t *testing.T) {
			t.Parallel()
			n := manyLetters()
			s := startServer(t)
			nc, js := natsConn(t, s)
			b := newBroker(t, s, counting(t, js, byServer), jsbroker.WithDeadLetter("graves"))
			strange := []string{"orders.\x00", "orders.\x01\x1f", "orders.\xff", "orders.100%"}
			h, good := failingButOne()
			subscribe(t, b, "orders.>", h, broker.Queue("q"))
			for i := range n {
				noErr(t, nc.Publish(strange[i%len(strange)], []byte("x")))
			}
			noErr(t, nc.Flush())
			publish(t, b, "orders.good", "x")
			receive(t, good)
			awaitEmpty(t, js, "ORDERS")
			if got := streamInfo(t, js, "GRAVES").State.Msgs; got != uint64(n) {
				t.Fatalf("%d dead letters, want %d", got, n)
			}
			all := letters(t, js, "GRAVES", len(strange))
			for i, want := range []string{"orders.%00", "orders.%01%1F", "orders.%FF", "orders.100%25"} {
				if got := all[i].Header.Get("Micro-Dead-Letter-Topic"); got != want {
					t.Errorf("%q, want %q", got, want)
				}
			}
		})
	}
}

// manyLetters is how many messages would stop a queue by their number: with -short fewer,
// as the race detector makes each of them cost tens of milliseconds.
func manyLetters() int {
	if testing.Short() {
		return 100
	}
	return 1000
}

// awaitEmpty waits until a stream is empty. It fails when nothing leaves the stream any
// more, however long all of it takes.
func awaitEmpty(t *testing.T, js jetstream.JetStream, stream string) {
	t.Helper()
	for left := streamInfo(t, js, stream).State.Msgs; left > 0; {
		before := left
		eventually(t, fmt.Sprintf("fewer than %d messages are left", before), func() bool {
			left = streamInfo(t, js, stream).State.Msgs
			return left < before
		})
	}
}

// The names of the stream and of its consumers are in a dead letter, and in its id.
func TestDeadLetterFromAStreamWithAStrangeName(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	nc, js := natsConn(t, s)
	natstest.MakeStream(t, js, jetstream.StreamConfig{Name: "OR\x01DERS", Subjects: []string{"orders"}, Retention: jetstream.WorkQueuePolicy})
	b := newBroker(t, s, jsbroker.WithDeadLetter("graves"))
	subscribe(t, b, "orders", func(broker.Event) error { return jsbroker.Discard(nil) }, broker.Queue("q"))
	noErr(t, nc.Publish("orders", []byte("x")))
	eventually(t, "the original is gone", func() bool {
		state := streamInfo(t, js, "OR\x01DERS").State
		return state.LastSeq == 1 && state.Msgs == 0
	})
	if h := natstest.LastMessage(t, js, "GRAVES", "graves").Header; h.Get("Micro-Dead-Letter-Stream") != "OR%01DERS" {
		t.Errorf("dead letter %v", h)
	}
}

// A hook of the user's can make every dead letter invalid, or too large.
func TestHooksDoNotPreventDeadLetters(t *testing.T) {
	t.Parallel()
	for name, header := range map[string]string{"an invalid header": "a\nb", "a large header": strings.Repeat("x", 70_000)} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := startServer(t)
			_, js := natsConn(t, s)
			b := newBroker(t, s, counting(t, js, true), jsbroker.WithDeadLetter("graves"), jsbroker.WithHooks(jsbroker.Hooks{
				PublishStart: func(ctx context.Context, e jsbroker.PublishStart) context.Context {
					if e.Topic == "graves" {
						e.Header["Hook"] = header
					}
					return ctx
				},
			}))
			h, _ := failingButOne()
			subscribe(t, b, "orders.>", h, broker.Queue("q"))
			publish(t, b, "orders.created", "x")
			eventually(t, "nothing is left", func() bool { return streamInfo(t, js, "ORDERS").State.Msgs == 0 })
			if m := natstest.LastMessage(t, js, "GRAVES", "graves"); string(m.Data) != "x" || m.Header.Get("Micro-Dead-Letter-Topic") != "orders.created" {
				t.Errorf("dead letter %v: %q", m.Header, m.Data)
			}
		})
	}
}

func TestDeadLettersThatDoNotFitAreCut(t *testing.T) {
	t.Parallel()
	const payload = 200_000 // of the server
	headers := func(n, size int) nats.Header {
		h := nats.Header{"Content-Type": {"application/json"}}
		for i := range n {
			h[fmt.Sprint("X-", i)] = []string{strings.Repeat("h", size)}
		}
		return h
	}
	plain := jetstream.StreamConfig{}
	for name, test := range map[string]struct {
		header nats.Header
		body   int                    // the body fills the message up to the server's limit, less so many bytes
		stored int32                  // MaxMsgSize of the dead letters' stream
		stream jetstream.StreamConfig // what else that has
		cut    string
		kept   bool // Content-Type
	}{
		"all fits":                      {headers(1, 10), 5000, -1, plain, "", true},
		"room for a short reason":       {headers(1, 10), 700, -1, plain, "reason", true},
		"room for few headers":          {headers(1, 2500), 0, -1, plain, "reason, headers", true},
		"headers near their limit":      {headers(1, 65_300), 100_000, -1, plain, "reason, headers", true},
		"many headers near their limit": {headers(3690, 8), 100_000, -1, plain, "reason, headers", true},
		"no room":                       {nil, 0, -1, plain, "reason, body", false},
		"room for the id only":          {nil, 150, -1, plain, "reason, body", false},
		"limit of the stream":           {headers(1, 10), 5000, 2000, plain, "reason, body", true},
		"more than all of the stream, which discards old ones":        {headers(1, 10), 5000, -1, jetstream.StreamConfig{MaxBytes: 100_000}, "reason, body", true},
		"more than all of the stream, which discards new ones":        {headers(1, 10), 5000, -1, jetstream.StreamConfig{MaxBytes: 100_000, Discard: jetstream.DiscardNew}, "reason, body", true},
		"more than all of the stream, which is in memory":             {headers(1, 10), 5000, -1, jetstream.StreamConfig{MaxBytes: 100_000, Storage: jetstream.MemoryStorage}, "reason, body", true},
		"more than all of the stream, which has room for few headers": {headers(1, 2000), 5000, -1, jetstream.StreamConfig{MaxBytes: 1000, Storage: jetstream.MemoryStorage}, "reason, headers, body", false},
		"stream with room for a few only":                             {headers(1, 1000), 5000, 1000, plain, "reason, headers, body", false},
	} {
		for _, byServer := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, counted by the server %v", name, byServer), func(t *testing.T) {
				t.Parallel()
				s := startServer(t, func(o *server.Options) { o.MaxPayload = payload })
				nc, js := natsConn(t, s)
				natstest.MakeStream(t, js, jetstream.StreamConfig{Name: "GRAVES", Subjects: []string{"graves"}, MaxMsgSize: test.stored,
					MaxBytes: test.stream.MaxBytes, Discard: test.stream.Discard, Storage: test.stream.Storage})
				log := natstest.NewLog()
				b := newBroker(t, s, counting(t, js, byServer), jsbroker.WithDeadLetter("graves"), broker.Logger(log))
				h, good := failingButOne()
				subscribe(t, b, "orders.>", h, broker.Queue("q"))
				m := &nats.Msg{Subject: "orders.created", Header: test.header}
				m.Data = make([]byte, payload-m.Size()+len(m.Subject)-test.body)
				noErr(t, nc.PublishMsg(m))
				noErr(t, nc.Flush())
				publish(t, b, "orders.good", "x")
				receive(t, good)
				eventually(t, "it is a dead letter", func() bool { return streamInfo(t, js, "GRAVES").State.Msgs == 1 })
				letter := natstest.LastMessage(t, js, "GRAVES", "graves")
				for k, want := range map[string]string{"Cut": test.cut, "Topic": "orders.created", "Stream": "ORDERS", "Sequence": "1", "Queue": "q", "Deliveries": "1"} {
					if got := letter.Header.Get("Micro-Dead-Letter-" + k); got != want {
						t.Errorf("%s is %q, want %q", k, got, want)
					}
				}
				if got := letter.Header.Get("Content-Type") != ""; got != test.kept {
					t.Errorf("Content-Type: %v, want %v", got, test.kept)
				}
				noBody, left := strings.HasSuffix(test.cut, "body"), uint64(0)
				if got := len(letter.Data); noBody && got > 0 || !noBody && got != len(m.Data) {
					t.Errorf("a body of %d bytes", got)
				}
				if noBody {
					left = 1 // what the letter refers to
				}
				eventually(t, "the original is settled", func() bool { return streamInfo(t, js, "ORDERS").State.Msgs == left })
				if lines := log.With("without its body"); len(lines) > 0 != noBody {
					t.Errorf("logged:\n%s", log.Text())
				}
			})
		}
	}
}

// An operator lowers max_payload below what is stored already.
func TestDeadLettersOfOriginalsThatTheServerWouldNotTakeAnyMore(t *testing.T) {
	t.Parallel()
	for _, byServer := range []bool{true, false} {
		t.Run(fmt.Sprintf("counted by the server %v", byServer), func(t *testing.T) {
			t.Parallel()
			s, reload := natstest.StartReloadable(t, func(o *server.Options) { o.MaxPayload = 100_000 })
			nc, js := natsConn(t, s)
			count := counting(t, js, byServer)
			large, many := strings.Repeat("x", 3000), strings.Repeat("x", 50_000)
			noErr(t, nc.PublishMsg(&nats.Msg{Subject: "orders.created", Data: []byte(many), Header: nats.Header{"Content-Type": {"x"}, "Large": {large}}}))
			noErr(t, nc.PublishMsg(&nats.Msg{Subject: "orders.created", Header: nats.Header{"Content-Type": {"x"}, "Large": {many}}}))
			noErr(t, nc.Flush())
			reload(func(o *server.Options) { o.MaxPayload = 2000 })
			b := newBroker(t, s, count, jsbroker.WithDeadLetter("graves"))
			h, good := failingButOne()
			subscribe(t, b, "orders.>", h, broker.Queue("q"))
			publish(t, b, "orders.good", "x")
			receive(t, good)
			eventually(t, "one is left, which a letter refers to", func() bool { return streamInfo(t, js, "ORDERS").State.Msgs == 1 })
			all := letters(t, js, "GRAVES", 3)
			if len(all) != 2 {
				t.Fatalf("%d letters", len(all))
			}
			for i, want := range []string{"reason, headers, body", "reason, headers"} {
				if got := all[i].Header.Get("Micro-Dead-Letter-Cut"); got != want || all[i].Header.Get("Content-Type") != "x" {
					t.Errorf("cut %q, want %q: %v", got, want, all[i].Header)
				}
			}
		})
	}
}

func TestManyDeadLettersThatDoNotFitStopNoQueue(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		size int32 // MaxMsgSize of the dead letters' stream
		all  int64 // its MaxBytes
	}{"a reference fits": {-1, -1}, "nothing fits": {50, -1}, "nothing fits all of the stream": {-1, 50}} {
		for _, byServer := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, counted by the server %v", name, byServer), func(t *testing.T) {
				t.Parallel()
				const payload = 2000
				n := manyLetters()
				s := startServer(t, func(o *server.Options) { o.MaxPayload = payload })
				nc, js := natsConn(t, s)
				natstest.MakeStream(t, js, jetstream.StreamConfig{Name: "GRAVES", Subjects: []string{"graves"}, MaxMsgSize: test.size, MaxBytes: test.all})
				exhausted, onExhausted := hookChan[jsbroker.Exhausted]()
				log := natstest.NewLog()
				b := newBroker(t, s, counting(t, js, byServer), jsbroker.WithDeadLetter("graves"), jsbroker.WithHooks(jsbroker.Hooks{Exhausted: onExhausted}), broker.Logger(log))
				h, good := failingButOne()
				subscribe(t, b, "orders.>", h, broker.Queue("q"))
				for range n {
					noErr(t, nc.Publish("orders.created", make([]byte, payload)))
				}
				noErr(t, nc.Flush())
				publish(t, b, "orders.good", "x")
				receive(t, good)
				if test.size < 0 && test.all < 0 {
					eventually(t, "all are dead letters", func() bool { return streamInfo(t, js, "GRAVES").State.Msgs == uint64(n) })
					return
				}
				for range n {
					receive(t, exhausted)
				}
				if lines := log.With("kept in its stream"); !byServer && len(lines) != n {
					t.Errorf("%d lines, want %d", len(lines), n)
				}
				if left := streamInfo(t, js, "ORDERS").State.Msgs; left < uint64(n) { // the good one may not be acked yet
					t.Errorf("%d messages are left, want %d", left, n)
				}
			})
		}
	}
}

// What is stored on the dead-letter topic comes back as a new message.
func TestDeadLettersThatComeBackEnd(t *testing.T) {
	t.Parallel()
	graves := jetstream.StreamConfig{Name: "GRAVES", Subjects: []string{"graves"}}
	orders := jetstream.StreamConfig{Name: "ORDERS", Subjects: []string{"orders"}, Retention: jetstream.WorkQueuePolicy}
	for name, test := range map[string]struct {
		streams func() []jetstream.StreamConfig
		account func(*server.Account) error
		handler func(broker.Broker) (topic string, h broker.Handler) // of another service
		others  broker.Option                                        // of that
		last    string                                               // the topic that keeps it; empty: orders
	}{
		"by a transform": {streams: func() []jetstream.StreamConfig {
			o := orders
			o.Subjects, o.SubjectTransform = []string{"orders", "graves"}, &jetstream.SubjectTransformConfig{Source: "graves", Destination: "orders"}
			return []jetstream.StreamConfig{o}
		}},
		"by a republish": {streams: func() []jetstream.StreamConfig {
			g := graves
			g.RePublish = &jetstream.RePublish{Source: "graves", Destination: "orders"}
			return []jetstream.StreamConfig{g, orders}
		}},
		"by a source": {streams: func() []jetstream.StreamConfig {
			o := orders
			o.Sources = []*jetstream.StreamSource{{Name: "GRAVES", SubjectTransforms: []jetstream.SubjectTransformConfig{{Source: "graves", Destination: "orders"}}}}
			return []jetstream.StreamConfig{graves, o}
		}},
		"by a handler that sends letters back": {streams: func() []jetstream.StreamConfig { return []jetstream.StreamConfig{graves, orders} }, handler: func(b broker.Broker) (string, broker.Handler) {
			return "graves", func(e broker.Event) error { return b.Publish("orders", e.Message()) }
		}},
		"by a service whose dead letters come here": {streams: func() []jetstream.StreamConfig { return []jetstream.StreamConfig{graves, orders} }, handler: func(broker.Broker) (string, broker.Handler) {
			return "graves", func(broker.Event) error { return jsbroker.Discard(errors.New("no")) }
		}, others: jsbroker.WithDeadLetter("orders"), last: "graves"},
		"by a mapping": {
			streams: func() []jetstream.StreamConfig { return []jetstream.StreamConfig{orders} },
			account: func(a *server.Account) error { return a.AddMapping("graves", "orders") },
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := startServer(t)
			_, js := natsConn(t, s)
			for _, cfg := range test.streams() {
				natstest.MakeStream(t, js, cfg)
			}
			if test.account != nil {
				noErr(t, test.account(s.GlobalAccount()))
				natstest.UpdateStream(t, js, jetstream.StreamConfig{Name: "ORDERS", Subjects: []string{"orders", "graves"}, Retention: jetstream.WorkQueuePolicy})
			}
			dead, onDead := hookChan[jsbroker.DeadLettered]()
			b := newBroker(t, s, jsbroker.WithDeadLetter("graves"), jsbroker.WithHooks(jsbroker.Hooks{DeadLettered: onDead}))
			subscribe(t, b, "orders", func(broker.Event) error { return jsbroker.Discard(errors.New("no")) }, broker.Queue("q"))
			if test.handler != nil {
				opts := []broker.Option{jsbroker.WithHooks(jsbroker.Hooks{DeadLettered: onDead})}
				if test.others != nil {
					opts = append(opts, test.others)
				}
				other := newBroker(t, s, opts...)
				topic, h := test.handler(other)
				subscribe(t, other, topic, h, broker.Queue("others"))
			}
			publish(t, b, "orders", "x")
			var loop error
			for stored := 0; stored < 5 || loop == nil; { // of two brokers, in any order
				if e := receive(t, dead); e.Err != nil {
					loop = e.Err
				} else {
					stored++
				}
			}
			wantError(t, loop, jsbroker.ErrDeadLetterLoop, "5 times", "mapping")
			last := cmp.Or(test.last, "orders")
			if h := natstest.LastMessage(t, js, strings.ToUpper(last), last).Header; h.Get("Micro-Dead-Letter-Hops") != "5" {
				t.Errorf("kept %v", h)
			}
		})
	}
}

// The letters of a message are one, whatever the names of the queue's consumers are when
// these are made again, and however many replicas give it up. Those of two queues are
// two.
func TestConsumersMadeAgainDoNotDoubleDeadLetters(t *testing.T) {
	t.Parallel()
	fails := func(broker.Event) error { return jsbroker.Discard(errors.New("no good")) }
	for name, tt := range map[string]struct {
		first, then []string // topics, in the order of their subscribers
		queue       string   // of those in then
		want        int
	}{
		"names swapped":     {[]string{"orders.a", "orders.b"}, []string{"orders.b", "orders.a"}, "q", 2},
		"the first is gone": {[]string{"orders.a", "orders.b"}, []string{"orders.b"}, "q", 2},
		"the same":          {[]string{"orders.a", "orders.b"}, []string{"orders.a", "orders.b"}, "q", 2},
		"another queue":     {[]string{"orders.a", "orders.b"}, []string{"orders.a", "orders.b"}, "other", 4},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := startServer(t)
			_, js := natsConn(t, s)
			settled, onSettled := hookChan[jsbroker.Settled]()
			limits := jsbroker.WithStreamConfig(jetstream.StreamConfig{})
			run := func(queue string, topics []string) {
				b := newBroker(t, s, limits, jsbroker.WithDeadLetter("dead"), jsbroker.WithHooks(jsbroker.Hooks{Settled: onSettled}))
				for _, topic := range topics {
					subscribe(t, b, topic, fails, broker.Queue(queue))
				}
				for range topics {
					if e := receive(t, settled); e.Result != jsbroker.ResultTerm {
						t.Errorf("%+v", e)
					}
				}
				noErr(t, b.Disconnect())
				for _, consumer := range natstest.ConsumerNames(t, js, "ORDERS") {
					noErr(t, js.DeleteConsumer(testContext(t), "ORDERS", consumer))
				}
			}
			b := newBroker(t, s, limits)
			publish(t, b, "orders.a", "a")
			publish(t, b, "orders.b", "b")
			run("q", tt.first)
			run(tt.queue, tt.then)
			if n := streamInfo(t, js, "DEAD").State.Msgs; n != uint64(tt.want) {
				t.Errorf("%d dead letters, want %d", n, tt.want)
			}
		})
	}
}

// A stream with Interest retention acknowledges what no consumer wants, and drops it.
func TestDeadLetterThatItsStreamWouldNotKeep(t *testing.T) {
	t.Parallel()
	srv := startServer(t)
	_, js := natsConn(t, srv)
	log := natstest.NewLog()
	tried, onTry := hookChan[jsbroker.DeadLettered]()
	b := newBroker(t, srv, jsbroker.WithDeadLetter("graves"), broker.Logger(log), jsbroker.WithHooks(jsbroker.Hooks{DeadLettered: onTry}),
		jsbroker.WithStreamConfig(jetstream.StreamConfig{Retention: jetstream.InterestPolicy}))
	subscribe(t, b, "orders", func(broker.Event) error {
		return jsbroker.Discard(jsbroker.RetryAfter(100*time.Millisecond, errors.New("broken")))
	}, broker.Queue("q"))
	publish(t, b, "orders", "precious")
	wantError(t, receive(t, tried).Err, jsbroker.ErrInvalidConfig, "stream GRAVES", "Interest", "graves", "subscribe")
	if left := streamInfo(t, js, "ORDERS").State.Msgs; left != 1 {
		t.Errorf("%d messages left, want the original", left)
	}
	eventually(t, "a line says so", func() bool { return len(log.With("the message is kept")) > 0 })
	if lines := log.With("dead letter stored"); len(lines) > 0 {
		t.Errorf("said %v", lines)
	}

	h, got := collector()
	subscribe(t, b, "graves", h, broker.Queue("d"))
	if body := receive(t, got); body != "precious" {
		t.Errorf("got %q", body)
	}
	eventually(t, "the original is gone", func() bool { return streamInfo(t, js, "ORDERS").State.Msgs == 0 })
}
