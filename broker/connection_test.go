package broker_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go-micro.dev/v5/broker"

	jsbroker "go-micro-jetstream/broker"
	"go-micro-jetstream/internal/natstest"
)

// With nats.RetryOnFailedConnect the broker starts without a server. It does not
// call itself connected, and all that waits goes on when the server has come.
func TestServerMayComeAfterConnect(t *testing.T) {
	t.Parallel()
	s := natstest.StartRestartable(t)
	url := s.ClientURL()
	s.Stop()
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
	if e := receive(t, states); e.State != jsbroker.StateDisconnected || e.Err == nil {
		t.Errorf("first event %+v, want that it is not connected, and why", e)
	}
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
	s.Start(t)
	if e := receive(t, states); e.State != jsbroker.StateConnected || e.URL != url {
		t.Errorf("second event %+v, want that %s is connected", e, url)
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
	for name, body := range map[string]int{"large": 64 << 10, "small, many at a time": 1 << 10} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := startServer(t)
			_, js := natsConn(t, s)
			p := natstest.StartProxy(t, s)
			// Each cut has a whole window sent again.
			b := newBroker(t, s, broker.Addrs(p.URL()), jsbroker.WithAsyncWindow(40), jsbroker.WithNATSOptions(nats.ReconnectWait(10*time.Millisecond), nats.ReconnectJitter(0, 0)))
			publish(t, b, "orders", "first")
			m := &broker.Message{Body: bytes.Repeat([]byte("x"), body)}
			// One message may have to be sent again after each of the cuts.
			ctx, cancel := context.WithTimeout(context.Background(), 4*patience)
			defer cancel()
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
						if err := b.Publish("orders", m, broker.PublishContext(ctx), jsbroker.Async(told)); err != nil {
							told(err)
						}
					}
				})
			}
			defer func() { // also if the wait below gives up
				enough.Store(true)
				all.Wait()
			}()
			for range 10 {
				before := stored.Load()
				eventually(t, "messages are stored", func() bool { return stored.Load() > before+20 })
				p.Cut()
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
	p := natstest.StartProxy(t, s)
	b := jsbroker.NewBroker(broker.Addrs(p.URL()), quiet(), jsbroker.WithShutdownTimeout(time.Second))
	if err := b.Connect(); err != nil {
		t.Fatal(err)
	}
	publish(t, b, "orders", "first")
	p.TakeNothing()
	m := &broker.Message{Body: bytes.Repeat([]byte("x"), 900<<10)}
	// nats.go's own bound of a write is a minute.
	const bound = patience
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
	p := natstest.StartProxy(t, s)
	b := newBroker(t, s, broker.Addrs(p.URL()), jsbroker.WithShutdownTimeout(50*time.Millisecond))
	publish(t, b, "orders", "first")
	p.Stall()
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

// A publish that was written long ago ends with its context, whoever's message the
// network does not take in just then.
func TestCancelledPublishDoesNotWaitForTheWriteOfAnother(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	_, js := natsConn(t, s)
	p := natstest.StartProxy(t, s)
	b := newBroker(t, s, broker.Addrs(p.URL()))
	silent := jetstream.StreamConfig{Name: "SILENT", Subjects: []string{"silent"}}
	natstest.MakeStream(t, js, silent)
	publish(t, b, "orders", "first")
	publish(t, b, "silent", "first")
	silent.NoAck = true
	natstest.UpdateStream(t, js, silent)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- b.Publish("silent", message("x"), broker.PublishContext(ctx)) }()
	eventually(t, "it is written", func() bool { return streamInfo(t, js, "SILENT").State.Msgs == 2 })
	p.TakeNothing()
	m := &broker.Message{Body: bytes.Repeat([]byte("x"), 900<<10)}
	var others sync.WaitGroup
	for range 30 { // more than buffers hold
		others.Go(func() { _ = b.Publish("orders", m) })
	}
	eventually(t, "one of them is held up", func() bool {
		return slices.ContainsFunc(natstest.Goroutines(), func(stack string) bool {
			return strings.Contains(stack, "TestCancelledPublishDoes") && strings.Contains(stack, "(*Conn).publish(") && strings.Contains(stack, "[IO wait")
		})
	})
	atOnce(t, "its end", func() { // as long as the other one waits, at most
		cancel()
		wantError(t, receive(t, ended), jsbroker.ErrPublishUnknown)
	})
	p.TakeAgain()
	others.Wait()
}

