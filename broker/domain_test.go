package broker_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"
	"go-micro.dev/v5/broker"

	jsbroker "go-micro-jetstream/broker"
	"go-micro-jetstream/internal/natstest"
)

// withJetStream gives a leaf node a JetStream of its own.
func withJetStream(domain string) func(*server.Options) {
	return func(o *server.Options) { o.JetStream, o.JetStreamDomain = true, domain }
}

// A service at a leaf node does all its work in the JetStream of the hub.
func TestDomain(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*server.Options){
		"a leaf node without JetStream":         func(*server.Options) {},
		"a leaf node with another domain":       withJetStream("leaf"),
		"a leaf node with JetStream, no domain": withJetStream(""),
		"the hub's own clients name its domain": nil,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			hub := natstest.StartHub(t)
			at := hub.Server
			if change != nil {
				at = natstest.StartLeaf(t, hub, natstest.LeafAddress(hub), change).Server
			}
			b := newBroker(t, at, jsbroker.WithDomain("hub"), jsbroker.WithDeadLetter("dead"), jsbroker.WithConsumerConfig(jetstream.ConsumerConfig{MaxDeliver: 2}))
			everythingWorks(t, b)
			_, js := natsConn(t, hub.Server)
			for stream, want := range map[string]uint64{"ORDERS": 0, "DEAD": 0, "ORDERS-later": 0} {
				eventually(t, stream+" is on the hub and everything is settled", func() bool {
					return streamInfo(t, js, stream).State.Msgs == want
				})
			}
		})
	}
}

// A user at a leaf node needs the permissions that the documentation lists, with the
// domain in the subjects of the API, and no others.
func TestDomainNeedsItsPermissionsOnly(t *testing.T) {
	t.Parallel()
	hub := natstest.StartHub(t)
	api := func(requests ...string) (subjects []string) {
		for _, r := range requests {
			subjects = append(subjects, "$JS.hub.API."+r)
		}
		return subjects
	}
	permitted := append(api("INFO", "STREAM.NAMES", "STREAM.LIST"), "orders.>", "dead", "_later.ORDERS.>", "_due.ORDERS.>", "$JS.ACK.ORDERS.>")
	permitted = append(permitted, "$JS.ACK.DEAD.>")
	// Some seconds after the first message that is delivered later, the broker looks
	// whether what is due moves.
	permitted = append(permitted, api("CONSUMER.LIST.ORDERS-later")...)
	for _, stream := range []string{"ORDERS", "DEAD"} {
		permitted = append(permitted, api("CONSUMER.INFO."+stream+".>", "CONSUMER.CREATE."+stream+".>", "CONSUMER.MSG.NEXT."+stream+".>")...)
	}
	for _, stream := range []string{"ORDERS", "ORDERS-later", "DEAD"} {
		permitted = append(permitted, api("STREAM.INFO."+stream, "STREAM.CREATE."+stream, "STREAM.UPDATE."+stream, "STREAM.MSG.GET."+stream, "STREAM.MSG.DELETE."+stream)...)
	}
	leaf := natstest.StartLeaf(t, hub, natstest.LeafAddress(hub), natstest.Limited(server.Permissions{
		Publish:   &server.SubjectPermission{Allow: permitted},
		Subscribe: &server.SubjectPermission{Allow: []string{"_INBOX.>"}},
	}))
	log := natstest.NewLog()
	b := newBroker(t, leaf.Server, broker.Addrs(natstest.URL(leaf.Server, "limited:pw")), broker.Logger(log), jsbroker.WithDomain("hub"),
		jsbroker.WithDeadLetter("dead"), jsbroker.WithConsumerConfig(jetstream.ConsumerConfig{MaxDeliver: 2}))
	everythingWorks(t, b)
	_, js := natsConn(t, hub.Server)
	eventually(t, "everything is settled", func() bool { return streamInfo(t, js, "ORDERS").State.Msgs == 0 })
	if lines := log.With("ermission"); len(lines) > 0 {
		t.Errorf("%v", lines)
	}
	wantError(t, b.Publish("bills", message("x")), jsbroker.ErrPermission, "$JS.hub.API.STREAM.CREATE.BILLS")
}

