package broker_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go-micro.dev/v5/broker"

	jsbroker "go-micro-jetstream/broker"
	"go-micro-jetstream/internal/natstest"
)

func TestClusterLosesNothing(t *testing.T) {
	if testing.Short() {
		t.Skip("elections take their time: up to a minute")
	}
	c := natstest.StartCluster(t)
	l := newLedger()
	var brokers [3]broker.Broker
	for i := range brokers {
		brokers[i] = newBroker(t, c.Nodes[i].Server, broker.Addrs(c.URLs()...), l.watch(),
			jsbroker.WithStreamConfig(jetstream.StreamConfig{Replicas: 3, Retention: jetstream.WorkQueuePolicy}),
			jsbroker.WithNATSOptions(nats.ReconnectWait(10*time.Millisecond)))
	}
	topics := []string{"orders.sync", "orders.async"}
	for _, b := range brokers[:2] {
		for _, topic := range topics {
			subscribe(t, b, topic, l.handler, broker.Queue("q"))
		}
	}
	publisher := brokers[2]
	end := publishUntil(t, publisher, l, topics)
	goesOn := func() {
		t.Helper()
		handled := l.count()
		eventually(t, "100 more are handled", func() bool { return l.count() >= handled+100 })
	}
	goesOn()
	c.Bounce(t, c.StreamLeader(t, "ORDERS"), goesOn)
	c.Bounce(t, c.ConsumerLeader(t, "ORDERS", "q"), goesOn)
	address := publisher.Address()
	c.Bounce(t, c.Node(t, "node of the client", func(s *server.Server) bool { return s.ClientURL() == address }), goesOn)
	for _, n := range c.Nodes { // a rolling restart, as an upgrade is
		c.Bounce(t, n, goesOn)
	}
	end()
	l.settle(t)
	// Nothing was stored twice: each sequence of the stream is one message.
	_, js := natstest.Connect(t, publisher.Address())
	if stored := streamInfo(t, js, "ORDERS").State.LastSeq; stored != uint64(len(l.stored)) {
		t.Errorf("%d messages are in the stream, want %d: a retry stored twice", stored, len(l.stored))
	}
}

// publishUntil publishes on the first topic one message after the other and on
// the second with Async, until the function that it returns is called.
func publishUntil(t testing.TB, b broker.Broker, l *ledger, topics []string) (end func()) {
	stop := make(chan struct{})
	var publishing, answers sync.WaitGroup
	// Rather long: an election takes up to ten seconds.
	ctx, cancel := context.WithTimeout(context.Background(), 5*patience)
	for _, topic := range topics {
		async := topic == topics[1]
		publishing.Go(func() {
			pace := time.NewTicker(2 * time.Millisecond)
			defer pace.Stop()
			for i := 1; ; i++ {
				select {
				case <-pace.C:
				case <-stop:
					return
				}
				body := fmt.Sprintf("%s/%d", topic, i)
				answers.Add(1)
				done := func(err error) {
					defer answers.Done()
					if l.published(body, err); err != nil {
						t.Errorf("%s: %v", body, err)
					}
				}
				opts := []broker.PublishOption{broker.PublishContext(ctx)}
				if async {
					opts = append(opts, jsbroker.Async(done))
				}
				if err := b.Publish(topic, message(body), opts...); err != nil || !async {
					done(err)
				}
			}
		})
	}
	return func() {
		close(stop)
		publishing.Wait()
		answers.Wait()
		cancel()
	}
}

// What is on its way from the leader of a consumer to the server of the client, when a
// subscription ends, is given back like the rest. The order of the stops and what is on
// its way then are a matter of timing: AckWait is an hour.
func TestStopsInAClusterStrandNothing(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a cluster of three servers, which takes seconds")
	}
	c := natstest.StartCluster(t)
	_, js := natsConn(t, c.Nodes[0].Server)
	natstest.MakeStream(t, js, jetstream.StreamConfig{Name: "ORDERS", Subjects: []string{"orders"}, Retention: jetstream.WorkQueuePolicy})
	natstest.MakeConsumer(t, js, "ORDERS", jetstream.ConsumerConfig{Durable: "q", FilterSubject: "orders", AckPolicy: jetstream.AckExplicitPolicy, AckWait: time.Hour, MaxAckPending: 1000})
	leader := c.ConsumerLeader(t, "ORDERS", "q")
	other := c.Node(t, "node that is not the leader", func(s *server.Server) bool { return s != leader.Server })
	const n, stops = 20000, 10
	p := newBroker(t, other.Server)
	for i := range n {
		publishAsync(t, p, "orders", fmt.Sprint(i))
	}
	handled := make(chan string, 2*n)
	h := func(e broker.Event) error {
		handled <- string(e.Message().Body)
		return nil
	}
	seen := make(map[string]bool, n)
	for i := range stops {
		b := newBroker(t, other.Server)
		sub := subscribe(t, b, "orders", h, broker.Queue("q"))
		for range 500 {
			seen[receive(t, handled)] = true
		}
		if i%2 == 0 {
			if err := sub.Unsubscribe(); err != nil {
				t.Fatal(err)
			}
		}
		if err := b.Disconnect(); err != nil {
			t.Fatal(err)
		}
	}
	subscribe(t, p, "orders", h, broker.Queue("q"))
	for len(seen) < n {
		seen[receive(t, handled)] = true
	}
	eventually(t, "all is settled", func() bool {
		info := natstest.ConsumerInfo(t, js, "ORDERS", "q")
		return info.NumPending == 0 && info.NumAckPending == 0
	})
}

