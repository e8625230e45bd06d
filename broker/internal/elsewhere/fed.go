package elsewhere

import (
	"cmp"
	"context"
	"fmt"
	"strings"

	"github.com/nats-io/nats.go/jetstream"

	"go-micro-jetstream/broker/internal/asset"
	"go-micro-jetstream/broker/internal/fault"
	"go-micro-jetstream/broker/internal/wire"
)

// Fed looks for a stream without subjects of its own, a mirror or one with sources only,
// that has messages of the topic. A subscriber gets the stream; a publisher gets an
// error, because its messages would go to another stream, which such a subscriber does
// not see. If there is none it returns nil.
func (f *Finder) Fed(ctx context.Context, rules *asset.Rules, topic string, consume bool) (*asset.Stream, error) {
	if consume { // the user may have named it
		name, err := rules.NameOf(topic)
		if err != nil {
			return nil, err
		}
		if s, err := f.api.Info(ctx, name); err == nil && asset.FedBy(&s.Config) != "" {
			return s, nil
		}
	}
	found, maybe := f.fedStreams(ctx, topic)
	switch {
	case len(found) == 0:
		if len(maybe) > 0 {
			f.conn.Log().Warn(fmt.Sprintf("no stream captures %s; %s might get its messages later: subscribers use such a stream if WithStreamName returns its name", topic, strings.Join(maybe, ", ")), "topic", topic)
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

func named(streams []*asset.Stream) (names []string) {
	for _, s := range streams {
		names = append(names, fmt.Sprintf("%s (%s)", s.Name, asset.FedBy(&s.Config)))
	}
	return names
}

// fedStreams returns the streams without subjects that have messages of the topic, and
// names those that get messages from elsewhere that may be of the topic. It returns
// nothing if the server does not say.
func (f *Finder) fedStreams(ctx context.Context, topic string) (found []*asset.Stream, maybe []string) {
	var infos []*jetstream.StreamInfo
	err := f.conn.Ask(ctx, "STREAM.LIST", func(ctx context.Context) error {
		infos = nil
		list := f.conn.JetStream().ListStreams(ctx)
		for info := range list.Info() {
			if asset.FedBy(&info.Config) != "" {
				infos = append(infos, info)
			}
		}
		return list.Err()
	})
	if err != nil {
		return nil, nil
	}
	for _, info := range infos {
		s, err := asset.StreamOf(info)
		switch {
		case err != nil:
		case wire.CoversAny(letThrough(&info.Config), topic), feeds(&info.Config, topic) && f.has(ctx, s.Name, topic):
			found = append(found, s)
		case feeds(&info.Config, topic):
			maybe = append(maybe, fmt.Sprintf("%s (%s)", s.Name, asset.FedBy(&s.Config)))
		}
	}
	return found, maybe
}

// has reports whether a stream is known to have messages of the topic.
func (f *Finder) has(ctx context.Context, name, topic string) bool {
	has, err := f.api.Has(ctx, name, topic)
	return has && err == nil
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
		subjects = append(subjects, asset.Transformed(cmp.Or(t.Destination, t.Source)))
	}
	if len(subjects) == 0 {
		subjects = append(subjects, cmp.Or(source.FilterSubject, ">"))
	}
	return subjects
}