// What the server before accepted, or nobody had a limit for yet, is too large for
// the one that is there now.
func TestTooLargeForTheServerThatComes(t *testing.T) {
	t.Parallel()
	for name, late := range map[string]bool{"after an outage": false, "not known at Connect": true} {
		t.Run(name, func(t *testing.T) {
			s := natstest.StartRestartable(t)
			states, onState := hookChan[jsbroker.ConnectionChanged]()
			opts := []broker.Option{
				broker.Addrs(s.ClientURL()),
				jsbroker.WithNATSOptions(nats.ReconnectWait(20*time.Millisecond), nats.RetryOnFailedConnect(late)),
				jsbroker.WithHooks(jsbroker.Hooks{ConnectionChanged: onState}),
			}
			if late {
				s.Stop()
			}
			b := newBroker(t, s.Server, opts...)
			if !late {
				publish(t, b, "orders", "first")
				s.Stop()
				for receive(t, states).State != jsbroker.StateDisconnected {
				}
			}
			result := make(chan error, 1)
			go func() {
				result <- b.Publish("orders", &broker.Message{Body: make([]byte, 5000)}, broker.PublishContext(testContext(t)))
			}()
			eventually(t, "it waits", func() bool {
				return slices.ContainsFunc(natstest.Goroutines(), func(stack string) bool {
					return strings.Contains(stack, "TestTooLargeForTheServer") && strings.Contains(stack, ").awaitConnection")
				})
			})
			s.Options.MaxPayload = 2000
			s.Start(t)
			err := receive(t, result)
			wantError(t, err, jsbroker.ErrMessageTooLarge, "5000", "2000")
			if errors.Is(err, jsbroker.ErrPublishUnknown) {
				t.Errorf("nothing was sent, and yet: %v", err)
			}
		})
	}
}

// connectNow connects a broker that its own hooks or callbacks use, which must know
// it before, and disconnects it with the test.
func connectNow(t *testing.T, b broker.Broker) {
	t.Helper()
	if err := b.Connect(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Disconnect() })
}

// wantStates fails unless these are the next states that the hook is told of.
func wantStates(t *testing.T, states <-chan jsbroker.ConnectionChanged, want ...jsbroker.ConnectionState) {
	t.Helper()
	for _, w := range want {
		if e := receive(t, states); e.State != w {
			t.Errorf("told of %s, want %s", e.State, w)
		}
	}
}

