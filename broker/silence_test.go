package broker_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go-micro.dev/v5/broker"

	jsbroker "go-micro-jetstream/broker"
	"go-micro-jetstream/internal/natstest"
)

// Tests of connections that die without a word. The client must notice that by
// itself, reconnect, and neither lose nor repeat anything.

// death is a way for a connection to die.
type death struct {
	name  string
	begin func(*natstest.Proxy)
	heal  func(*natstest.Proxy) // when the client has noticed; nil: new connections work anyway
}

func deaths() []death {
	return []death{
		{name: "silent both ways", begin: func(p *natstest.Proxy) { p.Forget(true, true) }},
		{name: "requests are lost", begin: func(p *natstest.Proxy) { p.Forget(true, false) }},
		{name: "answers are lost", begin: func(p *natstest.Proxy) { p.Forget(false, true) }},
		{name: "half closed to the server", begin: func(p *natstest.Proxy) { p.HalfClose(true) }},
		{name: "half closed to the client", begin: func(p *natstest.Proxy) { p.HalfClose(false) }},
		{name: "very slow", begin: func(p *natstest.Proxy) { p.Slow(20) }},
		{name: "new connections are silent as well", begin: (*natstest.Proxy).ForgetAll, heal: (*natstest.Proxy).Remember},
		{name: "held back, and it comes late", begin: func(p *natstest.Proxy) { p.Stall(); p.TakeNothing() }, heal: func(p *natstest.Proxy) { p.Resume(); p.TakeAgain() }},
	}
}

// quickPings has the client notice a death soon, in place of half a minute.
func quickPings() broker.Option {
	return jsbroker.WithNATSOptions(nats.PingInterval(300*time.Millisecond), nats.ReconnectWait(20*time.Millisecond), nats.ReconnectJitter(0, 0))
}

func TestSilentDeathIsNoticed(t *testing.T) {
	t.Parallel()
	for _, d := range deaths() {
		t.Run(d.name, func(t *testing.T) {
			t.Parallel()
			dies(t, d, quickPings(), jsbroker.WithConsumerConfig(jetstream.ConsumerConfig{AckWait: 2 * time.Second}))
		})
	}
}

// The client pings every ten seconds, and misses the third answer. A quarter of a
// minute more is for a busy machine.
func TestSilentDeathIsNoticedWithinHalfAMinute(t *testing.T) {
	if testing.Short() {
		t.Skip("takes more than half a minute")
	}
	t.Parallel()
	for _, d := range deaths() {
		t.Run(d.name, func(t *testing.T) {
			t.Parallel()
			if took := dies(t, d); took > 45*time.Second {
				t.Errorf("noticed and mended after %v", took)
			}
		})
	}
}

// dies has the connection of a broker die that publishes and subscribes. It returns how
// long it took until there was another one.
func dies(t *testing.T, d death, opts ...broker.Option) time.Duration {
	t.Helper()
	s := startServer(t)
	p := natstest.StartProxy(t, s)
	states, onState := hookChan[jsbroker.ConnectionChanged]()
	o := newOutcomes(t)
	b := newBroker(t, s, append([]broker.Option{broker.Addrs(p.URL()), jsbroker.WithHooks(jsbroker.Hooks{ConnectionChanged: onState})}, opts...)...)
	wantStates(t, states, jsbroker.StateConnected)
	subscribe(t, b, "orders", o.handler, broker.Queue("q"))
	o.publish(b, 20)
	began := time.Now()
	d.begin(p)
	stop := o.keepPublishing(b)
	awaitState(t, states, jsbroker.StateDisconnected)
	noticed := time.Since(began)
	if d.heal != nil {
		d.heal(p)
	}
	awaitState(t, states, jsbroker.StateReconnected)
	mended := time.Since(began)
	stop()
	o.publish(b, 20)
	o.settle(t, s)
	t.Logf("noticed after %v, mended after %v", noticed, mended)
	return mended
}

