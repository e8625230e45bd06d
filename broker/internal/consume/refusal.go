package consume

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

// refusal is why a message is not handled, and what follows.
type refusal struct {
	reason   SkipReason
	text     string
	level    slog.Level
	settle   Result // what is sent for it
	repeated bool   // it is a second delivery
}

var (
	expired = &refusal{
		reason: SkipExpired, level: slog.LevelWarn, settle: None,
		text: "its ack deadline passed while it waited, so it is delivered again",
	}
	beingHandled = &refusal{
		reason: SkipRunning, level: slog.LevelWarn, settle: None, repeated: true,
		text: "it is a second delivery of one that is being handled: AckWait has been shortened, or extending it has failed",
	}
	handled = &refusal{
		reason: SkipHandled, level: slog.LevelWarn, settle: Ack, repeated: true,
		text: "it is a second delivery of one that was handled: its ack was lost, came too late, or went to a consumer that is gone",
	}
	terminated = &refusal{
		reason: SkipDiscarded, level: slog.LevelWarn, settle: Term, repeated: true,
		text: "it is a second delivery of one that was discarded, or is a dead letter: its termination was lost, or came too late",
	}
	spent = &refusal{
		reason: SkipSpent, level: slog.LevelDebug, settle: Nak,
		text: "it has had all the deliveries that MaxDeliver permits, counted with the retries that were made here",
	}
	marker = &refusal{
		reason: SkipMarker, level: slog.LevelDebug, settle: Ack,
		text: "it is the stream's note that the last message of its subject has gone, and nothing that anybody has published",
	}
)

// refusal returns why a message is not to be handled, or nil. The caller holds the lock.
func (h *inHand) refusal(d *Delivery) *refusal {
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
		return expired
	}
	return nil
}

// repeated returns why a delivery that may be the second one of its message is not to
// be handled, or nil. Second deliveries come when an ack was lost with a connection,
// or when an operator has shortened the consumer's AckWait, so that the server does
// not wait as long as this side believes. The caller holds the lock.
func (h *inHand) repeated(d *Delivery) *refusal {
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
		if r != nil && !r.failed && r.Meta.Identity() == id && time.Since(r.Received) < h.s.cfg.MaxAckExtension {
			r.skipped.Store(max(r.skipped.Load(), d.Meta.NumDelivered))
			return beingHandled
		}
	}
	return nil
}
