package consumers

import (
	"context"
	"errors"
	"fmt"
	"maps"

	"github.com/nats-io/nats.go/jetstream"

	"go-micro-jetstream/broker/internal/asked"
	"go-micro-jetstream/broker/internal/asset"
	"go-micro-jetstream/broker/internal/fault"
)

// take binds a subscription to a consumer that exists. At Subscribe a consumer of
// this module follows the code. One of others is used as it is.
func (cs *Consumers) take(ctx context.Context, b binding, c *Consumer, info *jetstream.ConsumerInfo) (*Consumer, *jetstream.ConsumerInfo, error) {
	if b.subscribing && c.Ours && !b.rules.NeverCreateConsumers {
		info = cs.follow(ctx, b, info)
		c = consumerOf(info, b)
	} else {
		cs.reportDifferences(b, c)
	}
	if err := errors.Join(serves(info, b.rules), hasBodies(info, b.rules, b.topic)); err != nil {
		return nil, nil, err
	}
	if info.Config.HeadersOnly && b.rules.NeverCreateConsumers {
		cs.warn(b, c.Name, "delivers headers only: handlers get empty bodies, and with the ack the message is gone")
	}
	if !c.PausedUntil.IsZero() {
		cs.warn(b, c.Name, fmt.Sprintf("is paused and delivers nothing until %s: nats consumer resume %s %s", pausedUntil(c.PausedUntil), b.stream.Name, c.Name))
	}
	return c, info, nil
}

// hasBodies refuses a consumer that delivers headers only, where the code does not
// ask for that: the handler would get empty bodies, and with its ack the messages
// were gone. Whoever leaves consumers to others cannot ask for it, and is warned.
func hasBodies(info *jetstream.ConsumerInfo, rules *asset.Rules, topic string) error {
	switch {
	case !info.Config.HeadersOnly:
		return nil
	case rules.DeadLetter != "" && rules.DeadLetter != topic: // what fails on the topic of dead letters becomes none
		return fmt.Errorf("%w: consumer %s of stream %s delivers headers only, and WithDeadLetter keeps the bodies of messages: leave it out, or take another queue", fault.ErrConsumerConflict, info.Name, info.Stream)
	case rules.NeverCreateConsumers, rules.ConsumerTemplate != nil && rules.ConsumerTemplate.HeadersOnly:
		return nil
	}
	return fmt.Errorf("%w: consumer %s of stream %s delivers headers only, so handlers would get empty bodies: take that off (nats consumer edit), take another queue, or ask for it with HeadersOnly in WithConsumerConfig", fault.ErrConsumerConflict, info.Name, info.Stream)
}

// changeTries is how often a consumer is changed if another process undoes the change. The
// server knows whole configurations only: who has read the one from before, and changes
// something else, writes that back.
const changeTries = 3

// follow applies what the code has changed of a consumer, provided that nobody else
// has changed that meanwhile. It returns what the server says of the consumer then. If
// the server refuses the change, that is what it said before.
func (cs *Consumers) follow(ctx context.Context, b binding, info *jetstream.ConsumerInfo) *jetstream.ConsumerInfo {
	record := func(info *jetstream.ConsumerInfo) string { return info.Config.Metadata[asset.AskedKey] }
	for try := 1; ; try++ {
		now := cs.apply(ctx, b, info)
		if record(now) == record(info) || try == changeTries {
			return now
		}
		again, err := cs.info(ctx, b.stream.Name, info.Name)
		if err != nil || record(again) != record(info) { // not undone
			return now
		}
		info = again
	}
}

