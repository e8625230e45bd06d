package broker_test

import (
	"crypto/tls"
	"crypto/x509"
	"net"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"go-micro.dev/v5/broker"

	jsbroker "go-micro-jetstream/broker"
	"go-micro-jetstream/internal/natstest"
)

// dialer is a dialer of the user.
type dialer func()

func (d dialer) Dial(network, address string) (net.Conn, error) {
	d()
	return net.Dial(network, address)
}

// userCode are the places where code of the user runs in Connect.
var userCode = map[string]func(run func()) nats.Option{
	"an option": func(run func()) nats.Option { return func(*nats.Options) error { run(); return nil } },
	"dialer":    func(run func()) nats.Option { return nats.SetCustomDialer(dialer(run)) },
	"TokenHandler": func(run func()) nats.Option {
		return nats.TokenHandler(func() string { run(); return "t" })
	},
	"UserInfoHandler": func(run func()) nats.Option {
		return nats.UserInfoHandler(func() (string, string) { run(); return "u", "p" })
	},
	"JWT": func(run func()) nats.Option {
		return func(o *nats.Options) error {
			o.UserJWT = func() (string, error) { run(); return "", nil }
			return nil
		}
	},
}

// Whatever code of the user does in Connect, Connect says so, and neither it nor
// Disconnect hangs later.
func TestCodeOfTheUserInConnect(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	for name, option := range userCode {
		for how, do := range map[string]func(){"panicked": func() { panic("boom") }, "Goexit": runtime.Goexit} {
			t.Run(name+" "+how, func(t *testing.T) {
				var calm atomic.Bool
				b := unconnected(s, jsbroker.WithNATSOptions(option(func() {
					if !calm.Load() {
						do()
					}
				})))
				for range 2 {
					result := make(chan error, 1)
					go func() { result <- b.Connect() }()
					err := receive(t, result)
					if err == nil || !strings.Contains(err.Error(), how) || !strings.Contains(err.Error(), name) {
						t.Errorf("got %v", err)
					}
					go func() { result <- b.Disconnect() }()
					noErr(t, receive(t, result))
				}
				calm.Store(true)
				connectNow(t, b)
				publish(t, b, "orders", "x")
			})
		}
	}
}

// The same for what a TLS configuration calls.
func TestCodeOfTheUserInTheTLSHandshake(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	s := startServer(t, func(o *server.Options) {
		o.TLSConfig, o.TLS, o.TLSTimeout = ca.serverTLS(t), true, patience.Seconds()
	})
	cfg := &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: ca.pool, VerifyPeerCertificate: func([][]byte, [][]*x509.Certificate) error { panic("boom") }}
	b, err := connectTo(t, broker.Addrs(s.Addr().String()), broker.TLSConfig(cfg))
	if err == nil || !strings.Contains(err.Error(), "VerifyPeerCertificate") || !strings.Contains(err.Error(), "boom") {
		t.Errorf("got %v", err)
	}
	noErr(t, b.Disconnect())
}

// On a reconnect the attempt fails, and the next one may succeed.
func TestCodeOfTheUserInAReconnect(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	p := natstest.StartProxy(t, s)
	states, onState := hookChan[jsbroker.ConnectionChanged]()
	var calls atomic.Int64
	b := newBroker(t, s, broker.Addrs(p.URL()), quickPings(), jsbroker.WithHooks(jsbroker.Hooks{ConnectionChanged: onState}),
		jsbroker.WithNATSOptions(nats.SetCustomDialer(dialer(func() {
			switch calls.Add(1) {
			case 2:
				panic("boom")
			case 3:
				runtime.Goexit()
			}
		}))))
	p.Cut()
	awaitState(t, states, jsbroker.StateDisconnected)
	awaitState(t, states, jsbroker.StateReconnected)
	publish(t, b, "orders", "x")
}
