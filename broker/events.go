package broker

import "time"

// Subscription names one subscription and what serves it.
type Subscription struct {
	Topic    string // as passed to Subscribe, wildcards included
	Queue    string // empty without broker.Queue
	Stream   string // the JetStream stream
	Consumer string // the JetStream consumer; one that is made again may have another name
}

// Delivery is one delivery of one message to one subscription.
type Delivery struct {
	Subscription
	Subject          string    // the concrete subject; no wildcard
	MessageID        string    // the publisher's Nats-Msg-Id; may be empty
	StreamSequence   uint64    // position in the stream
	ConsumerSequence uint64    // position in the consumer's deliveries
	NumDelivered     uint64    // 1 for the first delivery
	NumPending       uint64    // messages left in the stream for this consumer when it was fetched
	StoredAt         time.Time // when the stream stored it, by the server's clock
	Size             int       // bytes of the body
}

// PublishStart is the event of [Hooks.PublishStart].
type PublishStart struct {
	Topic     string
	MessageID string            // the id that JetStream de-duplicates by; never empty
	Header    map[string]string // never nil, owned by the broker; hooks may change it
	Size      int               // bytes of the body
	DeliverAt time.Time         // when the message is due; zero: at once
}

// Published is the event of [Hooks.Published].
type Published struct {
	Topic     string
	MessageID string
	Size      int           // bytes of the body
	DeliverAt time.Time     // when the message is due, see [DeliverAt]; zero: at once
	Stream    string        // empty when Err is set
	Sequence  uint64        // position in the stream; 0 when Err is set
	Duplicate bool          // the stream already had this MessageID: nothing new was stored
	Duration  time.Duration // from the call until the outcome is known, look-ups and retries included
	Err       error         // what Publish returns, or what the done of [Async] is called with
	Reason    string        // [Reason] of Err; empty on success
}

// SubscriptionStart is the event of [Hooks.SubscriptionStart].
type SubscriptionStart struct {
	Subscription
	Concurrency int // how many handlers may run at a time, see [WithConcurrency] and [Concurrency]

	// InHand returns how many messages are fetched and not being handled now; with
	// [OrderBy] that includes those that wait here for their retry. It is never nil, is
	// quick, and may be called at any time, also after the end.
	InHand func() int
}

// SubscriptionEnd is the event of [Hooks.SubscriptionEnd].
type SubscriptionEnd struct {
	Subscription
}

// SubscribeFailed is the event of [Hooks.SubscribeFailed].
type SubscribeFailed struct {
	Topic  string
	Queue  string
	Err    error  // what Subscribe returns
	Reason string // [Reason] of Err
}

// Fetched is the event of [Hooks.Fetched].
type Fetched struct {
	Subscription
	Messages   int    // at least 1
	Bytes      int    // headers and bodies
	NumPending uint64 // messages left in the stream for this consumer after the last of these
}

// FetchError is the event of [Hooks.FetchError].
type FetchError struct {
	Subscription
	Err    error
	Reason string // [Reason] of Err
}

// Backoff is the event of [Hooks.Backoff].
type Backoff struct {
	Subscription
	Attempt int           // failures in a row; 0 when healthy again
	Delay   time.Duration // pause before the next fetch; 0 when healthy again
}

// ConsumerState is the event of [Hooks.ConsumerState].
//
// With Pending above 0 and AckPending at MaxAckPending the queue stands still: the
// server delivers nothing new until some of what it has delivered is settled.
type ConsumerState struct {
	Subscription
	Pending       uint64 // in the stream, not yet delivered to this consumer
	AckPending    int    // delivered to any subscriber of this consumer, not yet settled
	MaxAckPending int    // how large AckPending may become; 0 means that there is no bound
	Retries       int    // of AckPending, those that have failed here and wait for their delay; 10,000 at most

	PausedUntil time.Time // somebody has paused the consumer, and nothing is delivered until then; zero: it is not paused
}

// Held is the event of [Hooks.Held].
type Held struct {
	Subscription
	Messages int  // in hand and not started, or to be handled again
	Keys     int  // that these messages are of
	Full     bool // nothing more is fetched until one of the keys goes on
}

// ActiveChanged is the event of [Hooks.ActiveChanged].
type ActiveChanged struct {
	Subscription
	Active bool // the server delivers to this subscription, and to no other replica
}

// HandleStart is the event of [Hooks.HandleStart].
type HandleStart struct {
	Delivery
	Header map[string]string // never nil, this delivery's own; hooks may change it
	Lag    time.Duration     // stored in the stream until now, by two clocks; never negative
}

