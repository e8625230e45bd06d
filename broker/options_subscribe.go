package broker

import (
	"context"

	"go-micro.dev/v5/broker"
)

type concurrencyContext struct {
	context.Context
	n int
}

// Concurrency sets how many handlers one subscription may run at a time; see
// [WithConcurrency]. Values below 1 make Subscribe fail.
func Concurrency(n int) broker.SubscribeOption {
	return func(o *broker.SubscribeOptions) {
		ctx := o.Context
		if ctx == nil {
			ctx = context.Background()
		}
		o.Context = &concurrencyContext{Context: ctx, n: n}
	}
}

// subscribeOptions are what a Subscribe was asked for.
type subscribeOptions struct {
	broker.SubscribeOptions // Context is never nil
	concurrency             int
	concurrencySet          bool
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
		if c, ok := so.Context.(*concurrencyContext); ok {
			so.concurrency, so.concurrencySet = c.n, true
			ctx = c.Context
		} else if so.Context != nil {
			ctx = so.Context
		}
	}
	so.Context = ctx
	return so
}