// awaitState waits for a state for as long as the defaults may take.
func awaitState(t testing.TB, states <-chan jsbroker.ConnectionChanged, want jsbroker.ConnectionState) {
	t.Helper()
	for end := time.After(3 * patience); ; {
		select {
		case e := <-states:
			if e.State == want {
				return
			}
		case <-end:
			t.Fatalf("never %s", want)
		}
	}
}

// outcomes holds publishes to what their errors say. Every body is unique.
type outcomes struct {
	t       testing.TB
	mu      sync.Mutex
	next    int
	stored  map[string]bool // Publish has returned nil
	not     map[string]error
	unknown map[string]bool
	handled map[string]int
}

func newOutcomes(t testing.TB) *outcomes {
	return &outcomes{t: t, stored: map[string]bool{}, not: map[string]error{}, unknown: map[string]bool{}, handled: map[string]int{}}
}

func (o *outcomes) handler(e broker.Event) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.handled[string(e.Message().Body)]++
	return nil
}

// one publishes once, and notes how that ends. It calls done then.
func (o *outcomes) one(b broker.Broker, done func(), opts ...broker.PublishOption) {
	o.mu.Lock()
	o.next++
	body := fmt.Sprint(o.next)
	o.mu.Unlock()
	note := func(err error) {
		o.mu.Lock()
		defer o.mu.Unlock()
		switch {
		case err == nil:
			o.stored[body] = true
		case errors.Is(err, jsbroker.ErrPublishUnknown):
			o.unknown[body] = true
		default:
			o.not[body] = err
		}
		done()
	}
	if err := b.Publish("orders", message(body), append(opts, jsbroker.Async(note))...); err != nil {
		note(err)
	}
}

// publish publishes n messages, all of which must be stored.
func (o *outcomes) publish(b broker.Broker, n int) {
	o.t.Helper()
	var all sync.WaitGroup
	o.mu.Lock()
	before := len(o.stored)
	o.mu.Unlock()
	all.Add(n)
	for range n {
		o.one(b, all.Done, broker.PublishContext(testContext(o.t)))
	}
	all.Wait()
	o.mu.Lock()
	defer o.mu.Unlock()
	if stored := len(o.stored) - before; stored < n {
		o.t.Fatalf("%d of %d were stored: %v", stored, n, o.not)
	}
}

// keepPublishing publishes with the default deadline until stopped.
func (o *outcomes) keepPublishing(b broker.Broker) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var all sync.WaitGroup
	all.Go(func() {
		for ctx.Err() == nil {
			all.Add(1)
			o.one(b, all.Done)
			time.Sleep(10 * time.Millisecond) // the rate of the test; nothing waits for it
		}
	})
	return func() {
		cancel()
		all.Wait()
	}
}

// settle waits until everything stored is handled, and compares the stream's own count
// with what the errors said.
func (o *outcomes) settle(t testing.TB, s interface{ ClientURL() string }) {
	t.Helper()
	_, js := natstest.Connect(t, s.ClientURL())
	deadline := time.Now().Add(3 * patience) // the ack wait may have to pass
	for streamInfo(t, js, "ORDERS").State.Msgs > 0 {
		if time.Now().After(deadline) {
			t.Fatalf("%d messages are left", streamInfo(t, js, "ORDERS").State.Msgs)
		}
		time.Sleep(10 * time.Millisecond)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	for body := range o.stored {
		if o.handled[body] == 0 {
			t.Errorf("lost: %s", body)
		}
	}
	for body, err := range o.not {
		if o.handled[body] > 0 {
			t.Errorf("stored, and yet: %v", err)
		}
	}
	for body, n := range o.handled {
		if n > 1 {
			t.Errorf("handled %d times: %s", n, body)
		}
	}
	t.Logf("stored %d, unknown %d, not stored %d, handled %d", len(o.stored), len(o.unknown), len(o.not), len(o.handled))
}
