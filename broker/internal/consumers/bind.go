package consumers

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"go-micro-jetstream/broker/internal/asset"
	"go-micro-jetstream/broker/internal/fault"
)

// binding is what a consumer is wanted for.
type binding struct {
	rules  *asset.Rules
	stream *asset.Stream
	topic  string
	queue  string // empty: a subscriber without a queue

	subscribing bool // a Subscribe, which may apply what the code has changed
}

// Bind finds or creates the consumer of a subscription, and its stream. Without a
// queue the consumer is always a new one, which Delete removes. It returns what
// the server says of the consumer as well. If it fails, it leaves no consumer
// behind. While a cluster has no leader, or a server restarts, it tries again. The
// context bounds it.
//
// Errors: those of Streams.Stream, ErrConsumerConflict, ErrConsumerNotFound,
// ErrWorkQueueConflict, ErrUnsupported.
func (cs *Consumers) Bind(ctx context.Context, rules *asset.Rules, topic, queue string) (*Consumer, *jetstream.ConsumerInfo, error) {
	if version, ok := cs.conn.Has(11, 0); rules.SingleActive && !ok && !cs.conn.Remote() { // before a stream is made
		return nil, nil, fmt.Errorf("%w: SingleActive needs nats-server 2.11, and this one is %s", fault.ErrUnsupported, version)
	}
	for pause := minBindPause; ; pause = min(2*pause, maxBindPause) {
		c, info, err := cs.bind(ctx, rules, topic, queue)
		if !cs.passes(err) {
			return c, info, err
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			if !cs.conn.Up() {
				err = fault.Outage(err)
			}
			return nil, nil, err
		}
	}
}

// passes reports whether to try again. An answer that is lost with its server never
// comes. A cluster without a leader says so, and has one soon. Nobody answers while a
// server starts its JetStream, or the link of a leaf node is cut.
func (cs *Consumers) passes(err error) bool {
	if cs.conn.Over() {
		return false
	}
	return fault.Passing(err) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, fault.ErrConnectionLost) ||
		errors.Is(err, fault.ErrJetStreamUnavailable) && cs.conn.HasAnswered()
}

// The pause between two tries of Bind doubles from the one to the other.
const (
	minBindPause = 100 * time.Millisecond
	maxBindPause = time.Second
)

// bind is Bind once.
func (cs *Consumers) bind(ctx context.Context, rules *asset.Rules, topic, queue string) (*Consumer, *jetstream.ConsumerInfo, error) {
	s, err := cs.streams.ForConsumer(ctx, rules, topic)
	if err != nil {
		return nil, nil, err
	}
	c, info, err := cs.bindOn(ctx, binding{rules, s, topic, queue, true})
	if !errors.Is(err, jetstream.ErrStreamNotFound) {
		return c, info, err
	}
	// The stream was deleted since it was seen. Look once more.
	if err := cs.streams.Forget(ctx, s); err != nil {
		return nil, nil, err
	}
	if s, err = cs.streams.ForConsumer(ctx, rules, topic); err != nil {
		return nil, nil, err
	}
	return cs.bindOn(ctx, binding{rules, s, topic, queue, true})
}

func (cs *Consumers) bindOn(ctx context.Context, b binding) (*Consumer, *jetstream.ConsumerInfo, error) {
	if b.rules.SingleActive {
		if err := cs.streams.CheckSingleActive(b.stream); err != nil {
			return nil, nil, err
		}
	}
	if b.queue == "" {
		c, info, err := cs.create(ctx, b, cs.limited(b, b.ephemeralConfig()))
		if err == nil {
			cs.reportAlone(c, b.topic)
		}
		return c, info, err
	}
	c, info, err := cs.bindDurable(ctx, b, cs.limited(b, b.durableConfig()))
	if err == nil {
		cs.reportPassing(b, c)
	}
	return c, info, err
}

// reportAlone warns of a subscriber that keeps others out. With one replica it works,
// so that nobody notices before there is a second one.
func (cs *Consumers) reportAlone(c *Consumer, topic string) {
	if c.Stream.Retention != jetstream.WorkQueuePolicy {
		return
	}
	cs.conn.Log().Warn(fmt.Sprintf("a subscriber without a queue has all of %s on the WorkQueue stream %s, so a second replica cannot subscribe: name a queue (broker.Queue), or use a stream with Interest or Limits retention", topic, c.Stream.Name),
		"topic", topic, "stream", c.Stream.Name, "consumer", c.Name)
}

