package broker_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go-micro.dev/v5/broker"
	"go-micro.dev/v5/logger"
	"go.opentelemetry.io/otel/propagation"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"

	jsbroker "go-micro-jetstream/broker"
	"go-micro-jetstream/internal/natstest"
	"go-micro-jetstream/tracing"
)

// wantLine waits for a line with this text and checks its level and fields.
func wantLine(t *testing.T, log *natstest.Log, level logger.Level, text string, fields map[string]any) {
	t.Helper()
	var lines []natstest.Line
	eventually(t, "the log says "+text, func() bool {
		lines = log.With(text)
		return len(lines) > 0
	})
	line := lines[0]
	if line.Level != level || !strings.HasPrefix(line.Text, "jetstream: ") {
		t.Errorf("got %s, want it at level %s", line, level)
	}
	got := map[string]any{}
	for k, v := range line.Fields {
		got[k] = fmt.Sprint(v) // numbers of whatever type
	}
	if !maps.Equal(got, fields) {
		t.Errorf("%q has the fields %v, want %v", text, got, fields)
	}
}

func TestLinesAboutTheConnectionSayWhichOne(t *testing.T) {
	t.Parallel()
	log := natstest.NewLog()
	s := natstest.StartRestartable(t)
	address := s.Addr().String()
	s.Stop()
	s.Options.Username, s.Options.Password = "user", "s3cret"
	s.Start(t)
	b := jsbroker.NewBroker(broker.Addrs("user:s3cret@"+address), broker.Logger(log), jsbroker.WithClientName("payments-1"))
	noErr(t, b.Connect())
	about := map[string]any{"client": "payments-1", "server": "nats://" + address}
	wantLine(t, log, logger.InfoLevel, "connected to", about)
	s.Stop()
	wantLine(t, log, logger.WarnLevel, "connection lost, reconnecting", about)
	s.Start(t)
	wantLine(t, log, logger.InfoLevel, "reconnected to", about)
	noErr(t, b.Disconnect())
	wantLine(t, log, logger.InfoLevel, "disconnected from", about)
}

func TestLineAboutAConnectionThatIsClosedForGood(t *testing.T) {
	t.Parallel()
	log := natstest.NewLog()
	s := startServer(t)
	address := s.Addr().String()
	b := newBroker(t, s, broker.Logger(log), jsbroker.WithClientName("payments-1"), jsbroker.WithNATSOptions(nats.NoReconnect()))
	natstest.Stop(s)
	wantLine(t, log, logger.ErrorLevel, "closed for good", map[string]any{"client": "payments-1", "server": "nats://" + address})
	noErr(t, b.Disconnect())
}

func TestLinesAboutASubscription(t *testing.T) {
	t.Parallel()
	log := natstest.NewLog()
	s := startServer(t)
	_, js := natsConn(t, s)
	b := newBroker(t, s, broker.Logger(log), jsbroker.WithClientName("payments-1"))
	sub := subscribe(t, b, "orders.created", ignore, broker.Queue("q"))
	wantLine(t, log, logger.InfoLevel, "created stream", map[string]any{"client": "payments-1", "topic": "orders.created", "stream": "ORDERS"})
	about := map[string]any{"client": "payments-1", "topic": "orders.created", "queue": "q", "stream": "ORDERS", "consumer": "q"}
	wantLine(t, log, logger.InfoLevel, "subscribed to", about)
	noErr(t, js.DeleteConsumer(testContext(t), "ORDERS", "q"))
	wantLine(t, log, logger.WarnLevel, "fetch failed, next try in", about)
	wantLine(t, log, logger.WarnLevel, "was deleted and has been made again", about)
	publish(t, b, "orders.created", "a sign of life")
	wantLine(t, log, logger.InfoLevel, "fetching again", about)
	noErr(t, sub.Unsubscribe())
	wantLine(t, log, logger.InfoLevel, "unsubscribed from", about)

	changeConsumer(t, js, func(cc *jetstream.ConsumerConfig) { cc.MaxAckPending = 9 })
	other := newBroker(t, s, broker.Logger(log), jsbroker.WithClientName("payments-1"), jsbroker.WithConsumerConfig(jetstream.ConsumerConfig{MaxAckPending: 7, AckWait: time.Minute}))
	subscribe(t, other, "orders.created", ignore, broker.Queue("q"))
	wantLine(t, log, logger.WarnLevel, "was changed by somebody else and is used as it is: MaxAckPending is 9, not 7", about)
	wantLine(t, log, logger.InfoLevel, "follows its configuration: AckWait is now 1m0s, was 30s", about)
}

