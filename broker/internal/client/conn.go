// Package client is one connection to NATS, over all clients of nats.go that it needs: it
// dials, knows whether the connection is up, and tells when it is lost, is back, or may
// not receive any more.
package client

import (
	"context"
	"crypto/tls"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"go-micro-jetstream/broker/internal/fault"
	"go-micro-jetstream/broker/internal/logging"
	"go-micro-jetstream/broker/internal/natsopts"
	"go-micro-jetstream/broker/internal/wire"
)

const (
	// APITimeout bounds one request to JetStream's API. It is the default of nats.go.
	APITimeout = 5 * time.Second
	// LookUpTimeout bounds the first try of a question.
	LookUpTimeout = time.Second
	// CloseTimeout bounds each step of [Conn.Close]: flush, drain and the client's last
	// callback.
	CloseTimeout = 2 * time.Second
)

// Config says how to connect, and whom to tell.
type Config struct {
	Servers []string      // URLs
	Name    string        // of the client; Options may set another one
	TLS     *tls.Config   // nil: as the URLs say
	Secure  bool          // TLS also without a configuration
	Options []nats.Option // applied last; nil ones are skipped
	// Domain, or APIPrefix without its last dot, say where JetStream's API is. Both
	// empty: the server's own.
	Domain, APIPrefix string

	Log    *slog.Logger // nil: no log
	Events Events
}

// DefaultPrefix is where the API of the server's own JetStream is.
const DefaultPrefix = "$JS.API."

// Prefix returns the beginning of all subjects of JetStream's API, with the last dot.
func (cfg *Config) Prefix() string {
	switch {
	case cfg.Domain != "":
		return "$JS." + cfg.Domain + ".API."
	case cfg.APIPrefix != "":
		return cfg.APIPrefix + "."
	}
	return DefaultPrefix
}

// Events are called on the client's one goroutine for callbacks, before the user's own
// callbacks from [Config.Options]. They must not block. The first may come before
// [Conn.Dial] has returned. Nil fields are skipped. Down, Closed and Refused are not
// called for what [Conn.Close] does.
type Events struct {
	// Up says that the client is connected, for the first time or again.
	Up func(url string)
	// Down says that the connection is lost. The client reconnects, or another one takes
	// its place.
	Down func(err error)
	// Closed says that the client has given up, at a limit that the user has set: the
	// connection does not come back.
	Closed func(err error)
	// Lost says that the answers under way do not arrive any more. It comes before
	// Down, before an Up that follows a loss, before Closed, at the end of Close, and
	// when the server refuses the inbox. [Conn.Usable] knows the reason by then.
	Lost func()
	// Refused passes on a permission violation. For one about an inbox Lost comes first.
	Refused func(violation error)
	// Crowded says that the server has refused a subscription, as there are too many.
	Crowded func()
}

// complete replaces nil fields by functions that do nothing.
func (e Events) complete() Events {
	if e.Up == nil {
		e.Up = func(string) {}
	}
	if e.Down == nil {
		e.Down = func(error) {}
	}
	if e.Closed == nil {
		e.Closed = func(error) {}
	}
	if e.Lost == nil {
		e.Lost = func() {}
	}
	if e.Refused == nil {
		e.Refused = func(error) {}
	}
	if e.Crowded == nil {
		e.Crowded = func() {}
	}
	return e
}

// Conn is one connection, from [Conn.Dial] to [Conn.Close]. After Dial its methods are
// safe for concurrent use.
type Conn struct {
	servers []string
	events  Events
	log     *slog.Logger
	born    time.Time
	options nats.Options
	invalid error // what is wrong with the options

	client    atomic.Pointer[client] // nil before Dial has made it
	redials   redials
	listeners listeners

	prefix   string // of JetStream's API, with the last dot
	watch    watch
	inbox    inbox
	refusals refusals
	changes  changes
	lines    logging.Limiter

	server     atomic.Pointer[string] // URL of the latest one, without credentials
	maxPayload atomic.Int64           // of the latest server, in bytes
	lossSaid   bool                   // in the log; owned by the client's callback goroutine
	expected   atomic.Bool            // the close is our own doing
	closing    chan struct{}          // closed with that
	closed     chan struct{}          // closed when the connection is over, by endOnce
	endOnce    sync.Once
}

