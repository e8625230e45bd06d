package broker_test

import (
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"
	"go-micro.dev/v5/broker"

	jsbroker "go-micro-jetstream/broker"
	"go-micro-jetstream/internal/natstest"
)

// Tests of JetStream going away and coming back while the connection stays up. No pause
// after a failure sleeps through its return.

// goesOn has a subscription fail several times during an outage, and checks that it goes
// on soon after the end of that.
func goesOn(t *testing.T, s interface{ ClientURL() string }, begin, end func(), opts ...broker.Option) {
	t.Helper()
	failed, onFail := hookChan[jsbroker.Backoff]()
	b := newBroker(t, s, append(opts, jsbroker.WithHooks(jsbroker.Hooks{Backoff: onFail}))...)
	handler, got := collector()
	subscribe(t, b, "orders.created", handler, broker.Queue("workers"))
	publish(t, b, "orders.created", "before")
	receive(t, got)
	begin()
	natstest.Await(t, failed, "failure with a long pause after it", func(e jsbroker.Backoff) bool { return e.Attempt >= 4 })
	end()
	back := time.Now()
	eventually(t, "publishing works again", func() bool { return b.Publish("orders.created", message("after")) == nil })
	t.Logf("published after %v", time.Since(back))
	for receive(t, got) != "after" {
	}
	t.Logf("went on after %v", time.Since(back))
	if took := time.Since(back); took > 6*time.Second { // the pause is 8s
		t.Errorf("went on after %v", took)
	}
}

func TestFetchingGoesOnWhenJetStreamIsBack(t *testing.T) {
	if testing.Short() {
		t.Skip("waits for four failures, each of which takes some seconds")
	}
	t.Parallel()
	p := startServerProcess(t, t.TempDir(), unwatched(t))
	t.Cleanup(p.kill) // or it could not remove its directory
	goesOn(t, p, func() { p.do(t, jetStreamOff) }, func() { p.do(t, jetStreamOn) })
}

// The stream has one replica, and the client is connected to another node.
func TestFetchingGoesOnWhenTheNodeOfItsStreamIsBack(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a cluster")
	}
	t.Parallel()
	c := natstest.StartCluster(t)
	_, js := natstest.Connect(t, c.Nodes[0].ClientURL())
	natstest.MakeStream(t, js, jetstream.StreamConfig{Name: "ORDERS", Subjects: []string{"orders.>"}})
	holder := c.StreamLeader(t, "ORDERS")
	other := c.Node(t, "other node", func(s *server.Server) bool { return s != holder.Server })
	goesOn(t, other.Server, holder.Stop, func() { holder.Start(t); c.Ready(t); c.StreamLeader(t, "ORDERS") })
}