func TestLinesAboutPermissionsSayWhichSubject(t *testing.T) {
	t.Parallel()
	log := natstest.NewLog()
	s := startServer(t, natstest.Limited(natstest.NoPublish("orders.secret")))
	b, err := connectTo(t, as("limited:pw", s), broker.Logger(log), jsbroker.WithClientName("payments-1"))
	noErr(t, err)
	if err := b.Publish("orders.secret", message("x")); !errors.Is(err, jsbroker.ErrPermission) {
		t.Fatal(err)
	}
	wantLine(t, log, logger.WarnLevel, `"orders.secret"`, map[string]any{"client": "payments-1", "server": "nats://" + s.Addr().String()})
}

// The broker does not know OpenTelemetry: the trace id is in the header of the
// message, where the publisher or this process's hook has written it.
func TestLinesAboutAMessageCarryItsTrace(t *testing.T) {
	t.Parallel()
	const (
		id     = "0af7651916cd43dd8448eb211c80319c"
		parent = "00-" + id + "-b7ad6b7169203331-01"
	)
	var begun string // by the hook, for a message without a trace
	hook := tracing.New(tracing.WithTracerProvider(sdktrace.NewTracerProvider()), tracing.WithPropagator(propagation.TraceContext{}))
	for name, test := range map[string]struct {
		traced bool
		header map[string]string
		want   func() string
	}{
		"of a publisher, without a hook":      {false, map[string]string{"traceparent": parent}, func() string { return id }},
		"of a publisher, in another spelling": {false, map[string]string{"TraceParent": parent}, func() string { return id }},
		"of a publisher, with the hook":       {true, map[string]string{"traceparent": parent}, func() string { return id }},
		"begun by the hook":                   {true, nil, func() string { return begun }},
		"none":                                {false, nil, func() string { return "" }},
		"malformed":                           {false, map[string]string{"traceparent": "00-zz-01"}, func() string { return "" }},
	} {
		t.Run(name, func(t *testing.T) {
			s := startServer(t)
			nc, js := natsConn(t, s)
			_, err := js.CreateStream(testContext(t), jetstream.StreamConfig{Name: "ORDERS", Subjects: []string{"orders.>"}})
			noErr(t, err)
			log := natstest.NewLog()
			opts := []broker.Option{broker.Logger(log), jsbroker.WithClientName("payments-1")}
			if test.traced {
				opts = append(opts, jsbroker.WithHooks(hook))
			}
			b := newBroker(t, s, opts...)
			subscribe(t, b, "orders.*", func(e broker.Event) error {
				if tp := e.Message().Header["Traceparent"]; len(tp) == len(parent) {
					begun = tp[3:35]
				}
				return jsbroker.Discard(errors.New("no"))
			}, broker.Queue("q"))
			m := &nats.Msg{Subject: "orders.created", Header: nats.Header{nats.MsgIdHdr: {"order-1"}}}
			for k, v := range test.header {
				m.Header[k] = []string{v}
			}
			noErr(t, nc.PublishMsg(m))
			eventually(t, "the failure is logged", func() bool { return len(log.With("handler failed: no")) > 0 })
			want := map[string]any{
				"client": "payments-1", "topic": "orders.*", "queue": "q", "stream": "ORDERS", "consumer": "q",
				"subject": "orders.created", "sequence": "1", "deliveries": "1", "message_id": "order-1",
			}
			if id := test.want(); id != "" {
				want["trace_id"] = id
			}
			wantLine(t, log, logger.ErrorLevel, "handler failed: no", want)
		})
	}
}

