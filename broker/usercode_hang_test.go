package broker_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
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

// stuck hangs in one place of the user's code, once it is armed.
type stuck struct {
	place   string
	armed   atomic.Bool
	entered chan struct{}
	release chan struct{}
}

func newStuck(t *testing.T, place string) *stuck {
	s := &stuck{place: place, entered: make(chan struct{}, 1000), release: make(chan struct{})}
	t.Cleanup(func() { s.leave() })
	return s
}

func (s *stuck) leave() {
	if s.armed.Swap(false) {
		close(s.release)
	}
}

func (s *stuck) at(place string) {
	if place == s.place && s.armed.Load() {
		s.entered <- struct{}{}
		<-s.release
	}
}

func at[E any](s *stuck, place string) func(context.Context, E) {
	return func(context.Context, E) { s.at(place) }
}

func (s *stuck) hooks() jsbroker.Hooks {
	return jsbroker.Hooks{
		Published: at[jsbroker.Published](s, "Published"),
		SubscriptionStart: func(ctx context.Context, _ jsbroker.SubscriptionStart) context.Context {
			s.at("SubscriptionStart")
			return ctx
		},
		SubscriptionEnd: at[jsbroker.SubscriptionEnd](s, "SubscriptionEnd"),
		Fetched:         at[jsbroker.Fetched](s, "Fetched"),
		FetchError:      at[jsbroker.FetchError](s, "FetchError"),
		Backoff:         at[jsbroker.Backoff](s, "Backoff"),
		ConsumerState:   at[jsbroker.ConsumerState](s, "ConsumerState"),
		HandleStart: func(ctx context.Context, _ jsbroker.HandleStart) context.Context {
			s.at("HandleStart")
			return ctx
		},
		Panicked: at[jsbroker.Panicked](s, "Panicked"),
		Settled: func(_ context.Context, e jsbroker.Settled) {
			if e.Returned {
				s.at("Settled, given back")
			} else {
				s.at("Settled")
			}
		},
		DeadLettered: at[jsbroker.DeadLettered](s, "DeadLettered"),
		Exhausted:    at[jsbroker.Exhausted](s, "Exhausted"),
		Skipped:      at[jsbroker.Skipped](s, "Skipped"),
		Handled:      at[jsbroker.Handled](s, "Handled"),
	}
}

// stuckBroker is a broker whose user's code hangs somewhere.
func (s *stuck) broker(t *testing.T, srv *server.Server, opts ...broker.Option) broker.Broker {
	return newBroker(t, srv, append([]broker.Option{
		jsbroker.WithShutdownTimeout(300 * time.Millisecond), jsbroker.WithHooks(s.hooks()),
		broker.ErrorHandler(func(broker.Event) error { s.at("ErrorHandler"); return nil }),
	}, opts...)...)
}

// handler does what the body says.
func (s *stuck) handler(e broker.Event) error {
	switch string(e.Message().Body) {
	case "panic":
		panic("boom")
	case "fail":
		return errors.New("fails")
	case "handler":
		s.at("Settled, given back")
	}
	return nil
}

func marker(t *testing.T, nc *nats.Conn) {
	t.Helper()
	if err := nc.PublishMsg(&nats.Msg{Subject: "orders", Header: nats.Header{"Nats-Marker-Reason": {"MaxAge"}}}); err != nil {
		t.Fatal(err)
	}
}