// everythingWorks publishes, consumes, settles, schedules, and redrives dead letters.
func everythingWorks(t *testing.T, b broker.Broker) {
	t.Helper()
	got := make(chan string, 100)
	var cured atomic.Bool
	subscribe(t, b, "orders.>", func(e broker.Event) error {
		if string(e.Message().Body) == "poison" && !cured.Load() {
			return jsbroker.RetryAfter(time.Millisecond, errors.New("no"))
		}
		got <- e.Topic() + " " + string(e.Message().Body)
		return nil
	}, broker.Queue("workers"))
	want := func(line string) {
		t.Helper()
		if line != receive(t, got) {
			t.Fatalf("want %q", line)
		}
	}
	publish(t, b, "orders.created", "one")
	want("orders.created one")
	publish(t, b, "orders.created", "later", jsbroker.DeliverAfter(time.Second))
	want("orders.created later")
	publish(t, b, "orders.created", "poison")
	eventually(t, "there is a dead letter", func() (stored bool) {
		_ = jsbroker.JetStream(testContext(t), b, "STREAM.INFO.DEAD", func(ctx context.Context, js jetstream.JetStream) error {
			st, err := js.Stream(ctx, "DEAD")
			stored = err == nil && st.CachedInfo().State.Msgs == 1
			return err
		})
		return stored
	})
	cured.Store(true)
	eventually(t, "the dead letter is redriven", func() bool {
		n, err := jsbroker.Redrive(testContext(t), b, "dead")
		noErr(t, err)
		return n == 1
	})
	want("orders.created poison")
	publish(t, b, "orders.created", "cancelled", jsbroker.DeliverAfter(time.Hour), jsbroker.MessageID("c"))
	if err := jsbroker.CancelDelivery(testContext(t), b, "orders.created", "c"); err != nil {
		t.Fatal(err)
	}
	sub := subscribe(t, b, "dead", ignore, broker.Queue("workers"))
	if err := sub.Unsubscribe(); err != nil {
		t.Fatal(err)
	}
	if err := jsbroker.Health(testContext(t), b); err != nil {
		t.Error(err)
	}
}

// A Subscribe while the link to the hub is cut goes on when it is mended.
func TestDomainSubscribeWaitsForItsLink(t *testing.T) {
	t.Parallel()
	hub := natstest.StartHub(t)
	p := natstest.StartProxyTo(t, natstest.LeafAddress(hub))
	leaf := natstest.StartLeaf(t, hub, p.Address())
	b := newBroker(t, leaf.Server, jsbroker.WithDomain("hub"))
	publish(t, b, "orders.created", "before")
	p.Sever()
	eventually(t, "the link is cut", func() bool { return leaf.GlobalAccount().Interest("$JS.hub.API.INFO") == 0 })
	restored := time.AfterFunc(2*time.Second, p.Restore)
	defer restored.Stop()
	handler, got := collector()
	subscribe(t, b, "orders.created", handler, broker.Queue("workers"))
	receive(t, got)
	publish(t, b, "orders.created", "after")
	receive(t, got)
}