// counted returns how many events the lines of one kind tell of: those that are
// written, and those that they count.
func counted(lines []natstest.Line) int {
	n := len(lines)
	for _, line := range lines {
		if _, rest, ok := strings.Cut(line.Text, "(and "); ok {
			more, _, _ := strings.Cut(rest, " more since")
			i, _ := strconv.Atoi(more)
			n += i
		}
	}
	return n
}

// wantFew checks that a flood since then has left a line per second at most.
func wantFew(t *testing.T, lines []natstest.Line, since time.Time) {
	t.Helper()
	if most := int(time.Since(since)/time.Second) + 1; len(lines) == 0 || len(lines) > most {
		t.Errorf("%d lines, want 1 to %d", len(lines), most)
	}
}

func TestAFloodOfFailuresYieldsFewLines(t *testing.T) {
	t.Parallel()
	const n = 500
	later := jsbroker.WithConsumerConfig(jetstream.ConsumerConfig{MaxDeliver: 2, BackOff: []time.Duration{time.Hour}})
	for name, test := range map[string]struct {
		handler broker.Handler
		text    string
		opts    []broker.Option
	}{
		"errors": {
			func(broker.Event) error { return jsbroker.Discard(errors.New("no")) }, "handler failed", nil,
		},
		"panics": {
			func(broker.Event) error { panic("no") }, "panic", []broker.Option{later},
		},
		"an ErrorHandler that fails": {
			func(broker.Event) error { return jsbroker.Discard(errors.New("no")) }, "the broker's ErrorHandler failed",
			[]broker.Option{broker.ErrorHandler(func(broker.Event) error { return errors.New("neither") })},
		},
		"an ErrorHandler that panics": {
			func(broker.Event) error { return jsbroker.Discard(errors.New("no")) }, "the broker's ErrorHandler panicked",
			[]broker.Option{broker.ErrorHandler(func(broker.Event) error { panic("neither") })},
		},
		"exhausted messages": {
			func(broker.Event) error { return errors.New("no") }, "is not delivered again",
			[]broker.Option{jsbroker.WithConsumerConfig(jetstream.ConsumerConfig{MaxDeliver: 1})},
		},
		"dead letters that are refused": {
			func(broker.Event) error { return jsbroker.Discard(errors.New("no")) }, "dead letter not stored",
			[]broker.Option{later, jsbroker.WithDeadLetter("graves"), jsbroker.WithStreamConfig(jetstream.StreamConfig{Subjects: []string{"orders"}})},
		},
		"a hook that panics": {
			ignore, "a hook panicked", []broker.Option{jsbroker.WithHooks(jsbroker.Hooks{
				HandleStart: func(context.Context, jsbroker.HandleStart) context.Context { panic("no") },
			})},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			log := natstest.NewLog()
			handled, onHandled := hookChan[jsbroker.Handled]()
			b := newBroker(t, startServer(t), append(test.opts, broker.Logger(log),
				jsbroker.WithHooks(jsbroker.Hooks{Handled: onHandled}))...)
			subscribe(t, b, "orders", test.handler, broker.Queue("q"))
			begin := time.Now()
			for range n {
				publish(t, b, "orders", "x")
			}
			for range n {
				receive(t, handled)
			}
			wantFew(t, log.With(test.text), begin)
			// When the second is over, the next line accounts for all before it.
			<-time.After(time.Second)
			publish(t, b, "orders", "x")
			receive(t, handled)
			if lines := log.With(test.text); counted(lines) != n+1 {
				t.Fatalf("%d of %d counted in %v", counted(lines), n+1, lines)
			}
		})
	}
}

// A connection that comes and goes many times a second.
func TestAFloodOfLossesYieldsFewLines(t *testing.T) {
	t.Parallel()
	p := natstest.StartProxy(t, startServer(t))
	log := natstest.NewLog()
	states, onChange := hookChan[jsbroker.ConnectionChanged]()
	b := jsbroker.NewBroker(broker.Addrs(p.URL()), broker.Logger(log), jsbroker.WithHooks(jsbroker.Hooks{ConnectionChanged: onChange}),
		jsbroker.WithNATSOptions(nats.ReconnectWait(time.Millisecond), nats.ReconnectJitter(0, 0)))
	noErr(t, b.Connect())
	defer func() { noErr(t, b.Disconnect()) }()
	subscribe(t, b, "orders", ignore, broker.Queue("q"))
	begin := time.Now()
	const n = 50
	for range n {
		p.Cut()
		for receive(t, states).State != jsbroker.StateReconnected {
			continue
		}
	}
	for _, text := range []string{"connection lost, reconnecting", "reconnected to"} {
		wantFew(t, log.With(text), begin)
	}
	var warned []natstest.Line
	for _, line := range log.With("fetch failed") {
		if line.Level != logger.DebugLevel {
			warned = append(warned, line)
		}
	}
	if len(warned) > 0 {
		wantFew(t, warned, begin)
	}
}