// A hook is told of the states in their order, however long another one takes with
// each, and what it does.
func TestStatesAreToldInOrder(t *testing.T) {
	t.Parallel()
	t.Run("lost while hooks are told of Connect", func(t *testing.T) {
		t.Parallel()
		s := startServer(t)
		p := natstest.StartProxy(t, s)
		lost := make(chan struct{}, 10)
		slow := func(_ context.Context, e jsbroker.ConnectionChanged) {
			if e.State == jsbroker.StateConnected {
				p.Cut()
				receive(t, lost)
			}
		}
		states, onState := hookChan[jsbroker.ConnectionChanged]()
		newBroker(t, s, broker.Addrs(p.URL()), jsbroker.WithHooks(jsbroker.Hooks{ConnectionChanged: slow}, jsbroker.Hooks{ConnectionChanged: onState}),
			jsbroker.WithNATSOptions(nats.ReconnectWait(20*time.Millisecond), nats.DisconnectErrHandler(func(*nats.Conn, error) { lost <- struct{}{} })))
		wantStates(t, states, jsbroker.StateConnected, jsbroker.StateDisconnected, jsbroker.StateReconnected)
	})
	t.Run("connected again by another hook", func(t *testing.T) {
		t.Parallel()
		conns := make(chan *nats.Conn, 2)
		var b broker.Broker
		var again sync.Once
		connect := func(_ context.Context, e jsbroker.ConnectionChanged) {
			if e.State != jsbroker.StateClosed {
				return
			}
			again.Do(func() {
				if err := b.Connect(); err != nil {
					t.Error(err)
				}
			})
		}
		states, onState := hookChan[jsbroker.ConnectionChanged]()
		b = unconnected(startServer(t), jsbroker.WithHooks(jsbroker.Hooks{ConnectionChanged: connect}, jsbroker.Hooks{ConnectionChanged: onState}),
			jsbroker.WithNATSOptions(nats.NoReconnect(), nats.ConnectHandler(func(c *nats.Conn) { conns <- c })))
		connectNow(t, b)
		receive(t, conns).Close()
		wantStates(t, states, jsbroker.StateConnected, jsbroker.StateClosed, jsbroker.StateConnected)
	})
	t.Run("lost and back while Connect looks at JetStream", func(t *testing.T) {
		t.Parallel()
		s := startServer(t)
		nc, _ := natsConn(t, s)
		p := natstest.StartProxy(t, s)
		states, onState := hookChan[jsbroker.ConnectionChanged]()
		asked := make(chan struct{}, 10)
		if _, err := nc.Subscribe("$JS.API.INFO", func(*nats.Msg) { asked <- struct{}{} }); err != nil {
			t.Fatal(err)
		}
		if err := nc.Flush(); err != nil {
			t.Fatal(err)
		}
		p.StallAfter("$JS.API.INFO")
		go func() {
			<-asked
			p.Resume()
			p.Cut()
		}()
		newBroker(t, s, broker.Addrs(p.URL()), jsbroker.WithHooks(jsbroker.Hooks{ConnectionChanged: onState}),
			jsbroker.WithNATSOptions(nats.ReconnectWait(20*time.Millisecond), nats.ReconnectJitter(0, 0)))
		if e := receive(t, states); e.State != jsbroker.StateConnected {
			t.Errorf("told of %s, want %s", e.State, jsbroker.StateConnected)
		}
		if len(states) > 0 {
			t.Errorf("told of %s as well", (<-states).State)
		}
	})
	t.Run("closed by the client, and Disconnect comes before it says so", func(t *testing.T) {
		t.Parallel()
		conns, disconnected := make(chan *nats.Conn, 1), make(chan struct{})
		states, onState := hookChan[jsbroker.ConnectionChanged]()
		b := newBroker(t, startServer(t), jsbroker.WithHooks(jsbroker.Hooks{ConnectionChanged: onState}), jsbroker.WithNATSOptions(
			nats.NoReconnect(),
			nats.ConnectHandler(func(c *nats.Conn) { conns <- c }),
			nats.DisconnectErrHandler(func(*nats.Conn, error) { <-disconnected }))) // the client tells of the end after that
		receive(t, conns).Close()
		err := b.Disconnect()
		close(disconnected)
		if err != nil {
			t.Error(err)
		}
		wantStates(t, states, jsbroker.StateConnected, jsbroker.StateClosed)
	})
	t.Run("disconnected where the client has given up", func(t *testing.T) {
		t.Parallel()
		states, onState := hookChan[jsbroker.ConnectionChanged]()
		s := natstest.StartRestartable(t)
		b := newBroker(t, s.Server, jsbroker.WithHooks(jsbroker.Hooks{ConnectionChanged: onState}), jsbroker.WithNATSOptions(nats.NoReconnect()))
		receive(t, states)
		s.Stop()
		if e := receive(t, states); e.State != jsbroker.StateClosed || e.Err == nil {
			t.Errorf("told of %+v, want why it is closed", e)
		}
		for range 2 {
			if err := b.Disconnect(); err != nil {
				t.Fatal(err)
			}
		}
		if e := receive(t, states); e.State != jsbroker.StateClosed || e.Err != nil || len(states) > 0 {
			t.Errorf("told of %+v and %d more, want the end", e, len(states))
		}
	})
	t.Run("back after the end", func(t *testing.T) {
		t.Parallel()
		s := startServer(t)
		p := natstest.StartProxy(t, s)
		var b broker.Broker
		var lost sync.Once
		result, reconnected := make(chan error, 1), make(chan struct{}, 10)
		states, onState := hookChan[jsbroker.ConnectionChanged]()
		b = unconnected(s, broker.Addrs(p.URL()), jsbroker.WithHooks(jsbroker.Hooks{ConnectionChanged: onState}), jsbroker.WithNATSOptions(
			nats.ReconnectWait(20*time.Millisecond),
			nats.ReconnectHandler(func(*nats.Conn) { reconnected <- struct{}{} }), // after the broker has been told
			nats.DisconnectErrHandler(func(nc *nats.Conn, _ error) {
				lost.Do(func() {
					for !nc.IsConnected() { // it comes back while the client waits for this
						time.Sleep(time.Millisecond)
					}
					result <- b.Disconnect()
				})
			})))
		connectNow(t, b)
		p.Cut()
		if err := receive(t, result); err != nil {
			t.Error(err)
		}
		receive(t, reconnected)
		var last jsbroker.ConnectionChanged
		for len(states) > 0 {
			last = <-states
		}
		if last.State != jsbroker.StateClosed {
			t.Errorf("told of %s at last, and the broker is disconnected", last.State)
		}
	})
	t.Run("a hook ends its goroutine", func(t *testing.T) {
		t.Parallel()
		exits := func(context.Context, jsbroker.ConnectionChanged) { runtime.Goexit() }
		states, onState := hookChan[jsbroker.ConnectionChanged]()
		b := newBroker(t, startServer(t), jsbroker.WithHooks(jsbroker.Hooks{ConnectionChanged: onState}, jsbroker.Hooks{ConnectionChanged: exits}))
		if err := b.Disconnect(); err != nil {
			t.Error(err)
		}
		wantStates(t, states, jsbroker.StateConnected, jsbroker.StateClosed)
	})
}

