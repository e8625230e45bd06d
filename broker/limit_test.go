package broker_test

import (
	"testing"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"go-micro.dev/v5/broker"

	jsbroker "go-micro-jetstream/broker"
	"go-micro-jetstream/internal/natstest"
)

// upTo is a server that permits so many subscriptions on a connection: one for the
// client's requests, one for publishing, the others for those of the broker.
func upTo(n int) func(*server.Options) { return func(o *server.Options) { o.MaxSubs = n } }

func TestSubscribeBeyondTheLimitOfSubscriptions(t *testing.T) {
	t.Parallel()
	s := startServer(t, upTo(4))
	b := newBroker(t, s)
	handler, got := collector()
	first := subscribe(t, b, "a.x", handler, broker.Queue("workers"))
	subscribe(t, b, "b.x", handler, broker.Queue("workers"))
	var err error
	for range 2 { // the second time the client remembers the first
		atOnce(t, "Subscribe", func() { _, err = b.Subscribe("c.x", handler, broker.Queue("workers")) })
		wantError(t, err, jsbroker.ErrSubscriptionLimit, "c.x", "no more than 4", "max_subscriptions", "several brokers")
	}
	if got := jsbroker.Reason(err); got != "subscription_limit" {
		t.Errorf("reason %q", got)
	}
	if err := first.Unsubscribe(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "there is room again", func() bool {
		_, err = b.Subscribe("c.x", handler, broker.Queue("workers"))
		return err == nil
	})
	for _, topic := range []string{"b.x", "c.x"} {
		publish(t, b, topic, topic)
		receive(t, got)
	}
}

func TestConnectBeyondTheLimitOfSubscriptions(t *testing.T) {
	t.Parallel()
	s := startServer(t, upTo(1))
	err := jsbroker.NewBroker(broker.Addrs(s.ClientURL()), quiet()).Connect()
	wantError(t, err, jsbroker.ErrSubscriptionLimit, "no more than 1")
}

// The limit is lower when the client comes back.
func TestReconnectBeyondTheLimitOfSubscriptions(t *testing.T) {
	if testing.Short() {
		t.Skip("waits until a subscription notices that nothing comes")
	}
	t.Parallel()
	s := natstest.StartRestartable(t, upTo(10))
	failed, onFail := hookChan[jsbroker.FetchError]()
	b := newBroker(t, s.Server, jsbroker.WithNATSOptions(nats.ReconnectWait(0), nats.ReconnectJitter(0, 0)), jsbroker.WithHooks(jsbroker.Hooks{FetchError: onFail}))
	handler, got := collector()
	subs := map[string]broker.Subscriber{}
	for _, topic := range []string{"a.x", "b.x"} {
		subs[topic] = subscribe(t, b, topic, handler, broker.Queue("workers"))
	}
	s.Options.MaxSubs = 3
	s.Stop()
	s.Start(t)
	deaf := natstest.Await(t, failed, "failure that says why", func(e jsbroker.FetchError) bool { return e.Reason == "subscription_limit" })
	for topic, sub := range subs {
		if topic != deaf.Topic {
			if err := sub.Unsubscribe(); err != nil {
				t.Fatal(err)
			}
		}
	}
	publish(t, b, deaf.Topic, "after")
	if body := receive(t, got); body != "after" {
		t.Errorf("got %q", body)
	}
}