// Whatever hook hangs, Disconnect returns within its bound and some seconds, and says
// which it is.
func TestDisconnectNamesWhatHangs(t *testing.T) {
	t.Parallel()
	once := jsbroker.WithConsumerConfig(jetstream.ConsumerConfig{MaxDeliver: 1})
	for place, bodies := range map[string][]string{
		"Published": {"async"}, "SubscriptionStart": nil, "SubscriptionEnd": nil, "Fetched": {"x"},
		"FetchError": {"delete"}, "Backoff": {"delete"}, "ConsumerState": nil, "HandleStart": {"x"},
		"Panicked": {"panic"}, "Settled": {"x"}, "Settled, given back": {"handler", "x"},
		"DeadLettered": {"fail"}, "Exhausted": {"fail"}, "Skipped": {"marker"}, "Handled": {"x"}, "ErrorHandler": {"fail"},
	} {
		t.Run(place, func(t *testing.T) {
			t.Parallel()
			srv := startServer(t)
			nc, js := natsConn(t, srv)
			s := newStuck(t, place)
			opts := []broker.Option{once}
			if place == "DeadLettered" {
				opts = append(opts, jsbroker.WithDeadLetter("dead"))
			}
			b := s.broker(t, srv, opts...)
			publish(t, b, "orders", "first") // makes the stream
			s.armed.Store(true)
			subscribed := make(chan error, 1)
			go func() {
				_, err := b.Subscribe("orders", s.handler, broker.Queue("q"))
				subscribed <- err
			}()
			if place != "SubscriptionStart" && place != "ConsumerState" {
				noErr(t, receive(t, subscribed))
			}
			for _, body := range bodies {
				switch body {
				case "async":
					noErr(t, b.Publish("orders", message(body), jsbroker.Async(func(error) {})))
				case "marker":
					marker(t, nc)
				case "delete":
					noErr(t, js.DeleteConsumer(testContext(t), "ORDERS", "q"))
				default:
					_, err := js.Publish(testContext(t), "orders", []byte(body))
					noErr(t, err)
				}
			}
			if place != "SubscriptionEnd" {
				receive(t, s.entered)
			}
			if len(bodies) > 1 { // what waits is here before the end
				eventually(t, "both are delivered", func() bool {
					return natstest.ConsumerInfo(t, js, "ORDERS", "q").NumAckPending == 2
				})
			}
			name, _, _ := strings.Cut(place, ",")
			var err error
			atOnce(t, "Disconnect", func() { err = b.Disconnect() })
			wantError(t, err, jsbroker.ErrShutdownTimeout, name)
			s.leave()
		})
	}
}

// Unsubscribe names what hangs, too, unless it need not wait for that: a handler, with
// its hooks.
func TestUnsubscribeNamesWhatHangs(t *testing.T) {
	t.Parallel()
	for _, place := range []string{"SubscriptionEnd", "Fetched", "FetchError", "Settled, given back", "HandleStart"} {
		t.Run(place, func(t *testing.T) {
			t.Parallel()
			srv := startServer(t)
			_, js := natsConn(t, srv)
			s := newStuck(t, place)
			b := s.broker(t, srv)
			publish(t, b, "orders", "handler")
			publish(t, b, "orders", "second")
			if place != "FetchError" {
				s.armed.Store(true)
			}
			sub := subscribe(t, b, "orders", s.handler, broker.Queue("q"))
			if place == "FetchError" {
				s.armed.Store(true)
				noErr(t, js.DeleteConsumer(testContext(t), "ORDERS", "q"))
			}
			if place != "SubscriptionEnd" {
				receive(t, s.entered)
			}
			began := time.Now()
			err := sub.Unsubscribe()
			if took := time.Since(began); took > 2*noAnswer {
				t.Errorf("it took %v", took)
			}
			if place == "HandleStart" {
				noErr(t, err)
			} else {
				name, _, _ := strings.Cut(place, ",")
				wantError(t, err, jsbroker.ErrShutdownTimeout, name)
			}
			noErr(t, sub.Unsubscribe()) // at once
			s.leave()
			noErr(t, b.Disconnect())
		})
	}
}

// badName is a function for stream names that does something else for topics that begin
// with bad.
type badName struct {
	do      func()
	entered chan struct{}
	calls   atomic.Int64
}

func (n *badName) of(topic string) string {
	if strings.HasPrefix(topic, "bad") {
		n.calls.Add(1)
		n.entered <- struct{}{}
		n.do()
	}
	return "S_" + topic
}

func (n *badName) broker(t *testing.T) broker.Broker {
	n.entered = make(chan struct{}, 1000)
	return newBroker(t, startServer(t), jsbroker.WithStreamName(n.of))
}

