package broker_test

import (
	"strings"
	"testing"

	"github.com/nats-io/nats.go/jetstream"
	"go-micro.dev/v5/broker"

	jsbroker "go-micro-jetstream/broker"
	"go-micro-jetstream/internal/natstest"
)

func TestHealth(t *testing.T) {
	t.Parallel()
	s := natstest.StartRestartable(t)
	b := unconnected(s.Server, jsbroker.WithExistingStreams())
	wantError(t, jsbroker.Health(testContext(t), b), jsbroker.ErrNotConnected, "Connect")
	wantError(t, jsbroker.Health(testContext(t), broker.NewMemoryBroker()), jsbroker.ErrForeign)
	noErr(t, b.Connect())
	defer func() { _ = b.Disconnect() }()
	noErr(t, jsbroker.Health(nilContext, b))

	_, js := natsConn(t, s.Server)
	natstest.MakeStream(t, js, jetstream.StreamConfig{Name: "ORDERS", Subjects: []string{"orders"}})
	subscribe(t, b, "orders", ignore, broker.Queue("q"))
	noErr(t, jsbroker.Health(testContext(t), b))

	s.Stop()
	eventually(t, "the outage shows", func() bool { return jsbroker.Health(testContext(t), b) != nil })
	s.Start(t)
	eventually(t, "it is well again, with an empty stream", func() bool { return jsbroker.Health(testContext(t), b) == nil })

	noErr(t, js.DeleteStream(testContext(t), "ORDERS"))
	eventually(t, "the stream is missed", func() bool {
		err := jsbroker.Health(testContext(t), b)
		return err != nil && strings.Contains(err.Error(), `"orders" with queue "q"`)
	})
}
