package consumers

import (
	"context"

	"github.com/nats-io/nats.go/jetstream"

	"go-micro-jetstream/broker/internal/fault"
)

// DefaultMaxAckPending is the MaxAckPending of consumers whose template names none. A
// message that waits for its retry counts, and at the bound nothing new is delivered.
// With the server's own default, 1000, a queue stands still as soon as 34 messages a
// second fail until they are retried every 30 seconds. The server keeps some 100 bytes
// for each.
const DefaultMaxAckPending = 10_000

// createWithRoom creates a consumer with DefaultMaxAckPending, if that is not more than
// the stream, the account or the server permits. It changes nothing if the
// configuration names a bound.
func (cs *Consumers) createWithRoom(ctx context.Context, stream string, cc jetstream.ConsumerConfig) (jetstream.Consumer, error) {
	roomy := cc
	if cc.MaxAckPending == 0 {
		roomy.MaxAckPending = DefaultMaxAckPending
	}
	c, err := cs.conn.JetStream().CreateConsumer(ctx, stream, roomy)
	if cc.MaxAckPending == 0 && fault.HasCode(err, fault.CodeMaxAckPending) {
		return cs.conn.JetStream().CreateConsumer(ctx, stream, cc) // and the server takes what it permits
	}
	return c, err
}
