package delivery

import "log/slog"

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

// The refusals.
var (
	Expired = &Refusal{
		Reason: SkipExpired, Level: slog.LevelWarn, Settle: None,
		Text: "its ack deadline passed while it waited, so it is delivered again",
	}
	BeingHandled = &Refusal{
		Reason: SkipRunning, Level: slog.LevelWarn, Settle: None, Repeated: true,
		Text: "it is a second delivery of one that is being handled: AckWait has been shortened, or extending it has failed",
	}
	Handled = &Refusal{
		Reason: SkipHandled, Level: slog.LevelWarn, Settle: Ack, Repeated: true,
		Text: "it is a second delivery of one that was handled: its ack was lost, came too late, or went to a consumer that is gone",
	}
	Terminated = &Refusal{
		Reason: SkipDiscarded, Level: slog.LevelWarn, Settle: Term, Repeated: true,
		Text: "it is a second delivery of one that was discarded, or is a dead letter: its termination was lost, or came too late",
	}
	Spent = &Refusal{
		Reason: SkipSpent, Level: slog.LevelDebug, Settle: Nak,
		Text: "it has had all the deliveries that MaxDeliver permits, counted with the retries that were made here",
	}
	Marker = &Refusal{
		Reason: SkipMarker, Level: slog.LevelDebug, Settle: Ack,
		Text: "it is the stream's note that the last message of its subject has gone, and nothing that anybody has published",
	}
)
