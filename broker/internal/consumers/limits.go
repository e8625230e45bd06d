package consumers

import (
	"context"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"

	"go-micro-jetstream/broker/internal/fault"
)

// limited keeps a configuration within the ConsumerLimits of the stream. The server
// would refuse it otherwise. What the template asks for and does not get is a warning.
func (cs *Consumers) limited(b binding, cc jetstream.ConsumerConfig) jetstream.ConsumerConfig {
	var want jetstream.ConsumerConfig
	if b.rules.ConsumerTemplate != nil {
		want = *b.rules.ConsumerTemplate
	}
	warn := func(name string, asked bool, w, limit any) {
		if asked {
			cs.conn.Log().Warn(fmt.Sprintf("the ConsumerLimits of stream %s permit a %s of %v, and the template asks for %v: the limit holds", b.stream.Name, name, limit, w),
				"topic", b.topic, "queue", b.queue, "stream", b.stream.Name)
		}
	}
	if limit := b.stream.Limits.InactiveThreshold; limit > 0 && cc.InactiveThreshold > limit {
		warn("InactiveThreshold", want.InactiveThreshold > limit, want.InactiveThreshold, limit)
		cc.InactiveThreshold = limit
	}
	if limit := b.stream.Limits.MaxAckPending; limit > 0 && (cc.MaxAckPending > limit || cc.MaxAckPending < 0) {
		warn("MaxAckPending", want.MaxAckPending != 0, want.MaxAckPending, limit)
		cc.MaxAckPending = limit
	}
	return cc
}

// reportPassing warns of a durable consumer that the server deletes when nobody
// fetches for a while, because it has inherited that from its stream. Its place in the
// stream goes with it.
func (cs *Consumers) reportPassing(b binding, c *Consumer) {
	threshold := c.Config.InactiveThreshold
	if c.Ephemeral || threshold == 0 || threshold != b.stream.Limits.InactiveThreshold {
		return
	}
	if t := b.rules.ConsumerTemplate; t != nil && t.InactiveThreshold >= threshold {
		return // that is what the user wants, or limited has said it
	}
	cs.conn.Log().Warn(fmt.Sprintf("the server deletes consumer %s of stream %s, and with it what it has not delivered yet, when nobody fetches from it for %v: the ConsumerLimits of the stream say so. Raise or remove their InactiveThreshold", c.Name, c.Stream.Name, threshold),
		"topic", b.topic, "queue", b.queue, "stream", c.Stream.Name, "consumer", c.Name)
}

// limitError explains which limit of the stream, the account or the server is in the
// way of a consumer. It returns nil for an error that is about something else.
func (cs *Consumers) limitError(ctx context.Context, b binding, cc jetstream.ConsumerConfig, cause error) error {
	name := b.stream.Name
	switch {
	case fault.HasCode(cause, fault.CodeMaxConsumers):
		return fmt.Errorf("%w: create consumer %s: %s; delete consumers that nobody needs, share a queue, or raise that limit: %w",
			fault.ErrConsumerLimit, cc.Name, cs.consumerLimit(ctx, name), cause)
	case fault.HasCode(cause, fault.CodeMaxAckPending):
		return fmt.Errorf("%w: create consumer %s: MaxAckPending is %d, which is more than stream %s, the account or the server permits: set less with WithConsumerConfig, or raise that limit: %w",
			fault.ErrInvalidConfig, cc.Name, cc.MaxAckPending, name, cause)
	case fault.HasCode(cause, fault.CodeInactiveThreshold):
		return fmt.Errorf("%w: create consumer %s: InactiveThreshold is %v, which is more than stream %s permits: set less with WithConsumerConfig, or raise the ConsumerLimits of the stream: %w",
			fault.ErrInvalidConfig, cc.Name, cc.InactiveThreshold, name, cause)
	case fault.HasCode(cause, fault.CodeMaxRequestBatch):
		return fmt.Errorf("%w: create consumer %s: MaxRequestBatch is %d, which is more than the server permits: set less with WithConsumerConfig, or raise max_request_batch of the server: %w",
			fault.ErrInvalidConfig, cc.Name, cc.MaxRequestBatch, cause)
	}
	return nil
}

// defaultMaxConsumers is how many consumers a stream may have since nats-server 2.15
// if neither the stream nor the account has a limit of its own
// (JSDefaultMaxConsumersPerStream in server/jetstream_api.go).
const defaultMaxConsumers = 1000

// consumerLimit says how many consumers a stream has and whose limit that is.
func (cs *Consumers) consumerLimit(ctx context.Context, stream string) string {
	var have, own, accounts int
	if info, err := cs.streams.State(ctx, stream); err == nil {
		have, own = info.State.Consumers, info.Config.MaxConsumers
	}
	_ = cs.conn.Ask(ctx, "INFO", func(ctx context.Context) error {
		info, err := cs.conn.JetStream().AccountInfo(ctx)
		if err == nil {
			accounts = info.Limits.MaxConsumers
		}
		return err
	})
	switch {
	case own > 0 && (accounts <= 0 || own <= accounts):
		return fmt.Sprintf("stream %s has %d consumers, and its MaxConsumers is %d", stream, have, own)
	case accounts > 0:
		return fmt.Sprintf("stream %s has %d consumers, and the account's max_consumers is %d", stream, have, accounts)
	}
	return fmt.Sprintf("stream %s has %d consumers, and neither it nor the account has a limit, so that of the server holds: its default_max_consumers, %d unless set", stream, have, defaultMaxConsumers)
}
