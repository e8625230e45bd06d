package consumers

import (
	"context"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"go-micro-jetstream/broker/internal/fault"
)

// checkNearby refuses a consumer, found or with the name that is free, if another JetStream, that of the leaf node or of the
// importing account, has one of the same names. Acknowledgements carry the names of
// stream and consumer, and no domain, unless the servers have the feature flag
// js_ack_fc_v2 (nats-server 2.14). So both consumers would take them for their own, and
// the other one would lose messages. What nobody answers is taken for no.
func (cs *Consumers) checkNearby(ctx context.Context, b binding, found *Consumer, free string) error {
	if !cs.conn.Nearby() {
		return nil
	}
	name, created := free, time.Time{}
	if found != nil {
		name, created = found.Name, found.Created
	}
	stream := b.stream.Name
	second := false
	_ = cs.conn.AskNearby(ctx, "CONSUMER.INFO."+stream+"."+name, func(ctx context.Context, js jetstream.JetStream) error {
		there, err := js.Consumer(ctx, stream, name)
		second = err == nil && !there.CachedInfo().Created.Equal(created)
		return err
	})
	if !second {
		return nil
	}
	return fmt.Errorf("%w: the JetStream at %s has a consumer %s of a stream %s as well as that of %s, and acknowledgements would settle messages of both: choose another queue, or another stream with WithStreamName",
		fault.ErrConsumerConflict, cs.conn.URL(), name, stream, cs.conn.Domain())
}