// What a function for stream names does for one topic is an error that names it for
// everybody who needs the name of that one.
func TestStreamNameIsAnErrorForAllWhoNeedIt(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	t.Cleanup(func() { close(release) })
	for does, do := range map[string]func(){
		"has not returned in time": func() { <-release },
		"has panicked: no name":    func() { panic("no name") },
		"has ended its goroutine":  runtime.Goexit,
	} {
		t.Run(does, func(t *testing.T) {
			t.Parallel()
			n := badName{do: do}
			b := n.broker(t)
			const calls = 20
			failed := make(chan error, 2*calls)
			for range calls {
				go func() { failed <- b.Publish("bad", message("x"), broker.PublishContext(testContext(t))) }()
				go func() {
					failed <- b.Publish("bad", message("x"), broker.PublishContext(testContext(t)), jsbroker.Async(func(error) {}))
				}()
			}
			for range 2 * calls {
				wantError(t, receive(t, failed), jsbroker.ErrInvalidConfig, "WithStreamName", "bad", does)
			}
			_, err := b.Subscribe("bad", ignore, broker.Queue("q"))
			wantError(t, err, jsbroker.ErrInvalidConfig, "WithStreamName", "bad", does)
			wantError(t, jsbroker.CancelDelivery(testContext(t), b, "bad", "id"), jsbroker.ErrInvalidConfig, "WithStreamName", "bad", does)
			publish(t, b, "good", "x")
		})
	}
}

// A stream that there is needs no name. It is used, and the log says that it could not be
// compared with what was asked for.
func TestStreamIsUsedWhoseNameCannotBeAskedFor(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	t.Cleanup(func() { close(release) })
	for does, name := range map[string]func(string) string{
		"has not returned in time":   func(string) string { <-release; return "" },
		"has panicked: no name":      func(string) string { panic("no name") },
		"has ended its goroutine":    func(string) string { runtime.Goexit(); return "" },
		"would be named \"no name\"": func(string) string { return "no name" },
	} {
		t.Run(does, func(t *testing.T) {
			t.Parallel()
			s := startServer(t)
			_, js := natsConn(t, s)
			natstest.MakeStream(t, js, jetstream.StreamConfig{Name: "THEIRS", Subjects: []string{"orders"}})
			log := natstest.NewLog()
			b := newBroker(t, s, broker.Logger(log), jsbroker.WithStreamName(name), jsbroker.WithStreamConfig(jetstream.StreamConfig{MaxAge: time.Hour}))
			publish(t, b, "orders", "x", broker.PublishContext(testContext(t)))
			if lines := log.With("stream THEIRS is used as it is, and not compared with WithStreamConfig"); len(lines) != 1 || lines[0].Level != logger.WarnLevel || !strings.Contains(lines[0].Text, does) {
				t.Errorf("logged:\n%s", log.Text())
			}
			h, got := collector()
			subscribe(t, b, "orders", h, broker.Queue("q"), jsbroker.ConsumerConfig(jetstream.ConsumerConfig{DeliverPolicy: jetstream.DeliverAllPolicy}))
			receive(t, got)
		})
	}
}

// Nobody waits for the name of another topic.
func TestStreamNameThatHangsHoldsUpNoOtherTopic(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	n := badName{do: func() { <-release }}
	b := n.broker(t)
	t.Cleanup(func() { close(release) })
	go func() { _ = b.Publish("bad", message("x")) }()
	receive(t, n.entered)
	short, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	wantError(t, b.Publish("bad", message("x"), broker.PublishContext(short)), jsbroker.ErrInvalidConfig, "WithStreamName", "bad", "deadline")
	round := 0
	eventually(t, "a publish to another topic is over while the function hangs", func() bool {
		round++
		failed := make(chan error, 1)
		go func() {
			failed <- b.Publish(fmt.Sprint("bad", round), message("x"), broker.PublishContext(testContext(t)))
		}()
		receive(t, n.entered)
		publish(t, b, fmt.Sprint("good", round), "x", broker.PublishContext(testContext(t)))
		select {
		case err := <-failed:
			wantError(t, err, jsbroker.ErrInvalidConfig, "WithStreamName")
			return false // this machine is slow
		default:
			return true
		}
	})
}

