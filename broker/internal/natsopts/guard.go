package natsopts

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"go-micro-jetstream/broker/internal/goroutine"
	"go-micro-jetstream/broker/internal/logging"
)

// mostHanging is how many calls of user code may hang on one client. A further call fails
// at once, so that attempts to reconnect do not pile up goroutines.
const mostHanging = 10

// guard calls the user's code that the client needs to connect. nats.go calls that with
// its lock held. A panic there would end the process on a reconnect, and a
// runtime.Goexit, or code that hangs, would leave the client locked for ever. With the
// guard the attempt to connect fails. It is safe for concurrent use.
type guard struct {
	log     Log
	bound   time.Duration         // of each call
	hanging atomic.Int32          // calls that have not returned
	fault   atomic.Pointer[error] // the latest
}

// Log is where a connection tells of user code that fails.
type Log struct {
	Lines *logging.Limiter
	Line  func(level slog.Level, text string, attrs ...any)
}

// newGuard returns a guard that bounds each call as nats.Timeout does the dial.
func newGuard(o *nats.Options, log Log) *guard {
	g := &guard{log: log, bound: o.Timeout}
	if g.bound <= 0 {
		g.bound = nats.DefaultTimeout
	}
	return g
}

// calling calls user code through the guard. What the code returns too late goes to late,
// if there is one.
func calling[R any](g *guard, what string, call func() (R, error), late func(R)) (R, error) {
	if g.hanging.Add(1) > mostHanging {
		g.hanging.Add(-1)
		var none R
		return none, g.failure(fmt.Errorf("%s: so many earlier calls have not returned: %w", what, goroutine.ErrHangs))
	}
	r, err, fault := goroutine.Call(g.bound, call, func(r R) {
		g.hanging.Add(-1)
		if late != nil {
			late(r)
		}
	})
	if errors.Is(fault, goroutine.ErrHangs) {
		fault = fmt.Errorf("%s %w (%v, which is nats.Timeout): give the code its own time limit, or raise that", what, fault, g.bound)
		if more, ok := g.log.Lines.Allow("hangs"); ok {
			g.log.Line(slog.LevelWarn, fmt.Sprintf("connect: %v%s", fault, more))
		}
		return r, g.failure(fault)
	}
	g.hanging.Add(-1)
	if fault == nil {
		return r, err
	}
	if p, ok := errors.AsType[*goroutine.PanicError](fault); ok {
		g.log.Line(slog.LevelError, fmt.Sprintf("%s %v\n%s", what, fault, p.Stack))
	}
	return r, g.failure(fmt.Errorf("%s %w", what, fault))
}

// failure notes what user code has done.
func (g *guard) failure(fault error) error {
	g.fault.Store(&fault)
	return fault
}

// failed returns what user code has done, or nil.
func (g *guard) failed() error {
	if err := g.fault.Load(); err != nil {
		return *err
	}
	return nil
}

// guarded returns user code that is called through the guard.
func guarded[A, R any](g *guard, what string, call func(A) (R, error)) func(A) (R, error) {
	if call == nil {
		return nil
	}
	return func(a A) (R, error) {
		return calling(g, what, func() (R, error) { return call(a) }, nil)
	}
}

// callback is guarded for code without arguments.
func callback[R any](g *guard, what string, call func() (R, error)) func() (R, error) {
	if call == nil {
		return nil
	}
	return func() (R, error) { return calling(g, what, call, nil) }
}

// Protect puts a guard before the user's code in the options. The function that it
// returns says what that code has done instead of returning, and nil if it has done
// nothing of the kind.
func Protect(o *nats.Options, log Log) (failed func() error) {
	g := newGuard(o, log)
	g.protect(o)
	return g.failed
}

// protect puts the guard before the user's code in the options.
func (g *guard) protect(o *nats.Options) {
	if o.CustomDialer != nil {
		o.CustomDialer = &guardedDialer{g: g, user: o.CustomDialer}
	}
	if token := o.TokenHandler; token != nil {
		o.TokenHandler = func() string {
			t, _ := calling(g, "the callback of nats.TokenHandler", func() (string, error) { return token(), nil }, nil)
			return t
		}
	}
	if info := o.UserInfo; info != nil {
		type account struct{ user, password string }
		o.UserInfo = func() (user, password string) {
			a, _ := calling(g, "the callback of nats.UserInfoHandler", func() (a account, _ error) {
				a.user, a.password = info()
				return a, nil
			}, nil)
			return a.user, a.password
		}
	}
	o.UserJWT = callback(g, "the callback for the user's JWT", o.UserJWT)
	o.SignatureCB = guarded(g, "the callback for signatures", o.SignatureCB)
	o.TLSCertCB = callback(g, "the callback for the client's certificate", o.TLSCertCB)
	o.RootCAsCB = callback(g, "the callback for root CAs", o.RootCAsCB)
	if o.TLSConfig != nil {
		o.TLSConfig = g.protectTLS(o.TLSConfig)
	}
}

func (g *guard) protectTLS(user *tls.Config) *tls.Config {
	cfg := user.Clone()
	cfg.GetClientCertificate = guarded(g, "GetClientCertificate of the TLS configuration", cfg.GetClientCertificate)
	if verify := cfg.VerifyPeerCertificate; verify != nil {
		cfg.VerifyPeerCertificate = func(raw [][]byte, chains [][]*x509.Certificate) error {
			return g.verifying("VerifyPeerCertificate", func() error { return verify(raw, chains) })
		}
	}
	if verify := cfg.VerifyConnection; verify != nil {
		cfg.VerifyConnection = func(s tls.ConnectionState) error {
			return g.verifying("VerifyConnection", func() error { return verify(s) })
		}
	}
	return cfg
}

func (g *guard) verifying(what string, verify func() error) error {
	_, err := calling(g, what+" of the TLS configuration", func() (struct{}, error) { return struct{}{}, verify() }, nil)
	return err
}

// guardedDialer is the user's dialer behind the guard.
type guardedDialer struct {
	g    *guard
	user nats.CustomDialer
}

// Dial dials.
func (d *guardedDialer) Dial(network, address string) (net.Conn, error) {
	conn, err := calling(d.g, "the dialer of nats.SetCustomDialer", func() (net.Conn, error) { return d.user.Dial(network, address) }, func(late net.Conn) {
		if late != nil {
			_ = late.Close()
		}
	})
	if err == nil && errors.Is(d.g.failed(), goroutine.ErrHangs) {
		d.g.fault.Store(nil) // it has hung for another server
	}
	return conn, err
}

// SkipTLSHandshake reports whether the dialer makes TLS connections itself. The client
// looks for this method.
func (d *guardedDialer) SkipTLSHandshake() bool {
	skips, ok := d.user.(interface{ SkipTLSHandshake() bool })
	return ok && skips.SkipTLSHandshake()
}
