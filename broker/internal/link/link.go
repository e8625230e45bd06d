// Package link is the requests to JetStream over one connection: where they go, whether
// anybody answers, and why not.
package link

import "go-micro-jetstream/broker/internal/client"

// What a connection is made of and tells.
type (
	// Config says how to connect, and whom to tell.
	Config = client.Config
	// Events are what a connection tells.
	Events = client.Events
	// Listener is a subscription of a connection.
	Listener = client.Listener
)

// The bounds of requests and of closing.
const (
	APITimeout    = client.APITimeout
	LookUpTimeout = client.LookUpTimeout
	CloseTimeout  = client.CloseTimeout
)

// Conn is one connection, from [Conn.Dial] to Close, with the requests to JetStream. After
// Dial its methods are safe for concurrent use.
type Conn struct {
	*client.Conn
	calls   calls
	hearing hearing
}

// New returns a connection that is not dialled yet. Bad options are an error of
// [Conn.Dial].
func New(cfg Config) *Conn {
	c := &Conn{}
	c.calls.api.at(&cfg)
	refused := cfg.Events.Refused
	cfg.Events.Refused = func(violation error) {
		c.calls.refuse(violation, c.AboutInbox(violation))
		if refused != nil {
			refused(violation)
		}
	}
	cfg.Events.Crowded = c.listensStill
	c.Conn = client.New(cfg)
	return c
}

// State reports whether the client is connected, with a number for the connection. The
// number is another one after each loss, and after a time in which nobody answered for
// JetStream. It is 0 while the connection is down.
func (c *Conn) State() (up bool, number uint64) {
	if up, number = c.Conn.State(); up {
		number += c.calls.reach.times.Load()
	}
	return up, number
}