// However often somebody asks, few calls hang. When they return, the topic works.
func TestFewCallsForStreamNamesHang(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	n := badName{do: func() { <-release }}
	b := n.broker(t)
	fails := func() { wantError(t, b.Publish("bad", message("x")), jsbroker.ErrInvalidConfig, "WithStreamName") }
	eventually(t, "as many hang as may", func() bool { fails(); return n.calls.Load() == 5 })
	for range 40 {
		fails()
	}
	if got := n.calls.Load(); got != 5 {
		t.Errorf("%d calls hang", got)
	}
	close(release)
	eventually(t, "the topic works", func() bool {
		return b.Publish("bad", message("x"), broker.PublishContext(testContext(t))) == nil
	})
}

// A dialer that hangs holds up Connect, but not a Disconnect.
func TestDisconnectBesideAConnectThatHangs(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	entered, release := make(chan struct{}, 100), make(chan struct{})
	b := unconnected(s, jsbroker.WithShutdownTimeout(100*time.Millisecond), jsbroker.WithNATSOptions(nats.Timeout(patience), nats.SetCustomDialer(dialer(func() {
		entered <- struct{}{}
		<-release
	}))))
	connected := make(chan error, 1)
	go func() { connected <- b.Connect() }()
	receive(t, entered)
	var err error
	atOnce(t, "Disconnect", func() { err = b.Disconnect() })
	wantError(t, err, jsbroker.ErrShutdownTimeout, "Connect")
	close(release)
	noErr(t, receive(t, connected))
	noErr(t, b.Disconnect())
}

// During a Connect as after it, Init does not accept what would have no effect.
func TestInitDuringConnect(t *testing.T) {
	t.Parallel()
	s, other := startServer(t), startServer(t)
	entered, release := make(chan struct{}, 100), make(chan struct{})
	b := unconnected(s, jsbroker.WithNATSOptions(nats.Timeout(patience), nats.SetCustomDialer(dialer(func() {
		entered <- struct{}{}
		<-release
	}))))
	connected := make(chan error, 1)
	go func() { connected <- b.Connect() }()
	receive(t, entered)
	wantError(t, b.Init(broker.Addrs(other.ClientURL())), jsbroker.ErrInvalidConfig, "broker.Addrs", "during Connect")
	noErr(t, b.Init(jsbroker.WithConcurrency(2)))
	close(release)
	noErr(t, receive(t, connected))
	if b.Address() != s.ClientURL() {
		t.Errorf("connected to %s", b.Address())
	}
	noErr(t, b.Init())
	noErr(t, b.Disconnect())
	noErr(t, b.Init(broker.Addrs(other.ClientURL())))
}

// Code of the user that hangs in Connect is an error after nats.Timeout.
func TestConnectBesideCodeThatHangs(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	for name, option := range userCode {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			release := make(chan struct{})
			b := unconnected(s, jsbroker.WithNATSOptions(nats.Timeout(200*time.Millisecond), option(func() { <-release })))
			var err error
			atOnce(t, "Connect", func() { err = b.Connect() })
			if err == nil || !strings.Contains(err.Error(), name) || !strings.Contains(err.Error(), "nats.Timeout") {
				t.Errorf("got %v", err)
			}
			close(release)
			noErr(t, b.Disconnect())
		})
	}
}

// A dialer that hangs for one server does not keep the client from another.
func TestConnectBesideADialerThatHangsForOneServer(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	release := make(chan struct{})
	t.Cleanup(func() { close(release) })
	var calls atomic.Int64
	b := unconnected(s, broker.Addrs("localhost:1", s.ClientURL()), jsbroker.WithNATSOptions(nats.DontRandomize(), nats.Timeout(200*time.Millisecond),
		nats.SetCustomDialer(dialer(func() {
			if calls.Add(1) == 1 {
				<-release
			}
		}))))
	connectNow(t, b)
	publish(t, b, "orders", "x")
}
