package broker

import (
	"fmt"
	"log/slog"
	"time"

	"go-micro-jetstream/broker/internal/consume"
	"go-micro-jetstream/broker/internal/wire"
)

var _ consume.Observer = observer{}

// observer turns what package consume tells of a subscription into hook events.
type observer struct{ s *subscription }

// Fetched tells hooks of messages that have arrived.
func (o observer) Fetched(messages, bytes int, pending uint64) {
	if s := o.s; len(s.hooks.fetched) > 0 {
		emit(s.hooks.fetched, s.base, Fetched{Subscription: s.identity(), Messages: messages, Bytes: bytes, NumPending: pending})
	}
}

// FetchFailed tells hooks of a failed fetch and of the pause that follows.
func (o observer) FetchFailed(err error, attempt int, delay time.Duration) {
	s := o.s
	emit(s.hooks.fetchError, s.base, FetchError{Subscription: s.identity(), Err: err, Reason: Reason(err)})
	emit(s.hooks.backoff, s.base, Backoff{Subscription: s.identity(), Attempt: attempt, Delay: delay})
}

// Recovered tells hooks that fetching works again.
func (o observer) Recovered() {
	emit(o.s.hooks.backoff, o.s.base, Backoff{Subscription: o.s.identity()})
}

// Learned tells hooks how many messages wait.
func (o observer) Learned(st consume.State) {
	emit(o.s.hooks.consumerState, o.s.base, ConsumerState{
		Subscription: o.s.identity(), Pending: st.Pending, AckPending: st.AckPending, MaxAckPending: st.MaxAckPending, Retries: st.Retries, PausedUntil: st.PausedUntil,
	})
}

// Crowded tells hooks that stuck keys keep the subscription from fetching, or do so no
// more.
func (o observer) Crowded(c consume.Crowd) {
	s := o.s
	emit(s.hooks.held, s.base, Held{Subscription: s.identity(), Messages: c.Messages, Keys: c.Keys, Full: c.Full})
}

// HeldUp says in the log that code of the user holds something up, or has done so.
func (o observer) HeldUp(h consume.HeldUp, over bool) {
	what, stands := "fetching", "nothing more is fetched"
	if h.Beside {
		what, stands = "giving back", "nothing is given back that waits behind handlers"
	}
	if over {
		o.s.log.Info(fmt.Sprintf("%s goes on: what it waited for has returned after %v", what, h.For.Round(time.Millisecond)))
		return
	}
	o.s.log.Warn(stands + ": " + o.s.heldUpBy(h))
}

// heldUpBy names the code of the user.
func (s *subscription) heldUpBy(h consume.HeldUp) string {
	by := "the key function of OrderBy"
	switch {
	case h.Beside:
		by = "the hook " + s.hooks.inside.beside()
	case !h.Key:
		by = "the hook " + s.hooks.inside.fetching()
	}
	return fmt.Sprintf("%s has not returned for %v", by, h.For.Round(time.Second))
}

// Turned tells hooks which replica is active.
func (o observer) Turned(active bool) {
	s := o.s
	emit(s.hooks.activeChanged, s.base, ActiveChanged{Subscription: s.identity(), Active: active})
}

// Skipped tells hooks of a message that is not handled.
func (o observer) Skipped(d *consume.Delivery, why consume.SkipReason) {
	emit(o.s.hooks.skipped, d.Context, Skipped{Delivery: o.s.delivery(d), Reason: SkipReason(why)})
}

// Settled tells hooks of an acknowledgement that was sent, or was not.
func (o observer) Settled(d *consume.Delivery, r consume.Result, delay time.Duration, returned bool, err error) {
	s := o.s
	if err != nil {
		s.logSome(slog.LevelWarn, d, "%v", err)
	}
	if len(s.hooks.settled) > 0 {
		emit(s.hooks.settled, d.Context, Settled{Delivery: s.delivery(d), Result: Result(r), Delay: delay, Returned: returned, Err: err})
	}
}

// Exhausted tells hooks of a message that the server does not deliver again.
func (o observer) Exhausted(d *consume.Delivery, cause error) {
	s := o.s
	s.logSome(slog.LevelError, d, "the last of %d deliveries failed; the message stays in the stream and is not delivered again: %v", d.Deliveries(), cause)
	emit(s.hooks.exhausted, d.Context, Exhausted{Delivery: s.delivery(d), Cause: cause})
}

// Unfit tells hooks of a message that is given up although nothing of it fits the
// dead-letter topic. There is a line for each: it says what is in danger.
func (o observer) Unfit(d *consume.Delivery, cause error, terminated bool) {
	s := o.s
	what := fmt.Sprintf("kept in its stream, where it takes one of MaxAckPending, and tried again in %v", unfitAgain)
	if terminated {
		what = "terminated without a dead letter; its stream, with Limits retention, keeps it"
	}
	s.log.Log(d.Context, slog.LevelError, fmt.Sprintf("not even a reference to the message fits the dead-letter topic %s, so it is %s: raise MaxMsgSize or MaxBytes of the topic's stream, or the server's max_payload: %v",
		s.cfg.rules.DeadLetter, what, cause), append(d.Attrs(), "size", len(d.Msg.Data))...)
	emit(s.hooks.exhausted, d.Context, Exhausted{Delivery: s.delivery(d), Cause: cause})
}

// Ended tells hooks that the last worker has ended.
func (o observer) Ended() {
	s := o.s
	if s.unwatch != nil {
		s.unwatch()
	}
	emit(s.hooks.subscriptionEnd, s.base, SubscriptionEnd{Subscription: s.identity()})
	s.session.subs.Remove(s)
}

// delivery tells hooks about a message.
func (s *subscription) delivery(d *consume.Delivery) Delivery {
	return Delivery{
		Subscription:     s.identity(),
		Subject:          d.Msg.Subject,
		MessageID:        wire.MessageID(d.Msg.Header),
		StreamSequence:   d.Meta.StreamSequence,
		ConsumerSequence: d.Meta.ConsumerSequence,
		NumDelivered:     d.Meta.NumDelivered,
		NumPending:       d.Meta.Pending,
		StoredAt:         time.Unix(0, d.Meta.StoredAt),
		Size:             len(d.Msg.Data),
	}
}

// logSome writes a line about a message. It is for lines that each message of a
// flood would repeat: of those with one format, one in a second is written, and
// says how many were not.
func (s *subscription) logSome(level slog.Level, d *consume.Delivery, format string, args ...any) {
	more, ok := s.lines.Allow(format)
	if !ok {
		return
	}
	s.log.Log(d.Context, level, fmt.Sprintf(format, args...)+more, d.Attrs()...)
}
