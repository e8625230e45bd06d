package consumers

import (
	"context"
	"maps"

	"github.com/nats-io/nats.go/jetstream"
)

// noted reports whether a consumer's metadata says that handlers snooze.
func noted(cc jetstream.ConsumerConfig) bool { return cc.Metadata[snoozesKey] != "" }

// Noted reports whether other subscribers know of the snoozes, or need not know.
func (c *Consumer) Noted() bool { return !c.Notes || noted(c.Config) }

// Snoozing returns a copy of the consumer that knows of snoozes.
func (c *Consumer) Snoozing() *Consumer {
	told := *c
	told.Snoozes = true
	return &told
}

// NoteSnoozes writes into a consumer's metadata that handlers snooze, so that other
// subscribers and those after a restart know it. It returns what the server says of
// the consumer then.
func (cs *Consumers) NoteSnoozes(ctx context.Context, c *Consumer) (*jetstream.ConsumerInfo, error) {
	info, err := cs.Info(ctx, c)
	if err != nil || noted(info.Config) {
		return info, err
	}
	cc := info.Config
	cc.Metadata = maps.Clone(cc.Metadata)
	if cc.Metadata == nil { // a tool has taken it off
		cc.Metadata = map[string]string{}
	}
	cc.Metadata[snoozesKey] = "true"
	return cs.update(ctx, c.Stream.Name, cc)
}
