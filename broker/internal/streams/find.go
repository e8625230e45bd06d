package streams

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"go-micro-jetstream/broker/internal/asset"
	"go-micro-jetstream/broker/internal/fault"
	"go-micro-jetstream/broker/internal/wire"
)

// Stream returns the stream that captures the topic. If the server has none, it
// creates one, unless NeverCreateStreams leaves that to others. It does not replace a
// stream of others that is gone either, as its owner will make it again as it
// was. Concurrent calls look a stream up once. The context bounds the wait, and each
// request is also bounded by link.APITimeout. Patience, if it is not 0, bounds the wait for
// the server, but not for the user's function for stream names.
//
// Errors: ErrStreamNotFound, ErrStreamMismatch, ErrInvalidTopic, ErrInvalidConfig,
// those of link.Conn.Do, or the server's.
func (ss *Streams) Stream(ctx context.Context, patience time.Duration, rules *asset.Rules, topic string) (*asset.Stream, error) {
	return ss.find(ctx, rules, topic, wish{forbidden: forbidden(rules), patience: patience})
}

// ForConsumer is Stream for a subscriber. It looks again at a stream that is known.
// With NeverCreateConsumers it creates none, as a new stream would not have the consumer
// that others are to make.
func (ss *Streams) ForConsumer(ctx context.Context, rules *asset.Rules, topic string) (s *asset.Stream, err error) {
	if err := ss.verify(ctx, topic); err != nil {
		return nil, err
	}
	w := wish{consume: true, forbidden: forbidden(rules)}
	if rules.NeverCreateConsumers {
		w.forbidden = "WithExistingConsumers"
	}
	if known := ss.Known(topic); known != nil && known.Mapped {
		if err := ss.Forget(ctx, known); err != nil {
			return nil, err
		}
	}
	s, err = ss.find(ctx, rules, topic, w)
	if err == nil && asset.FedBy(&s.Config) != "" {
		return s, nil
	}
	if err == nil {
		err = s.CheckTransform(topic)
	}
	if err != nil {
		return nil, err
	}
	return ss.followForConsumer(ctx, rules, s, topic)
}

// Again returns the stream that a consumer is to be made again on. It makes the
// stream again as well if that is gone and was made by this module. The errors are
// those of Stream.
func (ss *Streams) Again(ctx context.Context, rules *asset.Rules, former *asset.Stream, topic string) (*asset.Stream, error) {
	s, err := ss.Info(ctx, former.Name)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		if rules.NeverCreateStreams {
			return nil, fmt.Errorf("%w: stream %s is gone, and with WithExistingStreams the broker creates none: create it again", fault.ErrStreamNotFound, former.Name)
		}
		if !former.Ours {
			return nil, fmt.Errorf("%w: stream %s is gone and was not made by this broker: create it again", fault.ErrStreamNotFound, former.Name)
		}
		if err := ss.Forget(ctx, former); err != nil {
			return nil, err
		}
		s, err = ss.Stream(ctx, 0, rules, topic)
	}
	if err != nil {
		return nil, err
	}
	if !wire.CoversAny(s.Subjects, topic) && asset.FedBy(&s.Config) == "" || s.Name != former.Name {
		return nil, fmt.Errorf("%w: the topic has moved to stream %s; subscribe again", fault.ErrStreamMismatch, s.Name)
	}
	return s, nil
}

// Existing returns the stream that captures the topic, which may have wildcards. It
// creates none, and remembers none. Errors: ErrStreamNotFound, ErrStreamMismatch, those
// of link.Conn.Do, or the server's.
func (ss *Streams) Existing(ctx context.Context, topic string) (*asset.Stream, error) {
	return ss.lookUp(ctx, topic)
}

// wish is what a stream is wanted for.
type wish struct {
	consume   bool          // to subscribe to it
	forbidden string        // the option that forbids to create one; empty: none does
	patience  time.Duration // with the server; 0: as the context has
}

func forbidden(rules *asset.Rules) string {
	if rules.NeverCreateStreams {
		return "WithExistingStreams"
	}
	return ""
}