// ephemeralConfig configures a new consumer for a subscriber without a queue.
func (b binding) ephemeralConfig() jetstream.ConsumerConfig {
	cc := ConsumerConfig(b.rules, b.topic)
	cc.Name = ephemeralName(b.topic)
	if cc.InactiveThreshold == 0 {
		cc.InactiveThreshold = InactiveThreshold
	}
	cc.Replicas = ephemeralReplicas(cc, b.stream)
	if b.rules.ConsumerTemplate == nil && b.stream.Retention != jetstream.WorkQueuePolicy {
		// As with core NATS, everybody gets what is published from now on. A
		// WorkQueue stream only permits consumers of all messages.
		cc.DeliverPolicy = jetstream.DeliverNewPolicy
	}
	return cc
}

// ephemeralReplicas is on how many servers the consumer of a subscriber without a queue
// lives, if the template leaves that open. Left to the server it would be one, and the
// consumer away as long as that is.
func ephemeralReplicas(cc jetstream.ConsumerConfig, s *asset.Stream) int {
	if cc.Replicas == 0 && s.Replicas > 1 {
		return s.Replicas
	}
	return cc.Replicas
}

// bindAttempts is how often bindDurable tries. Each race that it loses to another
// replica costs one try.
const bindAttempts = 5

// bindDurable finds or creates a queue's consumer of the topic. The queue's own
// name belongs to the first topic that was subscribed with it. Each further topic
// of the same stream has a consumer of its own, named after queue and topic.
// Later subscribers find them by their filters, whatever their order. If there is
// none, it is created with the configuration cc and the name that is free.
func (cs *Consumers) bindDurable(ctx context.Context, b binding, cc jetstream.ConsumerConfig) (*Consumer, *jetstream.ConsumerInfo, error) {
	var err error
	for range bindAttempts {
		found, info, free, findErr := cs.findDurable(ctx, b)
		if findErr != nil {
			return nil, nil, findErr
		}
		if err := cs.checkNearby(ctx, b, found, free); err != nil {
			return nil, nil, err
		}
		if found != nil {
			return found, info, nil
		}
		cc.Name, cc.Durable = free, free
		var made *Consumer
		if made, info, err = cs.create(ctx, b, cc); err == nil {
			return made, info, nil
		}
		if !cs.lostRace(ctx, b, err) {
			break
		}
	}
	return nil, nil, err
}

// findDurable returns the queue's consumer of the topic, or a name that is free
// for it.
func (cs *Consumers) findDurable(ctx context.Context, b binding) (found *Consumer, info *jetstream.ConsumerInfo, free string, err error) {
	var taken error // why a consumer of others is in the way
	for _, name := range durableNames(b.queue, b.topic) {
		info, err := cs.info(ctx, b.stream.Name, name)
		if errors.Is(err, jetstream.ErrConsumerNotFound) {
			if free == "" {
				free = name
			}
			continue
		}
		if err != nil {
			return nil, nil, "", err
		}
		c := consumerOf(info, b)
		if filters(info.Config, b.stream, b.topic) {
			if err := usable(info); err != nil {
				return nil, nil, "", err
			}
			found, info, err = cs.take(ctx, b, c, info)
			return found, info, "", err
		}
		if !c.Ours && taken == nil {
			taken = fmt.Errorf("%w: consumer %s of stream %s was not made by this broker and has the filter %s: choose another queue, or delete it",
				fault.ErrConsumerConflict, name, b.stream.Name, describeFilter(info.Config))
		}
	}
	switch {
	case b.rules.NeverCreateConsumers && free != "":
		return nil, nil, "", fmt.Errorf("%w, and with WithExistingConsumers the broker creates none: create the pull consumer %s on stream %s, with the filter %s and explicit acknowledgement",
			fault.ErrConsumerNotFound, free, b.stream.Name, b.topic)
	case taken != nil:
		return nil, nil, "", taken
	case free == "":
		return nil, nil, "", fmt.Errorf("%w: consumers %s and %s of stream %s serve other topics: choose another queue",
			fault.ErrConsumerConflict, b.queue, durableName(b.queue, b.topic), b.stream.Name)
	}
	return nil, nil, free, nil
}

// lostRace reports whether another replica has made the consumer, or the queue's
// other one for the same topic, since findDurable looked.
func (cs *Consumers) lostRace(ctx context.Context, b binding, err error) bool {
	if !errors.Is(err, fault.ErrWorkQueueConflict) {
		return errors.Is(err, jetstream.ErrConsumerExists)
	}
	for _, name := range durableNames(b.queue, b.topic) {
		info, err := cs.info(ctx, b.stream.Name, name)
		if err == nil && filters(info.Config, b.stream, b.topic) {
			return true
		}
		if err != nil && !errors.Is(err, jetstream.ErrConsumerNotFound) {
			return false
		}
	}
	return false
}
