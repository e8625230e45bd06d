package natsopts

import (
	"crypto/tls"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
)

const (
	// WriteTimeout bounds a write to the network. The client does nothing else while it
	// writes, so it must not take longer than a publish waits. The default of nats.go is
	// a minute.
	WriteTimeout = 5 * time.Second
	// PingInterval is how often the client asks the server for a sign of life.
	PingInterval = 10 * time.Second
	// maxPingsOut is how many of these questions may be open when the next is due.
	maxPingsOut = 2
)

// Config is what the user says about the client.
type Config struct {
	Servers []string      // URLs
	Name    string        // Options may set another one
	TLS     *tls.Config   // nil: as the URLs say
	Secure  bool          // TLS also without a configuration
	Options []nats.Option // applied last; nil ones are skipped
}

// Options builds the client's options: ours, then the user's. An option that panics or
// hangs is an error.
func Options(cfg *Config, log Log) (nats.Options, error) {
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
		next, err := calling(newGuard(&o, log), "an option", func() (nats.Options, error) {
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