// find returns the stream that captures the topic. If there is none, it creates one,
// unless an option forbids that, or another stream has the topic's messages all the same.
func (ss *Streams) find(ctx context.Context, rules *asset.Rules, topic string, w wish) (*asset.Stream, error) {
	for {
		if s := ss.Known(topic); s != nil {
			return s, nil
		}
		if !ss.isNaming(rules, topic) {
			s, err := ss.findNamed(ctx, rules, topic, w)
			if !errors.Is(err, asset.ErrNameless) {
				return s, err
			}
		}
		rules = ss.named(ctx, rules, topic)
		if err := rules.NameFault(); err != nil && ctx.Err() != nil {
			return nil, err
		}
	}
}

// findNamed is find for rules that know the name of the stream that would be made. Else it
// returns asset.ErrNameless, unless no name is needed or the user's function says it at once.
func (ss *Streams) findNamed(ctx context.Context, rules *asset.Rules, topic string, w wish) (*asset.Stream, error) {
	if w.patience > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, w.patience)
		defer cancel()
	}
	if err := ss.ensuring.acquire(ctx); err != nil {
		return nil, err
	}
	defer ss.ensuring.release()
	if s := ss.Known(topic); s != nil { // another goroutine was quicker
		return s, nil
	}
	s, err := ss.lookUp(ctx, topic)
	if err == nil || errors.Is(err, fault.ErrStreamNotFound) {
		if err := ss.elsewhere.CheckNearby(ctx, s, topic); err != nil {
			return nil, err
		}
	}
	if errors.Is(err, fault.ErrStreamNotFound) || rules.StreamTemplate != nil { // it is to be made, or to be compared
		if rules = ss.namedSoon(ctx, rules, topic); rules == nil {
			return nil, asset.ErrNameless
		}
	}
	if errors.Is(err, fault.ErrStreamNotFound) {
		s, err = ss.otherwise(ctx, rules, topic, w)
	}
	if errors.Is(err, fault.ErrStreamMismatch) {
		if grown := ss.grown(ctx, rules, topic); grown != nil {
			s, err = grown, nil
		}
	}
	if err != nil {
		return nil, err
	}
	if !s.Mapped && asset.FedBy(&s.Config) == "" && !ss.follows(rules, s) {
		s = ss.follow(ctx, rules, s, topic)
	}
	ss.cache.add(s)
	return s, nil
}

// otherwise is for a topic that no stream captures.
func (ss *Streams) otherwise(ctx context.Context, rules *asset.Rules, topic string, w wish) (*asset.Stream, error) {
	if w.consume { // before another stream: what is here is what the subscriber can have
		if s, err := ss.elsewhere.Fed(ctx, rules, topic, true); s != nil || err != nil {
			return s, err
		}
	}
	if s, err := ss.elsewhere.Mapped(ctx, topic, w.consume); s != nil || err != nil {
		return s, err
	}
	if !w.consume {
		if s, err := ss.elsewhere.Fed(ctx, rules, topic, false); s != nil || err != nil {
			return s, err
		}
	}
	if w.forbidden != "" {
		return nil, ss.missing(ctx, rules, topic, w.forbidden)
	}
	return ss.create(ctx, rules, topic)
}

// missing is the error for a topic without a stream where an option forbids to
// create one. The caller holds ss.ensuring.
func (ss *Streams) missing(ctx context.Context, rules *asset.Rules, topic, option string) error {
	if err := ss.checkLost(ctx, []string{topic}); err != nil {
		return err
	}
	name, err := rules.NameOf(topic)
	if err != nil {
		return err
	}
	token := wire.FirstToken(topic)
	return fmt.Errorf("%w, and with %s the broker creates none: create one that does, such as %s with the subjects %s and %s.>",
		fault.ErrStreamNotFound, option, name, token, token)
}

// lookUp asks the server for a stream that covers the topic.
func (ss *Streams) lookUp(ctx context.Context, topic string) (*asset.Stream, error) {
	names, err := ss.Names(ctx, topic)
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		s, err := ss.Info(ctx, name)
		switch {
		case errors.Is(err, jetstream.ErrStreamNotFound): // deleted meanwhile
		case err != nil:
			return nil, err
		case wire.CoversAny(s.Subjects, topic):
			return s, nil
		}
	}
	if len(names) > 0 {
		return nil, fmt.Errorf("%w: stream %s captures a part of it only; subscribe to what it captures, or add the topic to its subjects", fault.ErrStreamMismatch, strings.Join(names, ", "))
	}
	return nil, fault.ErrStreamNotFound
}
