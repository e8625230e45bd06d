// Package asset has what the options ask of streams, and what the server says of them.
package asset

import "github.com/nats-io/nats.go/jetstream"

// Rules are what the options say about streams and consumers. They must not be
// changed once they are in use.
type Rules struct {
	StreamTemplate       *jetstream.StreamConfig   // nil: WorkQueue retention, file storage
	StreamName           func(topic string) string // nil: DefaultStreamName; must be safe for concurrent use
	ConsumerTemplate     *jetstream.ConsumerConfig // nil: an AckWait of consumers.DefaultAckWait, no limit of deliveries
	NeverCreateStreams   bool                      // no stream is created
	NeverCreateConsumers bool                      // no consumer is created, and no stream for one
	DeadLetter           string                    // topic of the dead letters; empty: there are none
	SingleActive         bool                      // of all subscribers of a consumer one gets messages
}
