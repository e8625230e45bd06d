package broker_test

import (
	"context"
	"os"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go-micro.dev/v5/broker"

	jsbroker "go-micro-jetstream/broker"
	"go-micro-jetstream/internal/natstest"
)

// The harness is natstest. What the tests of this package use most has a short
// name here.

const patience = natstest.Patience

// TestMain also fails the run if a goroutine of the broker or of its client
// outlives the tests.
func TestMain(m *testing.M) {
	if runAsServer() || runAsService() || runAsDoomed() {
		return
	}
	os.Exit(natstest.Main(m))
}

func startServer(t testing.TB, change ...func(*server.Options)) *server.Server {
	t.Helper()
	return natstest.Start(t, change...)
}

// natsConn is a plain NATS client, for what users do beside the broker.
func natsConn(t testing.TB, s *server.Server, opts ...nats.Option) (*nats.Conn, jetstream.JetStream) {
	t.Helper()
	return natstest.Connect(t, s.ClientURL(), opts...)
}

func streamInfo(t testing.TB, js jetstream.JetStream, name string) *jetstream.StreamInfo {
	t.Helper()
	return natstest.StreamInfo(t, js, name)
}

func testContext(t testing.TB) context.Context {
	t.Helper()
	return natstest.Context(t)
}

func receive[T any](t testing.TB, ch <-chan T) T {
	t.Helper()
	return natstest.Receive(t, ch)
}

func eventually(t testing.TB, what string, holds func() bool) {
	t.Helper()
	natstest.Eventually(t, what, holds)
}

// newBroker returns a connected broker that is disconnected with the test.
func newBroker(t testing.TB, s interface{ ClientURL() string }, opts ...broker.Option) broker.Broker {
	t.Helper()
	b := jsbroker.NewBroker(append([]broker.Option{broker.Addrs(s.ClientURL()), quiet()}, opts...)...)
	if err := b.Connect(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Disconnect() })
	return b
}

// quiet keeps the log out of the test's output, and out of the memory that
// benchmarks measure.
func quiet() broker.Option { return broker.Logger(natstest.Quiet()) }

// message makes a message with a body.
func message(body string) *broker.Message { return &broker.Message{Body: []byte(body)} }

// publish publishes and fails the test on an error.
func publish(t testing.TB, b broker.Broker, topic, body string, opts ...broker.PublishOption) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), natstest.Patience) // a busy machine may need it
	defer cancel()
	if err := b.Publish(topic, message(body), append([]broker.PublishOption{broker.PublishContext(ctx)}, opts...)...); err != nil {
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

// hookChan returns a channel and the function that fills it from a hook.
func hookChan[E any]() (<-chan E, func(context.Context, E)) {
	ch := make(chan E, 10000)
	return ch, func(_ context.Context, e E) { ch <- e }
}

func wantError(t testing.TB, err, sentinel error, parts ...string) {
	t.Helper()
	natstest.WantError(t, err, sentinel, parts...)
}

// noAnswer is how long it takes at least until a call gives up that waits for an
// answer, unless its caller has set a deadline.
const noAnswer = 5 * time.Second

// atOnce fails the test if a call takes as long as one that waits in vain. It
// asks for no speed: the machine may be busy.
func atOnce(t testing.TB, what string, call func()) {
	t.Helper()
	begin := time.Now()
	call()
	if took := time.Since(begin); took >= noAnswer {
		t.Errorf("%s took %v, as if nobody had answered", what, took)
	}
}

// ignore is a handler that acks everything.
func ignore(broker.Event) error { return nil }

// nilContext is what callers pass who have none.
var nilContext context.Context
