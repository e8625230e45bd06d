package broker

import (
	"context"
	"fmt"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/google/uuid"
	"go-micro.dev/v5/broker"
	"go-micro.dev/v5/logger"
)

var _ broker.Broker = (*jetstreamBroker)(nil)

// jetstreamBroker is the broker. Connections and subscriptions are values of
// their own; it only keeps track of them.
type jetstreamBroker struct {
	id string // tells brokers of one process apart in events

	mu      sync.Mutex
	opts    broker.Options
	cfgErr  error         // what NewBroker could not return
	dialing chan struct{} // closed when the Connect under way has ended
	closing *shutdown     // the Disconnect under way

	cfg  atomic.Pointer[config]     // nil if cfgErr is set
	conn atomic.Pointer[connection] // nil when not connected

	running finder
	states  states
}

// NewBroker returns a broker that speaks NATS JetStream. It does not connect.
// Options that are wrong are reported by Connect, and by Init at once. Without
// broker.Addrs it uses nats://127.0.0.1:4222.
func NewBroker(opts ...broker.Option) broker.Broker {
	b := &jetstreamBroker{id: uuid.NewString()}
	b.opts = broker.Options{Context: context.Background(), Logger: logger.DefaultLogger}
	b.opts = applied(b.opts, opts)
	cfg, err := newConfig(b.opts)
	if err != nil {
		b.cfgErr = err
		return b
	}
	b.cfg.Store(cfg)
	return b
}

func applied(o broker.Options, opts []broker.Option) broker.Options {
	for _, opt := range opts {
		if opt != nil {
			opt(&o)
		}
	}
	return o
}

// Init applies further options. While connected, what belongs to the connection
// cannot change: other addresses, TLS settings, client name, logger or
// [WithAsyncWindow] than those in use, and any [WithNATSOptions] or [WithHooks],
// as these add to what is there, are an [ErrInvalidConfig], and nothing is
// changed. Other options apply to what is
// published and subscribed from then on.
func (b *jetstreamBroker) Init(opts ...broker.Option) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	o := applied(b.opts, opts)
	cfg, err := newConfig(o)
	if err != nil {
		return err
	}
	if c := b.conn.Load(); c != nil {
		if what := c.cfg.connectionDiffers(cfg); what != "" {
			return fmt.Errorf("jetstream: init: %w: %s cannot change while connected: call Disconnect first", ErrInvalidConfig, what)
		}
	}
	b.opts, b.cfgErr = o, nil
	b.cfg.Store(cfg)
	return nil
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

// Options returns the options in use.
func (b *jetstreamBroker) Options() broker.Options {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.opts
}

// Address returns the URL of the connected server without credentials, or the
// first configured one when not connected.
func (b *jetstreamBroker) Address() string {
	if c := b.conn.Load(); c != nil {
		if url := c.nc.ConnectedUrl(); url != "" {
			return withoutCredentials(url)
		}
	}
	if cfg := b.cfg.Load(); cfg != nil {
		return withoutCredentials(cfg.servers[0])
	}
	return ""
}

// String returns "jetstream".
func (b *jetstreamBroker) String() string { return "jetstream" }
