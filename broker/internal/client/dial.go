package client

import (
	"fmt"
	"log/slog"

	"go-micro-jetstream/broker/internal/fault"
	"go-micro-jetstream/broker/internal/wire"
)

// Dial connects to the server, and has a function check that it can be used. It is called
// once. After an error the connection is closed.
//
// Errors: fault.ErrInvalidConfig for bad options, those of the check, or the client's own
// for servers that cannot be reached or refuse the credentials. With
// nats.RetryOnFailedConnect it returns nil before the client is connected.
func (c *Conn) Dial(check func() error) error {
	if c.invalid != nil {
		return fmt.Errorf("%w: %w", fault.ErrInvalidConfig, c.invalid)
	}
	if err := c.connect(c.options); err != nil {
		return err
	}
	c.arrivedAt(c.NATS())
	if err := check(); err != nil {
		c.expect()
		c.NATS().Close()
		return err
	}
	c.sayDiscovered()
	return nil
}

// sayDiscovered tells of servers that the client has learned of before the connection was
// encrypted: whoever stands between may have named them, and the client may send them its
// credentials.
func (c *Conn) sayDiscovered() {
	nc := c.NATS()
	if _, err := nc.TLSConnectionState(); err != nil || nc.Opts.TLSHandshakeFirst || nc.Opts.IgnoreDiscoveredServers {
		return
	}
	named := nc.DiscoveredServers()
	if len(named) == 0 {
		return
	}
	const most = 3
	more := ""
	if n := len(named); n > most {
		named, more = named[:most], fmt.Sprintf(" and %d more", n-most)
	}
	c.Line(slog.LevelInfo, fmt.Sprintf("the server has named %s%s before the connection was encrypted, and the client may connect there, too: to prevent that, use nats.IgnoreDiscoveredServers or nats.TLSHandshakeFirst",
		wire.Shorten(wire.Redacted(named)), more))
}
