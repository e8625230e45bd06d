package broker

import (
	"context"
	"fmt"
	"log/slog"
	"runtime/debug"

	"go-micro-jetstream/broker/internal/logging"
)

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
	held              []func(context.Context, Held)
	activeChanged     []func(context.Context, ActiveChanged)
	handleStart       []func(context.Context, HandleStart) context.Context
	panicked          []func(context.Context, Panicked)
	settled           []func(context.Context, Settled)
	deadLettered      []func(context.Context, DeadLettered)
	exhausted         []func(context.Context, Exhausted)
	skipped           []func(context.Context, Skipped)
	handled           []func(context.Context, Handled)
	connectionChanged []func(context.Context, ConnectionChanged)

	log    *slog.Logger
	lines  logging.Limiter
	inside insideUser
}

func newDispatcher(hooks []Hooks, log *slog.Logger) *dispatcher {
	d := &dispatcher{log: log}
	for _, h := range hooks {
		add(&d.publishStart, watchStart(d, inPublishStart, h.PublishStart), h.PublishStart != nil)
		addFirst(&d.published, watch(d, inPublished, h.Published), h.Published != nil)
		add(&d.subscriptionStart, watchStart(d, inSubscriptionStart, h.SubscriptionStart), h.SubscriptionStart != nil)
		addFirst(&d.subscriptionEnd, watch(d, inSubscriptionEnd, h.SubscriptionEnd), h.SubscriptionEnd != nil)
		add(&d.subscribeFailed, watch(d, inSubscribeFailed, h.SubscribeFailed), h.SubscribeFailed != nil)
		add(&d.fetched, watch(d, inFetched, h.Fetched), h.Fetched != nil)
		add(&d.fetchError, watch(d, inFetchError, h.FetchError), h.FetchError != nil)
		add(&d.backoff, watch(d, inBackoff, h.Backoff), h.Backoff != nil)
		add(&d.consumerState, watch(d, inConsumerState, h.ConsumerState), h.ConsumerState != nil)
		add(&d.held, watch(d, inHeld, h.Held), h.Held != nil)
		add(&d.activeChanged, watch(d, inActiveChanged, h.ActiveChanged), h.ActiveChanged != nil)
		add(&d.handleStart, watchStart(d, inHandleStart, h.HandleStart), h.HandleStart != nil)
		add(&d.panicked, watch(d, inPanicked, h.Panicked), h.Panicked != nil)
		add(&d.settled, watch(d, inSettled, h.Settled), h.Settled != nil)
		add(&d.deadLettered, watch(d, inDeadLettered, h.DeadLettered), h.DeadLettered != nil)
		add(&d.exhausted, watch(d, inExhausted, h.Exhausted), h.Exhausted != nil)
		add(&d.skipped, watch(d, inSkipped, h.Skipped), h.Skipped != nil)
		addFirst(&d.handled, watch(d, inHandled, h.Handled), h.Handled != nil)
		add(&d.connectionChanged, watch(d, inConnectionChanged, h.ConnectionChanged), h.ConnectionChanged != nil)
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

// watch returns a hook that is counted while it runs, and whose panic goes no further.
func watch[E any](d *dispatcher, place codeOfUser, h func(context.Context, E)) func(context.Context, E) {
	return func(ctx context.Context, e E) {
		d.inside[place].Add(1)
		defer recoverHook(d, place)
		h(ctx, e)
	}
}

// watchStart is watch for a start hook. One that returns nil, or panics, leaves the context
// as it is.
func watchStart[E any](d *dispatcher, place codeOfUser, h func(context.Context, E) context.Context) func(context.Context, E) context.Context {
	return func(ctx context.Context, e E) (next context.Context) {
		next = ctx
		d.inside[place].Add(1)
		defer recoverHook(d, place)
		if c := h(ctx, e); c != nil {
			next = c
		}
		return next
	}
}

// start runs start hooks, each with the context that the one before returned.
func start[E any](hooks []func(context.Context, E) context.Context, ctx context.Context, e E) context.Context {
	for _, h := range hooks {
		ctx = h(ctx, e) //nolint:fatcontext // as many as there are hooks
	}
	return ctx
}

// emit runs the hooks of an event.
func emit[E any](hooks []func(context.Context, E), ctx context.Context, e E) {
	for _, h := range hooks {
		h(ctx, e)
	}
}

// recoverHook ends the call of a hook. It keeps a hook's panic from going further, and
// logs it. A hook that panics does so for every message, so not every panic is a line.
func recoverHook(d *dispatcher, place codeOfUser) {
	r := recover()
	d.inside[place].Add(-1)
	if r == nil {
		return
	}
	event := placeNames[place]
	if more, ok := d.lines.Allow(event); ok {
		d.log.Error(fmt.Sprintf("a hook panicked: %v\n%s%s", r, debug.Stack(), more), "event", event)
	}
}

// recoverDone ends the call of a done function of Async. As with hooks, its panic goes no
// further and is logged.
func (d *dispatcher) recoverDone(topic string) {
	r := recover()
	if r == nil {
		return
	}
	if more, ok := d.lines.Allow("done of Async"); ok {
		d.log.Error(fmt.Sprintf("done of Async panicked: %v\n%s%s", r, debug.Stack(), more), "topic", topic)
	}
}
