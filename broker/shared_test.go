package broker_test

import (
	"bytes"
	"crypto/tls"
	"errors"
	"strings"
	"testing"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"go-micro.dev/v5/broker"
	"go-micro.dev/v5/logger"

	jsbroker "go-micro-jetstream/broker"
	"go-micro-jetstream/internal/natstest"
)

// The first of two services to stop ends the subscriptions of the other one: the log says
// so. A service that has its broker for itself gets no such line.
func TestDisconnectOfASharedBrokerSaysSo(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	for name, tt := range map[string]struct {
		connects    int
		unsubscribe bool
		warns       bool
	}{
		"shared":                        {1, false, true},
		"shared, and all unsubscribed":  {1, true, false},
		"a broker of one's own":         {0, false, false},
		"of one's own, with its client": {1, true, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			log := natstest.NewLog()
			b := newBroker(t, s, broker.Logger(log))
			for range tt.connects {
				noErr(t, b.Connect())
			}
			sub := subscribe(t, b, "orders", ignore, broker.Queue("q"))
			if tt.unsubscribe {
				noErr(t, sub.Unsubscribe())
			}
			noErr(t, b.Disconnect())
			if warned := strings.Contains(log.Text(), "give each service its own broker"); warned != tt.warns {
				t.Errorf("warned: %v\n%s", warned, log.Text())
			}
		})
	}
}

// What the other service does then fails, and says why.
func TestASharedBrokerAfterDisconnect(t *testing.T) {
	t.Parallel()
	b := newBroker(t, startServer(t))
	noErr(t, b.Connect()) // the other service
	publish(t, b, "orders", "x")
	noErr(t, b.Disconnect())
	_, err := b.Subscribe("orders", ignore, broker.Queue("q"))
	for what, err := range map[string]error{
		"Publish": b.Publish("orders", message("x")), "Async": b.Publish("orders", message("x"), jsbroker.Async(func(error) {})), "Subscribe": err,
		"Health": jsbroker.Health(testContext(t), b), "CancelDelivery": jsbroker.CancelDelivery(testContext(t), b, "orders", "id"),
	} {
		if !errors.Is(err, jsbroker.ErrNotConnected) {
			t.Errorf("%s: %v", what, err)
		}
	}
	noErr(t, b.Disconnect())
	noErr(t, b.Connect())
	publish(t, b, "orders", "x")
}

// Whoever stands between client and server can name servers before the connection is
// encrypted. The log says which, unless the user has seen to it.
func TestServersThatAreNamedBeforeTheEncryption(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	s := startServer(t, func(o *server.Options) {
		o.TLSConfig, o.TLS, o.TLSTimeout = ca.serverTLS(t), true, patience.Seconds()
	})
	for name, tt := range map[string]struct {
		edit bool
		opts []nats.Option
		want bool
	}{
		"named":   {true, nil, true},
		"ignored": {true, []nats.Option{nats.IgnoreDiscoveredServers()}, false},
		"none":    {false, nil, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := natstest.StartProxy(t, s)
			if tt.edit {
				p.Edit(func(b []byte) []byte {
					return bytes.Replace(b, []byte(`"max_payload"`), []byte(`"connect_urls":["evil.example:4222"],"max_payload"`), 1)
				})
			}
			log := natstest.NewLog()
			_, err := connectTo(t, broker.Addrs(strings.TrimPrefix(p.URL(), "nats://")), broker.Logger(log), jsbroker.WithNATSOptions(tt.opts...),
				broker.TLSConfig(&tls.Config{MinVersion: tls.VersionTLS12, RootCAs: ca.pool}))
			noErr(t, err)
			said := false
			for _, line := range log.AtLeast(logger.InfoLevel) {
				said = said || strings.Contains(line.Text, "evil.example:4222") && strings.Contains(line.Text, "IgnoreDiscoveredServers")
			}
			if said != tt.want {
				t.Errorf("said: %v\n%s", said, log.Text())
			}
		})
	}
}
