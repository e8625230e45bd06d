package broker_test

import (
	"bytes"
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"go-micro.dev/v5/broker"

	jsbroker "go-micro-jetstream/broker"
)

// With nats.RetryOnFailedConnect the broker starts without a server. It does not
// call itself connected, and all that waits goes on when the server has come.
func TestServerMayComeAfterConnect(t *testing.T) {
	t.Parallel()
	s := startRestartable(t)
	url := s.ClientURL()
	s.stop()
	states, onState := hookChan[jsbroker.ConnectionChanged]()
	b := jsbroker.NewBroker(broker.Addrs(url), quiet(), jsbroker.WithHooks(jsbroker.Hooks{ConnectionChanged: onState}),
		jsbroker.WithNATSOptions(nats.RetryOnFailedConnect(true), nats.ReconnectWait(20*time.Millisecond), nats.ReconnectJitter(0, 0)))
	if err := b.Connect(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Disconnect() })

	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	wantError(t, b.Publish("orders", message("too soon"), broker.PublishContext(ctx)), jsbroker.ErrNotConnected)
	if len(states) > 0 {
		t.Errorf("%+v while there is no server", <-states)
	}

	h, got := collector()
	subscribed := make(chan error, 1)
	go func() {
		_, err := b.Subscribe("orders", h, broker.Queue("q"))
		subscribed <- err
	}()
	published := make(chan error, 1)
	go func() { published <- b.Publish("orders", message("waited"), broker.PublishContext(testContext(t))) }()
	s.start(t)
	if e := receive(t, states); e.State != jsbroker.StateConnected || e.URL != url {
		t.Errorf("first event %+v, want that %s is connected", e, url)
	}
	for _, result := range []chan error{subscribed, published} {
		if err := receive(t, result); err != nil {
			t.Error(err)
		}
	}
	if body := receive(t, got); body != "waited" {
		t.Errorf("got %q", body)
	}
}

// The client writes what exceeds its buffer while Publish waits. A write that
// meets a broken connection is no reason to fail.
func TestPublishSurvivesWritesToBrokenConnections(t *testing.T) {
	t.Parallel()
	for name, body := range map[string]int{"large": 200 << 10, "small, many at a time": 1 << 10} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := startServer(t)
			_, js := natsConn(t, s)
			p := startProxy(t, s)
			b := newBroker(t, s, broker.Addrs(p.url()), jsbroker.WithNATSOptions(nats.ReconnectWait(10*time.Millisecond), nats.ReconnectJitter(0, 0)))
			publish(t, b, "orders", "first")
			m := &broker.Message{Body: bytes.Repeat([]byte("x"), body)}
			var enough atomic.Bool
			var stored atomic.Int64
			var all sync.WaitGroup
			told := func(err error) {
				defer all.Done()
				if err != nil {
					t.Error(err)
				}
				stored.Add(1)
			}
			for range 4 {
				all.Go(func() {
					for !enough.Load() {
						all.Add(1)
						if err := b.Publish("orders", m, broker.PublishContext(testContext(t)), jsbroker.Async(told)); err != nil {
							told(err)
						}
					}
				})
			}
			for range 10 {
				before := stored.Load()
				eventually(t, "messages are stored", func() bool { return stored.Load() > before+20 })
				p.cut()
			}
			enough.Store(true)
			all.Wait()
			if n := int64(streamInfo(t, js, "ORDERS").State.Msgs); n != 1+stored.Load() {
				t.Errorf("%d messages in the stream, %d were published", n, 1+stored.Load())
			}
		})
	}
}

// Where the network takes nothing in, and does not say so, no call waits much
// longer than its own bound.
func TestBoundsHoldWhereTheNetworkTakesNothingIn(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	p := startProxy(t, s)
	b := jsbroker.NewBroker(broker.Addrs(p.url()), quiet(), jsbroker.WithShutdownTimeout(time.Second))
	if err := b.Connect(); err != nil {
		t.Fatal(err)
	}
	publish(t, b, "orders", "first")
	p.takeNothing()
	m := &broker.Message{Body: bytes.Repeat([]byte("x"), 900<<10)}
	// nats.go's own bound of a write is a minute.
	const bound = 30 * time.Second
	var publishers sync.WaitGroup
	for range 40 { // more than buffers hold
		publishers.Go(func() {
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			defer cancel()
			begin := time.Now()
			if err := b.Publish("orders", m, broker.PublishContext(ctx)); err == nil {
				t.Error("nothing can be stored")
			}
			if took := time.Since(begin); took > bound {
				t.Errorf("a Publish with a deadline of 1s took %v", took)
			}
		})
	}
	publishers.Wait()
	begin := time.Now()
	_ = b.Disconnect()
	if took := time.Since(begin); took > bound {
		t.Errorf("a Disconnect with a bound of 1s took %v", took)
	}
}

func TestDisconnectWithoutTheUsersCallbacks(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	called := func(*nats.Conn) { t.Error("called after the client's Close") }
	b := newBroker(t, s, jsbroker.WithNATSOptions(nats.NoCallbacksAfterClientClose(), nats.ClosedHandler(called),
		nats.DisconnectErrHandler(func(nc *nats.Conn, _ error) { called(nc) })))
	result := make(chan error, 1)
	go func() { result <- b.Disconnect() }()
	if err := receive(t, result); err != nil {
		t.Fatal(err)
	}
}

func TestDisconnectTellsOfPublishesItHasCutOff(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	p := startProxy(t, s)
	b := newBroker(t, s, broker.Addrs(p.url()), jsbroker.WithShutdownTimeout(50*time.Millisecond))
	publish(t, b, "orders", "first")
	p.stall()
	const n = 3
	told := make(chan error, n)
	for range n {
		if err := b.Publish("orders", message("x"), jsbroker.Async(func(err error) { told <- err })); err != nil {
			t.Fatal(err)
		}
	}
	wantError(t, b.Disconnect(), jsbroker.ErrShutdownTimeout, "3 publishes")
	for range n {
		if err := receive(t, told); !errors.Is(err, jsbroker.ErrPublishUnknown) {
			t.Errorf("told of %v", err)
		}
	}
}
