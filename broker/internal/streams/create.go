package streams

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"go-micro-jetstream/broker/internal/fault"
	"go-micro-jetstream/broker/internal/wire"
)

// create makes the stream of a topic. The server takes the same request from many
// processes at a time. The caller holds ss.ensuring.
func (ss *Streams) create(ctx context.Context, rules *Rules, topic string) (*Stream, error) {
	if err := ss.conn.CheckVersion(); err != nil { // it may be another server since the connection was made
		return nil, err
	}
	sc, err := rules.StreamConfig(topic)
	if err != nil {
		return nil, err
	}
	if err := ss.checkInbox(sc.Subjects); err != nil {
		return nil, err
	}
	if err := ss.checkLost(ctx, sc.Subjects); err != nil {
		return nil, err
	}
	ss.addSource(ctx, &sc)
	info, err := ss.request(ctx, sc)
	switch {
	case err == nil:
		ss.conn.Log().Info(fmt.Sprintf("created stream %s for %s", sc.Name, strings.Join(sc.Subjects, ", ")), "topic", topic, "stream", sc.Name)
		return streamOf(info)
	case errors.Is(err, jetstream.ErrStreamNameAlreadyInUse):
		return ss.inTheWay(ctx, sc, topic, err)
	case fault.HasCode(err, fault.CodeStreamSubjectOverlap):
		return nil, fmt.Errorf("%w: stream %s for %s would overlap with stream %s; add the topic to that stream, or set Subjects with WithStreamConfig: %w",
			fault.ErrStreamMismatch, sc.Name, strings.Join(sc.Subjects, ", "), ss.overlapping(ctx, sc.Subjects), err)
	}
	if limit := ss.limitError(ctx, sc, err); limit != nil {
		return nil, limit
	}
	return nil, fmt.Errorf("create stream %s: %w", sc.Name, err)
}

// checkInbox refuses subjects that overlap the client's inboxes. The stream would
// store the answers to the broker's own requests, and acknowledge them.
func (ss *Streams) checkInbox(subjects []string) error {
	prefix := cmp.Or(ss.conn.NATS().Opts.InboxPrefix, "_INBOX")
	for _, s := range subjects {
		if wire.Overlaps(s, prefix+".>") {
			return fmt.Errorf("%w: its stream would capture %s, and with that the client's own inboxes, %s.>: choose another prefix with nats.CustomInboxPrefix, or set Subjects with WithStreamConfig", fault.ErrInvalidTopic, s, prefix)
		}
	}
	return nil
}

const (
	minCreatePause = 50 * time.Millisecond
	maxCreatePause = time.Second
)

// request asks the server to create a stream. The server fails while the files of
// a deleted stream of that name are still on the disk, so it is asked again for
// about a second.
func (ss *Streams) request(ctx context.Context, sc jetstream.StreamConfig) (info *jetstream.StreamInfo, err error) {
	for pause := minCreatePause; ; pause *= 2 {
		err = ss.conn.Do(ctx, "STREAM.CREATE."+sc.Name, func(ctx context.Context) error {
			s, err := ss.conn.JetStream().CreateStream(ctx, sc)
			if err == nil {
				info = s.CachedInfo()
			}
			return err
		})
		if !fault.HasCode(err, fault.CodeStreamStoreFailed) || pause > maxCreatePause/2 {
			return info, err
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil, err
		}
	}
}

// inTheWay returns the stream that has the wanted name already, if it captures the
// topic: another process may have made it a moment ago from another template.
func (ss *Streams) inTheWay(ctx context.Context, sc jetstream.StreamConfig, topic string, cause error) (*Stream, error) {
	s, err := ss.Info(ctx, sc.Name)
	if err != nil {
		return nil, err
	}
	if wire.CoversAny(s.Subjects, topic) {
		return s, nil
	}
	if origin := fedBy(&s.config); origin != "" {
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
		names, _ := ss.names(ctx, subject)
		others = append(others, names...)
	}
	slices.Sort(others)
	return strings.Join(slices.Compact(others), ", ")
}