// Panicked is the event of [Hooks.Panicked].
type Panicked struct {
	Delivery
	Err *PanicError // the value and the stack
}

// Result says how a delivery was settled.
type Result string

// The results of a delivery.
const (
	ResultAck  Result = "ack"  // done; a WorkQueue stream forgets the message
	ResultNak  Result = "nak"  // to be delivered again
	ResultTerm Result = "term" // never to be delivered again
	ResultNone Result = "none" // left unsettled: it comes back after AckWait, unless the server permits no further delivery
)

// Settled is the event of [Hooks.Settled].
type Settled struct {
	Delivery
	Result Result
	Delay  time.Duration // before a redelivery; 0 means at once
	// Returned says that the message was given back before its handler had started,
	// because the subscription ended, or because all handlers before it run for much
	// longer than usual. It is not a failure.
	Returned bool
	Err      error // the acknowledgement could not be sent or was not confirmed
}

// DeadLettered is the event of [Hooks.DeadLettered].
type DeadLettered struct {
	Delivery
	DeadLetterTopic string
	Cause           error // why the message is a dead letter
	// Cut is what does not fit: reason, headers, body; empty: nothing. Without its body
	// the letter is a reference, and the original stays in its stream for [Redrive].
	Cut string
	Err error // the publish failed, and the original is kept
}

// Exhausted is the event of [Hooks.Exhausted].
type Exhausted struct {
	Delivery
	Cause error // what the last delivery failed with
}

// SkipReason says why a message that was fetched is not handled.
type SkipReason string

// The reasons. What is skipped as handled is acknowledged once more, and what is
// skipped as discarded is terminated once more.
const (
	SkipExpired   SkipReason = "expired"   // its ack deadline passed while it waited: it is delivered again
	SkipRunning   SkipReason = "running"   // a second delivery of a message whose handler runs
	SkipHandled   SkipReason = "handled"   // a second delivery of a message that was acknowledged
	SkipDiscarded SkipReason = "discarded" // a second delivery of a message that was terminated
	SkipMarker    SkipReason = "marker"    // a delete marker of the stream, which nobody has published: acknowledged
	SkipSpent     SkipReason = "spent"     // with [OrderBy]: retries made here have used up MaxDeliver; the server is about to give it up
)

// Skipped is the event of [Hooks.Skipped].
type Skipped struct {
	Delivery
	Reason SkipReason
}

// Handled is the event of [Hooks.Handled].
type Handled struct {
	Delivery
	Result    Result
	Delay     time.Duration // before a redelivery, when Result is [ResultNak]
	Lag       time.Duration // the same as in [HandleStart]
	Duration  time.Duration // the handler alone
	Err       error         // what the handler returned, or a *[PanicError]; nil for a [Snooze]
	Panicked  bool          // the handler panicked: Err is, or wraps, a *[PanicError]
	Snoozed   bool          // the handler has returned a [Snooze]: Result is [ResultNak], and nothing has failed
	Deferred  bool          // Err is, or wraps, a [RetryAfter]: the handler has said itself when to try again
	Discarded bool          // Err is, or wraps, a [Discard]
	SettleErr error         // the acknowledgement could not be sent
}

// ConnectionState is a state of the broker's connection.
type ConnectionState string

// The states of a connection.
const (
	StateConnected    ConnectionState = "connected"    // Connect succeeded
	StateDisconnected ConnectionState = "disconnected" // lost, or with nats.RetryOnFailedConnect not made yet; the client tries to get it
	StateReconnected  ConnectionState = "reconnected"  // restored
	StateClosed       ConnectionState = "closed"       // closed for good: by Disconnect, or with an error at a limit such as nats.MaxReconnects
)

// ConnectionChanged is the event of [Hooks.ConnectionChanged].
type ConnectionChanged struct {
	BrokerID   string // unique to the broker value that the event comes from
	ClientName string // the NATS connection name, see [WithClientName]
	State      ConnectionState
	URL        string // the server, without credentials; may be empty when not connected
	Err        error  // why the connection was lost, if known

	// AsyncWindow returns how much of the window of [Async] is used now, and how large it
	// is, see [WithAsyncWindow]. Used are the messages that wait for their answers, or
	// those that wait for their done, whichever are more: at the limit Publish waits. It
	// is never nil, is quick, and may be called at any time.
	AsyncWindow func() (used, limit int)
}
