package broker

import (
	"context"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"
	"go-micro.dev/v5/broker"

	"go-micro-jetstream/broker/internal/consumers"
	"go-micro-jetstream/broker/internal/streams"
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

// ConsumerConfig is the consumer template of one subscription. It takes the place
// of the broker's template, [WithConsumerConfig], as a whole: fields that it leaves
// out have their defaults. Use it where one topic needs another AckWait, another
// limit of deliveries or another BackOff than the rest of the service.
//
// The template is checked as that of WithConsumerConfig is, and Subscribe returns
// [ErrInvalidConfig] for one that cannot work. Like that, it excludes
// [WithExistingConsumers], and HeadersOnly excludes [WithDeadLetter]. The option
// copies cfg, so the caller may change it afterwards, and may use the option for
// several subscriptions, also at the same time.
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
}

// rules returns the broker's rules with what the subscription has of its own.
func (so *subscribeOptions) rules(brokers *streams.Rules) *streams.Rules {
	if so.template == nil {
		return brokers
	}
	own := *brokers
	own.ConsumerTemplate = so.template
	return &own
}

// checkTemplate reports why the subscription's own consumer template cannot be
// used with the broker's rules.
func (so *subscribeOptions) checkTemplate(brokers *streams.Rules) error {
	switch {
	case so.template == nil:
		return nil
	case so.templateErr != nil:
		return fmt.Errorf("%w: %w", ErrInvalidConfig, so.templateErr)
	case brokers.OthersConsumers:
		return fmt.Errorf("%w: ConsumerConfig is for a consumer that the broker creates, and WithExistingConsumers has it create none: leave one of them out", ErrInvalidConfig)
	case brokers.DeadLetter != "" && so.template.HeadersOnly:
		return fmt.Errorf("%w: WithDeadLetter keeps the bodies of messages, and with HeadersOnly in ConsumerConfig there are none: leave one of them out", ErrInvalidConfig)
	}
	return nil
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
		if c, ok := so.Context.(*settingContext); ok {
			c.set(&so)
			ctx = c.Context
		} else if so.Context != nil {
			ctx = so.Context
		}
	}
	so.Context = ctx
	return so
}
