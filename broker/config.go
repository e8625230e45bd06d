package broker

import (
	"fmt"
	"log/slog"
	"os"
	"reflect"
	"slices"

	"go-micro-jetstream/broker/internal/natsopts"

	"go-micro.dev/v5/broker"
	"go-micro.dev/v5/logger"
)

// config is what the options amount to.
type config struct {
	settings
	servers      []string
	log          *slog.Logger
	errorHandler broker.Handler
	opts         broker.Options
	dispatch     *dispatcher
}

func newConfig(o broker.Options) (*config, error) {
	c := &config{settings: settingsOf(&o), opts: o, errorHandler: o.ErrorHandler}
	c.log = newLog(logger.LoggerOrDefault(o.Logger))
	if c.clientName == "" {
		c.clientName = defaultClientName()
	}
	var err error
	if c.servers, err = natsopts.ServerURLs(o.Addrs, o.Secure); err != nil {
		return nil, fmt.Errorf("jetstream: %w", err)
	}
	for _, w := range c.wrong {
		return nil, fmt.Errorf("jetstream: %w", w.err)
	}
	switch {
	case c.domain != "" && c.apiPrefix != "":
		return nil, fmt.Errorf("jetstream: %w: WithDomain(%q) stands for the API prefix $JS.%s.API, and WithAPIPrefix(%q) names another: leave one of them out", ErrInvalidConfig, c.domain, c.domain, c.apiPrefix)
	case c.rules.NeverCreateStreams && c.rules.StreamTemplate != nil:
		return nil, fmt.Errorf("jetstream: %w: WithStreamConfig is for streams that the broker creates, and WithExistingStreams has it create none: leave one of them out", ErrInvalidConfig)
	case c.rules.NeverCreateConsumers && c.rules.ConsumerTemplate != nil:
		return nil, fmt.Errorf("jetstream: %w: WithConsumerConfig is for consumers that the broker creates, and WithExistingConsumers has it create none: leave one of them out", ErrInvalidConfig)
	case c.rules.DeadLetter != "" && c.rules.ConsumerTemplate != nil && c.rules.ConsumerTemplate.HeadersOnly:
		return nil, fmt.Errorf("jetstream: %w: WithDeadLetter keeps the bodies of messages, and with HeadersOnly in WithConsumerConfig there are none: leave one of them out", ErrInvalidConfig)
	}
	c.dispatch = newDispatcher(c.hooks, c.log)
	return c, nil
}

func defaultClientName() string {
	host, err := os.Hostname()
	if err != nil || host == "" {
		return "go-micro"
	}
	return "go-micro-" + host
}

// connectionDiffers names what of the connection the other configuration would
// change, or returns "".
func (c *config) connectionDiffers(other *config) string {
	switch {
	case !slices.Equal(slices.Sorted(slices.Values(c.servers)), slices.Sorted(slices.Values(other.servers))):
		return "broker.Addrs"
	case c.opts.Secure != other.opts.Secure:
		return "broker.Secure"
	case c.opts.TLSConfig != other.opts.TLSConfig:
		return "broker.TLSConfig"
	case c.clientName != other.clientName:
		return "WithClientName"
	case c.domain != other.domain:
		return "WithDomain"
	case c.apiPrefix != other.apiPrefix:
		return "WithAPIPrefix"
	case len(c.natsOptions) != len(other.natsOptions): // they only ever grow
		return "WithNATSOptions"
	case len(c.hooks) != len(other.hooks):
		return "WithHooks"
	case c.window != other.window:
		return "WithAsyncWindow"
	case !sameLogger(c.opts.Logger, other.opts.Logger):
		return "broker.Logger"
	}
	return ""
}

// sameLogger takes loggers that cannot be compared for the same.
func sameLogger(a, b logger.Logger) bool {
	va, vb := reflect.ValueOf(a), reflect.ValueOf(b)
	return va.IsValid() && vb.IsValid() && va.Type() == vb.Type() && (!va.Comparable() || va.Equal(vb))
}
