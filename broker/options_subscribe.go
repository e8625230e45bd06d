package broker

import (
	"context"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"
	"go-micro.dev/v5/broker"

	"go-micro-jetstream/broker/internal/asset"
	"go-micro-jetstream/broker/internal/consumers"
)

// settingContext carries a subscribe option of this package out of go-micro's
// options.
type settingContext struct {
	context.Context
	set func(*subscribeOptions)
}

// subscribeOption returns the option that sets something of this package's own.
func subscribeOption(set func(*subscribeOptions)) broker.SubscribeOption {
	return func(o *broker.SubscribeOptions) {
		ctx := o.Context
		if ctx == nil {
			ctx = context.Background()
		}
		o.Context = &settingContext{Context: ctx, set: set}
	}
}

// Concurrency sets how many handlers one subscription may run at a time; see
// [WithConcurrency]. Values below 1 make Subscribe fail.
func Concurrency(n int) broker.SubscribeOption {
	return subscribeOption(func(so *subscribeOptions) { so.concurrency, so.concurrencySet = n, true })
}

// OrderBy handles the messages of one key one after the other, in the order of the
// stream. Messages of different keys are handled at the same time, as many as
// [Concurrency] permits: with an account's number for a key, many accounts are worked
// on at a time, and each sees its events in order. With one handler, the default,
// messages of one key overtake those of another only while these wait for a retry.
// Subscribe then logs a warning, unless you ask for one handler with Concurrency(1).
//
// The order holds through retries. While a message waits to be handled again, those
// of its key wait behind it, and those of other keys go on. The retries are made by
// this subscription, without the server: the message stays in hand, its ack deadline
// is extended for as long as that takes, and [NumDelivered] and the limit of
// deliveries count each try. The server counts one delivery. When the subscription
// ends, what waits is given back at once, whatever its delay, and the next
// subscriber counts on from the server's number. With broker.DisableAutoAck a key
// also waits for a message that its handler has left unsettled: until somebody
// settles it, or the message is handled again after AckWait.
//
// A subscription has up to 1000 messages or 16 MiB in hand, but no more than three
// quarters of the consumer's MaxAckPending. If stuck keys have that many, it stops
// fetching until one of them goes on. The log and [Hooks.Held] say so.
//
// The order holds within one subscription, and for the next one of its queue if no
// handler runs when Unsubscribe is called and the server answers within half a second.
// If handlers run, the next subscription may handle later messages of their keys before
// they have returned. Several replicas of a queue share its
// messages without regard to keys, so messages of one key may be handled by two of
// them at a time. [SingleActive] makes the order strict across replicas. A message
// that a handler leaves to another replica after [WithMaxAckExtension], or whose ack
// deadline passes in an outage, comes back later than others of its key may have
// been handled elsewhere.
//
// The function gets an event with topic and message, not to be changed or settled.
// It must depend on nothing else. It is called once per delivery, by one goroutine at
// a time, and nothing more is started until it returns, so it must be quick. A
// message for which it panics counts as one whose handler has panicked, and waits
// for no key. Keys may be of any number and length. The function must not be nil, and
// [WithMaxAckExtension] must not be 0: Subscribe returns [ErrInvalidConfig].
func OrderBy(key func(broker.Event) string) broker.SubscribeOption {
	return subscribeOption(func(so *subscribeOptions) { so.key, so.keySet = key, true })
}

// SingleActive makes the server deliver to only one of all subscribers of the queue,
// while the others stand by. Use it for work that two replicas must not do at the same
// time, and with [OrderBy] or one handler for an order that holds across replicas. It
// needs broker.Queue, and nats-server 2.11.
//
// The consumer has the priority policy pinned_client (ADR-42). When the active
// subscription ends, another one becomes active within 4 seconds, and when its process or its
// connection dies, after 5 to 8 seconds. A connection that is back sooner keeps its place.
// [Hooks.ActiveChanged] and the log say who is active. While that hook runs the place is
// not confirmed, so a hook that takes longer than some seconds costs it.
//
// The server forgets who is active when it restarts, when an operator unpins the consumer,
// and when the consumer's leader changes. Then the replica that was active goes on with its
// messages as long as it is connected and its ack deadlines are extended
// ([WithMaxAckExtension]): it lets the server hear of it more than once in 2 seconds while
// it has something in hand. The others become active once nothing is unsettled, or nobody
// was heard of: for 2.5 seconds, or, after such a change, for 5 seconds and not before 15
// seconds have passed. A replica that has nothing in hand may lose its place to another
// one by such a change. If a change gives the place to another one while this one has
// something in hand, the other one starts nothing, and gives it back within 2 seconds.
// This holds however often the leader changes.
//
// What is not promised: if a replica is cut off, or stands still, for that long, another
// one handles its message, although its handler may still run. The replica starts no other handler
// then, and once it can, it logs a warning that says how many of its handlers run beside
// the next one. Make such a handler's effects safe with a fencing token or a condition in
// the database.
//
// Whoever becomes active first gets everything that its predecessor had not settled, in
// the order of the stream, and then goes on with what is new. For this, what waits for a
// retry or a [Snooze] is delivered at once, whatever its delay, and so is what a handler
// has left unsettled with broker.DisableAutoAck. The same holds for a
// message that waits beside its cut dead letter (see [WithDeadLetter]): it is handled once
// more after a takeover. If something does not
// come, the subscription goes on without it 5 seconds after AckWait, which a warning says.
// With several handlers and no OrderBy there is no order, as without this option.
//
// A handler that hangs keeps its replica active, past [WithMaxAckExtension], too: the
// others get nothing until it returns or the process ends. Give handlers a time limit.
//
// A consumer that the broker made gets the policy at Subscribe, and loses it at the first
// Subscribe whose code no longer asks for it. Replicas that still run code without the
// option get messages as well until they end. What they have in hand stays theirs until
// AckWait has passed, and whoever becomes active waits for it. Nobody can tell that from
// what a replica with the option has left. So on a consumer that was changed, a takeover
// always waits like that: for a retry until its delay is over, and after a death for
// AckWait. The consumer's metadata go-micro-jetstream-was-shared says so. Remove that
// once all replicas have the option, or take a new queue, and takeovers are quick. An
// operator who changes a consumer by hand must stop its subscribers first. Those that still run code with it, once
// the policy is gone, get none: they give back at once what they have not started, and
// their fetches fail with [ErrConsumerConflict]. A consumer of others must have the policy
// pinned_client; the broker does not change it, and its PinnedTTL decides how long a
// takeover takes. Subscribe returns [ErrInvalidConfig] without a queue, [ErrUnsupported]
// with an older server, and [ErrConsumerConflict] for a consumer that serves all its
// subscribers. Without permission for $JS.API.CONSUMER.UNPIN the end of the active
// subscription takes as long as its death.
func SingleActive() broker.SubscribeOption {
	return subscribeOption(func(so *subscribeOptions) { so.single = true })
}