func TestAStreakOfFetchFailuresIsWarnedOfOnce(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	_, js := natsConn(t, s)
	natstest.MakeStream(t, js, jetstream.StreamConfig{Name: "ORDERS", Subjects: []string{"orders"}})
	natstest.MakeConsumer(t, js, "ORDERS", jetstream.ConsumerConfig{Durable: "theirs", FilterSubject: "orders", AckPolicy: jetstream.AckExplicitPolicy})
	log := natstest.NewLog()
	failed, onFetchError := hookChan[jsbroker.FetchError]()
	b := newBroker(t, s, broker.Logger(log), jsbroker.WithHooks(jsbroker.Hooks{FetchError: onFetchError}))
	subscribe(t, b, "orders", ignore, broker.Queue("theirs"))
	noErr(t, js.DeleteConsumer(testContext(t), "ORDERS", "theirs"))
	for range 3 {
		receive(t, failed)
	}
	levels := map[string]int{}
	for _, line := range log.With("fetch failed")[:3] {
		levels[line.Level.String()]++
	}
	// That it was deleted, and that it stays so; then the same again.
	if want := map[string]int{"warn": 2, "debug": 1}; !maps.Equal(levels, want) {
		t.Errorf("levels %v, want %v", levels, want)
	}
}

func TestLineAboutAHookThatPanicsSaysWhichEvent(t *testing.T) {
	t.Parallel()
	log := natstest.NewLog()
	b := newBroker(t, startServer(t), broker.Logger(log), jsbroker.WithHooks(jsbroker.Hooks{
		Published: func(context.Context, jsbroker.Published) { panic("no") },
	}))
	publish(t, b, "orders", "x")
	wantLine(t, log, logger.ErrorLevel, "a hook panicked: no", map[string]any{"event": "Published"})
}

// panickingLogger is a logger whose every line panics.
type panickingLogger struct {
	logger.Logger
	lines *atomic.Int64
}

func (l panickingLogger) Fields(map[string]any) logger.Logger { return l }
func (l panickingLogger) Log(logger.Level, ...any)            { l.lines.Add(1); panic("logger") }
func (l panickingLogger) Logf(logger.Level, string, ...any)   { l.lines.Add(1); panic("logger") }

// Many lines are written on goroutines of the client.
func TestAPanicOfTheLoggerIsContained(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	p := natstest.StartProxy(t, s)
	states, onChange := hookChan[jsbroker.ConnectionChanged]()
	var lines atomic.Int64
	b := newBroker(t, s, broker.Addrs(p.URL()), broker.Logger(panickingLogger{natstest.Quiet(), &lines}),
		jsbroker.WithHooks(jsbroker.Hooks{ConnectionChanged: onChange}))
	before := lines.Load()
	p.Cut()
	for receive(t, states).State != jsbroker.StateReconnected {
		continue
	}
	h, got := collector()
	subscribe(t, b, "orders", func(e broker.Event) error {
		_ = h(e)
		return jsbroker.Discard(errors.New("no"))
	}, broker.Queue("q"))
	publish(t, b, "orders", "x")
	receive(t, got)
	noErr(t, b.Disconnect())
	if n := lines.Load() - before; n < 2 {
		t.Errorf("%d lines, want one about the connection and one about the handler", n)
	}
}

// hangingLogger is a logger whose every line hangs, once it is armed.
type hangingLogger struct {
	logger.Logger
	s     *stuck
	lines *atomic.Int64
}