// A Disconnect that finds a stop under way closes the connection after that has given
// back.
func TestDisconnectDuringAStopInAClusterStrandsNothing(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a cluster of three servers, which takes seconds")
	}
	c := natstest.StartCluster(t)
	_, js := natsConn(t, c.Nodes[0].Server)
	natstest.MakeStream(t, js, jetstream.StreamConfig{Name: "ORDERS", Subjects: []string{"orders"}, Retention: jetstream.WorkQueuePolicy})
	natstest.MakeConsumer(t, js, "ORDERS", jetstream.ConsumerConfig{Durable: "q", FilterSubject: "orders", AckPolicy: jetstream.AckExplicitPolicy, AckWait: time.Hour, MaxAckPending: 5})
	leader := c.ConsumerLeader(t, "ORDERS", "q")
	other := c.Node(t, "node that is not the leader", func(s *server.Server) bool { return s != leader.Server })
	p := newBroker(t, other.Server)
	for i := range 10 {
		publish(t, p, "orders", fmt.Sprint(i))
	}
	b := newBroker(t, other.Server, jsbroker.WithBatchSize(20), jsbroker.WithShutdownTimeout(50*time.Millisecond))
	started, release := make(chan struct{}, 20), make(chan struct{})
	defer close(release)
	sub := subscribe(t, b, "orders", func(broker.Event) error {
		started <- struct{}{}
		<-release
		return nil
	}, broker.Queue("q"))
	receive(t, started)
	eventually(t, "five are sent", func() bool { return natstest.ConsumerInfo(t, js, "ORDERS", "q").NumAckPending == 5 })
	stopping := make(chan struct{})
	go func() {
		close(stopping)
		_ = sub.Unsubscribe()
	}()
	receive(t, stopping)
	wantError(t, b.Disconnect(), jsbroker.ErrShutdownTimeout) // the handler
	h, got := collector()
	subscribe(t, p, "orders", h, broker.Queue("q"))
	for range 9 {
		receive(t, got)
	}
}

// A stream whose only server is down is offline, not gone: Publish waits for it.
func TestPublishWaitsForTheServerOfItsStream(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a cluster of three servers, which takes seconds")
	}
	c := natstest.StartCluster(t)
	_, js := natsConn(t, c.Nodes[0].Server)
	natstest.MakeStream(t, js, jetstream.StreamConfig{Name: "SLOW", Subjects: []string{"slow.>"}})
	home := c.StreamLeader(t, "SLOW")
	other := c.Node(t, "node without the stream", func(s *server.Server) bool { return s != home.Server })
	b := newBroker(t, other.Server)
	publish(t, b, "slow.x", "first")
	home.Stop()
	c.Leader(t)
	ctx, cancel := context.WithTimeout(context.Background(), 4*time.Second)
	defer cancel()
	wantError(t, b.Publish("slow.x", message("x"), broker.PublishContext(ctx)), context.DeadlineExceeded)
	result := make(chan error, 1)
	go func() { result <- b.Publish("slow.x", message("x"), broker.PublishContext(testContext(t))) }()
	home.Start(t)
	noErr(t, receive(t, result))
}