// A name that cannot be right is an error at once, and so is one that nobody has.
func TestDomainThatDoesNotExist(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		opts  []broker.Option
		parts []string
	}{
		"empty":     {[]broker.Option{jsbroker.WithDomain("")}, []string{"WithDomain", "leave the option out"}},
		"dotted":    {[]broker.Option{jsbroker.WithDomain("$JS.hub.API")}, []string{"WithDomain", "$JS.hub.API", "WithAPIPrefix"}},
		"wildcard":  {[]broker.Option{jsbroker.WithDomain("*")}, []string{"WithDomain"}},
		"blank":     {[]broker.Option{jsbroker.WithDomain("my hub")}, []string{"WithDomain", "my hub"}},
		"no prefix": {[]broker.Option{jsbroker.WithAPIPrefix("")}, []string{"WithAPIPrefix", "leave the option out"}},
		"a dot":     {[]broker.Option{jsbroker.WithAPIPrefix(".")}, []string{"WithAPIPrefix"}},
		"two dots":  {[]broker.Option{jsbroker.WithAPIPrefix("$JS..API")}, []string{"WithAPIPrefix", "$JS..API", "empty token"}},
		"a pattern": {[]broker.Option{jsbroker.WithAPIPrefix("$JS.API.>")}, []string{"WithAPIPrefix", "wildcard", "STREAM.INFO"}},
		"line feed": {[]broker.Option{jsbroker.WithAPIPrefix("JS\n.API")}, []string{"WithAPIPrefix"}},
		"both":      {[]broker.Option{jsbroker.WithDomain("hub"), jsbroker.WithAPIPrefix("JS.orders.API")}, []string{"WithDomain", "$JS.hub.API", "JS.orders.API", "leave one of them out"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			wantError(t, jsbroker.NewBroker().Init(tt.opts...), jsbroker.ErrInvalidConfig, tt.parts...)
			wantError(t, jsbroker.NewBroker(tt.opts...).Connect(), jsbroker.ErrInvalidConfig, tt.parts...)
		})
	}

	hub := natstest.StartHub(t)
	without := natstest.StartLeaf(t, hub, natstest.LeafAddress(hub))
	with := natstest.StartLeaf(t, hub, natstest.LeafAddress(hub), withJetStream("leaf"))
	for name, tt := range map[string]struct {
		s     *server.Server
		opt   broker.Option
		parts []string
	}{
		"a leaf node without JetStream, no domain": {without.Server, nil, []string{"leaf node", "WithDomain"}},
		"another name":                 {without.Server, jsbroker.WithDomain("Hub"), []string{`WithDomain("Hub")`, "$JS.Hub.API.", "check the name", "no JetStream of its own"}},
		"another name, with JetStream": {with.Server, jsbroker.WithDomain("hubb"), []string{`WithDomain("hubb")`, `its own with the domain "leaf"`}},
		"a prefix":                     {without.Server, jsbroker.WithAPIPrefix("JS.orders.API"), []string{`WithAPIPrefix("JS.orders.API")`, "imports", "INFO"}},
	} {
		t.Run(name, func(t *testing.T) {
			b := jsbroker.NewBroker(broker.Addrs(tt.s.ClientURL()), quiet())
			if tt.opt != nil {
				if err := b.Init(tt.opt); err != nil {
					t.Fatal(err)
				}
			}
			var err error
			atOnce(t, "Connect", func() { err = b.Connect() })
			wantError(t, err, jsbroker.ErrJetStreamUnavailable, tt.parts...)
		})
	}
}

// The option belongs to the connection.
func TestDomainOfALiveConnection(t *testing.T) {
	t.Parallel()
	hub := natstest.StartHub(t)
	b := newBroker(t, hub.Server, jsbroker.WithDomain("hub"))
	wantError(t, b.Init(jsbroker.WithDomain("leaf")), jsbroker.ErrInvalidConfig, "WithDomain", "Disconnect")
	if err := b.Init(jsbroker.WithDomain("hub")); err != nil {
		t.Error(err)
	}
	other := newBroker(t, hub.Server, jsbroker.WithAPIPrefix("$JS.hub.API."))
	wantError(t, other.Init(jsbroker.WithAPIPrefix("JS.x.API")), jsbroker.ErrInvalidConfig, "WithAPIPrefix")
	publish(t, other, "orders.created", "one")
}

// A stream of the leaf node that captures the topic would store each message, too.
func TestDomainStoresNothingTwice(t *testing.T) {
	t.Parallel()
	hub := natstest.StartHub(t)
	leaf := natstest.StartLeaf(t, hub, natstest.LeafAddress(hub), withJetStream("leaf"))
	_, js := natsConn(t, leaf.Server)
	natstest.MakeStream(t, js, jetstream.StreamConfig{Name: "ORDERS", Subjects: []string{"orders.>"}})
	b := newBroker(t, leaf.Server, jsbroker.WithDomain("hub"))
	err := b.Publish("orders.created", message("one"))
	wantError(t, err, jsbroker.ErrStoredTwice, "ORDERS", `WithDomain("hub")`, "orders.created")
	if got := jsbroker.Reason(err); got != "stored_twice" {
		t.Errorf("reason %q", got)
	}
	_, err = b.Subscribe("orders.created", ignore, broker.Queue("workers"))
	wantError(t, err, jsbroker.ErrStoredTwice, "ORDERS")
	if n := streamInfo(t, js, "ORDERS").State.Msgs; n != 0 {
		t.Errorf("%d messages on the leaf node", n)
	}
	if err := js.DeleteStream(testContext(t), "ORDERS"); err != nil {
		t.Fatal(err)
	}
	publish(t, b, "orders.created", "one") // and no Connect
}

