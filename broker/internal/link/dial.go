package link

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"

	"go-micro-jetstream/broker/internal/fault"
	"go-micro-jetstream/broker/internal/wire"
)

// Dial connects to the server and checks that it can be used. It is called once. After
// an error the connection is closed.
//
// Errors: fault.ErrInvalidConfig for bad options, those of [Conn.CheckVersion],
// fault.ErrJetStreamUnavailable, fault.ErrPermission for a user without an inbox, or the
// client's own for servers that cannot be reached or refuse the credentials. With
// nats.RetryOnFailedConnect it returns nil before the client is connected, and the
// server is not checked.
func (c *Conn) Dial() error { return c.Conn.Dial(c.check) }

// check checks the server.
func (c *Conn) check() error {
	if !c.Up() { // it may come later, with nats.RetryOnFailedConnect
		return nil
	}
	if err := c.CheckVersion(); err != nil {
		return err
	}
	return c.checkJetStream()
}

// CheckVersion refuses servers before 2.10. They forget the metadata of streams and
// consumers (ADR-33), and the broker recognises its own by that. It takes from there,
// too, after how many deliveries to give up. A server that is not connected, or that
// does not say a version, passes.
func (c *Conn) CheckVersion() error {
	if version, ok := c.Has(10, 0); !ok {
		return fmt.Errorf("the nats-server at %s is of version %s, which forgets the metadata of streams and consumers: use 2.10 or later", c.URL(), version)
	}
	return nil
}

// Has reports whether the connected server is of version 2.minor.patch or later, and
// which version it is. One that does not say a version passes.
func (c *Conn) Has(minor, patch int) (version string, ok bool) {
	version = c.NATS().ConnectedServerVersion()
	return version, AtLeast(version, minor, patch)
}

// AtLeast reports whether a server's version is 2.minor.patch or later. What is no
// version passes.
func AtLeast(version string, minor, patch int) bool {
	actual := make([]int, 3)
	if n, _ := fmt.Sscanf(version, "%d.%d.%d", &actual[0], &actual[1], &actual[2]); n < 2 {
		return true
	}
	return slices.Compare(actual, []int{2, minor, patch}) >= 0
}

// checkJetStream fails for a server without JetStream and for a user without an inbox.
// Another error is no reason to fail, and is logged: the user may lack permission for
// this one request, or the cluster elects a leader just now. The first use will tell. A
// connection that is lost meanwhile is waited for, so that Connect ends with one that is
// up if the server is there.
func (c *Conn) checkJetStream() error {
	err := c.Ask(context.Background(), "INFO", func(ctx context.Context) error {
		info, err := c.JetStream().AccountInfo(ctx)
		if err == nil {
			c.calls.api.told.Store(&info.Domain)
		}
		return err
	})
	if errors.Is(err, fault.ErrJetStreamUnavailable) {
		return err
	}
	if errors.Is(err, fault.ErrPermission) && strings.Contains(err.Error(), wire.SubscriptionViolation) {
		return fmt.Errorf("no answer would ever arrive: allow the user to subscribe to its inbox, or choose another with nats.CustomInboxPrefix: %w", err)
	}
	if err != nil {
		c.Line(slog.LevelWarn, fmt.Sprintf("could not verify that JetStream is enabled: %v", err))
	}
	return nil
}
