package companion

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"go-micro-jetstream/broker/internal/fault"
	"go-micro-jetstream/broker/internal/wire"
)

// Cancel takes back the message with that id that waits for the topic, and for the stream
// of that name. It returns fault.ErrNotScheduled if there is none, or if it falls due
// meanwhile. It is safe for concurrent use.
func (cs *Companions) Cancel(ctx context.Context, stream, topic, id string) error {
	clock := clock{read: time.Now()}
	name := wire.LaterStream(stream)
	switch info, err := cs.api.State(ctx, stream); {
	case errors.Is(err, jetstream.ErrStreamNotFound): // what waits has outlived it
	case err != nil:
		return err
	default:
		clock.server = info.TimeStamp
		if holdsSchedules(info.Config) {
			name = stream
		}
	}
	m, err := cs.api.Last(ctx, name, wire.LaterSubject(stream, topic, id))
	switch {
	case isGone(err), m == nil && err == nil:
		return fault.ErrNotScheduled
	case err != nil:
		return err
	}
	due, _ := wire.DueTime(m.Header)
	if !clock.now().Before(due) {
		return fmt.Errorf("%w: it was due at %s and is delivered just now", fault.ErrNotScheduled, due.Format(time.RFC3339))
	}
	tries, err := cs.api.Remove(ctx, name, m.Sequence)
	inTime := clock.now().Before(due)
	_, refused := errors.AsType[*jetstream.APIError](err)
	switch {
	case err == nil && !inTime:
		return fmt.Errorf("%w: it fell due while it was being cancelled, and may be delivered", fault.ErrNotScheduled)
	case refused && tries > 1 && inTime:
		return nil // an earlier try has removed it, whose answer was lost
	case refused:
		return fmt.Errorf("%w: it was delivered or cancelled meanwhile", fault.ErrNotScheduled)
	}
	return err
}

// isGone reports that there is no such stream.
func isGone(err error) bool {
	return errors.Is(err, jetstream.ErrStreamNotFound) || fault.HasCode(err, jetstream.JSErrCodeStreamNotFound)
}

// clock is the server's, which decides when a message is due. It is never behind that.
type clock struct {
	server time.Time // what it said; zero: it said nothing, and the clock here has to do
	read   time.Time // when it was asked
}

func (c clock) now() time.Time {
	if c.server.IsZero() {
		return time.Now()
	}
	return c.server.Add(time.Since(c.read))
}
