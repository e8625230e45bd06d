package link

import (
	"fmt"

	"github.com/nats-io/nats.go"
)

// natsOptions builds the client's options: ours, then the user's. The user's callbacks
// are called after ours.
func (c *Conn) natsOptions(cfg *Config) (nats.Options, error) {
	o := nats.GetDefaultOptions()
	o.Servers = cfg.Servers
	o.Name = cfg.Name
	o.MaxReconnect = -1 // endless: a client that gives up turns an outage into another one
	// Otherwise the client gives up after two refusals, while credentials rotate.
	o.IgnoreAuthErrorAbort = true
	o.RetryOnFailedConnect = false
	// A connection that has died without a word is noticed within half a minute: the
	// client misses the answer to the third ping. The default of nats.go takes six.
	o.PingInterval, o.MaxPingsOut = PingInterval, maxPingsOut
	o.FlusherTimeout = WriteTimeout
	// What could not be written is gone. It may have been a request for messages or a
	// subscription, and a new connection begins with all of those.
	o.ReconnectOnFlusherError = true
	if cfg.TLS != nil {
		o.TLSConfig, o.Secure = cfg.TLS, true
	}
	if cfg.Secure {
		o.Secure = true
	}
	for _, opt := range cfg.Options {
		if opt == nil {
			continue
		}
		before := o // an option that hangs may still change what it has got
		next, err := calling(c.newGuard(&o), "an option", func() (nats.Options, error) {
			err := opt(&before)
			return before, err
		}, nil)
		if err != nil {
			return o, fmt.Errorf("WithNATSOptions: %w", err)
		}
		o = next
	}
	return o, nil
}

// setCallbacks puts our callbacks before those that the user has set. All of them wait
// until the client is ready, which is when everybody knows it.
func (c *Conn) setCallbacks(o *nats.Options, ready *readiness) {
	user := *o
	o.NoCallbacksAfterClientClose = false // Close waits for the last one
	silent := func() bool { return user.NoCallbacksAfterClientClose && c.expected.Load() }
	// after returns a callback that runs ours and then the user's.
	after := func(ours, users nats.ConnHandler) nats.ConnHandler {
		return func(nc *nats.Conn) {
			if !ready.wait() {
				return
			}
			ours(nc)
			if users != nil {
				users(nc)
			}
		}
	}
	o.ConnectedCB = after(c.onConnect, user.ConnectedCB)
	o.ReconnectedCB = after(c.onReconnect, user.ReconnectedCB)
	o.ClosedCB = after(c.onClose, func(nc *nats.Conn) {
		if user.ClosedCB != nil && !silent() {
			user.ClosedCB(nc)
		}
	})
	o.DisconnectedErrCB = func(nc *nats.Conn, err error) {
		if !ready.wait() {
			return
		}
		c.onDisconnect(nc, err)
		switch { // the client calls only one of the two as well
		case silent():
		case user.DisconnectedErrCB != nil:
			user.DisconnectedErrCB(nc, err)
		case user.DisconnectedCB != nil:
			user.DisconnectedCB(nc)
		}
	}
	o.AsyncErrorCB = func(nc *nats.Conn, sub *nats.Subscription, err error) {
		if !ready.wait() {
			return
		}
		c.onAsyncError(nc, sub, err)
		if user.AsyncErrorCB != nil {
			user.AsyncErrorCB(nc, sub, err)
		}
	}
}