// accounts is the configuration of a server with the JetStream of account STREAMS, which
// account APP imports under a prefix of its own.
const accounts = `
	accounts {
	  STREAMS {
	    jetstream: enabled
	    users: [{user: streams, password: pw}]
	    exports: [
	      {service: "$JS.API.>", response_type: stream}
	      {service: "$JS.ACK.>"}
	      {service: "orders.>"}, {service: "dead"}, {service: "_later.>"}
	    ]
	  }
	  APP {
	    %s
	    users: [{user: app, password: pw}]
	    imports: [
	      {service: {account: STREAMS, subject: "$JS.API.>"}, to: "JS.orders.API.>"}
	      {service: {account: STREAMS, subject: "$JS.ACK.>"}}
	      {service: {account: STREAMS, subject: "orders.>"}}, {service: {account: STREAMS, subject: "dead"}}, {service: {account: STREAMS, subject: "_later.>"}}
	    ]
	  }
	}`

// startAccounts starts a server with accounts. The line is for the importing account.
func startAccounts(t *testing.T, line string) *server.Server {
	t.Helper()
	return natstest.StartConfigured(t, fmt.Sprintf(accounts, line))
}

// An account without streams of its own does all its work in those of another account.
func TestAPIPrefix(t *testing.T) {
	t.Parallel()
	for name, line := range map[string]string{"an account without JetStream": "", "an account with JetStream": "jetstream: enabled"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := startAccounts(t, line)
			b := newBroker(t, s, broker.Addrs(natstest.URL(s, "app:pw")), jsbroker.WithAPIPrefix("JS.orders.API"), jsbroker.WithDeadLetter("dead"),
				jsbroker.WithConsumerConfig(jetstream.ConsumerConfig{MaxDeliver: 2}))
			everythingWorks(t, b)
			_, js := natstest.Connect(t, natstest.URL(s, "streams:pw"))
			for _, stream := range []string{"ORDERS", "DEAD", "ORDERS-later"} {
				eventually(t, stream+" is in the other account and everything is settled", func() bool {
					return streamInfo(t, js, stream).State.Msgs == 0
				})
			}
		})
	}
}

// A stream of the importing account would store each message, too.
func TestAPIPrefixStoresNothingTwice(t *testing.T) {
	t.Parallel()
	s := startAccounts(t, "jetstream: enabled")
	_, js := natstest.Connect(t, natstest.URL(s, "app:pw"))
	natstest.MakeStream(t, js, jetstream.StreamConfig{Name: "MINE", Subjects: []string{"orders.created"}})
	b := newBroker(t, s, broker.Addrs(natstest.URL(s, "app:pw")), jsbroker.WithAPIPrefix("JS.orders.API"))
	wantError(t, b.Publish("orders.created", message("one")), jsbroker.ErrStoredTwice, "MINE", `WithAPIPrefix("JS.orders.API")`)
	if n := streamInfo(t, js, "MINE").State.Msgs; n != 0 {
		t.Errorf("%d messages in the own account", n)
	}
	publish(t, b, "orders.paid", "two")
}

