package companion

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"go-micro-jetstream/broker/internal/asset"
	"go-micro-jetstream/broker/internal/wire"
)

// This file replaces the consumer that earlier versions of this module made for the source
// of a companion: with it the server loses messages, see sourceOf.

// formerConsumer is that consumer in the source.
func formerConsumer(stream string) *jetstream.StreamConsumerSource {
	return &jetstream.StreamConsumerSource{Name: stream, DeliverSubject: wire.SourceSubject(stream)}
}

// isFormer reports whether a source is as earlier versions made it.
func isFormer(stream string, src *jetstream.StreamSource) bool {
	return src.Consumer != nil && *src.Consumer == *formerConsumer(stream)
}

const (
	formerPause = 10 * time.Second // for how long a former consumer delivers nothing
	formerWait  = 3 * time.Second  // within which what it has delivered is acknowledged
	formerPoll  = 100 * time.Millisecond
)

// replaceFormer leaves the consumer to the server. It never fails: the former one is
// better than none. What that has delivered is stored and acknowledged before, as
// the server's consumer begins with the first message that is there.
func (cs *Companions) replaceFormer(ctx context.Context, stream string, src *jetstream.StreamSource, consumers []*jetstream.ConsumerInfo) {
	at := slices.IndexFunc(consumers, func(info *jetstream.ConsumerInfo) bool { return info.Name == stream })
	there := at >= 0
	if !isFormer(stream, src) || there && !isFormerConsumer(&consumers[at].Config) {
		return
	}
	var err error
	if there { // another process may have ended in between
		err = cs.removeFormer(ctx, stream)
	}
	if err == nil {
		if err = cs.dropFormer(ctx, stream); err != nil && there {
			_ = cs.makeFormer(ctx, stream)
		}
	}
	if err != nil {
		cs.warnOfFormer(stream, err)
		return
	}
	cs.conn.Log().Info(fmt.Sprintf("stream %s now sources %s with a consumer of the server, in place of one of an earlier version", stream, wire.LaterStream(stream)), "stream", stream)
}

// removeFormer deletes a former consumer when all that it has delivered is acknowledged,
// and so is not there any more. It is paused for that, which ends by itself.
func (cs *Companions) removeFormer(ctx context.Context, stream string) error {
	name := wire.LaterStream(stream)
	err := cs.conn.Do(ctx, "CONSUMER.PAUSE."+name+"."+stream, func(ctx context.Context) error {
		_, err := cs.conn.JetStream().PauseConsumer(ctx, name, stream, time.Now().Add(formerPause))
		return err
	})
	if err != nil {
		return err
	}
	if err = cs.awaitFormer(ctx, stream); err == nil {
		err = cs.deleteFormer(ctx, stream)
	}
	if err != nil {
		_ = cs.conn.Do(ctx, "CONSUMER.PAUSE."+name+"."+stream, func(ctx context.Context) error {
			_, err := cs.conn.JetStream().ResumeConsumer(ctx, name, stream)
			return err
		})
	}
	return err
}

// awaitFormer waits until all that a former consumer has delivered is acknowledged.
func (cs *Companions) awaitFormer(ctx context.Context, stream string) error {
	for end := time.Now().Add(formerWait); ; {
		consumers, err := cs.consumersOf(ctx, stream)
		if err != nil {
			return err
		}
		if !slices.ContainsFunc(consumers, func(info *jetstream.ConsumerInfo) bool { return info.Name == stream && info.NumAckPending > 0 }) {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("what consumer %s of stream %s has delivered is not acknowledged within %v", stream, wire.LaterStream(stream), formerWait)
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(formerPoll):
		}
	}
}

// isFormerConsumer reports whether a consumer is one that this module made for a source.
func isFormerConsumer(cc *jetstream.ConsumerConfig) bool {
	_, ours := cc.Metadata[asset.OwnerKey]
	return ours && cc.AckPolicy == jetstream.AckFlowControlPolicy
}

// dropFormer takes a former consumer out of the source.
func (cs *Companions) dropFormer(ctx context.Context, stream string) error {
	_, err := cs.api.Edit(ctx, stream, func(sc *jetstream.StreamConfig) bool {
		at := sourceIn(*sc)
		if at < 0 || !isFormer(stream, sc.Sources[at]) {
			return false
		}
		sc.Sources = slices.Clone(sc.Sources)
		sc.Sources[at] = sourceOf(stream)
		return true
	})
	return err
}

// makeFormer makes a former consumer again.
func (cs *Companions) makeFormer(ctx context.Context, stream string) error {
	name := wire.LaterStream(stream)
	return cs.conn.Do(ctx, "CONSUMER.CREATE."+name+"."+stream, func(ctx context.Context) error {
		_, err := cs.conn.JetStream().CreatePushConsumer(ctx, name, jetstream.ConsumerConfig{
			Durable:        stream,
			Description:    "delivers to stream " + stream + " what is due",
			DeliverSubject: wire.SourceSubject(stream),
			FilterSubject:  wire.DuePattern(stream),
			AckPolicy:      jetstream.AckFlowControlPolicy,
			FlowControl:    true,
			IdleHeartbeat:  time.Second, // as the server demands
			Metadata:       asset.Owned(nil),
		})
		return err
	})
}

func (cs *Companions) deleteFormer(ctx context.Context, stream string) error {
	name := wire.LaterStream(stream)
	err := cs.conn.Do(ctx, "CONSUMER.DELETE."+name+"."+stream, func(ctx context.Context) error {
		return cs.conn.JetStream().DeleteConsumer(ctx, name, stream)
	})
	if errors.Is(err, jetstream.ErrConsumerNotFound) { // another process was faster
		err = nil
	}
	return err
}

// warnOfFormer says once that a consumer of an earlier version stays.
func (cs *Companions) warnOfFormer(stream string, err error) {
	if cs.former[stream] {
		return
	}
	cs.former[stream] = true
	cs.conn.Log().Warn(fmt.Sprintf("stream %s sources %s with a consumer that an earlier version of this module made, which may lose messages when the server restarts, and this one could not replace it: %v", stream, wire.LaterStream(stream), err), "stream", stream)
}
