package streams

import (
	"context"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"
)

// Info asks the server for a stream. It returns jetstream.ErrStreamNotFound if there
// is none of that name.
func (ss *Streams) Info(ctx context.Context, name string) (*Stream, error) {
	info, err := ss.State(ctx, name)
	if err != nil {
		return nil, err
	}
	return streamOf(info)
}

// State is Info with all that the server says, for any stream.
func (ss *Streams) State(ctx context.Context, name string) (info *jetstream.StreamInfo, err error) {
	err = ss.conn.Ask(ctx, "STREAM.INFO."+name, func(ctx context.Context) error {
		s, err := ss.conn.JetStream().Stream(ctx, name)
		if err == nil {
			info = s.CachedInfo()
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("look up stream %s: %w", name, err)
	}
	return info, nil
}

// has reports whether a stream has messages of the topic.
func (ss *Streams) has(ctx context.Context, name, topic string) (has bool) {
	_ = ss.conn.Ask(ctx, "STREAM.INFO."+name, func(ctx context.Context) error {
		s, err := ss.conn.JetStream().Stream(ctx, name)
		if err != nil {
			return err
		}
		info, err := s.Info(ctx, jetstream.WithSubjectFilter(topic))
		has = err == nil && len(info.State.Subjects) > 0
		return err
	})
	return has
}

// config asks the server for the configuration of a stream.
func (ss *Streams) config(ctx context.Context, name string) (sc jetstream.StreamConfig, err error) {
	info, err := ss.State(ctx, name)
	if err != nil {
		return sc, err
	}
	return info.Config, nil
}

// change asks the server to change a stream, and returns what it is then.
func (ss *Streams) change(ctx context.Context, sc jetstream.StreamConfig) (info *jetstream.StreamInfo, err error) {
	err = ss.conn.Do(ctx, "STREAM.UPDATE."+sc.Name, func(ctx context.Context) error {
		s, err := ss.conn.JetStream().UpdateStream(ctx, sc)
		if err == nil {
			info = s.CachedInfo()
		}
		return err
	})
	return info, err
}

// names lists the streams with a subject that overlaps the pattern.
func (ss *Streams) names(ctx context.Context, pattern string) ([]string, error) {
	var names []string
	err := ss.conn.Ask(ctx, "STREAM.NAMES", func(ctx context.Context) error {
		names = nil
		list := ss.conn.JetStream().StreamNames(ctx, jetstream.WithStreamListSubject(pattern))
		for name := range list.Name() {
			names = append(names, name)
		}
		return list.Err()
	})
	if err != nil {
		return nil, fmt.Errorf("look up the stream: %w", err)
	}
	return names, nil
}
