package natstest

import (
	"fmt"
	"net/url"
	"sync"
	"testing"

	"github.com/nats-io/nats-server/v2/server"
)

// Cluster is three servers that form a cluster.
type Cluster struct {
	Nodes []*Restartable
}

// StartCluster starts a cluster and waits until it is ready.
func StartCluster(t testing.TB) *Cluster {
	t.Helper()
	const size = 3
	var routePorts []int
	var routes []*url.URL
	for range size {
		port := Port(t)
		routePorts = append(routePorts, port)
		routes = append(routes, &url.URL{Scheme: "nats", Host: fmt.Sprintf("127.0.0.1:%d", port)})
	}
	c := &Cluster{}
	for i := range size {
		c.Nodes = append(c.Nodes, &Restartable{Options: options(t, func(o *server.Options) {
			o.ServerName = fmt.Sprintf("node%d", i)
			o.Cluster = server.ClusterOpts{Name: "test", Host: "127.0.0.1", Port: routePorts[i]}
			o.Routes = routes
		})})
	}
	c.startNodes(t)
	c.Ready(t)
	return c
}

// startNodes starts them at the same time: none is ready before the others are.
func (c *Cluster) startNodes(t testing.TB) {
	t.Helper()
	errs := make([]error, len(c.Nodes))
	var starting sync.WaitGroup
	for i, n := range c.Nodes {
		starting.Go(func() { n.Server, errs[i] = launch(t, n.Options) })
	}
	starting.Wait()
	for i, err := range errs {
		if err != nil {
			t.Fatalf("node %d: %v", i, err)
		}
	}
}

// Ready waits until all nodes run, know each other and are up to date, and one
// of them leads.
func (c *Cluster) Ready(t testing.TB) {
	t.Helper()
	Eventually(t, "the cluster is ready", func() bool {
		leaders := 0
		for _, n := range c.Nodes {
			if n.NumRoutes() == 0 || !n.JetStreamIsCurrent() {
				return false
			}
			if n.JetStreamIsLeader() {
				leaders++
				// The leader places no replica on a server whose state it has not heard yet.
				if len(n.JetStreamClusterPeers()) < len(c.Nodes) {
					return false
				}
			}
		}
		return leaders == 1
	})
}

// URLs are the addresses of all nodes.
func (c *Cluster) URLs() (urls []string) {
	for _, n := range c.Nodes {
		urls = append(urls, n.ClientURL())
	}
	return urls
}

// Node waits until there is a running node for which is returns true, and
// returns it. What says in the error what there is none of.
func (c *Cluster) Node(t testing.TB, what string, is func(*server.Server) bool) (found *Restartable) {
	t.Helper()
	Eventually(t, "there is a "+what, func() bool {
		for _, n := range c.Nodes {
			if n.Running() && is(n.Server) {
				found = n
				return true
			}
		}
		return false
	})
	return found
}

// Leader waits until the cluster has a leader, and returns it.
func (c *Cluster) Leader(t testing.TB) *Restartable {
	t.Helper()
	return c.Node(t, "leader of the cluster", (*server.Server).JetStreamIsLeader)
}

// StreamLeader waits until a stream has a leader, and returns its node.
func (c *Cluster) StreamLeader(t testing.TB, stream string) *Restartable {
	t.Helper()
	return c.Node(t, "leader of the stream "+stream, func(s *server.Server) bool {
		return s.JetStreamIsStreamLeader(server.DEFAULT_GLOBAL_ACCOUNT, stream)
	})
}

// ConsumerLeader waits until a consumer has a leader, and returns its node.
func (c *Cluster) ConsumerLeader(t testing.TB, stream, consumer string) *Restartable {
	t.Helper()
	return c.Node(t, "leader of the consumer "+consumer, func(s *server.Server) bool {
		return s.JetStreamIsConsumerLeader(server.DEFAULT_GLOBAL_ACCOUNT, stream, consumer)
	})
}

// Bounce stops a node, starts it again and waits until the cluster is ready. It
// calls goesOn while the node is down, and once more in the end: that waits until
// the traffic has gone on.
func (c *Cluster) Bounce(t testing.TB, n *Restartable, goesOn func()) {
	t.Helper()
	n.Stop()
	goesOn()
	n.Start(t)
	c.Ready(t)
	goesOn()
}