// ConsumerConfig is the consumer template of one subscription. It takes the place
// of the broker's template, [WithConsumerConfig], as a whole: fields that it leaves
// out have their defaults. Use it where one topic needs another AckWait, another
// limit of deliveries or another BackOff than the rest of the service.
//
// The template is checked like that of WithConsumerConfig: Subscribe returns
// [ErrInvalidConfig] if it cannot work. It cannot be combined with
// [WithExistingConsumers], and HeadersOnly cannot be combined with [WithDeadLetter].
// The option copies cfg, so the caller may change it afterwards, and may use the option
// for several subscriptions, also at the same time.
func ConsumerConfig(cfg jetstream.ConsumerConfig) broker.SubscribeOption {
	err := consumers.CheckConsumerTemplate(cfg)
	if err != nil {
		err = fmt.Errorf("ConsumerConfig: %w", err)
	}
	template := consumers.CopyTemplate(cfg)
	return subscribeOption(func(so *subscribeOptions) { so.template, so.templateErr = template, err })
}

// subscribeOptions are what a Subscribe was asked for.
type subscribeOptions struct {
	broker.SubscribeOptions // Context is never nil
	concurrency             int
	concurrencySet          bool
	template                *jetstream.ConsumerConfig // nil: the broker's
	templateErr             error                     // why it cannot work
	key                     func(broker.Event) string // of OrderBy; nil: no order
	keySet                  bool
	single                  bool // of SingleActive
}

// checkOrder reports why the subscription cannot have the order that was asked for.
func (so *subscribeOptions) checkOrder(cfg *config) error {
	switch {
	case !so.keySet:
		return nil
	case so.key == nil:
		return fmt.Errorf("%w: OrderBy: the function is nil", ErrInvalidConfig)
	case cfg.maxAckExtension == 0:
		return fmt.Errorf("%w: OrderBy keeps messages in hand while others of their key are handled, and WithMaxAckExtension(0) lets their ack deadlines pass: leave one of them out", ErrInvalidConfig)
	}
	return nil
}

// rules returns the broker's rules with what the subscription has of its own.
func (so *subscribeOptions) rules(brokers *asset.Rules) *asset.Rules {
	if so.template == nil && !so.single {
		return brokers
	}
	own := *brokers
	own.SingleActive = so.single
	if so.template != nil {
		own.ConsumerTemplate = so.template
	}
	return &own
}

// checkTemplate reports why the subscription's own consumer template cannot be
// used with the broker's rules.
func (so *subscribeOptions) checkTemplate(brokers *asset.Rules) error {
	switch {
	case so.template == nil:
		return nil
	case so.templateErr != nil:
		return fmt.Errorf("%w: %w", ErrInvalidConfig, so.templateErr)
	case brokers.NeverCreateConsumers:
		return fmt.Errorf("%w: ConsumerConfig is for a consumer that the broker creates, and WithExistingConsumers has it create none: leave one of them out", ErrInvalidConfig)
	case brokers.DeadLetter != "" && so.template.HeadersOnly:
		return fmt.Errorf("%w: WithDeadLetter keeps the bodies of messages, and with HeadersOnly in ConsumerConfig there are none: leave one of them out", ErrInvalidConfig)
	}
	return nil
}

// applySettings takes settings out of a context: several, if an option is made of
// several. It returns what is left.
func (so *subscribeOptions) applySettings(ctx context.Context) context.Context {
	c, ok := ctx.(*settingContext)
	if !ok {
		return ctx
	}
	rest := so.applySettings(c.Context) // the earlier ones first
	c.set(so)
	return rest
}

// subscribeOptionsOf takes this package's options out of the context after each
// option, because broker.SubscribeContext replaces the context that they need:
// they work in any order.
func subscribeOptionsOf(opts []broker.SubscribeOption) subscribeOptions {
	so := subscribeOptions{SubscribeOptions: broker.SubscribeOptions{AutoAck: true}}
	ctx := context.Background()
	for _, opt := range opts {
		if opt == nil {
			continue
		}
		so.Context = ctx //nolint:fatcontext // as options of others leave it; a nil one does not stay
		opt(&so.SubscribeOptions)
		if rest := so.applySettings(so.Context); rest != nil {
			ctx = rest
		}
	}
	so.Context = ctx
	return so
}