// The hook of a loss may give up.
func TestDisconnectFromTheHookOfALoss(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	p := natstest.StartProxy(t, s)
	var b broker.Broker
	results := make(chan error, 10)
	states, onState := hookChan[jsbroker.ConnectionChanged]()
	b = unconnected(s, broker.Addrs(p.URL()), jsbroker.WithHooks(jsbroker.Hooks{ConnectionChanged: func(ctx context.Context, e jsbroker.ConnectionChanged) {
		onState(ctx, e)
		if e.State == jsbroker.StateDisconnected {
			results <- b.Disconnect()
			results <- b.Connect()
		}
	}}))
	connectNow(t, b)
	p.Cut()
	if err := receive(t, results); err != nil {
		t.Error(err)
	}
	wantError(t, receive(t, results), jsbroker.ErrNotConnected, "hook") // Disconnect waits for it
	wantStates(t, states, jsbroker.StateConnected, jsbroker.StateDisconnected, jsbroker.StateClosed)
	if err := b.Disconnect(); err != nil { // waits for the first, or comes after it
		t.Error(err)
	}
	if err := b.Connect(); err != nil {
		t.Error(err)
	}
}

// What closing the connection takes is not a hook's fault.
func TestDisconnectBlamesNoHook(t *testing.T) {
	t.Parallel()
	for range 10 {
		b := newBroker(t, startServer(t), jsbroker.WithShutdownTimeout(time.Nanosecond), jsbroker.WithHooks(jsbroker.Hooks{
			ConnectionChanged: func(context.Context, jsbroker.ConnectionChanged) {},
		}))
		if err := b.Disconnect(); err != nil {
			t.Error(err)
		}
	}
}

// Whoever waits for the connection sees that it is back, whatever the client's own
// callback does meanwhile.
func TestPublishWhileTheClientCallsBack(t *testing.T) {
	t.Parallel()
	for _, inside := range []bool{true, false} {
		t.Run(fmt.Sprintf("inside %v", inside), func(t *testing.T) {
			t.Parallel()
			s := startServer(t)
			p := natstest.StartProxy(t, s)
			var b broker.Broker
			var lost sync.Once
			result, entered, release := make(chan error, 10), make(chan struct{}), make(chan struct{})
			defer close(release)
			b = unconnected(s, broker.Addrs(p.URL()), jsbroker.WithNATSOptions(nats.ReconnectWait(200*time.Millisecond), nats.ReconnectJitter(0, 0),
				nats.DisconnectErrHandler(func(*nats.Conn, error) {
					lost.Do(func() {
						close(entered)
						if inside {
							result <- b.Publish("orders", message("x"))
						} else {
							<-release
						}
					})
				})))
			connectNow(t, b)
			publish(t, b, "orders", "first")
			p.Cut()
			receive(t, entered)
			if !inside {
				go func() { result <- b.Publish("orders", message("x")) }()
			}
			if err := receive(t, result); err != nil {
				t.Error(err)
			}
		})
	}
}

