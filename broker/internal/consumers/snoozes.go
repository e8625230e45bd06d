package consumers

import (
	"context"
	"errors"
	"maps"

	"github.com/nats-io/nats.go/jetstream"
)

// noted reports whether a consumer's metadata says that handlers snooze.
func noted(cc jetstream.ConsumerConfig) bool { return cc.Metadata[SnoozesKey] != "" }

// Noted reports whether other subscribers know of the snoozes, or need not know.
func (c *Consumer) Noted() bool { return !c.Notes || noted(c.Config) }

// Foreign reports whether subscribers that come later will not know of snoozes, because
// this module must not write into the consumer's metadata.
func (c *Consumer) Foreign() bool { return !c.Notes && !c.Ephemeral && !noted(c.Config) }

// Snoozing returns a copy of the consumer that knows of snoozes.
func (c *Consumer) Snoozing() *Consumer {
	told := *c
	told.Snoozes = true
	return &told
}

// NoteSnoozes writes into a consumer's metadata that handlers snooze, so that other
// subscribers and those after a restart know it. It returns what the server says of
// the consumer then. If another process takes the note off at the same time, it is written
// again. If that happens more often, the consumer has no note, and the next snooze writes it.
func (cs *Consumers) NoteSnoozes(ctx context.Context, c *Consumer) (*jetstream.ConsumerInfo, error) {
	for try := 0; ; try++ {
		info, err := cs.Info(ctx, c)
		if err != nil || noted(info.Config) || try == changeTries {
			return info, err
		}
		cc := info.Config
		cc.Metadata = maps.Clone(cc.Metadata)
		if cc.Metadata == nil { // a tool has taken it off
			cc.Metadata = map[string]string{}
		}
		cc.Metadata[SnoozesKey] = "true"
		if _, err := cs.update(ctx, c.Stream.Name, cc); err != nil {
			return nil, err
		}
	}
}

// MayNote reports whether this module is permitted to do what NoteSnoozes does. It has
// the server create the consumer as it is, which changes nothing: an update could undo
// what somebody else writes at the same time.
func (cs *Consumers) MayNote(ctx context.Context, c *Consumer) bool {
	info, err := cs.Info(ctx, c)
	if err != nil || noted(info.Config) {
		return false
	}
	err = cs.conn.Do(ctx, "CONSUMER.CREATE."+c.Stream.Name+"."+c.Name, func(ctx context.Context) error {
		_, err := cs.conn.JetStream().CreateConsumer(ctx, c.Stream.Name, info.Config)
		return err
	})
	return err == nil || errors.Is(err, jetstream.ErrConsumerExists)
}
