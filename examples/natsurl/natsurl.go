// Package natsurl makes the addresses of NATS servers, and connection errors, fit
// to show to a user. It removes credentials, and says how to fix an error.
package natsurl

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
	"syscall"

	"github.com/nats-io/nats.go"

	jsbroker "go-micro-jetstream/broker"
)

// Redact removes the credentials from a comma-separated list of addresses. It does
// not parse the addresses: one with a typo may hold credentials, too.
func Redact(urls string) string {
	list := strings.Split(urls, ",")
	for i, u := range list {
		u = strings.TrimSpace(u)
		at := strings.LastIndexByte(u, '@')
		if at >= 0 {
			scheme := ""
			if s, _, ok := strings.Cut(u, "://"); ok {
				scheme = s + "://"
			}
			u = scheme + u[at+1:]
		}
		list[i] = u
	}
	return strings.Join(list, ", ")
}

// Explain says in one line why a connection failed. It quotes err only where the
// text of err cannot hold credentials.
func Explain(urls string, err error) error {
	where := Redact(urls)
	switch {
	case errors.Is(err, jsbroker.ErrJetStreamUnavailable):
		return fmt.Errorf("the server at %s has no JetStream for this user: start it with nats-server -js, or enable JetStream for the account", where)
	case errors.Is(err, nats.ErrAuthorization), errors.Is(err, nats.ErrAuthExpired), errors.Is(err, nats.ErrAuthRevoked):
		return fmt.Errorf("the server at %s refuses the credentials: give others in the URL, as in nats://user:password@host:4222", where)
	case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, nats.ErrNoServers):
		return fmt.Errorf("no NATS server answers at %s: start one with nats-server -js, or docker run -p 4222:4222 nats -js", where)
	case errors.Is(err, nats.ErrTimeout):
		return fmt.Errorf("the server at %s does not answer in time", where)
	case errors.Is(err, jsbroker.ErrInvalidConfig):
		return err // its text explains itself
	}
	if _, ok := errors.AsType[*url.Error](err); ok {
		return fmt.Errorf("the address %s is malformed; special characters in a user name or a password must be percent-encoded", where)
	}
	var network *net.OpError // its text names hosts, but no credentials
	if strings.Contains(urls, "@") && !errors.As(err, &network) {
		return fmt.Errorf("cannot connect to %s; the cause is not shown, as it may quote the credentials", where)
	}
	if cause := errors.Unwrap(err); cause != nil {
		err = cause // the text that the broker adds would repeat the address
	}
	return fmt.Errorf("cannot connect to %s: %w", where, err)
}
