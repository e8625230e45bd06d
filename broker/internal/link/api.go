package link

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/nats-io/nats.go/jetstream"

	"go-micro-jetstream/broker/internal/client"
	"go-micro-jetstream/broker/internal/fault"
)

// api is where JetStream's API is. It is safe for concurrent use.
type api struct {
	prefix string                 // of all its subjects, with the last dot
	option string                 // how the user has said so; empty: not at all
	domain string                 // the user's word; empty: none
	told   atomic.Pointer[string] // the domain by the API's own word; nil: not known
}

// at sets what the configuration says.
func (a *api) at(cfg *Config) {
	a.prefix, a.domain = cfg.Prefix(), cfg.Domain
	switch {
	case cfg.Domain != "":
		a.option = fmt.Sprintf("WithDomain(%q)", cfg.Domain)
	case cfg.APIPrefix != "":
		a.option = fmt.Sprintf("WithAPIPrefix(%q)", cfg.APIPrefix)
	}
}

// API returns the subject of a request to JetStream's API, such as CONSUMER.INFO.S.C.
func (c *Conn) API(name string) string { return c.calls.api.prefix + name }

// Elsewhere reports whether an answer from a JetStream of that domain, empty for one
// without, is from another one than the API that is used. It may be where the leaf node
// that the client is connected to has a stream of its own.
func (c *Conn) Elsewhere(domain string) bool {
	a := &c.calls.api
	if a.option == "" {
		return false
	}
	own := a.domain
	if told := a.told.Load(); own == "" && told != nil {
		own = *told
	}
	return own != "" && own != domain
}

// Domain returns how to call the JetStream that is used, for texts.
func (c *Conn) Domain() string {
	return cmp.Or(c.calls.api.option, "the server's own JetStream")
}

// Nearby reports whether the server may have another JetStream than the one that is
// used, which hears the same messages: that of the leaf node, or of the importing
// account.
func (c *Conn) Nearby() bool {
	a := &c.calls.api
	if a.option == "" || a.prefix == client.DefaultPrefix {
		return false
	}
	has, _ := c.NATS().ConnectedServerJetStream()
	return has && (a.domain == "" || a.domain != c.NATS().ConnectedDomain())
}

// Remote reports whether the JetStream that is used need not be that of the connected
// server, whose version then says nothing about it.
func (c *Conn) Remote() bool { return c.calls.api.prefix != client.DefaultPrefix }

// IsDirect reports whether the connected server itself has the JetStream that is used.
// Otherwise deliveries may be on their way from another server of the cluster, or from
// the hub of a leaf node.
func (c *Conn) IsDirect() bool {
	has, _ := c.NATS().ConnectedServerJetStream()
	return has && c.calls.api.prefix == client.DefaultPrefix && c.NATS().ConnectedClusterName() == ""
}

// AskNearby asks the other JetStream of [Conn.Nearby]. It returns nil without an answer:
// there need not be one, and the user need not be permitted to ask.
func (c *Conn) AskNearby(ctx context.Context, name string, question func(context.Context, jetstream.JetStream) error) error {
	js, err := jetstream.New(c.NATS(), jetstream.WithDefaultTimeout(LookUpTimeout))
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, LookUpTimeout)
	defer cancel()
	return c.request(ctx, client.DefaultPrefix+name, func(ctx context.Context) error { return question(ctx, js) })
}

// noAnswerError says why JetStream does not answer elsewhere. The text of its cause is about
// the connected server, so it would lead astray.
type noAnswerError struct {
	text  string
	cause error
}

func (e *noAnswerError) Error() string { return e.text }
func (e *noAnswerError) Unwrap() error { return e.cause }

// explain says more about a JetStream that does not answer.
func (c *Conn) explain(err error) error {
	if err == nil || !errors.Is(err, fault.ErrJetStreamUnavailable) {
		return err
	}
	a, nc := &c.calls.api, c.NATS()
	if a.option == "" {
		if has, _ := nc.ConnectedServerJetStream(); has {
			return err
		}
		return fmt.Errorf("%w; if %s is a leaf node, name the domain of its hub with WithDomain", err, c.URL())
	}
	own := "has no JetStream of its own"
	if has, _ := nc.ConnectedServerJetStream(); has {
		own = "has a JetStream of its own without a domain"
		if domain := nc.ConnectedDomain(); domain != "" {
			own = fmt.Sprintf("has a JetStream of its own with the domain %q", domain)
		}
	}
	way := "check the name, which is domain in the jetstream block of the hub's configuration, and that the leaf node is linked to the hub"
	if a.domain == "" {
		way = "check that the account imports the API under this prefix, INFO included, and that the link to its servers is up"
	}
	return &noAnswerError{
		text:  fmt.Sprintf("%s: nobody answers at %s>: %s; the server %s %s", a.option, a.prefix, way, c.URL(), own),
		cause: err,
	}
}
