// Package streams finds, creates and remembers the streams that publications and
// subscriptions need.
package streams

import (
	"github.com/nats-io/nats.go/jetstream"

	"go-micro-jetstream/broker/internal/link"
)

// Streams is what one connection knows of the server's streams, and the way to find
// and make more of them. It is safe for concurrent use.
type Streams struct {
	conn     *link.Conn
	cache    cache
	ensuring slot                // held by who looks up, creates, changes or forgets a stream
	followed map[string]followed // by name; guarded by ensuring
	behind   map[string]int      // replicas that companions could not have, by name; guarded by ensuring
}

// New returns a Streams that knows no stream yet. It sends nothing.
func New(conn *link.Conn) *Streams {
	return &Streams{conn: conn, ensuring: make(slot, 1), followed: map[string]followed{}, behind: map[string]int{}}
}

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

// Known returns the stream that captures the topic, or nil if none is known. It
// sends no request, takes no lock and does not allocate.
func (ss *Streams) Known(topic string) *Stream { return ss.cache.find(topic) }
