package broker_test

import (
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"go-micro.dev/v5/broker"

	jsbroker "go-micro-jetstream/broker"
	"go-micro-jetstream/internal/natstest"
)

// Tests of a Subscribe that runs into a restart: it rides through within its ten seconds,
// or names the lost connection.

func quickReconnects() broker.Option {
	return jsbroker.WithNATSOptions(nats.ReconnectWait(20*time.Millisecond), nats.ReconnectJitter(0, 0))
}

func TestSubscribeRidesThrough(t *testing.T) {
	t.Parallel()
	for name, outage := range map[string]func(t *testing.T, r *natstest.Restartable, p *natstest.Proxy) (end func()){
		"a server that is down": func(t *testing.T, r *natstest.Restartable, _ *natstest.Proxy) func() {
			r.Stop()
			return func() { r.Start(t) }
		},
		"JetStream that is off": func(t *testing.T, r *natstest.Restartable, _ *natstest.Proxy) func() {
			if err := r.DisableJetStream(); err != nil {
				t.Error(err)
			}
			return func() {
				if err := r.EnableJetStream(&server.JetStreamConfig{StoreDir: r.Options.StoreDir}); err != nil {
					t.Error(err)
				}
			}
		},
		"an answer that is lost with its connection": func(_ *testing.T, _ *natstest.Restartable, p *natstest.Proxy) func() {
			p.StallAfter("CONSUMER.CREATE")
			return func() { p.Cut(); p.Resume() }
		},
		"a connection that is lost again and again": func(_ *testing.T, _ *natstest.Restartable, p *natstest.Proxy) func() {
			p.Sever()
			return func() { p.Restore() }
		},
	} {
		for _, queue := range []string{"workers", ""} {
			t.Run(name+", queue "+queue, func(t *testing.T) {
				t.Parallel()
				r := natstest.StartRestartable(t)
				p := natstest.StartProxy(t, r.Server)
				b := newBroker(t, r.Server, broker.Addrs(p.URL()), quickReconnects())
				publish(t, b, "orders.created", "before")
				handler, got := collector()
				end := outage(t, r, p)
				ended := make(chan struct{})
				go func() {
					defer close(ended)
					time.Sleep(2 * time.Second) // longer than a look-up waits
					end()
				}()
				opts := []broker.SubscribeOption{}
				if queue != "" {
					opts = append(opts, broker.Queue(queue))
				}
				subscribe(t, b, "orders.created", handler, opts...)
				<-ended
				receive(t, got)
			})
		}
	}
}

func TestSubscribeNamesTheLostConnection(t *testing.T) {
	if testing.Short() {
		t.Skip("takes the ten seconds of a Subscribe")
	}
	t.Parallel()
	r := natstest.StartRestartable(t)
	b := newBroker(t, r.Server, quickReconnects())
	publish(t, b, "orders.created", "before")
	r.Stop()
	_, err := b.Subscribe("orders.created", ignore, broker.Queue("workers"))
	wantError(t, err, jsbroker.ErrNotConnected, "connection to the server is down")
	if got := jsbroker.Reason(err); got != "disconnected" {
		t.Errorf("reason %q", got)
	}
}