// A server before 2.10 forgets the metadata of consumers, and with it when to give up.
func TestServerThatIsTooOldIsRefused(t *testing.T) {
	t.Parallel()
	refused := func(err error) {
		t.Helper()
		if err == nil || !strings.Contains(err.Error(), "version 2.9.25") || !strings.Contains(err.Error(), "2.10 or later") {
			t.Errorf("got %v", err)
		}
	}
	claim := func(p *natstest.Proxy, version string) { // before anybody connects
		p.Edit(func(data []byte) []byte {
			return bytes.Replace(data, []byte(`"version":"`+server.VERSION), []byte(`"version":"`+version), 1)
		})
	}
	for version, tooOld := range map[string]bool{
		"2.9.25": true, "2.10.0": false, "2.10.0-RC.3": false, "3.0.0": false, "": false, "0xcafe": false,
	} {
		p := natstest.StartProxy(t, startServer(t))
		claim(p, version)
		b, err := connectTo(t, broker.Addrs(p.URL()))
		if !tooOld {
			noErr(t, err)
			publish(t, b, "orders", "x")
			continue
		}
		refused(err)
	}
	// What is not connected is looked at later.
	r := natstest.StartRestartable(t)
	p := natstest.StartProxy(t, r.Server)
	claim(p, "2.9.25")
	r.Stop()
	up := make(chan struct{})
	b := unconnected(r.Server, broker.Addrs(p.URL()), jsbroker.WithNATSOptions(nats.RetryOnFailedConnect(true),
		nats.ReconnectWait(10*time.Millisecond), nats.ReconnectJitter(0, 0), nats.ConnectHandler(func(*nats.Conn) { close(up) })))
	connectNow(t, b)
	r.Start(t)
	receive(t, up)
	refused(b.Publish("orders", message("x")))
	_, err := b.Subscribe("orders", ignore, broker.Queue("q"))
	refused(err)
}

// lostInAHook returns a broker that has lost its connection and whose hook hangs with
// that news until released. It shuts down within 50 ms.
func lostInAHook(t *testing.T) (b broker.Broker, release func()) {
	s := startServer(t)
	p := natstest.StartProxy(t, s)
	entered, released := make(chan struct{}), make(chan struct{})
	b = newBroker(t, s, broker.Addrs(p.URL()), jsbroker.WithShutdownTimeout(50*time.Millisecond),
		jsbroker.WithHooks(jsbroker.Hooks{ConnectionChanged: func(_ context.Context, e jsbroker.ConnectionChanged) {
			if e.State == jsbroker.StateDisconnected {
				close(entered)
				<-released
			}
		}}))
	p.Cut()
	receive(t, entered)
	return b, func() { close(released) }
}

// Connect does not wait for ever for hooks that hang, or that wait for it.
func TestConnectIsBoundedWhateverHangs(t *testing.T) {
	t.Parallel()
	t.Run("told of the former connection", func(t *testing.T) {
		t.Parallel()
		b, release := lostInAHook(t)
		defer release()
		wantError(t, b.Disconnect(), jsbroker.ErrShutdownTimeout)
		if err := b.Connect(); err != nil {
			t.Error(err)
		}
		publish(t, b, "orders", "x")
	})
	t.Run("waits for a goroutine that connects", func(t *testing.T) {
		t.Parallel()
		conns, result := make(chan *nats.Conn, 2), make(chan error, 1)
		var b broker.Broker
		var again sync.Once
		b = unconnected(startServer(t), jsbroker.WithNATSOptions(nats.NoReconnect(), nats.ConnectHandler(func(c *nats.Conn) { conns <- c })),
			jsbroker.WithHooks(jsbroker.Hooks{ConnectionChanged: func(_ context.Context, e jsbroker.ConnectionChanged) {
				if e.State == jsbroker.StateClosed {
					again.Do(func() {
						done := make(chan error, 1)
						go func() { done <- b.Connect() }()
						result <- <-done
					})
				}
			}}))
		connectNow(t, b)
		receive(t, conns).Close()
		if err := receive(t, result); err != nil {
			t.Error(err)
		}
	})
}

