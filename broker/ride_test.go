package broker_test

import (
	"testing"
	"time"

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
				ridesThrough(t, b, queue, func() (end func()) { return outage(t, r, p) })
			})
		}
	}
}

func TestSubscribeRidesThroughJetStreamThatIsOff(t *testing.T) {
	t.Parallel()
	for _, queue := range []string{"workers", ""} {
		t.Run("queue "+queue, func(t *testing.T) {
			t.Parallel()
			p := startServerProcess(t, t.TempDir(), unwatched(t))
			t.Cleanup(p.kill) // or it could not remove its directory
			b := newBroker(t, p, quickReconnects())
			ridesThrough(t, b, queue, func() (end func()) {
				p.do(t, jetStreamOff)
				return func() { p.do(t, jetStreamOn) }
			})
		})
	}
}

// ridesThrough subscribes during an outage that ends after a while, and gets what was
// published before.
func ridesThrough(t *testing.T, b broker.Broker, queue string, outage func() (end func())) {
	t.Helper()
	publish(t, b, "orders.created", "before")
	handler, got := collector()
	end := outage()
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
