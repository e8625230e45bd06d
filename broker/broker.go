package broker

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/google/uuid"
	"go-micro.dev/v5/broker"
	"go-micro.dev/v5/logger"

	"go-micro-jetstream/broker/internal/lifecycle"
	"go-micro-jetstream/broker/internal/wire"
)

var _ broker.Broker = (*jetstreamBroker)(nil)

// jetstreamBroker is the broker. It keeps its options and at most one session,
// which is everything that lives from Connect to Disconnect.
type jetstreamBroker struct {
	id string // tells the brokers of one process apart in events

	mu     sync.Mutex
	opts   broker.Options
	cfgErr error                  // what NewBroker could not return
	cfg    atomic.Pointer[config] // nil if cfgErr is set; written under mu
	inDial *config                // of the Connect under way

	life    lifecycle.Cycle[session, shutdown]
	running finder
	states  lifecycle.Teller
}

// NewBroker returns a broker that speaks NATS JetStream. It does not connect.
// Connect reports options that are wrong, and Init does so at once. An Init that gives
// such an option a right value mends that; what [WithHooks] has refused stays, as it adds
// up. Without broker.Addrs it uses nats://127.0.0.1:4222.
//
// Log lines go to the logger of broker.Logger, which may be called from several
// goroutines at a time. Whatever it does, the broker goes on: a panic of it is recovered,
// and a line waits at most 1 second for it. As long as a call hangs for longer, no other
// is made. A line that the logger has not written goes to the standard error, at most once
// a second.
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

// Init applies further options. What belongs to the connection cannot change
// while there is one, or during Connect: other addresses, TLS settings, domain, client name, logger or
// [WithAsyncWindow] than those in use are an [ErrInvalidConfig], and so are any
// [WithNATSOptions] or [WithHooks], because these add to what is there. Init
// then changes nothing. Other options apply to what is published and subscribed
// from then on.
func (b *jetstreamBroker) Init(opts ...broker.Option) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	o := applied(b.opts, opts)
	cfg, err := newConfig(o)
	if err != nil {
		return err
	}
	inUse := b.inDial
	if s := b.life.Session(); s != nil {
		inUse = s.cfg
	}
	if inUse != nil {
		if what := inUse.connectionDiffers(cfg); what != "" {
			return fmt.Errorf("jetstream: init: %w: %s cannot change while connected, or during Connect: call Disconnect first", ErrInvalidConfig, what)
		}
	}
	b.opts, b.cfgErr = o, nil
	b.cfg.Store(cfg)
	return nil
}

// invalid returns what NewBroker could not return.
func (b *jetstreamBroker) invalid() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.cfgErr
}

// beginUse returns the options to dial with. Until endUse, Init compares with them.
func (b *jetstreamBroker) beginUse() *config {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.inDial = b.cfg.Load()
	return b.inDial
}

// endUse is called when there is a session, or the dial has failed.
func (b *jetstreamBroker) endUse() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.inDial = nil
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
	if s := b.life.Session(); s != nil {
		if url := s.conn.NATS().ConnectedUrl(); url != "" {
			return wire.WithoutCredentials(url)
		}
	}
	if cfg := b.cfg.Load(); cfg != nil {
		return wire.WithoutCredentials(cfg.servers[0])
	}
	return ""
}

// String returns "jetstream".
func (b *jetstreamBroker) String() string { return "jetstream" }
