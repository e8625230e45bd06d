package broker_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"
	"go-micro.dev/v5/broker"
	"go-micro.dev/v5/logger"

	jsbroker "go-micro-jetstream/broker"
	"go-micro-jetstream/internal/natstest"
)

// A message that waits for its retry counts as unsettled, and the server delivers nothing
// new beyond MaxAckPending. Nobody else says so.
func TestRetriesThatFillMaxAckPendingAreReported(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		fail func(release <-chan struct{}) error
		opts []broker.SubscribeOption
	}{
		{"RetryAfter", func(<-chan struct{}) error { return jsbroker.RetryAfter(time.Hour, errors.New("not yet")) }, nil},
		// Deliveries go on, but none is a first one.
		{"retries that come and go", func(<-chan struct{}) error { return jsbroker.RetryAfter(time.Second, errors.New("not yet")) }, nil},
		{"several workers", func(<-chan struct{}) error { return jsbroker.RetryAfter(time.Hour, errors.New("not yet")) }, []broker.SubscribeOption{jsbroker.Concurrency(3)}},
		{"panics", func(<-chan struct{}) error { panic("no") }, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := startServer(t)
			_, js := natsConn(t, s)
			log := natstest.NewLog()
			states, onState := hookChan[jsbroker.ConsumerState]()
			b := newBroker(t, s, broker.Logger(log), jsbroker.WithHooks(jsbroker.Hooks{ConsumerState: onState}),
				jsbroker.WithConsumerConfig(jetstream.ConsumerConfig{MaxAckPending: 5}))
			release := make(chan struct{})
			got := make(chan string, 1000)
			subscribe(t, b, "orders", func(e broker.Event) error {
				if body := string(e.Message().Body); body != "bad" {
					got <- body
					return nil
				}
				select {
				case <-release:
					return nil
				default:
					return tt.fail(release)
				}
			}, append(tt.opts, broker.Queue("q"))...)
			for range 5 {
				publish(t, b, "orders", "bad")
			}
			eventually(t, "all five have failed", func() bool { return natstest.ConsumerInfo(t, js, "ORDERS", "q").NumAckPending == 5 })
			for i := range 20 {
				publish(t, b, "orders", fmt.Sprint("good ", i))
			}
			e := natstest.Await(t, states, "state of a queue that stands still", func(e jsbroker.ConsumerState) bool {
				return e.Pending == 20 && e.AckPending == 5
			})
			if e.MaxAckPending != 5 || e.Retries > 5 {
				t.Errorf("%+v", e)
			}
			const text = "5 are delivered and not settled, which is MaxAckPending of consumer q of stream ORDERS, and 20 wait"
			eventually(t, "the log says so", func() bool { return len(log.With(text)) > 0 })
			close(release)
			changeConsumer(t, js, func(cc *jetstream.ConsumerConfig) { cc.MaxAckPending = 100 })
			for range 20 {
				receive(t, got)
			}
			eventually(t, "the log says that it goes on", func() bool { return len(log.With("new messages again")) == 1 })
			if lines := log.With(text); len(lines) != 1 || lines[0].Level != logger.WarnLevel || !strings.Contains(lines[0].Text, "wait here for their retry: raise MaxAckPending") {
				t.Errorf("logged: %v", lines)
			}
		})
	}
}

// A queue whose handlers are busy is no standstill: MaxAckPending may be small on purpose.
func TestBusyHandlersAreNoWarning(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	log := natstest.NewLog()
	b := newBroker(t, s, broker.Logger(log), jsbroker.WithConsumerConfig(jetstream.ConsumerConfig{MaxAckPending: 1}))
	release := make(chan struct{})
	for range 3 {
		publish(t, b, "orders", "x")
	}
	subscribe(t, b, "orders", func(broker.Event) error {
		<-release
		return nil
	}, broker.Queue("q"), jsbroker.Concurrency(2))
	eventually(t, "the other worker says why it has nothing to do", func() bool { return len(log.With("1 are delivered and not settled, which is MaxAckPending")) == 1 })
	close(release)
	if lines := log.AtLeast(logger.WarnLevel); len(lines) > 0 {
		t.Errorf("logged: %v", lines)
	}
}

// At the defaults ten times as many retries may wait as the server would permit.
func TestRetriesDoNotStopTheQueueAtTheDefaults(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	b := newBroker(t, s)
	h, got := collector()
	failed := make(chan struct{}, 10000)
	subscribe(t, b, "orders", func(e broker.Event) error {
		if string(e.Message().Body) != "bad" {
			return h(e)
		}
		failed <- struct{}{}
		return jsbroker.RetryAfter(time.Hour, errors.New("not yet"))
	}, broker.Queue("q"))
	const bad = 1500 // more than the server's own default
	done := make(chan error, bad)
	for range bad {
		if err := b.Publish("orders", message("bad"), jsbroker.Async(func(err error) { done <- err })); err != nil {
			t.Fatal(err)
		}
	}
	for range bad {
		if err := receive(t, done); err != nil {
			t.Fatal(err)
		}
	}
	publish(t, b, "orders", "good")
	receive(t, got)
	if n := len(failed); n != bad {
		t.Errorf("%d have failed before", n)
	}
}

// Where less is permitted, the consumer takes that.
func TestMaxAckPendingKeepsToTheLimits(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	_, js := natsConn(t, s)
	of := func(stream string) int {
		t.Helper()
		return natstest.ConsumerInfo(t, js, stream, "q").Config.MaxAckPending
	}
	makeStream(t, js, "ORDERS", jetstream.LimitsPolicy, func(c *jetstream.StreamConfig) {
		c.ConsumerLimits = jetstream.StreamConsumerLimits{MaxAckPending: 50, InactiveThreshold: time.Hour}
	})
	b := newBroker(t, s)
	subscribe(t, b, "orders.created", ignore, broker.Queue("q"))
	if n := of("ORDERS"); n != 50 {
		t.Errorf("with a limit of the stream: %d", n)
	}
	subscribe(t, b, "parcels", ignore, broker.Queue("q"))
	if n := of("PARCELS"); n != 10000 {
		t.Errorf("without a limit: %d", n)
	}
	subscribe(t, newBroker(t, s, jsbroker.WithConsumerConfig(jetstream.ConsumerConfig{MaxAckPending: 20000})), "letters", ignore, broker.Queue("q"))
	if n := of("LETTERS"); n != 20000 {
		t.Errorf("with a template: %d", n)
	}

	limited := startServer(t, func(o *server.Options) { o.JetStreamLimits.MaxAckPending = 700 })
	_, js = natsConn(t, limited)
	subscribe(t, newBroker(t, limited), "orders", ignore, broker.Queue("q"))
	if n := of("ORDERS"); n != 700 {
		t.Errorf("with a limit of the server: %d", n)
	}
}
