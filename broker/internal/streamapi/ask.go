// Package streamapi asks the server about streams, and has it make and change them.
package streamapi

import (
	"context"
	"fmt"

	"go-micro-jetstream/broker/internal/asset"
	"go-micro-jetstream/broker/internal/link"

	"github.com/nats-io/nats.go/jetstream"
)

// API sends requests about streams on one connection. It is safe for concurrent use.
type API struct{ conn *link.Conn }

// New returns the API of the connection. It sends nothing.
func New(conn *link.Conn) *API { return &API{conn: conn} }

// Info asks the server for a stream. It returns jetstream.ErrStreamNotFound if there
// is none of that name.
func (a *API) Info(ctx context.Context, name string) (*asset.Stream, error) {
	info, err := a.State(ctx, name)
	if err != nil {
		return nil, err
	}
	return asset.StreamOf(info)
}

// State is Info with all that the server says, for any stream.
func (a *API) State(ctx context.Context, name string) (info *jetstream.StreamInfo, err error) {
	err = a.conn.Ask(ctx, "STREAM.INFO."+name, func(ctx context.Context) error {
		s, err := a.conn.JetStream().Stream(ctx, name)
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

// Has reports whether a stream has messages of the topic.
func (a *API) Has(ctx context.Context, name, topic string) (has bool, err error) {
	err = a.conn.Ask(ctx, "STREAM.INFO."+name, func(ctx context.Context) error {
		s, err := a.conn.JetStream().Stream(ctx, name)
		if err != nil {
			return err
		}
		info, err := s.Info(ctx, jetstream.WithSubjectFilter(topic))
		has = err == nil && len(info.State.Subjects) > 0
		return err
	})
	return has, err
}

// Config asks the server for the configuration of a stream.
func (a *API) Config(ctx context.Context, name string) (sc jetstream.StreamConfig, err error) {
	info, err := a.State(ctx, name)
	if err != nil {
		return sc, err
	}
	return info.Config, nil
}

// Names lists the streams with a subject that overlaps the pattern.
func (a *API) Names(ctx context.Context, pattern string) ([]string, error) {
	var names []string
	err := a.conn.Ask(ctx, "STREAM.NAMES", func(ctx context.Context) error {
		names = nil
		list := a.conn.JetStream().StreamNames(ctx, jetstream.WithStreamListSubject(pattern))
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
