// Package wrapper gives the handlers of a go-micro service what go-micro keeps
// from them:
//
//	service := micro.NewService(
//		micro.Broker(b),
//		micro.WrapSubscriber(wrapper.Subscriber(b)),
//		micro.WrapClient(wrapper.Client()),
//	)
//
// go-micro's server makes the context of a subscriber's handler from the headers
// of the message alone, and turns the handler's error into a text. With
// [Subscriber], the handler's context
//
//   - holds what [jsbroker.EventContext] holds: the consumer span for one, so
//     that spans of the handler's own are its children;
//   - is cancelled when Disconnect gives the handler up;
//   - holds the event: see [Event];
//
// and what the handler returns reaches the broker as it is: jsbroker.RetryAfter
// and jsbroker.Discard mean what they mean in a handler of b.Subscribe, and a
// panic is a panic, with its stack, in logs, metrics and traces.
//
// With [Client], what a handler publishes is a child of the span in the context
// that it publishes with. Without it, go-micro passes on only the metadata, and
// so the consumer span.
//
// Neither has an effect on brokers of other kinds.
package wrapper

import (
	"context"
	"runtime/debug"

	"go-micro.dev/v5/broker"
	"go-micro.dev/v5/client"
	"go-micro.dev/v5/server"

	jsbroker "go-micro-jetstream/broker"
)

// Subscriber returns a wrapper for micro.WrapSubscriber, or server.WrapSubscriber,
// of a service whose broker is b.
//
// Of several wrappers, the first is the outermost. Let this be the first: the
// others then have the context, too, and what they make of an error counts.
//
// It works with go-micro's RPC server and its gRPC server. Where a topic has
// several handlers in one service, go-micro has one result for all of them: if
// one fails, all see the message again. It is discarded only if all that failed
// discard it; a handler that panics does not keep the others from it.
func Subscriber(b broker.Broker) server.SubscriberWrapper {
	find := jsbroker.EventFinder(b)
	return func(next server.SubscriberFunc) server.SubscriberFunc {
		return func(ctx context.Context, msg server.Message) error {
			e := find(msg.Header())
			if e == nil || Event(ctx) != nil { // another broker's, or wrapped twice
				return next(ctx, msg)
			}
			ctx, release := handlerContext(ctx, e)
			defer release()
			err := call(ctx, next, msg)
			jsbroker.SetHandlerError(e, err)
			return err
		}
	}
}

// call makes an error of a panic: with go-micro's server, which recovers it, the
// stack would be lost.
func call(ctx context.Context, next server.SubscriberFunc, msg server.Message) (err error) {
	defer func() {
		if value := recover(); value != nil {
			err = &jsbroker.PanicError{Value: value, Stack: debug.Stack()}
		}
	}()
	return next(ctx, msg)
}

// Event returns the event whose handler was called with this context, or nil. It
// is what handlers of b.Subscribe are given: for jsbroker.NumDelivered, for the
// concrete subject, and for Ack with server.DisableAutoAck.
func Event(ctx context.Context) broker.Event {
	e, _ := ctx.Value(eventKey{}).(broker.Event)
	return e
}

type eventKey struct{}

// eventValues is a context with the values of the event's as well.
type eventValues struct {
	context.Context
	event broker.Event
	more  context.Context // the event's
}

// Value prefers what is nearer to the handler: go-micro's metadata, and what
// wrappers before this one have added.
func (c *eventValues) Value(key any) any {
	if _, ok := key.(eventKey); ok {
		return c.event
	}
	if v := c.Context.Value(key); v != nil {
		return v
	}
	return c.more.Value(key)
}

// handlerContext joins the context that go-micro has made with the event's: the
// values of both, and the end of whichever ends first. The context lives on
// after the release, as go-micro's does, but the event no longer ends it.
func handlerContext(ctx context.Context, e broker.Event) (context.Context, func() bool) {
	more := jsbroker.EventContext(e)
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(more, func() { cancel(context.Cause(more)) })
	return &eventValues{Context: ctx, event: e, more: more}, stop
}

// Client returns a wrapper for micro.WrapClient. It passes the context of a
// Publish on to the broker, as client.PublishContext does: the span, the deadline
// and the cancellation. A client.PublishContext in the call takes its place.
//
// Of several wrappers, the last is the innermost. Let this be the last: the spans
// of the others are then in the context.
func Client() client.Wrapper {
	return func(c client.Client) client.Client { return &publisher{c} }
}

type publisher struct{ client.Client }

func (p *publisher) Publish(ctx context.Context, msg client.Message, opts ...client.PublishOption) error {
	return p.Client.Publish(ctx, msg, append([]client.PublishOption{client.PublishContext(ctx)}, opts...)...)
}
