package asset

import (
	"cmp"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"go-micro-jetstream/broker/internal/fault"
	"go-micro-jetstream/broker/internal/wire"
)

// Stream is what is known of a stream. It must not be changed and is safe for
// concurrent use.
type Stream struct {
	Name       string
	Subjects   []string
	Retention  jetstream.RetentionPolicy
	Duplicates time.Duration // the window of de-duplication
	Created    time.Time     // tells it from another stream of the same name
	Ours       bool          // made by this module
	Replicas   int
	Limits     jetstream.StreamConsumerLimits // of its consumers, and what the server chooses for those that leave them out; zero: none
	TTL        bool                           // removes messages when their time to live is over

	Later atomic.Pointer[Later] // how messages wait for it; nil: not known

	Config    jetstream.StreamConfig           // all that the server has
	Mapped    bool                             // Subjects is the one topic that a mapping leads here
	Transform jetstream.SubjectTransformConfig // zero: none
	Seen      atomic.Int64                     // when the server last said all this, in nanoseconds since 1970
}

// StreamOf takes over what the server says of a stream. It refuses a stream that
// does not acknowledge.
func StreamOf(info *jetstream.StreamInfo) (*Stream, error) {
	if info.Config.NoAck {
		return nil, fmt.Errorf("%w: stream %s has NoAck set and does not acknowledge what it stores", fault.ErrInvalidConfig, info.Config.Name)
	}
	_, ours := info.Config.Metadata[OwnerKey]
	s := &Stream{
		Name:       info.Config.Name,
		Subjects:   info.Config.Subjects,
		Retention:  info.Config.Retention,
		Duplicates: info.Config.Duplicates,
		Created:    info.Created,
		Ours:       ours,
		Config:     info.Config,
		Replicas:   info.Config.Replicas,
		Limits:     info.Config.ConsumerLimits,
		TTL:        info.Config.AllowMsgTTL,
	}
	if t := info.Config.SubjectTransform; t != nil {
		s.Transform = *t
	}
	s.Seen.Store(time.Now().UnixNano())
	return s, nil
}

// Same reports whether now is the same stream as s, as far as it matters to a
// topic.
func (s *Stream) Same(now *Stream, topic string) bool {
	return now.Created.Equal(s.Created) &&
		wire.CoversAny(now.Subjects, topic) &&
		now.Duplicates == s.Duplicates &&
		now.Replicas == s.Replicas &&
		now.Limits == s.Limits &&
		now.Transform == s.Transform
}

// CheckTransform refuses a stream that stores all messages of the topic under
// other subjects: a consumer of the topic would never receive anything. Publishing
// to such a stream is fine, as the message is stored where the stream's owner
// wants it.
func (s *Stream) CheckTransform(topic string) error {
	source, destination := cmp.Or(s.Transform.Source, ">"), s.Transform.Destination
	if destination == "" || !wire.Covers(source, topic) || wire.Overlaps(Transformed(destination), topic) {
		return nil
	}
	return fmt.Errorf("%w: the subject transform of stream %s, from %s to %s, stores nothing under the subject that is subscribed to: remove the transform, or let its destination match that subject",
		fault.ErrStreamMismatch, s.Name, source, destination)
}

// Transformed returns a pattern that covers all subjects that a transform with
// that destination makes. The pattern may cover more: $1 and {{partition(3,1)}}
// count as any token, and {{split(1,-)}} as any number of tokens.
func Transformed(destination string) string {
	tokens := strings.Split(destination, ".")
	for i, token := range tokens {
		switch function := strings.ToLower(token); {
		case strings.Contains(function, "split"), strings.Contains(function, "slice"):
			return strings.Join(append(tokens[:i], ">"), ".")
		case strings.HasPrefix(token, "$"), strings.Contains(token, "{{"):
			tokens[i] = "*"
		}
	}
	return strings.Join(tokens, ".")
}

// StoredAs returns a pattern that covers the subject under which a message of the topic
// is stored.
func (s *Stream) StoredAs(topic string) string {
	switch {
	case s.Mapped:
		return ">"
	case s.Transform.Destination != "" && wire.Covers(cmp.Or(s.Transform.Source, ">"), topic):
		return Transformed(s.Transform.Destination)
	}
	return topic
}

// FedBy says where a stream has its messages from that has no subjects of its own, and
// returns "" for another.
func FedBy(sc *jetstream.StreamConfig) string {
	switch {
	case len(sc.Subjects) > 0:
	case sc.Mirror != nil:
		return "a mirror of " + sc.Mirror.Name
	case len(sc.Sources) > 0:
		var names []string
		for _, source := range sc.Sources {
			names = append(names, source.Name)
		}
		return "fed by " + strings.Join(names, ", ")
	}
	return ""
}
