package consume

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