func (l hangingLogger) Fields(map[string]any) logger.Logger { return l }
func (l hangingLogger) Log(logger.Level, ...any)            { l.lines.Add(1); l.s.at("logger") }
func (l hangingLogger) Logf(logger.Level, string, ...any)   { l.lines.Add(1); l.s.at("logger") }

// Whoever has something to say goes on: workers, fetching, the client's callbacks, the
// connection. The ack deadline of what is in hand is extended, also where the logger is
// only slow.
func TestALoggerThatHangsHoldsUpNothing(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	_, js := natsConn(t, s)
	p := natstest.StartProxy(t, s)
	states, onChange := hookChan[jsbroker.ConnectionChanged]()
	lines, hangs := new(atomic.Int64), newStuck(t, "logger")
	b := newBroker(t, s, broker.Addrs(p.URL()), broker.Logger(hangingLogger{natstest.Quiet(), hangs, lines}), quickPings(),
		jsbroker.WithHooks(jsbroker.Hooks{ConnectionChanged: onChange}), jsbroker.WithConsumerConfig(jetstream.ConsumerConfig{AckWait: 500 * time.Millisecond}))
	h, got := collector()
	deliveries := make(chan uint64, 10000)
	subscribe(t, b, "orders", func(e broker.Event) error {
		_ = h(e)
		deliveries <- jsbroker.NumDelivered(e)
		return jsbroker.Discard(errors.New("no"))
	}, broker.Queue("q"))
	hangs.armed.Store(true)
	publish(t, b, "orders", "fails")
	receive(t, hangs.entered) // the line about the handler hangs
	eventually(t, "the message is settled, before any second delivery", func() bool { return streamInfo(t, js, "ORDERS").State.Msgs == 0 })
	if n := <-deliveries; n != 1 || len(deliveries) > 0 {
		t.Errorf("delivery %d, and %d more", n, len(deliveries))
	}
	called := lines.Load()
	p.Cut()
	awaitState(t, states, jsbroker.StateDisconnected)
	awaitState(t, states, jsbroker.StateReconnected)
	noErr(t, js.DeleteConsumer(testContext(t), "ORDERS", "q")) // it is made again, and fetching goes on
	publish(t, b, "orders", "again")
	for receive(t, got) != "again" {
	}
	atOnce(t, "Subscribe", func() { noErr(t, subscribe(t, b, "orders.more", ignore, broker.Queue("q")).Unsubscribe()) })
	if n := lines.Load() - called; n != 0 {
		t.Errorf("the logger was called %d times while it hung", n)
	}
	hangs.leave()
	eventually(t, "the logger is called again", func() bool {
		noErr(t, subscribe(t, b, "orders.more", ignore, broker.Queue("q")).Unsubscribe())
		return lines.Load() > called
	})
	noErr(t, b.Disconnect())
}

// lockedBuffer is a buffer that is written and read at a time.
type lockedBuffer struct {
	mu  sync.Mutex
	buf strings.Builder
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// With go-micro's own logger: its level and its fields are heeded.
func TestGoMicrosLoggerWritesTheFields(t *testing.T) {
	t.Parallel()
	var out lockedBuffer
	log := logger.NewLogger(logger.WithOutput(&out), logger.WithLevel(logger.WarnLevel), logger.WithFields(map[string]any{"service": "payments"}))
	b := newBroker(t, startServer(t), broker.Logger(log))
	subscribe(t, b, "orders", func(broker.Event) error { return jsbroker.Discard(errors.New("no")) }, broker.Queue("q"))
	if out.String() != "" {
		t.Errorf("at level warn: %s", out.String())
	}
	m := &broker.Message{Header: map[string]string{"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}}
	noErr(t, b.Publish("orders", m, jsbroker.MessageID("order-1")))
	eventually(t, "the failure is logged", func() bool { return strings.HasSuffix(out.String(), "\n") })
	for _, part := range []string{
		"level=ERROR", `msg="jetstream: handler failed: no"`, "service=payments", "topic=orders", "queue=q", "stream=ORDERS",
		"message_id=order-1", "trace_id=0af7651916cd43dd8448eb211c80319c",
	} {
		if !strings.Contains(out.String(), part) {
			t.Errorf("no %s in %s", part, out.String())
		}
	}
}
