package broker_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go-micro.dev/v5/broker"
	"go-micro.dev/v5/logger"
	"go.uber.org/goleak"

	jsbroker "go-micro-jetstream/broker"
)

// patience bounds every wait of the tests. It is no measure of speed: it only
// ends a test whose event never comes.
const patience = 20 * time.Second

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m,
		// go-micro's HTTP broker and registry cache, started by package variables.
		goleak.IgnoreTopFunction("go-micro.dev/v5/registry.(*mdnsRegistry).cleanup"),
	)
}

// startServer runs a real nats-server with JetStream in this process.
func startServer(t testing.TB, change ...func(*server.Options)) *server.Server {
	t.Helper()
	o := &server.Options{Host: "127.0.0.1", Port: -1, JetStream: true, StoreDir: t.TempDir(), NoSigs: true}
	for _, c := range change {
		c(o)
	}
	return runServer(t, o)
}

// runServer starts a server with these options and shuts it down with the test.
func runServer(t testing.TB, o *server.Options) *server.Server {
	t.Helper()
	s, err := server.NewServer(o)
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() { stopServer(s) })
	if !s.ReadyForConnections(patience) {
		t.Fatal("the server does not start")
	}
	return s
}

func stopServer(s *server.Server) {
	s.Shutdown()
	s.WaitForShutdown()
}

// newBroker returns a connected broker that is disconnected with the test.
func newBroker(t testing.TB, s *server.Server, opts ...broker.Option) broker.Broker {
	t.Helper()
	b := jsbroker.NewBroker(append([]broker.Option{broker.Addrs(s.ClientURL()), quiet()}, opts...)...)
	if err := b.Connect(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Disconnect() })
	return b
}

// quiet keeps the log out of the test's output.
func quiet() broker.Option { return broker.Logger(newLog()) }

// testLog is a logger that keeps its lines.
type testLog struct {
	logger.Logger
	mu     *sync.Mutex
	lines  *[]string
	fields map[string]any
}

func newLog() *testLog {
	return &testLog{
		Logger: logger.NewLogger(logger.WithOutput(io.Discard), logger.WithLevel(logger.Level(slog.LevelError))),
		mu:     &sync.Mutex{}, lines: &[]string{},
	}
}

func (l *testLog) Fields(fields map[string]any) logger.Logger {
	return &testLog{Logger: l.Logger, mu: l.mu, lines: l.lines, fields: fields}
}

func (l *testLog) Log(level logger.Level, v ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	*l.lines = append(*l.lines, fmt.Sprintf("%s %s %v", level, fmt.Sprint(v...), l.fields))
}

func (l *testLog) Logf(level logger.Level, format string, v ...any) {
	l.Log(level, fmt.Sprintf(format, v...))
}

// all returns the lines logged so far.
func (l *testLog) all() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]string(nil), *l.lines...)
}

// natsConn is a plain NATS client, for what users do beside the broker.
func natsConn(t testing.TB, s *server.Server) (*nats.Conn, jetstream.JetStream) {
	t.Helper()
	nc, err := nats.Connect(s.ClientURL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	return nc, js
}

// testContext ends with the patience of the tests.
func testContext(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

// receive returns the next value from a channel.
func receive[T any](t testing.TB, ch <-chan T) T {
	t.Helper()
	select {
	case v, ok := <-ch:
		if !ok {
			t.Fatal("the channel is closed")
		}
		return v
	case <-time.After(patience):
		t.Fatalf("nothing received within %v", patience)
	}
	panic("unreachable")
}

// eventually waits until something that has no event of its own holds.
func eventually(t testing.TB, what string, holds func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for !holds() {
		if time.Now().After(deadline) {
			t.Fatalf("still not so after %v: %s", patience, what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// message makes a message with a body.
func message(body string) *broker.Message { return &broker.Message{Body: []byte(body)} }

// publish publishes and fails the test on an error.
func publish(t testing.TB, b broker.Broker, topic, body string, opts ...broker.PublishOption) {
	t.Helper()
	if err := b.Publish(topic, message(body), opts...); err != nil {
		t.Fatal(err)
	}
}

// subscribe subscribes and fails the test on an error.
func subscribe(t testing.TB, b broker.Broker, topic string, h broker.Handler, opts ...broker.SubscribeOption) broker.Subscriber {
	t.Helper()
	sub, err := b.Subscribe(topic, h, opts...)
	if err != nil {
		t.Fatal(err)
	}
	return sub
}

// collector is a handler that passes on the bodies it gets.
func collector() (broker.Handler, <-chan string) {
	ch := make(chan string, 10000)
	return func(e broker.Event) error {
		ch <- string(e.Message().Body)
		return nil
	}, ch
}

// consumerInfo returns what the server knows of a consumer.
func consumerInfo(t testing.TB, js jetstream.JetStream, stream, name string) *jetstream.ConsumerInfo {
	t.Helper()
	c, err := js.Consumer(testContext(t), stream, name)
	if err != nil {
		t.Fatal(err)
	}
	info, err := c.Info(testContext(t))
	if err != nil {
		t.Fatal(err)
	}
	return info
}

// streamInfo returns what the server knows of a stream.
func streamInfo(t testing.TB, js jetstream.JetStream, name string) *jetstream.StreamInfo {
	t.Helper()
	st, err := js.Stream(testContext(t), name)
	if err != nil {
		t.Fatal(err)
	}
	info, err := st.Info(testContext(t))
	if err != nil {
		t.Fatal(err)
	}
	return info
}

// hookChan returns a channel and the function that fills it from a hook.
func hookChan[E any]() (<-chan E, func(context.Context, E)) {
	ch := make(chan E, 10000)
	return ch, func(_ context.Context, e E) { ch <- e }
}

var _ = jsbroker.Hooks{}