// apply is one try of follow. It logs what it applies, and what it does not.
func (cs *Consumers) apply(ctx context.Context, b binding, info *jetstream.ConsumerInfo) *jetstream.ConsumerInfo {
	have, want := info.Config, b.asks()
	last := asked.Parse(have.Metadata[asset.AskedKey])
	plan := settingsOn(b.stream).Compare(last, want, have)
	plan.Config.Metadata = maps.Clone(have.Metadata)
	markPins(plan.Config, have)
	describeLimit(&plan, want, have)
	if len(plan.Kept) > 0 {
		cs.warn(b, info.Name, fmt.Sprintf("%s and is used as it is: %s", last.Changed(), asked.AreNot(plan.Kept)))
	}
	if len(plan.Fixed) > 0 {
		cs.warn(b, info.Name, fmt.Sprintf("is used as it is, as the server cannot change this: %s; take another queue, or stop all subscribers and delete it (nats consumer rm %s %s): the broker makes it again, and what is not acked is delivered again",
			asked.AreNot(plan.Fixed), b.stream.Name, info.Name))
	}
	plan.Config.Metadata[asset.AskedKey] = plan.Record.String()
	if maps.Equal(plan.Config.Metadata, have.Metadata) && len(plan.Apply) == 0 {
		return info
	}
	now, err := cs.update(ctx, b.stream.Name, plan.Config)
	switch {
	case err == nil && len(plan.Apply) > 0:
		cs.conn.Log().Info(fmt.Sprintf("consumer %s of stream %s follows its configuration: %s", info.Name, b.stream.Name, asked.Were(plan.Apply)), b.attrs(info.Name)...)
		cs.warnOfLimit(b, info, now)
	case err != nil && len(plan.Apply) > 0:
		cs.warn(b, info.Name, fmt.Sprintf("cannot follow its configuration and is used as it is: %s: %v", asked.AreNot(plan.Apply), err))
	}
	if err != nil {
		return info
	}
	return now
}

// sharedKey is in the metadata of a consumer that has served all its subscribers, and
// now serves one at a time. Some subscribers may run code that does not ask for that.
const sharedKey = asset.OwnerKey + "-was-shared"

// markPins marks a consumer that is to serve one subscriber at a time from now on. While
// nobody has the pin, the server delivers to requests without a group as well
// (nextWaiting in server/consumer.go), and nobody can tell whose message it was.
func markPins(cc, have jetstream.ConsumerConfig) {
	switch pinned := cc.PriorityPolicy == jetstream.PriorityPolicyPinned; {
	case !pinned:
		delete(cc.Metadata, sharedKey)
	case have.PriorityPolicy != jetstream.PriorityPolicyPinned:
		cc.Metadata[sharedKey] = "true"
	}
}

// WasShared reports whether subscribers that do not know of the pin may have messages
// of a consumer in hand.
func WasShared(info *jetstream.ConsumerInfo) bool {
	_, shared := info.Config.Metadata[sharedKey]
	return shared
}

// warnOfLimit warns of a limit of deliveries that the server counts and that some
// messages may have reached already: the server stops delivering these without a
// word.
func (cs *Consumers) warnOfLimit(b binding, before, now *jetstream.ConsumerInfo) {
	limit, was := now.Config.MaxDeliver, before.Config.MaxDeliver
	if limit > 0 && (was <= 0 || limit < was) && before.NumRedelivered > 0 {
		cs.warn(b, now.Name, fmt.Sprintf("stops after %d deliveries now: those of the %d messages being redelivered that have had as many stay in the stream and are not delivered again; WithDeadLetter would keep them", limit, before.NumRedelivered))
	}
}

// update asks the server to change a consumer.
func (cs *Consumers) update(ctx context.Context, stream string, cc jetstream.ConsumerConfig) (*jetstream.ConsumerInfo, error) {
	var info *jetstream.ConsumerInfo
	err := cs.conn.Do(ctx, "CONSUMER.CREATE."+stream+"."+cc.Name, func(ctx context.Context) error {
		c, err := cs.conn.JetStream().UpdateConsumer(ctx, stream, cc)
		if err == nil {
			info = c.CachedInfo()
		}
		return err
	})
	return info, err
}

func (cs *Consumers) warn(b binding, name, text string) {
	cs.conn.Log().Warn(fmt.Sprintf("consumer %s of stream %s %s", name, b.stream.Name, text), b.attrs(name)...)
}

// attrs says in the log which subscription a line is about.
func (b binding) attrs(consumer string) []any {
	return []any{"topic", b.topic, "queue", b.queue, "stream", b.stream.Name, "consumer", consumer}
}
