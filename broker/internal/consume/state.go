package consume

import (
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// State is what the server has said of a consumer, and what this subscription knows.
type State struct {
	Pending       uint64 // in the stream, not yet delivered to the consumer
	AckPending    int    // delivered to any subscriber of the consumer, not yet settled
	MaxAckPending int    // at that many the server delivers nothing new; 0: no bound
	Retries       int    // failed in this subscription, and waiting for their delay

	PausedUntil time.Time // nothing is delivered until then; zero: the consumer is not paused
}

// StateOf returns what the server has said.
func StateOf(info *jetstream.ConsumerInfo) State {
	s := State{
		Pending:       info.NumPending,
		AckPending:    info.NumAckPending,
		MaxAckPending: max(info.Config.MaxAckPending, 0),
	}
	if info.Paused && info.Config.PauseUntil != nil {
		s.PausedUntil = *info.Config.PauseUntil
	}
	return s
}

// full reports whether messages wait only because too many others are not settled.
func (s State) full() bool {
	return s.Pending > 0 && s.MaxAckPending > 0 && s.AckPending >= s.MaxAckPending
}
