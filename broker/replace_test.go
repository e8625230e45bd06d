package broker_test

import (
	"errors"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go-micro.dev/v5/broker"

	jsbroker "go-micro-jetstream/broker"
	"go-micro-jetstream/internal/natstest"
)

// closing is what tests of a client that closes for good work on.
type closing struct {
	t      *testing.T
	b      broker.Broker
	p      *natstest.Proxy
	reload func(func(*server.Options))
	conns  chan *nats.Conn // each client that has connected
}

func (c *closing) say(text string) { c.p.Say(text) }

// large publishes what the server does not accept any more. The connection is closed
// for that once: the next client knows the limit.
func (c *closing) large() {
	c.t.Helper()
	c.reload(func(o *server.Options) { o.MaxPayload = 1000 })
	err := c.b.Publish("orders", &broker.Message{Body: make([]byte, 2048)}, broker.PublishContext(testContext(c.t)))
	wantError(c.t, err, jsbroker.ErrMessageTooLarge, "1000")
}

// The client closes for good at errors that it does not know, and where the user's own
// code closes it. Nobody has asked for an end, so another client takes its place, and
// everything goes on.
func TestClosedClientIsReplaced(t *testing.T) {
	t.Parallel()
	for name, closes := range map[string]func(*closing){
		"max_payload is lowered":          (*closing).large,
		"an error that it does not know":  func(c *closing) { c.say("-ERR 'Something New'\r\n") },
		"maximum control line exceeded":   func(c *closing) { c.say("-ERR 'maximum control line exceeded'\r\n") },
		"authentication timeout":          func(c *closing) { c.say("-ERR 'Authentication Timeout'\r\n") },
		"the user's code closes it":       func(c *closing) { receive(c.t, c.conns).Close() },
		"the user's code drains it":       func(c *closing) { _ = receive(c.t, c.conns).Drain() },
		"closed while it is reconnecting": func(c *closing) { c.p.ForgetAll(); c.p.Cut(); receive(c.t, c.conns).Close(); c.p.Remember() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, reload := natstest.StartReloadable(t)
			p := natstest.StartProxy(t, s)
			states, onState := hookChan[jsbroker.ConnectionChanged]()
			log := natstest.NewLog()
			c := &closing{t: t, p: p, reload: reload, conns: make(chan *nats.Conn, 100)}
			c.b = newBroker(t, s, broker.Addrs(p.URL()), broker.Logger(log), quickPings(),
				jsbroker.WithConsumerConfig(jetstream.ConsumerConfig{AckWait: 2 * time.Second}),
				jsbroker.WithNATSOptions(nats.ConnectHandler(func(nc *nats.Conn) { c.conns <- nc })),
				jsbroker.WithHooks(jsbroker.Hooks{ConnectionChanged: onState}))
			o := newOutcomes(t)
			wantStates(t, states, jsbroker.StateConnected)
			subscribe(t, c.b, "orders", o.handler, broker.Queue("q"))
			subscribe(t, c.b, "orders.paid", ignore)
			o.publish(c.b, 20)
			stop := o.keepPublishing(c.b)
			closes(c)
			awaitState(t, states, jsbroker.StateDisconnected)
			awaitState(t, states, jsbroker.StateReconnected)
			stop()
			if len(o.not) > 0 || len(o.unknown) > 0 {
				t.Errorf("publishes did not wait for the next client: %v, %v", o.not, o.unknown)
			}
			o.publish(c.b, 20)
			subscribe(t, c.b, "users", o.handler, broker.Queue("q")) // JetStream's API is there
			o.settle(t, s)
			if len(log.With("dialling again")) == 0 {
				t.Errorf("logged:\n%s", log.Text())
			}
			if err := c.b.Disconnect(); err != nil {
				t.Error(err)
			}
		})
	}
}

// What the server accepts changes, and with it the credentials: the client is refused for
// a while, and goes on when it is not.
func TestRefusedForAWhile(t *testing.T) {
	t.Parallel()
	s, reload := natstest.StartReloadable(t, natstest.Limited(natstest.NoSubscribe("none")))
	states, onState := hookChan[jsbroker.ConnectionChanged]()
	b := newBroker(t, s, as("admin:admin", s), quickPings(), jsbroker.WithHooks(jsbroker.Hooks{ConnectionChanged: onState}))
	h, got := collector()
	subscribe(t, b, "orders", h, broker.Queue("q"))
	reload(func(o *server.Options) { o.Users = []*server.User{{Username: "admin", Password: "another"}} })
	awaitState(t, states, jsbroker.StateDisconnected)
	reload(natstest.Limited(natstest.NoSubscribe("none")))
	awaitState(t, states, jsbroker.StateReconnected)
	publish(t, b, "orders", "x", broker.PublishContext(testContext(t)))
	if body := receive(t, got); body != "x" {
		t.Errorf("got %q", body)
	}
}

// A limit of the user holds, also for a client that has taken another one's place.
func TestReplacedClientKeepsTheUsersLimit(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	p := natstest.StartProxy(t, s)
	states, onState := hookChan[jsbroker.ConnectionChanged]()
	b := newBroker(t, s, broker.Addrs(p.URL()), jsbroker.WithHooks(jsbroker.Hooks{ConnectionChanged: onState}),
		jsbroker.WithNATSOptions(nats.MaxReconnects(2), nats.ReconnectWait(10*time.Millisecond), nats.ReconnectJitter(0, 0)))
	publish(t, b, "orders", "x")
	p.Say("-ERR 'Something New'\r\n")
	awaitState(t, states, jsbroker.StateReconnected) // that was no reconnect of the client
	natstest.Stop(s)
	awaitState(t, states, jsbroker.StateClosed)
	wantError(t, b.Publish("orders", message("x")), jsbroker.ErrNotConnected)
}

// Disconnect ends also what is about to make another client.
func TestDisconnectWhileTheClientIsReplaced(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	p := natstest.StartProxy(t, s)
	states, onState := hookChan[jsbroker.ConnectionChanged]()
	b := newBroker(t, s, broker.Addrs(p.URL()), jsbroker.WithHooks(jsbroker.Hooks{ConnectionChanged: onState}))
	publish(t, b, "orders", "x")
	p.Say("-ERR 'Something New'\r\n")
	awaitState(t, states, jsbroker.StateDisconnected)
	if err := b.Disconnect(); err != nil && !errors.Is(err, jsbroker.ErrShutdownTimeout) {
		t.Error(err)
	}
	awaitState(t, states, jsbroker.StateClosed)
	if err := b.Connect(); err != nil {
		t.Error(err)
	}
	publish(t, b, "orders", "y")
}