// Also the one that finds another at work returns when hooks have been told.
func TestSecondConnectWaitsForHooks(t *testing.T) {
	t.Parallel()
	entered, release := make(chan struct{}), make(chan struct{})
	var told atomic.Bool
	b := unconnected(startServer(t), jsbroker.WithHooks(jsbroker.Hooks{ConnectionChanged: func(_ context.Context, e jsbroker.ConnectionChanged) {
		if e.State == jsbroker.StateConnected {
			close(entered)
			<-release
			told.Store(true)
		}
	}}))
	go func() { _ = b.Connect() }()
	receive(t, entered)
	time.AfterFunc(100*time.Millisecond, func() { close(release) })
	connectNow(t, b)
	if !told.Load() {
		t.Error("Connect has returned before its hook")
	}
}

// Neither a hook that hangs nor the client's own callback that does keeps Disconnect
// beyond its bound.
func TestDisconnectIsBoundedWhateverHangs(t *testing.T) {
	t.Parallel()
	t.Run("hook", func(t *testing.T) {
		t.Parallel()
		b, release := lostInAHook(t)
		defer release()
		wantError(t, b.Disconnect(), jsbroker.ErrShutdownTimeout, "ConnectionChanged")
	})
	t.Run("the client's callback", func(t *testing.T) {
		t.Parallel()
		s := startServer(t)
		p := natstest.StartProxy(t, s)
		var b broker.Broker
		result := make(chan error, 10)
		b = unconnected(s, broker.Addrs(p.URL()), jsbroker.WithNATSOptions(nats.DisconnectErrHandler(func(*nats.Conn, error) { result <- b.Disconnect() })))
		connectNow(t, b)
		p.Cut()
		if err := receive(t, result); err != nil {
			t.Error(err)
		}
	})
}

// The hook of a loss may wait for its end.
func TestPublishFromTheHookOfALoss(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	p := natstest.StartProxy(t, s)
	var b broker.Broker
	result := make(chan error, 10)
	b = newBroker(t, s, broker.Addrs(p.URL()), jsbroker.WithNATSOptions(nats.ReconnectWait(20*time.Millisecond)), jsbroker.WithHooks(jsbroker.Hooks{
		ConnectionChanged: func(_ context.Context, e jsbroker.ConnectionChanged) {
			if e.State == jsbroker.StateDisconnected {
				result <- b.Publish("orders", message("from the hook"))
			}
		},
	}))
	publish(t, b, "orders", "first")
	p.Cut()
	if err := receive(t, result); err != nil {
		t.Error(err)
	}
}

// A hook that is told of the end of a connection may try for the next: it gets a
// word at once where Disconnect waits for it, and a connection where it does not.
func TestConnectFromTheHookOfTheEnd(t *testing.T) {
	t.Parallel()
	start := func(t *testing.T, opts ...broker.Option) (b broker.Broker, connected, disconnected chan error) {
		connected, disconnected = make(chan error, 1), make(chan error, 1)
		var told atomic.Bool
		b = newBroker(t, startServer(t), append(opts, jsbroker.WithHooks(jsbroker.Hooks{ConnectionChanged: func(_ context.Context, e jsbroker.ConnectionChanged) {
			if e.State == jsbroker.StateClosed && told.CompareAndSwap(false, true) {
				connected <- b.Connect()
				disconnected <- b.Disconnect()
			}
		}}))...)
		return b, connected, disconnected
	}
	t.Run("Disconnect", func(t *testing.T) {
		t.Parallel()
		b, connected, disconnected := start(t)
		ended := make(chan error, 1)
		go func() { ended <- b.Disconnect() }()
		wantError(t, receive(t, connected), jsbroker.ErrNotConnected, "hook")
		for _, c := range []chan error{disconnected, ended} {
			if err := receive(t, c); err != nil {
				t.Error(err)
			}
		}
		if err := b.Connect(); err != nil {
			t.Error(err)
		}
	})
	t.Run("closed for good", func(t *testing.T) {
		t.Parallel()
		conns := make(chan *nats.Conn, 2)
		_, connected, disconnected := start(t, jsbroker.WithNATSOptions(nats.NoReconnect(), nats.ConnectHandler(func(c *nats.Conn) { conns <- c })))
		receive(t, conns).Close()
		for _, c := range []chan error{connected, disconnected} {
			if err := receive(t, c); err != nil {
				t.Error(err)
			}
		}
	})
}

