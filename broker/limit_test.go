package broker_test

import (
	"context"
	"errors"
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

// atOnceAgain makes reconnects not wait.
func atOnceAgain() broker.Option {
	return jsbroker.WithNATSOptions(nats.ReconnectWait(0), nats.ReconnectJitter(0, 0))
}

// The client numbers its subscriptions, and a new connection refuses one of them: the
// server says only that there are too many.
const (
	requestsInbox = "1" // since Connect asks for JetStream
	answersInbox  = "2"
	topicInbox    = "3"
)

// refuseAfterReconnect returns a broker that is subscribed to a.x, where the server refuses
// that subscription since the latest reconnect.
func refuseAfterReconnect(t *testing.T, number string, opts ...broker.Option) (b broker.Broker, p *natstest.Proxy, got <-chan string) {
	s := startServer(t)
	p = natstest.StartProxy(t, s)
	b = newBroker(t, s, append(opts, broker.Addrs(p.URL()), atOnceAgain())...)
	handler, got := collector()
	subscribe(t, b, "a.x", handler, broker.Queue("workers"))
	publish(t, b, "a.x", "before")
	receive(t, got)
	p.RefuseSub(number)
	p.Cut()
	return b, p, got
}

func TestReconnectWithoutRoomForTheInboxOfPublishes(t *testing.T) {
	t.Parallel()
	b, p, got := refuseAfterReconnect(t, answersInbox)
	var err error
	eventually(t, "publishers hear of it", func() bool {
		err = b.Publish("a.x", message("refused"))
		return errors.Is(err, jsbroker.ErrSubscriptionLimit)
	})
	wantError(t, err, jsbroker.ErrSubscriptionLimit, "answers of streams", "fewer than the 3", "max_subscriptions")
	eventually(t, "a readiness probe hears of it", func() bool {
		return errors.Is(jsbroker.Health(testContext(t), b), jsbroker.ErrSubscriptionLimit)
	})
	p.AdmitSubs()
	eventually(t, "there is room again", func() bool { return b.Publish("a.x", message("after")) == nil })
	natstest.Await(t, got, "message", func(body string) bool { return body == "after" })
}

func TestReconnectWithoutRoomForTheInboxOfRequests(t *testing.T) {
	t.Parallel()
	b, p, got := refuseAfterReconnect(t, requestsInbox)
	eventually(t, "publishers hear of it", func() bool {
		return errors.Is(b.Publish("a.x", message("refused")), jsbroker.ErrSubscriptionLimit)
	})
	var err error
	eventually(t, "those who subscribe hear of it", func() bool { // some fall into the time until a refusal is known
		_, err = b.Subscribe("b.x", ignore, broker.Queue("workers"))
		return errors.Is(err, jsbroker.ErrSubscriptionLimit)
	})
	wantError(t, err, jsbroker.ErrSubscriptionLimit, "inbox for requests", "max_subscriptions")
	p.AdmitSubs()
	eventually(t, "there is room again", func() bool {
		_, err = b.Subscribe("b.x", ignore, broker.Queue("workers"))
		return err == nil
	})
	publish(t, b, "a.x", "after")
	natstest.Await(t, got, "message", func(body string) bool { return body == "after" })
}

func TestReconnectWithoutRoomForATopic(t *testing.T) {
	if testing.Short() {
		t.Skip("waits until a subscription notices that nothing comes")
	}
	t.Parallel()
	failed, onFail := hookChan[jsbroker.FetchError]()
	b, p, got := refuseAfterReconnect(t, topicInbox, jsbroker.WithHooks(jsbroker.Hooks{FetchError: onFail}))
	natstest.Await(t, failed, "failure that says why", func(e jsbroker.FetchError) bool { return e.Reason == "subscription_limit" && e.Topic == "a.x" })
	publish(t, b, "a.x", "after")
	p.AdmitSubs()
	if body := receive(t, got); body != "after" {
		t.Errorf("got %q", body)
	}
}

// The limit of a real server is lower when the client comes back. Nobody can tell which
// subscription it refuses.
func TestReconnectBeyondTheLimitOfSubscriptions(t *testing.T) {
	if testing.Short() {
		t.Skip("waits until a subscription notices that nothing comes")
	}
	t.Parallel()
	s := natstest.StartRestartable(t, upTo(10))
	said := make(chan struct{}, 1)
	b := newBroker(t, s.Server, atOnceAgain(), jsbroker.WithHooks(jsbroker.Hooks{FetchError: func(_ context.Context, e jsbroker.FetchError) {
		if e.Reason == "subscription_limit" {
			select {
			case said <- struct{}{}:
			default:
			}
		}
	}}))
	handler, got := collector()
	a := subscribe(t, b, "a.x", handler, broker.Queue("workers"))
	subscribe(t, b, "b.x", handler, broker.Queue("workers"))
	s.Options.MaxSubs = 3
	s.Stop()
	s.Start(t)
	eventually(t, "a publisher or a subscription hears of it", func() bool {
		err := b.Publish("b.x", message("before"))
		return errors.Is(err, jsbroker.ErrSubscriptionLimit) || len(said) > 0
	})
	if err := a.Unsubscribe(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "there is room again", func() bool { return b.Publish("b.x", message("after")) == nil })
	natstest.Await(t, got, "message", func(body string) bool { return body == "after" })
}
