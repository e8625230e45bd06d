package broker_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"
	"go-micro.dev/v5/broker"

	jsbroker "go-micro-jetstream/broker"
	"go-micro-jetstream/internal/natstest"
)

// whatIsShown collects everything by which a secret could get out: the log, the
// events that metrics and traces are made of, errors and the address.
type whatIsShown struct {
	log *natstest.Log

	mu    sync.Mutex
	texts []string
}

func (w *whatIsShown) add(v any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.texts = append(w.texts, fmt.Sprintf("%+v", v))
}

// options have a broker show itself.
func (w *whatIsShown) options() []broker.Option {
	w.log = natstest.NewLog()
	return []broker.Option{broker.Logger(w.log), jsbroker.WithHooks(jsbroker.Hooks{
		ConnectionChanged: func(_ context.Context, e jsbroker.ConnectionChanged) { w.add(e) },
		Published:         func(_ context.Context, e jsbroker.Published) { w.add(e) },
		SubscribeFailed:   func(_ context.Context, e jsbroker.SubscribeFailed) { w.add(e) },
		FetchError:        func(_ context.Context, e jsbroker.FetchError) { w.add(e) },
	})}
}

func (w *whatIsShown) mustNotContain(t *testing.T, secrets ...string) {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	shown := w.log.Text() + strings.Join(w.texts, "\n")
	if !strings.Contains(shown, "jetstream: connected to ") {
		t.Errorf("nothing was shown at all:\n%s", shown)
	}
	for _, secret := range secrets {
		if secret == "" || strings.Contains(shown, secret) {
			t.Errorf("the secret %q is shown:\n%s", secret, shown)
		}
	}
}

// connects checks that a broker with the right credential works, and that none
// does with the wrong ones, and that none of them shows a secret.
func connects(t *testing.T, s *server.Server, right broker.Option, wrong map[string]broker.Option, secrets ...string) {
	t.Helper()
	w := &whatIsShown{}
	addr := broker.Addrs(s.ClientURL())
	try := func(name string, opt broker.Option) error {
		b, err := connectTo(t, append(w.options(), addr, opt)...)
		w.add(b.Address())
		if err != nil {
			w.add(err)
			w.add(b.Publish("orders", message("x")))
		}
		return err
	}
	for name, opt := range wrong {
		if err := try(name, opt); err == nil {
			t.Errorf("%s: connected", name)
		}
	}
	eventually(t, "no connection is left", func() bool { return s.NumClients() == 0 })
	if err := try("right", right); err != nil {
		t.Fatal(err)
	}
	w.mustNotContain(t, secrets...)
}

