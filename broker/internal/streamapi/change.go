package streamapi

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"go-micro-jetstream/broker/internal/asset"
	"go-micro-jetstream/broker/internal/fault"
	"go-micro-jetstream/broker/internal/wire"
)

// Change asks the server to change a stream, and returns what it is then. Another process
// may have changed it once more before the server answers. Then it is without what was
// asked for.
func (a *API) Change(ctx context.Context, sc jetstream.StreamConfig) (info *jetstream.StreamInfo, err error) {
	err = a.conn.Do(ctx, "STREAM.UPDATE."+sc.Name, func(ctx context.Context) error {
		s, err := a.conn.JetStream().UpdateStream(ctx, sc)
		if err == nil {
			info = s.CachedInfo()
		}
		return err
	})
	// The client takes an answer without the sources for one of an old server.
	if errors.Is(err, jetstream.ErrStreamSourceNotSupported) || errors.Is(err, jetstream.ErrStreamSubjectTransformNotSupported) {
		return a.State(ctx, sc.Name)
	}
	return info, err
}

// Update asks the server to change a stream.
func (a *API) Update(ctx context.Context, sc jetstream.StreamConfig) (*asset.Stream, error) {
	if err := a.CheckInbox(sc.Subjects); err != nil {
		return nil, err
	}
	// The code does not ask for sources, but another process may have added the one that
	// brings what is delivered later.
	now, err := a.Config(ctx, sc.Name)
	if err != nil {
		return nil, err
	}
	sc.Sources = now.Sources
	info, err := a.Change(ctx, sc)
	if err != nil {
		return nil, err
	}
	return asset.StreamOf(info)
}

// Raise asks the server to change a stream, and returns its configuration then.
func (a *API) Raise(ctx context.Context, sc jetstream.StreamConfig) (jetstream.StreamConfig, error) {
	info, err := a.Change(ctx, sc)
	if err != nil {
		return sc, fmt.Errorf("change stream %s: %w", sc.Name, err)
	}
	return info.Config, nil
}

// editTries is how often Edit changes a stream. Other processes may change it meanwhile.
const editTries = 3

// Edit changes what the stream has now, and looks whether it has that afterwards: another
// process may have changed the stream at the same time, and have undone it. The function
// reports whether it has changed anything. A server that does not know what is changed
// leaves it out, so the caller has to look at the result.
func (a *API) Edit(ctx context.Context, name string, edit func(*jetstream.StreamConfig) bool) (sc jetstream.StreamConfig, err error) {
	for try := 0; ; try++ {
		if sc, err = a.Config(ctx, name); err != nil || !edit(&sc) {
			return sc, err
		}
		if try == editTries {
			return a.Config(ctx, name)
		}
		_, err = a.Change(ctx, sc)
		if _, refused := errors.AsType[*jetstream.APIError](err); err != nil && (!refused || try+1 == editTries) {
			return sc, fmt.Errorf("change stream %s: %w", name, err)
		}
	}
}

// CheckInbox refuses subjects that overlap the client's inboxes. The stream would
// store the answers to the broker's own requests, and acknowledge them.
func (a *API) CheckInbox(subjects []string) error {
	prefix := cmp.Or(a.conn.NATS().Opts.InboxPrefix, "_INBOX")
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

// Create asks the server to create a stream. The server fails while the files of
// a deleted stream of that name are still on the disk, so it is asked again for
// about a second.
func (a *API) Create(ctx context.Context, sc jetstream.StreamConfig) (info *jetstream.StreamInfo, err error) {
	for pause := minCreatePause; ; pause *= 2 {
		err = a.conn.Do(ctx, "STREAM.CREATE."+sc.Name, func(ctx context.Context) error {
			s, err := a.conn.JetStream().CreateStream(ctx, sc)
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
