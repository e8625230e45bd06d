package broker_test

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go-micro.dev/v5/broker"

	jsbroker "go-micro-jetstream/broker"
)

// cluster is three servers in this process.
type cluster struct {
	nodes []*runningServer
}

func startCluster(t testing.TB) *cluster {
	t.Helper()
	const size = 3
	ports := freePorts(t, 2*size)
	var routes []*url.URL
	for _, port := range ports[:size] {
		routes = append(routes, &url.URL{Scheme: "nats", Host: fmt.Sprintf("127.0.0.1:%d", port)})
	}
	c := &cluster{}
	for i := range size {
		c.nodes = append(c.nodes, &runningServer{opts: &server.Options{
			ServerName: fmt.Sprintf("node%d", i), Host: "127.0.0.1", Port: ports[size+i],
			JetStream: true, StoreDir: t.TempDir(), NoSigs: true,
			Cluster: server.ClusterOpts{Name: "test", Host: "127.0.0.1", Port: ports[i]},
			Routes:  routes,
		}})
	}
	var starting sync.WaitGroup
	for _, n := range c.nodes {
		starting.Go(func() { n.start(t) })
	}
	starting.Wait()
	c.ready(t)
	return c
}

// freePorts returns ports that were free a moment ago.
func freePorts(t testing.TB, n int) (ports []int) {
	t.Helper()
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = l.Close() }()
		ports = append(ports, l.Addr().(*net.TCPAddr).Port)
	}
	return ports
}

// ready waits until all nodes run, know each other and have caught up.
func (c *cluster) ready(t testing.TB) {
	t.Helper()
	eventually(t, "the cluster is ready", func() bool {
		leaders := 0
		for _, n := range c.nodes {
			if n.JetStreamIsLeader() {
				leaders++
			}
			if !n.JetStreamIsCurrent() || len(n.JetStreamClusterPeers()) == 0 && n.JetStreamIsLeader() || n.NumRoutes() == 0 {
				return false
			}
		}
		return leaders == 1
	})
}

func (c *cluster) addrs() broker.Option {
	var urls []string
	for _, n := range c.nodes {
		urls = append(urls, n.ClientURL())
	}
	return broker.Addrs(urls...)
}

func (c *cluster) node(t testing.TB, what string, is func(*server.Server) bool) *runningServer {
	t.Helper()
	var found *runningServer
	eventually(t, "there is a "+what, func() bool {
		for _, n := range c.nodes {
			if n.Running() && is(n.Server) {
				found = n
				return true
			}
		}
		return false
	})
	return found
}

func (c *cluster) streamLeader(t testing.TB, stream string) *runningServer {
	return c.node(t, "stream leader", func(s *server.Server) bool { return s.JetStreamIsStreamLeader(server.DEFAULT_GLOBAL_ACCOUNT, stream) })
}

func (c *cluster) consumerLeader(t testing.TB, stream, consumer string) *runningServer {
	return c.node(t, "consumer leader", func(s *server.Server) bool {
		return s.JetStreamIsConsumerLeader(server.DEFAULT_GLOBAL_ACCOUNT, stream, consumer)
	})
}

// bounce stops a node, waits until traffic has gone on without it, starts it
// again and waits for the cluster.
func (c *cluster) bounce(t testing.TB, n *runningServer, goesOn func()) {
	t.Helper()
	n.stop()
	goesOn()
	n.start(t)
	c.ready(t)
	goesOn()
}