// Acknowledgements carry the names of stream and consumer, and no domain: a consumer of
// the leaf node with the same names would take them for its own, and lose messages.
func TestDomainAcknowledgesNothingElse(t *testing.T) {
	t.Parallel()
	hub := natstest.StartHub(t)
	leaf := natstest.StartLeaf(t, hub, natstest.LeafAddress(hub), withJetStream("leaf"))
	_, js := natsConn(t, leaf.Server)
	natstest.MakeStream(t, js, jetstream.StreamConfig{Name: "ORDERS", Subjects: []string{"local.orders"}})
	natstest.MakeConsumer(t, js, "ORDERS", jetstream.ConsumerConfig{Durable: "workers", AckPolicy: jetstream.AckExplicitPolicy})
	b := newBroker(t, leaf.Server, jsbroker.WithDomain("hub"))
	_, err := b.Subscribe("orders.created", ignore, broker.Queue("workers"))
	wantError(t, err, jsbroker.ErrConsumerConflict, "workers", "ORDERS", `WithDomain("hub")`, "another queue")

	handler, got := collector()
	subscribe(t, b, "orders.created", handler, broker.Queue("others"))
	publish(t, b, "orders.created", "one")
	receive(t, got)
}

// Where such a stream appears later, a message is stored in both. The answer of the leaf
// node does not count, and a line says what has happened.
func TestDomainHearsTheHubOnly(t *testing.T) {
	t.Parallel()
	hub := natstest.StartHub(t)
	leaf := natstest.StartLeaf(t, hub, natstest.LeafAddress(hub), withJetStream("leaf"))
	log := natstest.NewLog()
	stored, published := hookChan[jsbroker.Published]()
	b := newBroker(t, leaf.Server, jsbroker.WithDomain("hub"), broker.Logger(log), jsbroker.WithHooks(jsbroker.Hooks{Published: published}))
	publish(t, b, "orders.created", "one")
	publish(t, b, "orders.created", "two")
	_, js := natsConn(t, leaf.Server)
	natstest.MakeStream(t, js, jetstream.StreamConfig{Name: "ORDERS", Subjects: []string{"orders.>"}})
	publish(t, b, "orders.created", "three") // 1 on the leaf node, 3 on the hub
	for want := range uint64(3) {
		if e := receive(t, stored); e.Sequence != want+1 {
			t.Errorf("sequence %d, want %d", e.Sequence, want+1)
		}
	}
	// The leaf node may answer after the hub.
	natstest.Eventually(t, "a line about it", func() bool { return log.With("stored twice") != nil })
}

// The client of a leaf node does not hear of the link to the hub. What it misses shows
// that the link was cut, and subscriptions go on soon after it is back.
func TestDomainGoesOnAfterItsLink(t *testing.T) {
	t.Parallel()
	for name, outage := range map[string]func(t *testing.T, p *natstest.Proxy, failed <-chan jsbroker.FetchError){
		"cut and mended at once": func(_ *testing.T, p *natstest.Proxy, _ <-chan jsbroker.FetchError) { p.Cut() },
		"cut for several back-offs": func(t *testing.T, p *natstest.Proxy, failed <-chan jsbroker.FetchError) {
			p.Sever()
			for range 4 { // the next pause would take 8s
				receive(t, failed)
			}
			p.Restore()
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			hub := natstest.StartHub(t)
			p := natstest.StartProxyTo(t, natstest.LeafAddress(hub))
			leaf := natstest.StartLeaf(t, hub, p.Address())
			failed, onFail := hookChan[jsbroker.FetchError]()
			b := newBroker(t, leaf.Server, jsbroker.WithDomain("hub"), jsbroker.WithHooks(jsbroker.Hooks{FetchError: onFail}))
			handler, got := collector()
			subscribe(t, b, "orders.created", handler, broker.Queue("workers"))
			subscribe(t, b, "invoices.made", handler, broker.Queue("workers"))
			publish(t, b, "orders.created", "before")
			receive(t, got)
			_, js := natsConn(t, hub.Server)
			before := natstest.Link(t, hub)
			outage(t, p, failed)
			eventually(t, "there is another link", func() bool { // what went into the former one comes after its ack wait
				link := natstest.Link(t, hub)
				return link != 0 && link != before
			})
			natstest.Linked(t, leaf)
			back := time.Now()
			for _, topic := range []string{"orders.created", "invoices.made"} {
				if _, err := js.Publish(testContext(t), topic, []byte(topic)); err != nil {
					t.Fatal(err)
				}
			}
			for range 2 {
				receive(t, got)
			}
			t.Logf("went on %v after the link was back", time.Since(back))
			if took := time.Since(back); took > 10*time.Second {
				t.Errorf("went on after %v", took)
			}
		})
	}
}
