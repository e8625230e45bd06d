// Package asset has what the options ask of streams, and what the server says of them.
package asset

import (
	"errors"

	"github.com/nats-io/nats.go/jetstream"
)

// Rules are what the options say about streams and consumers. They must not be
// changed once they are in use.
type Rules struct {
	StreamTemplate       *jetstream.StreamConfig   // nil: WorkQueue retention, file storage
	StreamName           func(topic string) string // nil: DefaultStreamName; called by nobody here
	ConsumerTemplate     *jetstream.ConsumerConfig // nil: an AckWait of consumers.DefaultAckWait, no limit of deliveries
	NeverCreateStreams   bool                      // no stream is created
	NeverCreateConsumers bool                      // no consumer is created, and no stream for one
	DeadLetter           string                    // topic of the dead letters; empty: there are none
	SingleActive         bool                      // of all subscribers of a consumer one gets messages

	named *streamName // what StreamName has said about the topic; nil: it was not asked
}

// streamName is what the user's function has said.
type streamName struct {
	name string
	err  error
}

// ErrNameless says that the name of a stream is needed, and that the user's function was
// not asked yet.
var ErrNameless = errors.New("the stream has no name yet")

// WantsName reports whether StreamName has to be asked before the rules can say how the
// stream of a topic is configured.
func (r *Rules) WantsName() bool {
	return r.StreamName != nil && r.named == nil && (r.StreamTemplate == nil || r.StreamTemplate.Name == "")
}

// Named returns rules for the topic that StreamName was asked about, with what it has said.
func (r *Rules) Named(name string, err error) *Rules {
	with := *r
	with.named = &streamName{name, err}
	return &with
}

// NameFault returns why StreamName has not said a name, or nil.
func (r *Rules) NameFault() error {
	if r.named == nil {
		return nil
	}
	return r.named.err
}
