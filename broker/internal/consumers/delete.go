package consumers

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"go-micro-jetstream/broker/internal/link"
)

const (
	// ackPolls and ackPoll say how often, and how far apart, Delete looks whether
	// all acks have been processed: for a tenth of a second in all.
	ackPolls = 20
	ackPoll  = 5 * time.Millisecond
)

// Delete removes the consumer of a subscriber without a queue, so that the next
// one can subscribe at once. (The server removes that of a crashed subscriber
// after InactiveThreshold.) It first waits a moment for the server to process the
// acks that were sent. It does nothing to a durable consumer or one of others, and
// a consumer that is gone is no error. In an outage it is DeleteUnheard. The
// context and link.APITimeout bound it.
func (cs *Consumers) Delete(ctx context.Context, c *Consumer) error {
	if !c.Ephemeral || !c.Ours {
		return nil
	}
	if !cs.conn.Up() {
		cs.DeleteUnheard(c)
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, link.APITimeout)
	defer cancel()
	if !cs.awaitAcks(ctx, c) {
		return nil
	}
	err := cs.conn.Do(ctx, "CONSUMER.DELETE."+c.Stream.Name+"."+c.Name, func(ctx context.Context) error {
		return cs.conn.JetStream().DeleteConsumer(ctx, c.Stream.Name, c.Name)
	})
	if err == nil || errors.Is(err, jetstream.ErrConsumerNotFound) || errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil
	}
	return fmt.Errorf("delete consumer %s of stream %s: %w", c.Name, c.Stream.Name, err)
}

// awaitAcks gives the server a moment to process the acks that were sent. It does
// that apart from requests, and what is not acked when the consumer is deleted
// comes again to the next one. It returns false when the connection is closed.
func (cs *Consumers) awaitAcks(ctx context.Context, c *Consumer) bool {
	for range ackPolls {
		info, err := cs.Info(ctx, c)
		if err != nil || info.NumAckPending == 0 {
			break
		}
		select {
		case <-time.After(ackPoll):
		case <-cs.conn.Closed():
			return false
		}
	}
	return true
}

// DeleteUnheard asks the server to delete the consumer of a subscriber without a
// queue and does not wait for an answer. In an outage the client sends the request
// when it is connected again. On a closed connection it does nothing. Nor does it
// to a durable consumer or one of others.
func (cs *Consumers) DeleteUnheard(c *Consumer) {
	if c.Ephemeral && c.Ours {
		cs.requestDelete(c.Stream.Name, c.Name)
	}
}

// requestDelete sends the request to delete a consumer, without a reply subject.
func (cs *Consumers) requestDelete(stream, name string) {
	_ = cs.conn.NATS().Publish(cs.conn.API("CONSUMER.DELETE."+stream+"."+name), nil)
}
