package consumers

import (
	"context"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"

	"go-micro-jetstream/broker/internal/asset"
	"go-micro-jetstream/broker/internal/fault"
)

// Mended is the consumer that a subscription has after Mend. Mend logs nothing of
// it.
type Mended struct {
	Consumer *Consumer
	Info     *jetstream.ConsumerInfo // what the server says of it; nil if it was made again, and with an error
	Another  bool                    // it is not the consumer that it was, but perhaps one of the same name
	Remade   bool                    // the former one was gone, or serves another topic now, so this one was made or found in its place
}

// Mend looks whether a subscription's consumer can still serve, after a fetch has
// failed. If it is gone, Mend makes it again, and its stream, provided that this
// module made them. It also replaces the consumer of a subscriber without a queue whose
// servers are all down. With a queue another replica may have been quicker, perhaps
// with a consumer of another name. Mend calls resumeAt at most once, just before
// it makes a consumer that has to go on where it was (see Consumer.GoesOn), for
// the stream sequence to begin with. The context bounds it.
//
// The error is what stands in the way of fetching. If the consumer exists, but
// has another filter now, Mended holds it together with ErrConsumerConflict. With
// any other error Mended is zero, and the subscription keeps what it has.
func (cs *Consumers) Mend(ctx context.Context, rules *asset.Rules, c *Consumer, topic, queue string, resumeAt func() uint64) (Mended, error) {
	b := binding{rules, c.Stream, topic, queue, false}
	info, err := cs.Info(ctx, c)
	switch {
	case err == nil:
		m, err := cs.mendFound(ctx, b, c, info)
		if err != nil || m.Consumer != nil {
			return m, err
		}
	case c.replaceable(rules, err):
		c = c.renamed(topic)
	case !gone(err):
		return Mended{}, err
	case rules.NeverCreateConsumers:
		return Mended{}, fmt.Errorf("consumer %s of stream %s is gone, and with WithExistingConsumers the broker creates none: create it again: %w", c.Name, c.Stream.Name, err)
	case !c.Ours:
		return Mended{}, fmt.Errorf("consumer %s of stream %s is gone and was not made by this broker: create it again: %w", c.Name, c.Stream.Name, err)
	}
	return cs.remake(ctx, b, c, resumeAt)
}

// replaceable reports whether another consumer may go on in the place of this one, whose
// servers are down although its stream may have others. It has fewer than the stream where
// the template says so, or where the stream was given more under it. Nobody shares it, and
// in a stream with Limits retention nothing waits for it.
func (c *Consumer) replaceable(rules *asset.Rules, err error) bool {
	return fault.HasCode(err, fault.CodeConsumerOffline) && c.Ephemeral && c.Ours &&
		c.Stream.Retention == jetstream.LimitsPolicy && !rules.NeverCreateConsumers
}

// renamed returns a copy of the consumer with a name that is free. The server removes the
// former one when that has been back for InactiveThreshold.
func (c *Consumer) renamed(topic string) *Consumer {
	another := *c
	another.Config.Name = ephemeralName(topic)
	return &another
}

// gone reports whether the server says that there is no such consumer or stream.
// A server that starts up says so, too, along with JetStream being unavailable.
func gone(err error) bool {
	return (errors.Is(err, jetstream.ErrConsumerNotFound) || errors.Is(err, jetstream.ErrStreamNotFound)) &&
		!errors.Is(err, fault.ErrJetStreamUnavailable)
}

// mendFound takes the consumer that exists under the former one's name. It
// returns no consumer, and no error, if that one serves another topic of the
// queue.
func (cs *Consumers) mendFound(ctx context.Context, b binding, former *Consumer, info *jetstream.ConsumerInfo) (Mended, error) {
	if err := errors.Join(usable(info), serves(info, b.rules), hasBodies(info, b.rules, b.topic)); err != nil {
		return Mended{}, err
	}
	m := Mended{Consumer: consumerOf(info, b), Info: info}
	if !m.Consumer.Created.Equal(former.Created) {
		// Somebody else has made it again, and perhaps its stream as well.
		s, err := cs.streams.Info(ctx, former.Stream.Name)
		if err != nil {
			return Mended{}, err
		}
		if !filters(info.Config, s, b.topic) && former.Ours && !b.rules.NeverCreateConsumers && b.queue != "" {
			return Mended{}, nil
		}
		m.Consumer.Stream, m.Another = s, true
	}
	if !filters(info.Config, m.Consumer.Stream, b.topic) {
		m.Info = nil
		return m, fmt.Errorf("%w: consumer %s of stream %s has been changed and now has the filter %s", fault.ErrConsumerConflict, former.Name, former.Stream.Name, describeFilter(info.Config))
	}
	return m, nil
}

// remake makes the consumer again, and its stream if that is gone, too. For a
// queue the rule of bindDurable holds as it did at first: another replica may have
// been quicker, and may have given the topics each other's names.
func (cs *Consumers) remake(ctx context.Context, b binding, former *Consumer, resumeAt func() uint64) (Mended, error) {
	s, err := cs.streams.Again(ctx, b.rules, former.Stream, b.topic)
	if err != nil {
		return Mended{}, err
	}
	b.stream = s
	cc := cs.limited(b, resumed(former, s, resumeAt))
	var again *Consumer
	if b.queue == "" {
		cc.Replicas = ephemeralReplicas(cc, s)
		again, _, err = cs.create(ctx, b, cc)
	} else {
		again, _, err = cs.bindDurable(ctx, b, cc)
	}
	if err != nil {
		return Mended{}, err
	}
	return Mended{Consumer: again, Another: true, Remade: true}, nil
}

// resumed configures a consumer that is made again on the stream. One that has to
// go on begins where it was: what came while it was gone is new to it as well.
// With a start sequence it also goes on if it is lost once more.
func resumed(former *Consumer, s *asset.Stream, resumeAt func() uint64) jetstream.ConsumerConfig {
	cc := former.Config
	if former.Ours {
		cc.Metadata = asset.Owned(cc.Metadata) // a tool may have taken the mark off
	}
	if !former.GoesOn() {
		return cc
	}
	cc.DeliverPolicy = jetstream.DeliverByStartSequencePolicy
	if s.Created.Equal(former.Stream.Created) {
		cc.OptStartSeq = max(resumeAt(), cc.OptStartSeq)
	} else {
		cc.OptStartSeq = 1 // all messages of another stream came after the last of the former's
	}
	return cc
}