// clientCertificate is one that a client shows, signed by the authority.
func (a *authority) clientCertificate(t *testing.T) tls.Certificate {
	der, key := certificate(t, &x509.Certificate{
		SerialNumber: big.NewInt(3), Subject: pkix.Name{CommonName: "payments"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}, a)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func TestMutualTLS(t *testing.T) {
	t.Parallel()
	ca, stranger := newAuthority(t), newAuthority(t)
	s := startServer(t, func(o *server.Options) {
		o.TLSConfig, o.TLS, o.TLSVerify, o.TLSTimeout = ca.serverTLS(t), true, true, 5
		o.TLSConfig.ClientAuth, o.TLSConfig.ClientCAs = tls.RequireAndVerifyClientCert, ca.pool
	})
	with := func(certificates ...tls.Certificate) broker.Option {
		return broker.TLSConfig(&tls.Config{MinVersion: tls.VersionTLS12, RootCAs: ca.pool, Certificates: certificates})
	}
	connects(t, s, with(ca.clientCertificate(t)), map[string]broker.Option{
		"no certificate":                   with(),
		"certificate of another authority": with(stranger.clientCertificate(t)),
		"certificate, but the server's authority is unknown": broker.TLSConfig(&tls.Config{
			MinVersion: tls.VersionTLS12, RootCAs: stranger.pool, Certificates: []tls.Certificate{ca.clientCertificate(t)},
		}),
	})
}

func TestToken(t *testing.T) {
	t.Parallel()
	s := startServer(t, func(o *server.Options) { o.Authorization = "s3cret-token" })
	host := s.Addr().String()
	for name, right := range map[string]broker.Option{
		"in the address": broker.Addrs("nats://s3cret-token@" + host),
		"bare address":   broker.Addrs("s3cret-token@" + host),
		"as an option":   jsbroker.WithNATSOptions(nats.Token("s3cret-token")),
	} {
		t.Run(name, func(t *testing.T) {
			connects(t, s, right, map[string]broker.Option{
				"none":                 jsbroker.WithNATSOptions(),
				"wrong, in an address": broker.Addrs("nats://wr0ng-token@" + host),
				"wrong, as an option":  jsbroker.WithNATSOptions(nats.Token("wr0ng-token")),
			}, "s3cret-token", "wr0ng-token")
		})
	}
}

// seedFile writes a key for nats.NkeyOptionFromSeed.
func seedFile(t *testing.T, key nkeys.KeyPair) (file, seed, public string) {
	t.Helper()
	text, err := key.Seed()
	if err != nil {
		t.Fatal(err)
	}
	return secretFile(t, "user.nk", text), string(text), publicKey(t, key)
}

func secretFile(t *testing.T, name string, text []byte) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func newKey(t *testing.T, create func() (nkeys.KeyPair, error)) nkeys.KeyPair {
	t.Helper()
	key, err := create()
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func publicKey(t *testing.T, key nkeys.KeyPair) string {
	t.Helper()
	public, err := key.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	return public
}

func TestNKey(t *testing.T) {
	t.Parallel()
	file, seed, public := seedFile(t, newKey(t, nkeys.CreateUser))
	strangerFile, strangerSeed, _ := seedFile(t, newKey(t, nkeys.CreateUser))
	s := startServer(t, func(o *server.Options) { o.Nkeys = []*server.NkeyUser{{Nkey: public}} })
	with := func(file string) broker.Option {
		opt, err := nats.NkeyOptionFromSeed(file)
		if err != nil {
			t.Fatal(err)
		}
		return jsbroker.WithNATSOptions(opt)
	}
	connects(t, s, with(file), map[string]broker.Option{
		"no key":       jsbroker.WithNATSOptions(),
		"another key":  with(strangerFile),
		"signed wrong": jsbroker.WithNATSOptions(nats.Nkey(public, func([]byte) ([]byte, error) { return []byte("not a signature"), nil })),
	}, seed, strangerSeed)
}

// decentralised is an operator with an account that may use JetStream, as
// nsc makes them, and a server that trusts the operator.
type decentralised struct {
	server  *server.Server
	account nkeys.KeyPair
}

func newDecentralised(t *testing.T, change ...func(*jwt.AccountClaims)) *decentralised {
	t.Helper()
	operator, system := newKey(t, nkeys.CreateOperator), newKey(t, nkeys.CreateAccount)
	d := &decentralised{account: newKey(t, nkeys.CreateAccount)}
	resolver := &server.MemAccResolver{}
	encode := func(claims jwt.Claims) string {
		token, err := claims.Encode(operator)
		if err != nil {
			t.Fatal(err)
		}
		return token
	}
	for _, account := range []nkeys.KeyPair{system, d.account} {
		claims := jwt.NewAccountClaims(publicKey(t, account))
		if account == d.account {
			claims.Limits.JetStreamLimits = jwt.JetStreamLimits{MemoryStorage: -1, DiskStorage: -1, Streams: -1, Consumer: -1}
			for _, change := range change {
				change(claims)
			}
		}
		if err := resolver.Store(claims.Subject, encode(claims)); err != nil {
			t.Fatal(err)
		}
	}
	claims := jwt.NewOperatorClaims(publicKey(t, operator))
	claims.SystemAccount = publicKey(t, system)
	trusted, err := jwt.DecodeOperatorClaims(encode(claims))
	if err != nil {
		t.Fatal(err)
	}
	d.server = startServer(t, func(o *server.Options) {
		o.TrustedOperators, o.AccountResolver, o.SystemAccount = []*jwt.OperatorClaims{trusted}, resolver, claims.SystemAccount
	})
	return d
}

// credentials writes the file of a user that an account has signed, and returns
// it and what must stay secret.
func (d *decentralised) credentials(t *testing.T, account nkeys.KeyPair, change func(*jwt.UserClaims)) (file string, secrets []string) {
	t.Helper()
	user := newKey(t, nkeys.CreateUser)
	claims := jwt.NewUserClaims(publicKey(t, user))
	change(claims)
	token, err := claims.Encode(account)
	if err != nil {
		t.Fatal(err)
	}
	seed, err := user.Seed()
	if err != nil {
		t.Fatal(err)
	}
	text, err := jwt.FormatUserConfig(token, seed)
	if err != nil {
		t.Fatal(err)
	}
	return secretFile(t, "payments.creds", text), []string{string(seed), token}
}

func TestCredentialsFile(t *testing.T) {
	t.Parallel()
	d := newDecentralised(t)
	file, secrets := d.credentials(t, d.account, func(*jwt.UserClaims) {})
	expired, more := d.credentials(t, d.account, func(c *jwt.UserClaims) { c.Expires = time.Now().Add(-time.Hour).Unix() })
	secrets = append(secrets, more...)
	unknown, more := d.credentials(t, newKey(t, nkeys.CreateAccount), func(*jwt.UserClaims) {})
	secrets = append(secrets, more...)
	with := func(file string) broker.Option { return jsbroker.WithNATSOptions(nats.UserCredentials(file)) }
	connects(t, d.server, with(file), map[string]broker.Option{
		"no credentials":         jsbroker.WithNATSOptions(),
		"expired":                with(expired),
		"of an unknown account":  with(unknown),
		"no such file":           with(file + ".not"),
		"not a credentials file": with(secretFile(t, "user.nk", []byte("SUAnothing"))),
	}, secrets...)
}

func TestCredentialsFileIsReadAgainAtEachReconnect(t *testing.T) {
	t.Parallel()
	d := newDecentralised(t)
	soon := time.Now().Add(5 * time.Second) // enough to connect before, also on a busy machine
	file, _ := d.credentials(t, d.account, func(c *jwt.UserClaims) { c.Expires = soon.Unix() + 1 })
	renewed, _ := d.credentials(t, d.account, func(*jwt.UserClaims) {})
	states, onState := hookChan[jsbroker.ConnectionChanged]()
	b := newBroker(t, d.server, jsbroker.WithNATSOptions(nats.UserCredentials(file), nats.ReconnectWait(20*time.Millisecond)),
		jsbroker.WithHooks(jsbroker.Hooks{ConnectionChanged: onState}))
	h, got := collector()
	subscribe(t, b, "orders", h, broker.Queue("q"))
	for receive(t, states).State != jsbroker.StateDisconnected { // by the server, as they have expired
	}
	if err := os.Rename(renewed, file); err != nil {
		t.Fatal(err)
	}
	for receive(t, states).State != jsbroker.StateReconnected {
	}
	publish(t, b, "orders", "x")
	receive(t, got)
}

func TestSecureDoesNotReconnectInPlainText(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	r := natstest.StartRestartable(t, func(o *server.Options) { o.TLSConfig, o.TLS, o.TLSTimeout = ca.serverTLS(t), true, patience.Seconds() })
	states, onState := hookChan[jsbroker.ConnectionChanged]()
	b, err := connectTo(t, broker.Addrs(r.Addr().String()), broker.Secure(true),
		broker.TLSConfig(&tls.Config{MinVersion: tls.VersionTLS12, RootCAs: ca.pool}), jsbroker.WithHooks(jsbroker.Hooks{ConnectionChanged: onState}),
		jsbroker.WithNATSOptions(nats.ReconnectWait(20*time.Millisecond), nats.ReconnectJitter(0, 0)))
	if err != nil {
		t.Fatal(err)
	}
	r.Stop()
	secured := r.Options.TLSConfig
	r.Options.TLSConfig, r.Options.TLS = nil, false
	r.Start(t)
	eventually(t, "the client has tried again", func() bool {
		v, err := r.Varz(nil)
		return err == nil && v.TotalConnections >= 3
	})
	for len(states) > 0 {
		if e := <-states; e.State == jsbroker.StateReconnected {
			t.Fatal("reconnected in plain text")
		}
	}
	r.Stop()
	r.Options.TLSConfig, r.Options.TLS = secured, true
	r.Start(t)
	for receive(t, states).State != jsbroker.StateReconnected {
	}
	publish(t, b, "orders", "x", broker.PublishContext(testContext(t)))
}
