package main

import (
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// startTimeout limits the wait for a server that never becomes ready.
const startTimeout = 30 * time.Second

// cluster is one server, or several that form a cluster. They run in this process
// and use file storage.
type cluster struct {
	dir     string
	options []*server.Options
	nodes   []*server.Server
}

func startCluster(size int) (*cluster, error) {
	dir, err := os.MkdirTemp("", "soak-*")
	if err != nil {
		return nil, err
	}
	c := &cluster{dir: dir, nodes: make([]*server.Server, size)}
	ports, err := freePorts(2 * size)
	if err != nil {
		c.stop()
		return nil, err
	}
	var routes []*url.URL
	for _, port := range ports[:size] {
		routes = append(routes, &url.URL{Scheme: "nats", Host: fmt.Sprintf("127.0.0.1:%d", port)})
	}
	for i := range size {
		o := &server.Options{
			ServerName: fmt.Sprintf("node%d", i), Host: "127.0.0.1", Port: ports[size+i],
			JetStream: true, StoreDir: filepath.Join(dir, fmt.Sprint(i)), NoLog: true, NoSigs: true,
		}
		if size > 1 {
			o.Cluster = server.ClusterOpts{Name: "soak", Host: "127.0.0.1", Port: ports[i]}
			o.Routes = routes
		}
		c.options = append(c.options, o)
	}
	for i := range size {
		if err := c.start(i); err != nil {
			c.stop()
			return nil, err
		}
	}
	if err := c.ready(); err != nil {
		c.stop()
		return nil, err
	}
	return c, nil
}

// freePorts returns ports that were free a moment ago. Servers cannot use port 0,
// because they must keep their port across restarts.
func freePorts(n int) (ports []int, err error) {
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer func() { _ = l.Close() }()
		ports = append(ports, l.Addr().(*net.TCPAddr).Port)
	}
	return ports, nil
}

// start starts a node.
func (c *cluster) start(i int) error {
	s, err := server.NewServer(c.options[i])
	if err != nil {
		return err
	}
	s.Start()
	c.nodes[i] = s
	if !s.ReadyForConnections(startTimeout) {
		return fmt.Errorf("server %d is not ready after %v", i, startTimeout)
	}
	return nil
}

// ready waits until all nodes have caught up. If the next node were stopped before
// that, the cluster could lose its majority.
func (c *cluster) ready() error {
	if len(c.nodes) == 1 {
		return nil
	}
	for deadline := time.Now().Add(2 * startTimeout); !c.healthy(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			return fmt.Errorf("the cluster is not healthy after %v", 2*startTimeout)
		}
	}
	return nil
}

// healthy reports whether the cluster has one leader, and all nodes are connected and
// up to date.
func (c *cluster) healthy() bool {
	leaders := 0
	for _, n := range c.nodes {
		if n.JetStreamIsLeader() {
			leaders++
		}
		if !n.JetStreamIsCurrent() || n.NumRoutes() == 0 {
			return false
		}
	}
	return leaders == 1
}

// restart stops a node, waits, starts it again, and waits until the cluster is ready.
func (c *cluster) restart(i int, down time.Duration) error {
	c.nodes[i].Shutdown()
	c.nodes[i].WaitForShutdown()
	time.Sleep(down)
	if err := c.start(i); err != nil {
		return err
	}
	return c.ready()
}

// urls returns the addresses of all nodes.
func (c *cluster) urls() (urls []string) {
	for _, o := range c.options {
		urls = append(urls, fmt.Sprintf("nats://127.0.0.1:%d", o.Port))
	}
	return urls
}

// stop stops all nodes and removes their data.
func (c *cluster) stop() {
	for _, n := range c.nodes {
		if n != nil {
			n.Shutdown()
			n.WaitForShutdown()
		}
	}
	_ = os.RemoveAll(c.dir)
}
