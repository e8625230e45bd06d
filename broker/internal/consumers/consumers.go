// Package consumers finds, creates, compares, mends and deletes the consumers that
// subscriptions need, and says what is known of them.
package consumers

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"

	"go-micro-jetstream/broker/internal/fault"
	"go-micro-jetstream/broker/internal/link"
	"go-micro-jetstream/broker/internal/streams"
)

// Consumers finds and makes consumers on one connection. It is safe for concurrent
// use.
type Consumers struct {
	conn    *link.Conn
	streams *streams.Streams
}

// New returns the consumers of the connection. The streams must be of the same
// connection. New sends nothing.
func New(conn *link.Conn, ss *streams.Streams) *Consumers {
	return &Consumers{conn: conn, streams: ss}
}

// Info asks the server for the state of a consumer. It returns
// jetstream.ErrConsumerNotFound or jetstream.ErrStreamNotFound if that is gone,
// and ErrConsumerConflict for a push consumer.
func (cs *Consumers) Info(ctx context.Context, c *Consumer) (*jetstream.ConsumerInfo, error) {
	return cs.info(ctx, c.Stream.Name, c.Name)
}

// Answers reports whether the server knows the consumer, without patience: a server that
// is well answers at once.
func (cs *Consumers) Answers(ctx context.Context, c *Consumer) bool {
	ctx, cancel := context.WithTimeout(ctx, link.LookUpTimeout)
	defer cancel()
	return cs.conn.Do(ctx, "CONSUMER.INFO."+c.Stream.Name+"."+c.Name, func(ctx context.Context) error {
		_, err := cs.conn.JetStream().Consumer(ctx, c.Stream.Name, c.Name)
		return err
	}) == nil
}

func (cs *Consumers) info(ctx context.Context, stream, name string) (*jetstream.ConsumerInfo, error) {
	var info *jetstream.ConsumerInfo
	err := cs.conn.Ask(ctx, "CONSUMER.INFO."+stream+"."+name, func(ctx context.Context) error {
		c, err := cs.conn.JetStream().Consumer(ctx, stream, name)
		if err == nil {
			info = c.CachedInfo()
		}
		return err
	})
	if errors.Is(err, jetstream.ErrNotPullConsumer) {
		return nil, fmt.Errorf("%w: consumer %s of stream %s is a push consumer; the broker needs a pull consumer", fault.ErrConsumerConflict, name, stream)
	}
	if err != nil {
		return nil, fmt.Errorf("look up consumer %s of stream %s: %w", name, stream, err)
	}
	return info, nil
}

// Unpin has the server take another subscriber of a consumer that serves one at a time.
// Without an answer that happens once its PinnedTTL has passed.
func (cs *Consumers) Unpin(ctx context.Context, c *Consumer) error {
	body, err := json.Marshal(map[string]string{"group": c.Group()})
	if err != nil {
		return err
	}
	name := "CONSUMER.UNPIN." + c.Stream.Name + "." + c.Name
	return cs.conn.Do(ctx, name, func(ctx context.Context) error {
		_, err := cs.conn.NATS().RequestWithContext(ctx, cs.conn.API(name), body)
		return err
	})
}
