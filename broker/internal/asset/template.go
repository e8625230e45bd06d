package asset

import (
	"fmt"
	"maps"
	"strings"

	"github.com/nats-io/nats.go/jetstream"

	"go-micro-jetstream/broker/internal/fault"
	"go-micro-jetstream/broker/internal/wire"
)

// OwnerKey marks the streams and consumers of this module in their metadata. What
// lacks it belongs to somebody else, and is never changed or made again.
const OwnerKey = "go-micro-jetstream"

// DefaultStreamName names the stream of a topic: the first token in upper case,
// with - turned into _.
func DefaultStreamName(topic string) string {
	return strings.ReplaceAll(strings.ToUpper(wire.FirstToken(topic)), "-", "_")
}

// CheckStreamTemplate reports why streams cannot be created from a template. The
// error names the option WithStreamConfig.
func CheckStreamTemplate(cfg jetstream.StreamConfig) error {
	if cfg.NoAck {
		return fmt.Errorf("WithStreamConfig: NoAck streams do not acknowledge, so Publish could not tell success from loss")
	}
	if cfg.Name != "" {
		if err := wire.CheckName(cfg.Name); err != nil {
			return fmt.Errorf("WithStreamConfig: stream %q: %w", wire.Shorten(cfg.Name), err)
		}
	}
	return nil
}

// StreamConfig fills in the stream template for a topic: the name, the subjects
// and the mark of this module. It returns ErrInvalidTopic if the topic gives no
// legal name, and ErrStreamMismatch if the template's subjects do not cover it.
func (r *Rules) StreamConfig(topic string) (jetstream.StreamConfig, error) {
	sc := jetstream.StreamConfig{Retention: jetstream.WorkQueuePolicy, Storage: jetstream.FileStorage}
	if r.StreamTemplate != nil {
		sc = *r.StreamTemplate
	}
	if sc.Name == "" {
		var err error
		if sc.Name, err = r.NameOf(topic); err != nil {
			return sc, err
		}
		if err := wire.CheckName(sc.Name); err != nil {
			return sc, fmt.Errorf("%w %q: its stream would be named %q: %w; choose another name with WithStreamName", fault.ErrInvalidTopic, wire.Shorten(topic), wire.Shorten(sc.Name), err)
		}
	}
	if len(sc.Subjects) == 0 {
		// go-micro's topics are often bare, and orders.> does not match orders.
		token := wire.FirstToken(topic)
		sc.Subjects = []string{token, token + ".>"}
	}
	if !wire.CoversAny(sc.Subjects, topic) {
		return sc, fmt.Errorf("%w: no stream captures it, and the Subjects of WithStreamConfig (%s) do not either", fault.ErrStreamMismatch, strings.Join(sc.Subjects, ", "))
	}
	sc.Metadata = Owned(sc.Metadata)
	sc.Metadata[AskedKey] = r.recordOf(sc).String()
	return sc, nil
}

// NameOf names the stream of a topic. What the user's function says, the rules have to
// know already; see [Rules.Named].
func (r *Rules) NameOf(topic string) (string, error) {
	switch {
	case r.StreamName == nil:
		return DefaultStreamName(topic), nil
	case r.named == nil:
		return "", ErrNameless
	}
	return r.named.name, r.named.err
}

// Owned returns a copy of the metadata with the mark of this module.
func Owned(metadata map[string]string) map[string]string {
	m := map[string]string{}
	maps.Copy(m, metadata)
	m[OwnerKey] = "1"
	return m
}