// New returns a connection that is not dialled yet. Bad options are an error of
// [Conn.Dial].
func New(cfg Config) *Conn {
	c := &Conn{
		servers: cfg.Servers,
		events:  cfg.Events.complete(),
		log:     cfg.Log,
		born:    time.Now(),
		prefix:  cfg.Prefix(),
		closing: make(chan struct{}),
		closed:  make(chan struct{}),
	}
	if c.log == nil {
		c.log = slog.New(slog.DiscardHandler)
	}
	c.changes.wake()
	c.options, c.invalid = natsopts.Options(&natsopts.Config{Servers: cfg.Servers, Name: cfg.Name, TLS: cfg.TLS, Secure: cfg.Secure, Options: cfg.Options}, c.userCode())
	c.log = c.log.With("client", c.options.Name)
	return c
}

// NATS returns the connection of the client that there is now. It is nil before Dial, and
// not nil in [Events]. Another client may take its place at any time: do not keep it.
func (c *Conn) NATS() *nats.Conn {
	if now := c.client.Load(); now != nil {
		return now.nc
	}
	return nil
}

// JetStream returns the JetStream of the client that there is now. It is nil before Dial.
func (c *Conn) JetStream() jetstream.JetStream {
	if now := c.client.Load(); now != nil {
		return now.js
	}
	return nil
}

// Name returns the name by which the server knows the client.
func (c *Conn) Name() string { return c.options.Name }

// Log returns the logger of the connection. Its lines have the field "client".
func (c *Conn) Log() *slog.Logger { return c.log }

// Born returns when New was called: a common point for clocks that count from it.
func (c *Conn) Born() time.Time { return c.born }

// URL returns the server of the connection, without credentials: the latest one while
// the connection is down, and all configured ones before there was any.
func (c *Conn) URL() string {
	if url := c.server.Load(); url != nil {
		return *url
	}
	return wire.Redacted(c.servers)
}

// Up reports whether the client is connected. It takes no lock while the connection
// stays up.
func (c *Conn) Up() bool {
	up, _ := c.State()
	return up
}

// State is [Conn.Up] with a number for the connection. The number is another one after
// each loss, and 0 while the connection is down.
func (c *Conn) State() (up bool, number uint64) {
	nc := c.NATS()
	if nc == nil {
		return false, 0
	}
	return c.watch.state(nc)
}

// Usable returns nil if a request may be sent and its answer can arrive. Otherwise it
// returns fault.ErrConnectionLost while the connection is down, or the error of
// [Conn.Deaf].
func (c *Conn) Usable() error {
	if !c.Up() {
		return fault.ErrConnectionLost
	}
	return c.inbox.deafness()
}

// Deaf returns why no answer can arrive although the connection may be up: the server
// refuses an inbox. It wraps fault.ErrPermission and the violation, or
// fault.ErrSubscriptionLimit. It returns nil if answers can arrive, and from the next loss
// of the connection on.
func (c *Conn) Deaf() error { return c.inbox.deafness() }

// Expected reports whether Close was called.
func (c *Conn) Expected() bool { return c.expected.Load() }

// Closing returns a channel that is closed when Close is called.
func (c *Conn) Closing() <-chan struct{} { return c.closing }

// SayLost says that answers under way do not arrive any more, as [Events] does.
func (c *Conn) SayLost() { c.events.Lost() }

// Closed returns a channel that is closed when the connection is over: by Close, or at a
// limit that the user has set.
func (c *Conn) Closed() <-chan struct{} { return c.closed }

// Accepts reports whether the server takes a message of that size, headers included, and
// how much it takes. Both are in bytes.
func (c *Conn) Accepts(size int) (limit int64, ok bool) {
	if limit = c.maxPayload.Load(); int64(size) <= limit {
		return limit, true // if it is less by now, the client refuses the message
	}
	// The server may accept more by now, but the client needs its lock to say so. With
	// nats.RetryOnFailedConnect there may have been no server yet.
	nc := c.NATS()
	if nc == nil {
		return limit, limit <= 0
	}
	limit = nc.MaxPayload()
	return limit, limit <= 0 || int64(size) <= limit
}

// Line writes a line about the connection.
func (c *Conn) Line(level slog.Level, text string, attrs ...any) {
	c.log.Log(context.Background(), level, text, append([]any{"server", c.URL()}, attrs...)...)
}
