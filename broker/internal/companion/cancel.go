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
	for _, name := range []string{wire.LaterStream(stream), stream} {
		err := cs.cancelIn(ctx, name, wire.LaterSubject(stream, topic, id))
		if !errors.Is(err, jetstream.ErrMsgNotFound) && !errors.Is(err, jetstream.ErrStreamNotFound) {
			return err
		}
	}
	return fault.ErrNotScheduled
}

// cancelIn deletes the schedule with that subject.
func (cs *Companions) cancelIn(ctx context.Context, name, subject string) error {
	var due time.Time
	var sequence uint64
	err := cs.conn.Ask(ctx, "STREAM.MSG.GET."+name, func(ctx context.Context) error {
		s, err := cs.conn.JetStream().Stream(ctx, name)
		if err != nil {
			return err
		}
		m, err := s.GetLastMsgForSubject(ctx, subject)
		if err == nil {
			sequence = m.Sequence
			due, _ = wire.DueTime(m.Header)
		}
		return err
	})
	if err != nil {
		return err
	}
	if !time.Now().Before(due) {
		return fmt.Errorf("%w: it was due at %s and is delivered just now", fault.ErrNotScheduled, due.Format(time.RFC3339))
	}
	err = cs.conn.Do(ctx, "STREAM.MSG.DELETE."+name, func(ctx context.Context) error {
		s, err := cs.conn.JetStream().Stream(ctx, name)
		if err != nil {
			return err
		}
		return s.DeleteMsg(ctx, sequence)
	})
	if errors.Is(err, jetstream.ErrMsgDeleteUnsuccessful) || fault.HasCode(err, fault.CodeMsgDeleteFailed) {
		return fmt.Errorf("%w: it was delivered or cancelled meanwhile", fault.ErrNotScheduled)
	}
	if err == nil && !time.Now().Before(due) {
		return fmt.Errorf("%w: it fell due while it was being cancelled, and may be delivered", fault.ErrNotScheduled)
	}
	return err
}
