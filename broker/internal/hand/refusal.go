package hand

import (
	"log/slog"
	"time"

	"go-micro-jetstream/broker/internal/ledger"
	"go-micro-jetstream/broker/internal/wire"
)

// SkipReason says why a message that was fetched is not handled.
type SkipReason string

// The reasons. The text of each refusal says what they mean.
const (
	SkipExpired   SkipReason = "expired"
	SkipRunning   SkipReason = "running"
	SkipHandled   SkipReason = "handled"
	SkipDiscarded SkipReason = "discarded"
	SkipMarker    SkipReason = "marker"
	SkipSpent     SkipReason = "spent"
)

// Refusal is why a message is not handled, and what follows.
type Refusal struct {
	Reason   SkipReason
	Text     string
	Level    slog.Level
	Settle   Result // what is sent for it
	Repeated bool   // it is a second delivery
}

var (
	// Expired is the refusal of what Relieve returns.
	Expired = &Refusal{
		Reason: SkipExpired, Level: slog.LevelWarn, Settle: None,
		Text: "its ack deadline passed while it waited, so it is delivered again",
	}
	beingHandled = &Refusal{
		Reason: SkipRunning, Level: slog.LevelWarn, Settle: None, Repeated: true,
		Text: "it is a second delivery of one that is being handled: AckWait has been shortened, or extending it has failed",
	}
	handled = &Refusal{
		Reason: SkipHandled, Level: slog.LevelWarn, Settle: Ack, Repeated: true,
		Text: "it is a second delivery of one that was handled: its ack was lost, came too late, or went to a consumer that is gone",
	}
	terminated = &Refusal{
		Reason: SkipDiscarded, Level: slog.LevelWarn, Settle: Term, Repeated: true,
		Text: "it is a second delivery of one that was discarded, or is a dead letter: its termination was lost, or came too late",
	}
	spent = &Refusal{
		Reason: SkipSpent, Level: slog.LevelDebug, Settle: Nak,
		Text: "it has had all the deliveries that MaxDeliver permits, counted with the retries that were made here",
	}
	marker = &Refusal{
		Reason: SkipMarker, Level: slog.LevelDebug, Settle: Ack,
		Text: "it is the stream's note that the last message of its subject has gone, and nothing that anybody has published",
	}
)

// refusal returns why a message is not to be handled, or nil. The caller holds the lock.
func (h *Hand) refusal(d *Delivery) *Refusal {
	if wire.IsDeleteMarker(d.Msg) {
		return marker
	}
	if h.ledger.MayRepeat(d.Meta) {
		if why := h.repeated(d); why != nil {
			return why
		}
	}
	// The server is delivering it to somebody else, unless this was the last delivery.
	// Then the server accepts an ack all the same.
	cs := h.consumer.Load()
	if cs.Expired(d.served(), d.Began-d.extended) && !cs.IsLast(d.served()) {
		h.ledger.Owe(cs, d.Meta, d.Deliveries())
		return Expired
	}
	return nil
}

// repeated returns why a delivery that may be the second one of its message is not to
// be handled, or nil. Second deliveries come when an ack was lost with a connection,
// or when an operator has shortened the consumer's AckWait, so that the server does
// not wait as long as this side believes. The caller holds the lock.
func (h *Hand) repeated(d *Delivery) *Refusal {
	switch h.ledger.Fate(d.Meta) {
	case ledger.Acked:
		return handled
	case ledger.Terminated:
		return terminated
	case ledger.Spent:
		return spent
	case ledger.Open:
	}
	id := d.Meta.Identity()
	for _, r := range h.running {
		// When its deadline is no longer extended, a handler counts as hanging.
		if r != nil && !r.failed && r.Meta.Identity() == id && time.Since(r.Received) < h.cfg.MaxAckExtension {
			r.skipped.Store(max(r.skipped.Load(), d.Meta.NumDelivered))
			return beingHandled
		}
	}
	return nil
}
