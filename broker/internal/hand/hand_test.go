package hand

import (
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"go-micro-jetstream/broker/internal/consumers"
	"go-micro-jetstream/broker/internal/delivery"
	"go-micro-jetstream/broker/internal/wire"
)

// What was handled, but not settled, is to be delivered again, until somebody acks it
// after all.
func TestUnsettledDeliveryIsOwedUntilItIsAcked(t *testing.T) {
	t.Parallel()
	cs := &consumers.Consumer{Ephemeral: true, Config: jetstream.ConsumerConfig{DeliverPolicy: jetstream.DeliverNewPolicy}}
	h := New(Config{Workers: 1}, cs, &jetstream.ConsumerInfo{})
	d := &Delivery{Record: delivery.Record{Meta: wire.Metadata{StreamSequence: 7, NumDelivered: 1}}}
	h.running[0] = d
	h.ledger.Started(d.Meta)
	h.Finish(0, d)
	if n := h.ResumeAt(); n != 7 {
		t.Errorf("resumes at %d, want 7", n)
	}
	h.settled(d, delivery.Ack, 0)
	if n := h.ResumeAt(); n != 8 {
		t.Errorf("resumes at %d, want 8", n)
	}
}
