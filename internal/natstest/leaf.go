package natstest

import (
	"net"
	"net/url"
	"strconv"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// StartHub is Start for a server that leaf nodes can connect to. Its JetStream has the
// domain "hub".
func StartHub(t testing.TB, change ...func(*server.Options)) *Restartable {
	t.Helper()
	return StartRestartable(t, append([]func(*server.Options){func(o *server.Options) {
		o.ServerName = "hub"
		o.JetStreamDomain = "hub"
		o.LeafNode = server.LeafNodeOpts{Host: "127.0.0.1", Port: Port(t), NoAdvertise: true}
	}}, change...)...)
}

// LeafAddress is where leaf nodes of the hub connect.
func LeafAddress(hub *Restartable) string {
	return net.JoinHostPort(hub.Options.LeafNode.Host, strconv.Itoa(hub.Options.LeafNode.Port))
}

// StartLeaf starts a leaf node of the hub and waits until it is linked. The address is
// LeafAddress, or that of a proxy before it. Without a change it has no JetStream.
func StartLeaf(t testing.TB, hub *Restartable, address string, change ...func(*server.Options)) *Restartable {
	t.Helper()
	leaf := StartRestartable(t, append([]func(*server.Options){func(o *server.Options) {
		o.ServerName = "leaf"
		o.JetStream = false
		o.LeafNode = server.LeafNodeOpts{
			ReconnectInterval: 100 * time.Millisecond,
			Remotes:           []*server.RemoteLeafOpts{{URLs: []*url.URL{{Scheme: "nats-leaf", Host: address}}}},
		}
	}}, change...)...)
	Linked(t, leaf)
	return leaf
}

// Link returns the number of the link between a hub and its only leaf node, 0 if there is
// none. Each link has another number.
func Link(t testing.TB, hub *Restartable) uint64 {
	t.Helper()
	z, err := hub.Leafz(nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(z.Leafs) != 1 {
		return 0
	}
	return z.Leafs[0].ID
}

// Linked waits until the leaf node is linked to its hub, and knows what is asked for
// there.
func Linked(t testing.TB, leaf *Restartable) {
	t.Helper()
	Eventually(t, "the leaf node is linked", func() bool {
		return leaf.GlobalAccount().Interest("$JS.hub.API.INFO") > 0
	})
}