// Its consumer lives on as many servers as the stream.
func TestSubscriberWithoutAQueueGoesOnWithoutANode(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a cluster of three servers, which takes seconds")
	}
	c := natstest.StartCluster(t)
	started := make(chan string, 1)
	b := newBroker(t, c.Nodes[0].Server, broker.Addrs(c.URLs()...),
		jsbroker.WithStreamConfig(jetstream.StreamConfig{Replicas: 3}),
		jsbroker.WithNATSOptions(nats.ReconnectWait(10*time.Millisecond)),
		jsbroker.WithHooks(jsbroker.Hooks{SubscriptionStart: func(ctx context.Context, e jsbroker.SubscriptionStart) context.Context {
			started <- e.Consumer
			return ctx
		}}))
	h, got := collector()
	subscribe(t, b, "orders", h)
	ctx, cancel := context.WithTimeout(context.Background(), 5*patience)
	defer cancel()
	goesOn := func() {
		t.Helper()
		body := fmt.Sprint(time.Now().UnixNano())
		publish(t, b, "orders", body, broker.PublishContext(ctx))
		for receive(t, got) != body {
		}
	}
	goesOn()
	name := receive(t, started)
	home := c.ConsumerLeader(t, "ORDERS", name)
	home.Stop()
	goesOn()
	next := c.ConsumerLeader(t, "ORDERS", name)
	if next == home {
		t.Error("the node is not away")
	}
}

// The same wherever a consumer without a queue has its servers from: a stream that was
// given more of them later, other retention, memory, or a Subscribe while one is away.
func TestSubscribersWithoutAQueueHaveTheServersOfTheirStream(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a cluster of three servers, which takes seconds")
	}
	c := natstest.StartCluster(t)
	_, js := natsConn(t, c.Nodes[0].Server)
	for _, sc := range []jetstream.StreamConfig{
		{Name: "SMALL", Subjects: []string{"small"}, Replicas: 1},
		{Name: "INTEREST", Subjects: []string{"interest"}, Replicas: 3, Retention: jetstream.InterestPolicy},
		{Name: "MEMORY", Subjects: []string{"memory"}, Replicas: 3, Storage: jetstream.MemoryStorage},
	} {
		natstest.MakeStream(t, js, sc)
	}
	starts, onStart := hookChan[jsbroker.SubscriptionStart]()
	b := newBroker(t, c.Nodes[0].Server, broker.Addrs(c.URLs()...), jsbroker.WithNATSOptions(nats.ReconnectWait(10*time.Millisecond)),
		jsbroker.WithHooks(jsbroker.Hooks{SubscriptionStart: func(ctx context.Context, e jsbroker.SubscriptionStart) context.Context {
			onStart(ctx, e)
			return ctx
		}}))
	got, names := map[string]<-chan string{}, map[string]string{}
	listen := func(topic string, opts ...broker.SubscribeOption) {
		t.Helper()
		h, ch := collector()
		subscribe(t, b, topic, h, opts...)
		got[topic], names[topic] = ch, receive(t, starts).Consumer
	}
	listen("small")
	listen("interest")
	listen("memory", jsbroker.ConsumerConfig(jetstream.ConsumerConfig{MemoryStorage: true, DeliverPolicy: jetstream.DeliverNewPolicy}))
	natstest.UpdateStream(t, js, jetstream.StreamConfig{Name: "SMALL", Subjects: []string{"small"}, Replicas: 3})
	ctx, cancel := context.WithTimeout(context.Background(), 5*patience)
	defer cancel()
	goesOn := func(topics ...string) {
		t.Helper()
		for _, topic := range topics {
			body := fmt.Sprint(topic, time.Now().UnixNano())
			publish(t, b, topic, body, broker.PublishContext(ctx))
			for receive(t, got[topic]) != body {
			}
		}
	}
	goesOn("small", "interest", "memory")
	home := c.ConsumerLeader(t, "SMALL", names["small"])
	eventually(t, "the stream has three servers", func() bool {
		cluster := streamInfo(t, js, "SMALL").Cluster
		return cluster != nil && len(cluster.Replicas) == 2 && cluster.Replicas[0].Current && cluster.Replicas[1].Current
	})
	home.Stop()
	goesOn("small", "interest", "memory")
	listen("late") // while a server is away
	goesOn("late")
}

// A cluster without a leader refuses a Subscribe, which would work a moment later.
func TestSubscribeRidesThroughAnElection(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a cluster of three servers, which takes seconds")
	}
	c := natstest.StartCluster(t)
	_, js := natsConn(t, c.Nodes[0].Server)
	natstest.MakeStream(t, js, jetstream.StreamConfig{Name: "ORDERS", Subjects: []string{"orders"}, Replicas: 3})
	leader := c.Leader(t)
	other := c.Node(t, "node that does not lead", func(s *server.Server) bool { return s != leader.Server })
	b := newBroker(t, other.Server)
	leader.Stop()
	h, got := collector()
	subscribe(t, b, "orders", h, broker.Queue("q"))
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	publish(t, b, "orders", "x", broker.PublishContext(ctx))
	receive(t, got)
}
