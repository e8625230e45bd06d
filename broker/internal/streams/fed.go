package streams

import (
	"cmp"
	"context"
	"fmt"
	"strings"

	"github.com/nats-io/nats.go/jetstream"

	"go-micro-jetstream/broker/internal/fault"
	"go-micro-jetstream/broker/internal/wire"
)

// fedBy says where a stream has its messages from that has no subjects of its own, and
// returns "" for another.
func fedBy(sc *jetstream.StreamConfig) string {
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

// fed looks for a stream without subjects of its own, a mirror or one with sources only,
// that has messages of the topic. A subscriber gets the stream; a publisher gets an
// error, because its messages would go to another stream, which such a subscriber does
// not see. If there is none it returns nil. The caller holds ss.ensuring.
func (ss *Streams) fed(ctx context.Context, rules *Rules, topic string, consume bool) (*Stream, error) {
	if consume { // the user may have named it
		name, err := rules.nameOf(topic)
		if err != nil {
			return nil, err
		}
		if s, err := ss.Info(ctx, name); err == nil && fedBy(&s.config) != "" {
			return s, nil
		}
	}
	found, maybe := ss.fedStreams(ctx, topic)
	switch {
	case len(found) == 0:
		if len(maybe) > 0 {
			ss.conn.Log().Warn(fmt.Sprintf("no stream captures %s; %s might get its messages later: subscribers use such a stream if WithStreamName returns its name", topic, strings.Join(maybe, ", ")), "topic", topic)
		}
		return nil, nil
	case len(found) > 1 && consume:
		return nil, fmt.Errorf("%w: several streams have its messages, and none captures it: %s; choose one with WithStreamName", fault.ErrStreamMismatch, strings.Join(named(found), ", "))
	case consume:
		return found[0], nil
	}
	return nil, fmt.Errorf("%w: no stream captures it, and %s has its messages: publish to the stream that it copies (WithDomain, WithAPIPrefix), or create a stream with the topic among its subjects",
		fault.ErrStreamMismatch, strings.Join(named(found), ", "))
}

func named(streams []*Stream) (names []string) {
	for _, s := range streams {
		names = append(names, fmt.Sprintf("%s (%s)", s.Name, fedBy(&s.config)))
	}
	return names
}

// fedStreams returns the streams without subjects that have messages of the topic, and
// names those that get messages from elsewhere that may be of the topic. It returns
// nothing if the server does not say.
func (ss *Streams) fedStreams(ctx context.Context, topic string) (found []*Stream, maybe []string) {
	var infos []*jetstream.StreamInfo
	err := ss.conn.Ask(ctx, "STREAM.LIST", func(ctx context.Context) error {
		infos = nil
		list := ss.conn.JetStream().ListStreams(ctx)
		for info := range list.Info() {
			if fedBy(&info.Config) != "" {
				infos = append(infos, info)
			}
		}
		return list.Err()
	})
	if err != nil {
		return nil, nil
	}
	for _, info := range infos {
		s, err := streamOf(info)
		switch {
		case err != nil:
		case wire.CoversAny(letThrough(&info.Config), topic), feeds(&info.Config, topic) && ss.has(ctx, s.Name, topic):
			found = append(found, s)
		case feeds(&info.Config, topic):
			maybe = append(maybe, fmt.Sprintf("%s (%s)", s.Name, fedBy(&s.config)))
		}
	}
	return found, maybe
}

// letThrough returns the subjects that the origins of a stream let through by name.
func letThrough(sc *jetstream.StreamConfig) (subjects []string) {
	for _, source := range origins(sc) {
		for _, subject := range passes(source) {
			if first := wire.FirstToken(subject); first != ">" && first != "*" {
				subjects = append(subjects, subject)
			}
		}
	}
	return subjects
}

// feeds reports whether an origin of a stream lets the topic through.
func feeds(sc *jetstream.StreamConfig, topic string) bool {
	for _, source := range origins(sc) {
		for _, subject := range passes(source) {
			if wire.Overlaps(subject, topic) {
				return true
			}
		}
	}
	return false
}

func origins(sc *jetstream.StreamConfig) []*jetstream.StreamSource {
	if sc.Mirror != nil {
		return []*jetstream.StreamSource{sc.Mirror}
	}
	return sc.Sources
}

// passes returns patterns of what comes from an origin.
func passes(source *jetstream.StreamSource) (subjects []string) {
	for _, t := range source.SubjectTransforms {
		subjects = append(subjects, transformed(cmp.Or(t.Destination, t.Source)))
	}
	if len(subjects) == 0 {
		subjects = append(subjects, cmp.Or(source.FilterSubject, ">"))
	}
	return subjects
}
