package consumers

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/nats-io/nats.go/jetstream"

	"go-micro-jetstream/broker/internal/asset"
	"go-micro-jetstream/broker/internal/fault"
	"go-micro-jetstream/broker/internal/wire"
)

func (cs *Consumers) create(ctx context.Context, b binding, cc jetstream.ConsumerConfig) (*Consumer, *jetstream.ConsumerInfo, error) {
	if err := cs.conn.CheckVersion(); err != nil {
		return nil, nil, err
	}
	var info *jetstream.ConsumerInfo
	err := cs.conn.Do(ctx, "CONSUMER.CREATE."+b.stream.Name+"."+cc.Name, func(ctx context.Context) error {
		c, err := cs.createWithRoom(ctx, b.stream.Name, cc)
		if err == nil {
			info = c.CachedInfo()
		}
		return err
	})
	if err == nil {
		return consumerOf(info, b), info, nil
	}
	if cc.Durable == "" && (errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled)) {
		// The server may have made it all the same, and it would be in the way of
		// the next try. The server takes requests in order, so nobody needs to wait.
		cs.requestDelete(b.stream.Name, cc.Name)
	}
	if fault.HasCode(err, fault.CodeConsumerWQNotUnique, fault.CodeConsumerWQNotUnfiltered) {
		return nil, nil, cs.workQueueConflict(ctx, b, err)
	}
	if limit := cs.limitError(ctx, b, cc, err); limit != nil {
		return nil, nil, limit
	}
	return nil, nil, fmt.Errorf("create consumer %s on stream %s: %w", cc.Name, b.stream.Name, err)
}

// workQueueConflict explains why a WorkQueue stream refuses a consumer.
func (cs *Consumers) workQueueConflict(ctx context.Context, b binding, cause error) error {
	asked, wayOut := "a subscriber without a queue", "name a queue (broker.Queue), so that replicas share one queue and topic"
	if b.queue != "" {
		asked, wayOut = "queue "+b.queue, "share one queue and topic"
	}
	return fmt.Errorf("%w: in stream %s, %s overlaps %s, so %s cannot consume it: %s, or a stream with Interest or Limits retention: %w",
		fault.ErrWorkQueueConflict, b.stream.Name, cs.inTheWay(ctx, b.stream, b.topic), b.topic, asked, wayOut, cause)
}

// inTheWay names the consumers of a stream that overlap a topic, for an
// error text.
func (cs *Consumers) inTheWay(ctx context.Context, st *asset.Stream, topic string) string {
	var names []string
	_ = cs.conn.Do(ctx, "CONSUMER.LIST."+st.Name, func(ctx context.Context) error {
		s, err := cs.conn.JetStream().Stream(ctx, st.Name)
		if err != nil {
			return err
		}
		list := s.ListConsumers(ctx)
		for info := range list.Info() {
			f := filterSubjects(info.Config)
			if i := slices.IndexFunc(f, func(f string) bool { return wire.Overlaps(f, topic) }); i >= 0 {
				names = append(names, fmt.Sprintf("consumer %s (%s)", info.Name, f[i]))
			}
		}
		return list.Err()
	})
	slices.Sort(names)
	return cmp.Or(strings.Join(names, ", "), "another consumer")
}
