package link

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"runtime/debug"
	"sync/atomic"

	"github.com/nats-io/nats.go"
)

// guard calls the user's code that the client needs to connect. nats.go calls that with
// its lock held. A panic there would end the process on a reconnect, and a
// runtime.Goexit would leave the client locked for ever. With the guard the attempt to
// connect fails. It is safe for concurrent use.
type guard struct {
	c     *Conn
	fault atomic.Pointer[error] // the latest
}

// run calls user code on a goroutine of its own, and waits for it.
func (g *guard) run(what string, call func()) error {
	err := fmt.Errorf("%s has ended its goroutine (runtime.Goexit)", what)
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer func() {
			if r := recover(); r != nil {
				err = fmt.Errorf("%s panicked: %v", what, r)
				g.c.line(slog.LevelError, fmt.Sprintf("%v\n%s", err, debug.Stack()))
			}
		}()
		call()
		err = nil
	}()
	<-done
	if err != nil {
		g.fault.Store(&err)
	}
	return err
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
	return func(a A) (r R, err error) {
		if fault := g.run(what, func() { r, err = call(a) }); fault != nil {
			var none R
			return none, fault
		}
		return r, err
	}
}

// callback is guarded for code without arguments.
func callback[R any](g *guard, what string, call func() (R, error)) func() (R, error) {
	if call == nil {
		return nil
	}
	with := guarded(g, what, func(struct{}) (R, error) { return call() })
	return func() (R, error) { return with(struct{}{}) }
}

// protect puts the guard before the user's code in the options.
func (g *guard) protect(o *nats.Options) {
	if o.CustomDialer != nil {
		o.CustomDialer = &guardedDialer{g: g, user: o.CustomDialer}
	}
	if token := o.TokenHandler; token != nil {
		o.TokenHandler = func() (t string) {
			_ = g.run("the callback of nats.TokenHandler", func() { t = token() })
			return t
		}
	}
	if info := o.UserInfo; info != nil {
		o.UserInfo = func() (user, password string) {
			_ = g.run("the callback of nats.UserInfoHandler", func() { user, password = info() })
			return user, password
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
		cfg.VerifyPeerCertificate = func(raw [][]byte, chains [][]*x509.Certificate) (err error) {
			return errors.Join(g.run("VerifyPeerCertificate of the TLS configuration", func() { err = verify(raw, chains) }), err)
		}
	}
	if verify := cfg.VerifyConnection; verify != nil {
		cfg.VerifyConnection = func(s tls.ConnectionState) (err error) {
			return errors.Join(g.run("VerifyConnection of the TLS configuration", func() { err = verify(s) }), err)
		}
	}
	return cfg
}

// guardedDialer is the user's dialer behind the guard.
type guardedDialer struct {
	g    *guard
	user nats.CustomDialer
}

// Dial dials.
func (d *guardedDialer) Dial(network, address string) (conn net.Conn, err error) {
	if fault := d.g.run("the dialer of nats.SetCustomDialer", func() { conn, err = d.user.Dial(network, address) }); fault != nil {
		return nil, fault
	}
	return conn, err
}

// SkipTLSHandshake reports whether the dialer makes TLS connections itself. The client
// looks for this method.
func (d *guardedDialer) SkipTLSHandshake() bool {
	skips, ok := d.user.(interface{ SkipTLSHandshake() bool })
	return ok && skips.SkipTLSHandshake()
}
