package streamapi

import (
	"cmp"
	"context"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"

	"go-micro-jetstream/broker/internal/fault"
)

// LimitError explains why the account or the server has no room for a stream. It
// returns nil for an error that is about something else. It asks the server for the
// limits, and leaves out of the text what it does not learn.
func (a *API) LimitError(ctx context.Context, sc jetstream.StreamConfig, cause error) error {
	var text string
	switch {
	case fault.HasCode(cause, fault.CodeMaxStreams):
		a := a.tier(ctx, sc.Replicas)
		text = fmt.Sprintf("the account has %s: raise its max_streams, delete a stream that nobody needs, or let one stream take several topics with Subjects in WithStreamConfig",
			counted(a.Streams, a.Limits.MaxStreams, "as many streams as it may have"))
	case fault.HasCode(cause, fault.CodeMemoryExceeded, fault.CodeStorageExceeded, fault.CodeAccountResources, fault.CodeInsufficientCluster):
		a := a.tier(ctx, sc.Replicas)
		kind, used, limit := "storage", max(a.Store, a.ReservedStore), a.Limits.MaxStore
		if sc.Storage == jetstream.MemoryStorage {
			kind, used, limit = "memory", max(a.Memory, a.ReservedMemory), a.Limits.MaxMemory
		}
		text = fmt.Sprintf("%s of %s in use, MaxBytes of the stream is %d: raise the limit of the account or the server, delete a stream that nobody needs, or ask for less with MaxBytes and Replicas in WithStreamConfig",
			counted(int(min(used, 1<<62)), int(limit), "all"), kind, sc.MaxBytes)
	case fault.HasCode(cause, fault.CodeMaxBytesRequired):
		text = "the account wants a bound for each stream: set MaxBytes with WithStreamConfig"
	case fault.HasCode(cause, fault.CodeMaxStreamBytes):
		limits := a.tier(ctx, sc.Replicas).Limits
		limit := limits.StoreMaxStreamBytes
		if sc.Storage == jetstream.MemoryStorage {
			limit = limits.MemoryMaxStreamBytes
		}
		text = fmt.Sprintf("MaxBytes is %d, and the account permits %d for one stream: set less with WithStreamConfig, or raise the account's limit", sc.MaxBytes, limit)
	case fault.HasCode(cause, fault.CodeNoTier):
		text = fmt.Sprintf("the account has no limits for %d replicas: choose others with Replicas in WithStreamConfig, or give the account such a tier", max(sc.Replicas, 1))
	default:
		return nil
	}
	return fmt.Errorf("%w: create stream %s: %s: %w", fault.ErrStreamLimit, sc.Name, text, cause)
}

// counted says how much of a limit is used. The words stand for an unknown limit.
func counted(used, limit int, unknown string) string {
	if limit <= 0 {
		return unknown
	}
	return fmt.Sprintf("%d of %d", used, limit)
}

// tier returns what the account uses and may use for streams with so many replicas.
// It is zero if the server does not say.
func (a *API) tier(ctx context.Context, replicas int) jetstream.Tier {
	var tier jetstream.Tier
	_ = a.conn.Ask(ctx, "INFO", func(ctx context.Context) error {
		info, err := a.conn.JetStream().AccountInfo(ctx)
		if err != nil {
			return err
		}
		tier = info.Tier
		if t, ok := info.Tiers[fmt.Sprintf("R%d", cmp.Or(replicas, 1))]; ok {
			tier = t
		}
		return nil
	})
	return tier
}