func TestClusterLosesNothing(t *testing.T) {
	if testing.Short() {
		t.Skip("elections take their time: up to a minute")
	}
	c := startCluster(t)
	l := newLedger()
	var brokers [3]broker.Broker
	for i := range brokers {
		brokers[i] = newBroker(t, c.nodes[i].Server, c.addrs(), l.watch(),
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
	end := c.publishUntil(t, publisher, l, topics)
	goesOn := func() {
		t.Helper()
		handled := l.count()
		eventually(t, "100 more are handled", func() bool { return l.count() >= handled+100 })
	}
	goesOn()
	c.bounce(t, c.streamLeader(t, "ORDERS"), goesOn)
	c.bounce(t, c.consumerLeader(t, "ORDERS", "q"), goesOn)
	address := publisher.Address()
	c.bounce(t, c.node(t, "node of the client", func(s *server.Server) bool { return s.ClientURL() == address }), goesOn)
	for _, n := range c.nodes { // a rolling restart, as an upgrade is
		c.bounce(t, n, goesOn)
	}
	end()
	l.settle(t)
	// Nothing was stored twice: each sequence of the stream is one message.
	nc, err := nats.Connect(publisher.Address())
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	if stored := streamInfo(t, js, "ORDERS").State.LastSeq; stored != uint64(len(l.stored)) {
		t.Errorf("%d messages are in the stream, want %d: a retry stored twice", stored, len(l.stored))
	}
}

// publishUntil publishes on the first topic one message after the other and on
// the second with Async, until the function that it returns is called.
func (c *cluster) publishUntil(t testing.TB, b broker.Broker, l *ledger, topics []string) (end func()) {
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
		t.Skip("needs a cluster")
	}
	c := startCluster(t)
	_, js := natsConn(t, c.nodes[0].Server)
	makeStream(t, js, jetstream.StreamConfig{Name: "ORDERS", Subjects: []string{"orders"}, Retention: jetstream.WorkQueuePolicy})
	makeConsumer(t, js, "ORDERS", jetstream.ConsumerConfig{Durable: "q", FilterSubject: "orders", AckPolicy: jetstream.AckExplicitPolicy, AckWait: time.Hour, MaxAckPending: 1000})
	leader := c.consumerLeader(t, "ORDERS", "q")
	other := c.node(t, "node that is not the leader", func(s *server.Server) bool { return s != leader.Server })
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
		info := consumerInfo(t, js, "ORDERS", "q")
		return info.NumPending == 0 && info.NumAckPending == 0
	})
}

// A Disconnect that finds a stop under way closes the connection after that has given
// back.
func TestDisconnectDuringAStopInAClusterStrandsNothing(t *testing.T) {
	if testing.Short() {
		t.Skip("needs a cluster")
	}
	c := startCluster(t)
	_, js := natsConn(t, c.nodes[0].Server)
	makeStream(t, js, jetstream.StreamConfig{Name: "ORDERS", Subjects: []string{"orders"}, Retention: jetstream.WorkQueuePolicy})
	makeConsumer(t, js, "ORDERS", jetstream.ConsumerConfig{Durable: "q", FilterSubject: "orders", AckPolicy: jetstream.AckExplicitPolicy, AckWait: time.Hour, MaxAckPending: 5})
	leader := c.consumerLeader(t, "ORDERS", "q")
	other := c.node(t, "node that is not the leader", func(s *server.Server) bool { return s != leader.Server })
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
	eventually(t, "five are sent", func() bool { return consumerInfo(t, js, "ORDERS", "q").NumAckPending == 5 })
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
		t.Skip("needs a cluster")
	}
	c := startCluster(t)
	_, js := natsConn(t, c.nodes[0].Server)
	makeStream(t, js, jetstream.StreamConfig{Name: "SLOW", Subjects: []string{"slow.>"}})
	home := c.streamLeader(t, "SLOW")
	other := c.node(t, "node without the stream", func(s *server.Server) bool { return s != home.Server })
	b := newBroker(t, other.Server)
	publish(t, b, "slow.x", "first")
	home.stop()
	c.node(t, "leader of the cluster", func(s *server.Server) bool { return s.JetStreamIsLeader() })
	ctx, cancel := context.WithTimeout(context.Background(), 4*time.Second)
	defer cancel()
	wantError(t, b.Publish("slow.x", message("x"), broker.PublishContext(ctx)), context.DeadlineExceeded)
	result := make(chan error, 1)
	go func() { result <- b.Publish("slow.x", message("x"), broker.PublishContext(testContext(t))) }()
	home.start(t)
	noErr(t, receive(t, result))
}