// The server ends the subscriptions to inboxes when it reads that they are not permitted,
// and does not bring them back when they are again.
func TestInboxForbiddenForAWhile(t *testing.T) {
	t.Parallel()
	s, reload := natstest.StartReloadable(t, natstest.Limited(natstest.NoSubscribe("none")))
	_, js := natsConn(t, s, nats.UserInfo("admin", "admin"))
	stored := func() uint64 { return streamInfo(t, js, "ORDERS").State.LastSeq }
	l := newLedger()
	log := natstest.NewLog()
	failed, onFetchError := hookChan[jsbroker.FetchError]()
	told := make(chan string, 1000) // the broker has been told before
	b := newBroker(t, s, as("limited:pw", s), broker.Logger(log), l.watch(), jsbroker.WithHooks(jsbroker.Hooks{FetchError: onFetchError}),
		jsbroker.WithNATSOptions(
			nats.ReconnectHandler(func(*nats.Conn) { told <- "reconnected" }),
			nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) { told <- "refused" })))
	subscribe(t, b, "orders", l.handler, broker.Queue("q"))
	l.publish(t, b, "orders", 1, 10)
	eventually(t, "all are handled", func() bool { return l.count() == 10 })

	reload(natstest.Limited(natstest.NoSubscribe("_INBOX.>")))
	if e := receive(t, failed); e.Reason != "permission" || !strings.Contains(e.Err.Error(), "_INBOX.") {
		t.Errorf("the fetch failed with %q, %v", e.Reason, e.Err)
	}
	// Nobody would hear of what happens to them: they are not sent, and fail at once.
	refusedAtOnce := func() {
		t.Helper()
		before := stored()
		atOnce(t, "to refuse", func() {
			wantError(t, b.Publish("orders", message("unheard")), jsbroker.ErrPermission, "_INBOX.")
			_, err := b.Subscribe("orders.paid", ignore, broker.Queue("another"))
			wantError(t, err, jsbroker.ErrPermission, "_INBOX.")
		})
		if n := stored() - before; n > 0 {
			t.Errorf("%d messages were stored", n)
		}
	}
	refusedAtOnce()
	for receive(t, told) != "reconnected" { // to ask again
	}
	if next := receive(t, told); next != "refused" {
		t.Fatal(next)
	}
	refusedAtOnce()
	if lines := log.With("_INBOX."); len(lines) == 0 {
		t.Errorf("logged: %v", log.Lines())
	}

	reload(natstest.Limited(natstest.NoSubscribe("none")))
	admin := newBroker(t, s, as("admin:admin", s))
	l.publish(t, admin, "orders", 11, 20)
	eventually(t, "all are handled", func() bool { return l.count() == 20 })
	l.publish(t, b, "orders", 21, 30)
	subscribe(t, b, "orders.paid", ignore, broker.Queue("another"))
	l.settle(t)
	reconnects := 0
	for len(told) > 0 {
		if <-told == "reconnected" {
			reconnects++
		}
	}
	if reconnects > 3 {
		t.Errorf("%d reconnects", reconnects)
	}
	t.Logf("%d more failed fetches, %d more reconnects", len(failed), reconnects)
}

func TestPublishUnderWayWhenTheInboxIsForbidden(t *testing.T) {
	t.Parallel()
	s, reload := natstest.StartReloadable(t, natstest.Limited(natstest.NoSubscribe("none")))
	_, js := natsConn(t, s, nats.UserInfo("admin", "admin"))
	silent := jetstream.StreamConfig{Name: "ORDERS", Subjects: []string{"orders"}}
	natstest.MakeStream(t, js, silent)
	b := newBroker(t, s, as("limited:pw", s))
	publish(t, b, "orders", "first")
	silent.NoAck = true
	natstest.UpdateStream(t, js, silent)
	result := make(chan error, 1)
	go func() {
		result <- b.Publish("orders", message("stored"), broker.PublishContext(testContext(t)))
	}()
	eventually(t, "it is stored", func() bool { return streamInfo(t, js, "ORDERS").State.Msgs == 2 })
	var err error
	atOnce(t, "its end", func() { // its deadline is patience
		reload(natstest.Limited(natstest.NoSubscribe("_INBOX.>")))
		err = receive(t, result)
	})
	wantError(t, err, jsbroker.ErrPermission, "_INBOX.")
	if !errors.Is(err, jsbroker.ErrPublishUnknown) {
		t.Errorf("it is stored, and yet: %v", err)
	}
}
