package broker

import (
	"context"
	"reflect"
	"runtime/debug"
	"time"

	"go-micro.dev/v5/logger"
)

// Hooks observes a message's life: publish, fetch, handle, settle, and the
// state around it. Every field is optional; nil means "not interested" and
// costs nothing. Install one or more with [WithHooks]; all of them run.
//
// The rules, the same for every field:
//
//   - Hooks run synchronously on the goroutine that does the work, so they must
//     be quick, and they run concurrently, so they must be safe for that.
//   - Fields that return a context are starts. What a start returns is used for
//     the work and handed to every later hook of the same operation; nil keeps
//     the context as it was. Starts run in the order of installation, the
//     matching ends in reverse, and each start gets exactly one end: also after
//     an error, a panic, or [runtime.Goexit].
//   - Events are structs passed by value. Later versions may add fields, so
//     write keyed literals. Durations are measured by the broker.
//   - No lock is held while a hook runs: a hook may call the broker.
//   - A hook that panics changes nothing: the panic is logged, the message
//     flows on, and the other hooks run.
type Hooks struct {
	// PublishStart fires once per Publish call, before anything is sent. It may
	// change e.Header, the map that travels with the message. The context it
	// returns becomes the context of the publish.
	PublishStart func(ctx context.Context, e PublishStart) context.Context
	// Published ends PublishStart: once per Publish call, success or failure, when
	// the outcome is known. With [Async] that is later than Publish returns.
	// Disconnect waits for it, within its bound, after Async only: it may return
	// while the Published of another Publish still runs.
	Published func(ctx context.Context, e Published)

	// SubscriptionStart fires once per successful Subscribe, before the first
	// message is asked for. The context it returns is the parent of all later
	// contexts of that subscription: the place for state that is to be worked
	// out once per subscription rather than once per message.
	SubscriptionStart func(ctx context.Context, e SubscriptionStart) context.Context
	// SubscriptionEnd ends SubscriptionStart: after the last handler of the
	// subscription has returned and its message was settled.
	SubscriptionEnd func(ctx context.Context, e SubscriptionEnd)
	// SubscribeFailed fires once per Subscribe call that returned an error.
	// go-micro only logs such an error and tries again later.
	SubscribeFailed func(ctx context.Context, e SubscribeFailed)

	// Fetched fires when messages have arrived from the stream. A worker that is
	// free does not wait for it: it may handle the first of them meanwhile. An idle
	// poll fires nothing.
	Fetched func(ctx context.Context, e Fetched)
	// FetchError fires for every failed fetch, wherever the failure showed.
	FetchError func(ctx context.Context, e FetchError)
	// Backoff fires after every FetchError with the pause before the next try,
	// and once with a zero Delay when the subscription is healthy again.
	Backoff func(ctx context.Context, e Backoff)
	// ConsumerState fires when the broker has learned how many messages wait in
	// the stream for this consumer other than from a delivery: at subscribe,
	// and about every 15 s while no delivery tells.
	ConsumerState func(ctx context.Context, e ConsumerState)

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
	// it was not dead-lettered. The message stays in the stream, but the server
	// does not deliver it again. One that a handler has left unsettled, which
	// broker.DisableAutoAck permits, is none of these: it may still be acked.
	Exhausted func(ctx context.Context, e Exhausted)
	// Skipped fires when a fetched message was not handled: because its ack
	// deadline had passed while it waited, so that the server delivers it again,
	// or because it is a second delivery of one that is handled or being handled.
	Skipped func(ctx context.Context, e Skipped)
	// Handled ends HandleStart: once per delivery, after the settlement.
	Handled func(ctx context.Context, e Handled)

	// ConnectionChanged fires when the connection to the server is made, lost,
	// restored or closed, one state after the other, on a goroutine of its own.
	// Connect and Disconnect return when it has returned, or Connect after two seconds
	// and Disconnect after its bound. In the hook itself Disconnect returns nil at once
	// and completes after the hook, so that Connect returns [ErrNotConnected] until
	// then; where the client has closed for good, Connect works.
	ConnectionChanged func(ctx context.Context, e ConnectionChanged)

	// Err is for constructors of hooks that failed: it is returned by Connect
	// and Init, so that a service does not start half blind.
	Err error
}

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
}

