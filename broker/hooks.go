package broker

import "context"

// Hooks observes a message's life: publish, fetch, handle, settle, and the
// state around it. Every field is optional; nil means "not interested" and
// costs nothing. Install one or more with [WithHooks]; all of them run.
//
// The rules, the same for every field:
//
//   - Hooks run on the goroutine that does the work, so they must be quick. They run
//     concurrently, so they must be safe for concurrent use.
//   - Fields that return a context are starts. What a start returns is used for the
//     work and handed to every later hook of the same operation; nil keeps the context
//     as it was. Starts run in the order of installation, the matching ends in reverse.
//     Each start gets exactly one end, even if the operation fails, or the handler
//     panics or calls [runtime.Goexit].
//   - Events are structs passed by value. Later versions may add fields, so
//     write keyed literals. Durations are measured by the broker.
//   - No lock is held while a hook runs: a hook may call the broker.
//   - Publish and Subscribe take as long as their own hooks: these run on the goroutine
//     of the caller. Connect, Unsubscribe and Disconnect return in time even if a hook
//     hangs. A hook that hangs in a worker holds up that worker.
//   - If a hook panics, the panic is logged, the message is processed as usual, and the
//     other hooks run. A hook must not call [runtime.Goexit].
type Hooks struct {
	// PublishStart fires once per Publish call, before anything is sent. It may
	// change e.Header, the map that travels with the message. The context it
	// returns becomes the context of the publish.
	PublishStart func(ctx context.Context, e PublishStart) context.Context
	// Published ends PublishStart: once per Publish call, success or failure, when
	// the outcome is known. With [Async] that is after Publish has returned, and
	// Disconnect waits for it within its bound. It does not wait for the Published
	// of other calls.
	Published func(ctx context.Context, e Published)

	// SubscriptionStart fires once per successful Subscribe, before the first message
	// is asked for. The context it returns is the parent of all later contexts of that
	// subscription. Put values there that you want to compute once per subscription
	// rather than once per message.
	SubscriptionStart func(ctx context.Context, e SubscriptionStart) context.Context
	// SubscriptionEnd ends SubscriptionStart: after the last handler of the
	// subscription has returned and its message was settled.
	SubscriptionEnd func(ctx context.Context, e SubscriptionEnd)
	// SubscribeFailed fires once per Subscribe call that returned an error.
	// go-micro only logs such an error and tries again later.
	SubscribeFailed func(ctx context.Context, e SubscribeFailed)

	// Fetched fires when messages have arrived from the stream. Another worker may
	// already handle the first of them. A fetch that finds no message fires nothing.
	Fetched func(ctx context.Context, e Fetched)
	// FetchError fires for every failed fetch, wherever the failure showed.
	FetchError func(ctx context.Context, e FetchError)
	// Backoff fires after every FetchError with the pause before the next try,
	// and once with a zero Delay when the subscription is healthy again.
	Backoff func(ctx context.Context, e Backoff)
	// ConsumerState fires when the broker has asked the server how many messages are
	// pending for this consumer: at Subscribe, and about every 15 s while nothing new
	// is delivered. While messages are delivered, [Fetched] has that number.
	ConsumerState func(ctx context.Context, e ConsumerState)

	// Held fires when a subscription with [OrderBy] stops fetching: it has as many
	// messages in hand as it may, and cannot start any of them, because earlier
	// messages of their keys are being handled or wait for a retry. It fires again,
	// with Full false, when half of the room is free.
	Held func(ctx context.Context, e Held)

	// ActiveChanged fires for a subscription with [SingleActive]: with Active false when
	// it starts, with Active true when the server begins to deliver to it and to no
	// other replica, and with Active false when that is over.
	ActiveChanged func(ctx context.Context, e ActiveChanged)

	// HandleStart fires once per delivery, before the handler runs. It may
	// change e.Header, the map that the handler sees. The context it returns is
	// what [EventContext] gives to the handler.
	HandleStart func(ctx context.Context, e HandleStart) context.Context
	// Panicked fires when a handler panicked or called [runtime.Goexit], in
	// addition to Handled and before it.
	Panicked func(ctx context.Context, e Panicked)
	// Settled fires once per acknowledgement that is sent: after a handler, by
	// a manual Ack, and when an unstarted message is given back.
	Settled func(ctx context.Context, e Settled)
	// DeadLettered fires for every attempt to publish a message to the
	// dead-letter topic, before the original is terminated.
	DeadLettered func(ctx context.Context, e DeadLettered)
	// Exhausted fires when the last permitted delivery of a message failed and
	// it did not become a dead letter. The message stays in the stream, but the
	// server does not deliver it again. It does not fire for a message that the
	// handler left unsettled under broker.DisableAutoAck: that may still be acked.
	//
	// It also fires for a message of which not even a reference fits the dead-letter
	// topic. A stream with Limits retention keeps that one. In others it stays unsettled
	// and is tried again after 24 hours.
	Exhausted func(ctx context.Context, e Exhausted)
	// Skipped fires when a fetched message is not handled; [SkipReason] says why.
	// Its ack deadline passed while it waited, so that the server delivers it
	// again. Or it is the second delivery of a message that was handled or is being
	// handled. Or it is a delete marker: a stream with SubjectDeleteMarkerTTL
	// stores one when the last message of a subject has expired.
	Skipped func(ctx context.Context, e Skipped)
	// Handled ends HandleStart: once per delivery, after the settlement.
	Handled func(ctx context.Context, e Handled)

	// ConnectionChanged fires when the connection to the server is made, lost, restored
	// or closed: one call after the other, on its own goroutine. Connect waits for it
	// for two seconds at most, and Disconnect up to its time limit. If the hook itself
	// calls Disconnect, that returns nil at once and completes after the hook; until
	// then Connect returns [ErrNotConnected]. When the client has closed for good, the
	// hook may call Connect.
	ConnectionChanged func(ctx context.Context, e ConnectionChanged)

	// Err is the error of a function that could not make the hooks. Connect and Init
	// return it, so that a service does not start without hooks that it asked for.
	Err error
}
