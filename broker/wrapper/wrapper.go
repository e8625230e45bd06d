// Package wrapper gives the handlers of a go-micro service what go-micro hides
// from them:
//
//	service := micro.NewService(
//		micro.Broker(b),
//		micro.WrapSubscriber(wrapper.Subscriber(b)),
//		micro.WrapClient(wrapper.Client()),
//	)
//
// go-micro's server builds a handler's context from the message headers alone,
// and reduces the handler's error to a string. With [Subscriber], the handler's
// context
//
//   - holds the values of [jsbroker.EventContext], such as the consumer span, so
//     that the handler's own spans become its children;
//   - is cancelled when Disconnect stops waiting for the handler;
//   - holds the event: see [Event].
//
// The broker then receives the handler's error unchanged: jsbroker.RetryAfter
// and jsbroker.Discard work as they do in a handler passed to b.Subscribe, and a
// panic is reported as a panic, with its stack, in logs, metrics and traces.
//
// With [Client], a publish span is a child of the span in the context that the
// handler publishes with. Without it, go-micro passes on only the metadata, so
// the parent is always the consumer span.
//
// Both wrappers do nothing for other brokers.
package wrapper

import (
	"context"
	"runtime/debug"
	"slices"

	"go-micro.dev/v5/broker"
	"go-micro.dev/v5/client"
	"go-micro.dev/v5/server"

	jsbroker "go-micro-jetstream/broker"
)

// Subscriber returns a wrapper for micro.WrapSubscriber or server.WrapSubscriber.
// The broker of the service must be b.
//
// If there are several wrappers, pass this one first, which makes it the
// outermost: the others then see the full context, and the broker sees the error
// that they return.
//
// It works with go-micro's RPC and gRPC servers. If a service has several
// handlers for a topic, go-micro combines their results into one: when any of
// them fails, the message is delivered to all of them again. The message is
// discarded only if every handler that failed discards it. A panic in one
// handler does not stop the others from running.
func Subscriber(b broker.Broker) server.SubscriberWrapper {
	find := jsbroker.EventFinder(b)
	return func(next server.SubscriberFunc) server.SubscriberFunc {
		return func(ctx context.Context, msg server.Message) error {
			e := find(msg.Header())
			if e == nil || Event(ctx) != nil { // from another broker, or wrapped twice
				return next(ctx, msg)
			}
			ctx, detach := handlerContext(ctx, e)
			defer detach()
			err := callRecovering(ctx, next, msg)
			jsbroker.SetHandlerError(e, err)
			return err
		}
	}
}

// callRecovering calls the handler and returns a panic as an error. go-micro's
// server would recover the panic and lose the stack.
func callRecovering(ctx context.Context, next server.SubscriberFunc, msg server.Message) (err error) {
	defer func() {
		if value := recover(); value != nil {
			err = &jsbroker.PanicError{Value: value, Stack: debug.Stack()}
		}
	}()
	return next(ctx, msg)
}

// Event returns the event that the handler with this context is handling, or nil
// if ctx is not a context that [Subscriber] made. It is the same event that a
// handler passed to b.Subscribe receives. Use it for jsbroker.NumDelivered, for
// the concrete subject, and, with server.DisableAutoAck, for Ack.
func Event(ctx context.Context) broker.Event {
	e, _ := ctx.Value(eventKey{}).(broker.Event)
	return e
}

type eventKey struct{}

// eventContext adds an event, and the values of the event's context, to the
// context that go-micro made.
type eventContext struct {
	context.Context
	event  broker.Event
	values context.Context // the event's
}

// Value looks in go-micro's context first. Its values are closer to the handler:
// the metadata, and whatever outer wrappers have added.
func (c *eventContext) Value(key any) any {
	if _, ok := key.(eventKey); ok {
		return c.event
	}
	if v := c.Context.Value(key); v != nil {
		return v
	}
	return c.values.Value(key)
}

// handlerContext merges go-micro's context with the event's. The result has the
// values of both, and is cancelled as soon as either is. After detach, the
// event's context no longer cancels it. It is not cancelled at that point: like
// go-micro's own context, it may outlive the handler.
func handlerContext(ctx context.Context, e broker.Event) (merged context.Context, detach func() bool) {
	fromEvent := jsbroker.EventContext(e)
	ctx, cancel := context.WithCancelCause(ctx)
	detach = context.AfterFunc(fromEvent, func() { cancel(context.Cause(fromEvent)) })
	return &eventContext{Context: ctx, event: e, values: fromEvent}, detach
}

// Client returns a wrapper for micro.WrapClient. It passes the context of each
// Publish to the broker, with its span, deadline and cancellation, as
// client.PublishContext does. If the caller passes client.PublishContext, that
// context is used instead.
//
// If there are several wrappers, pass this one last, which makes it the
// innermost: the context then holds the spans of the others.
func Client() client.Wrapper {
	return func(c client.Client) client.Client { return &publisher{c} }
}

// PublishOptions passes options of the broker through go-micro's client, such as
// jsbroker.MessageID:
//
//	event.Publish(ctx, order, wrapper.PublishOptions(jsbroker.MessageID(order.ID)))
//
// It adds to the context of the publish, that of [Client] or of
// client.PublishContext, which must come before it. Other brokers ignore the
// options. One value may serve several publishes.
func PublishOptions(opts ...broker.PublishOption) client.PublishOption {
	opts = slices.Clone(opts)
	return func(o *client.PublishOptions) {
		bo := broker.PublishOptions{Context: o.Context}
		for _, opt := range opts {
			if opt != nil {
				opt(&bo)
			}
		}
		o.Context = bo.Context
	}
}

// SubscriberOptions passes options of the broker through go-micro's server, such
// as jsbroker.Concurrency:
//
//	micro.RegisterSubscriber("orders", service.Server(), handle,
//		server.SubscriberQueue("payments"), wrapper.SubscriberOptions(jsbroker.Concurrency(8)))
//
// It adds to the context of server.SubscriberContext, which must come before it.
// Queue and DisableAutoAck are options of go-micro's own: use those of package
// server. Other brokers ignore the options.
func SubscriberOptions(opts ...broker.SubscribeOption) server.SubscriberOption {
	opts = slices.Clone(opts)
	return func(o *server.SubscriberOptions) {
		bo := broker.SubscribeOptions{Context: o.Context}
		for _, opt := range opts {
			if opt != nil {
				opt(&bo)
			}
		}
		o.Context = bo.Context
	}
}

type publisher struct{ client.Client }

func (p *publisher) Publish(ctx context.Context, msg client.Message, opts ...client.PublishOption) error {
	return p.Client.Publish(ctx, msg, append([]client.PublishOption{client.PublishContext(ctx)}, opts...)...)
}