// Published is the event of [Hooks.Published].
type Published struct {
	Topic     string
	MessageID string
	Size      int           // bytes of the body
	Stream    string        // empty when Err is set
	Sequence  uint64        // position in the stream; 0 when Err is set
	Duplicate bool          // the stream already had this MessageID: nothing new was stored
	Duration  time.Duration // from the call until the outcome is known, look-ups and retries included
	Err       error         // what Publish returns, or the done of [Async] is told
	Reason    string        // [Reason] of Err; empty on success
}

// SubscriptionStart is the event of [Hooks.SubscriptionStart].
type SubscriptionStart struct {
	Subscription
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
type ConsumerState struct {
	Subscription
	Pending    uint64 // in the stream, not yet delivered to this consumer
	AckPending int    // delivered to any subscriber of this consumer, not yet settled
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
	// Returned says that the message was given back because the subscription
	// ended before its handler had started: no failure of anybody's.
	Returned bool
	Err      error // the acknowledgement could not be sent or was not confirmed
}

// DeadLettered is the event of [Hooks.DeadLettered].
type DeadLettered struct {
	Delivery
	DeadLetterTopic string
	Cause           error // why the message is a dead letter
	Err             error // the publish failed, and the original is kept
}

// Exhausted is the event of [Hooks.Exhausted].
type Exhausted struct {
	Delivery
	Cause error // what the last delivery failed with
}

// Skipped is the event of [Hooks.Skipped].
type Skipped struct {
	Delivery
}

// Handled is the event of [Hooks.Handled].
type Handled struct {
	Delivery
	Result    Result
	Delay     time.Duration // before a redelivery, when Result is [ResultNak]
	Lag       time.Duration // the same as in [HandleStart]
	Duration  time.Duration // the handler alone
	Err       error         // what the handler returned, or a *[PanicError]
	Panicked  bool          // the handler panicked: Err is, or wraps, a *[PanicError]
	SettleErr error         // the acknowledgement could not be sent
}

// ConnectionState is a state of the broker's connection.
type ConnectionState string

// The states of a connection.
const (
	StateConnected    ConnectionState = "connected"    // Connect succeeded
	StateDisconnected ConnectionState = "disconnected" // lost, or with nats.RetryOnFailedConnect not made yet; the client tries to get it
	StateReconnected  ConnectionState = "reconnected"  // restored
	StateClosed       ConnectionState = "closed"       // closed for good: by Disconnect, or with an error by the client
)

// ConnectionChanged is the event of [Hooks.ConnectionChanged].
type ConnectionChanged struct {
	BrokerID   string // unique to the broker value that the event comes from
	ClientName string // the NATS connection name, see [WithClientName]
	State      ConnectionState
	URL        string // the server, without credentials; may be empty when not connected
	Err        error  // why the connection was lost, if known
}

// dispatcher holds the installed hooks sorted by event, so that an event that
// nobody listens to costs one length check.
type dispatcher struct {
	publishStart      []func(context.Context, PublishStart) context.Context
	published         []func(context.Context, Published)
	subscriptionStart []func(context.Context, SubscriptionStart) context.Context
	subscriptionEnd   []func(context.Context, SubscriptionEnd)
	subscribeFailed   []func(context.Context, SubscribeFailed)
	fetched           []func(context.Context, Fetched)
	fetchError        []func(context.Context, FetchError)
	backoff           []func(context.Context, Backoff)
	consumerState     []func(context.Context, ConsumerState)
	handleStart       []func(context.Context, HandleStart) context.Context
	panicked          []func(context.Context, Panicked)
	settled           []func(context.Context, Settled)
	deadLettered      []func(context.Context, DeadLettered)
	exhausted         []func(context.Context, Exhausted)
	skipped           []func(context.Context, Skipped)
	handled           []func(context.Context, Handled)
	connectionChanged []func(context.Context, ConnectionChanged)

	log   logger.Logger
	lines limiter
}

func newDispatcher(hooks []Hooks, log logger.Logger) *dispatcher {
	d := &dispatcher{log: log}
	for _, h := range hooks {
		add(&d.publishStart, h.PublishStart, h.PublishStart != nil)
		addFirst(&d.published, h.Published, h.Published != nil)
		add(&d.subscriptionStart, h.SubscriptionStart, h.SubscriptionStart != nil)
		addFirst(&d.subscriptionEnd, h.SubscriptionEnd, h.SubscriptionEnd != nil)
		add(&d.subscribeFailed, h.SubscribeFailed, h.SubscribeFailed != nil)
		add(&d.fetched, h.Fetched, h.Fetched != nil)
		add(&d.fetchError, h.FetchError, h.FetchError != nil)
		add(&d.backoff, h.Backoff, h.Backoff != nil)
		add(&d.consumerState, h.ConsumerState, h.ConsumerState != nil)
		add(&d.handleStart, h.HandleStart, h.HandleStart != nil)
		add(&d.panicked, h.Panicked, h.Panicked != nil)
		add(&d.settled, h.Settled, h.Settled != nil)
		add(&d.deadLettered, h.DeadLettered, h.DeadLettered != nil)
		add(&d.exhausted, h.Exhausted, h.Exhausted != nil)
		add(&d.skipped, h.Skipped, h.Skipped != nil)
		addFirst(&d.handled, h.Handled, h.Handled != nil)
		add(&d.connectionChanged, h.ConnectionChanged, h.ConnectionChanged != nil)
	}
	return d
}

func add[F any](to *[]F, f F, set bool) {
	if set {
		*to = append(*to, f)
	}
}

// addFirst keeps ends in the reverse order of their starts.
func addFirst[F any](to *[]F, f F, set bool) {
	if set {
		*to = append([]F{f}, *to...)
	}
}

// start runs start hooks, each with the context that the one before returned.
func start[E any](d *dispatcher, hooks []func(context.Context, E) context.Context, ctx context.Context, e E) context.Context {
	for _, h := range hooks {
		ctx = startOne(d, h, ctx, e) //nolint:fatcontext // as many as there are hooks
	}
	return ctx
}

func startOne[E any](d *dispatcher, h func(context.Context, E) context.Context, ctx context.Context, e E) (next context.Context) {
	next = ctx
	defer recoverHook[E](d)
	if c := h(ctx, e); c != nil {
		next = c
	}
	return next
}

// emit runs the hooks of an event.
func emit[E any](d *dispatcher, hooks []func(context.Context, E), ctx context.Context, e E) {
	for i := range hooks {
		emitOne(d, hooks[i:], ctx, e)
	}
}

// emitOne runs the first of the hooks, and the others if that ends the goroutine.
func emitOne[E any](d *dispatcher, hooks []func(context.Context, E), ctx context.Context, e E) {
	returned := false
	defer func() {
		if returned {
			return
		}
		if r := recover(); r != nil {
			reportPanic[E](d, r)
			return
		}
		emit(d, hooks[1:], ctx, e)
	}()
	hooks[0](ctx, e)
	returned = true
}

// recoverHook keeps a hook's panic from going further.
func recoverHook[E any](d *dispatcher) {
	if r := recover(); r != nil {
		reportPanic[E](d, r)
	}
}

// reportPanic logs a hook's panic. One that panics panics for every message.
func reportPanic[E any](d *dispatcher, r any) {
	event := reflect.TypeFor[E]().Name()
	if more, ok := d.lines.allow(event); ok {
		d.log.Fields(fields{"event": event}).Logf(logger.ErrorLevel, "jetstream: a hook panicked: %v\n%s%s", r, debug.Stack(), more)
	}
}
