package broker_test

import (
	"errors"
	"fmt"

	"github.com/nats-io/nats-server/v2/server"
	"go-micro.dev/v5/broker"

	jsbroker "go-micro-jetstream/broker"
	"go-micro-jetstream/examples/natsserver"
)

// A service at a leaf node names the domain of the hub. Here it is connected to the hub
// itself, to which its domain is known, too.
func ExampleWithDomain() {
	hub, err := natsserver.Start(func(o *server.Options) { o.JetStreamDomain = "hub" })
	must(err)
	defer hub.Stop()

	b := jsbroker.NewBroker(broker.Addrs(hub.URL()), quiet(), jsbroker.WithDomain("hub"))
	must(b.Connect())
	fmt.Println(b.Publish("orders.created", message("4711")))
	must(b.Disconnect())

	b = jsbroker.NewBroker(broker.Addrs(hub.URL()), quiet(), jsbroker.WithDomain("hubb"))
	fmt.Println(errors.Is(b.Connect(), jsbroker.ErrJetStreamUnavailable))
	// Output:
	// <nil>
	// true
}

// WithAPIPrefix is for the JetStream of another account, which is imported under a prefix.
// The prefix of a domain is one as well.
func ExampleWithAPIPrefix() {
	hub, err := natsserver.Start(func(o *server.Options) { o.JetStreamDomain = "hub" })
	must(err)
	defer hub.Stop()

	b := jsbroker.NewBroker(broker.Addrs(hub.URL()), quiet(), jsbroker.WithAPIPrefix("$JS.hub.API"))
	must(b.Connect())
	fmt.Println(b.Publish("orders.created", message("4711")))
	must(b.Disconnect())
	// Output: <nil>
}
