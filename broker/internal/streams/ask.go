package streams

import (
	"context"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"
)

// Info asks the server for a stream. It returns jetstream.ErrStreamNotFound if there
// is none of that name.
func (ss *Streams) Info(ctx context.Context, name string) (*Stream, error) {
	var info *jetstream.StreamInfo
	err := ss.conn.Ask(ctx, "STREAM.INFO."+name, func(ctx context.Context) error {
		s, err := ss.conn.JetStream().Stream(ctx, name)
		if err == nil {
			info = s.CachedInfo()
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("look up stream %s: %w", name, err)
	}
	return streamOf(info)
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
