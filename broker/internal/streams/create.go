package streams

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/nats-io/nats.go/jetstream"

	"go-micro-jetstream/broker/internal/asset"
	"go-micro-jetstream/broker/internal/fault"
	"go-micro-jetstream/broker/internal/wire"
)

// create makes the stream of a topic. The server takes the same request from many
// processes at a time. The caller holds ss.ensuring.
func (ss *Streams) create(ctx context.Context, rules *asset.Rules, topic string) (*asset.Stream, error) {
	if err := ss.conn.CheckVersion(); err != nil { // it may be another server since the connection was made
		return nil, err
	}
	sc, err := rules.StreamConfig(topic)
	if err != nil {
		return nil, err
	}
	if err := ss.CheckInbox(sc.Subjects); err != nil {
		return nil, err
	}
	if err := ss.checkLost(ctx, sc.Subjects); err != nil {
		return nil, err
	}
	ss.companions.AddSource(ctx, &sc)
	info, err := ss.Create(ctx, sc)
	switch {
	case err == nil:
		ss.conn.Log().Info(fmt.Sprintf("created stream %s for %s", sc.Name, strings.Join(sc.Subjects, ", ")), "topic", topic, "stream", sc.Name)
		return asset.StreamOf(info)
	case errors.Is(err, jetstream.ErrStreamNameAlreadyInUse):
		return ss.inTheWay(ctx, sc, topic, err)
	case fault.HasCode(err, fault.CodeStreamSubjectOverlap):
		return nil, fmt.Errorf("%w: stream %s for %s would overlap with stream %s; add the topic to that stream, or set Subjects with WithStreamConfig: %w",
			fault.ErrStreamMismatch, sc.Name, strings.Join(sc.Subjects, ", "), ss.overlapping(ctx, sc.Subjects), err)
	}
	if limit := ss.LimitError(ctx, sc, err); limit != nil {
		return nil, limit
	}
	return nil, fmt.Errorf("create stream %s: %w", sc.Name, err)
}

// inTheWay returns the stream that has the wanted name already, if it captures the
// topic: another process may have made it a moment ago from another template.
func (ss *Streams) inTheWay(ctx context.Context, sc jetstream.StreamConfig, topic string, cause error) (*asset.Stream, error) {
	s, err := ss.Info(ctx, sc.Name)
	if err != nil {
		return nil, err
	}
	if wire.CoversAny(s.Subjects, topic) {
		return s, nil
	}
	if origin := asset.FedBy(&s.Config); origin != "" {
		return nil, fmt.Errorf("%w: the topic's stream would be named %s, and that takes no messages itself, as it is %s: publish to the stream that it copies (WithDomain, WithAPIPrefix), or choose another name with WithStreamName: %w",
			fault.ErrStreamMismatch, sc.Name, origin, cause)
	}
	return nil, fmt.Errorf("%w: the topic's stream would be named %s, but a stream of that name exists and captures %s; add the topic to its subjects, or choose another name with WithStreamName: %w",
		fault.ErrStreamMismatch, sc.Name, strings.Join(s.Subjects, ", "), cause)
}

// overlapping names the streams that capture a part of the subjects, for an error
// text.
func (ss *Streams) overlapping(ctx context.Context, subjects []string) string {
	var others []string
	for _, subject := range subjects {
		names, _ := ss.Names(ctx, subject)
		others = append(others, names...)
	}
	slices.Sort(others)
	return strings.Join(slices.Compact(others), ", ")
}
