package broker_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"math/big"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go-micro.dev/v5/broker"
	"go-micro.dev/v5/logger"

	jsbroker "go-micro-jetstream/broker"
	"go-micro-jetstream/internal/natstest"
)

// connectTo connects a broker with the options and has it used and
// disconnected.
func connectTo(t *testing.T, opts ...broker.Option) (broker.Broker, error) {
	t.Helper()
	b := jsbroker.NewBroker(append([]broker.Option{quiet()}, opts...)...)
	err := b.Connect()
	if err == nil {
		t.Cleanup(func() { _ = b.Disconnect() })
		publish(t, b, "orders", "x")
	}
	return b, err
}

func TestAddressesAreWhatPeopleType(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	hostPort := s.Addr().String()
	for name, addrs := range map[string][]string{
		"bare":                 {hostPort},
		"nats":                 {"nats://" + hostPort},
		"blanks around":        {"  " + hostPort + "\t"},
		"empty ones":           {"", " ", hostPort, ""},
		"comma list":           {"," + hostPort + " , nats://" + hostPort + ","},
		"cluster, one is down": {"127.0.0.1:1", hostPort},
		"list, one is down":    {"127.0.0.1:1," + hostPort},
		"with credentials":     {"somebody:secret@" + hostPort},
	} {
		b, err := connectTo(t, broker.Addrs(addrs...))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if a := b.Address(); a != "nats://"+hostPort {
			t.Errorf("%s: Address() is %q, want %q", name, a, "nats://"+hostPort)
		}
	}
}

func TestAddressBeforeConnect(t *testing.T) {
	t.Parallel()
	for want, addrs := range map[string][]string{
		"nats://127.0.0.1:4222":  nil,
		"nats://10.0.0.1:4222":   {"10.0.0.1:4222", "10.0.0.2:4222"},
		"tls://user-host:4222":   {"tls://user:p@ss@user-host:4222"},
		"ws://10.0.0.1:80":       {"ws://10.0.0.1:80"},
		"nats://token-host":      {"t0k3n@token-host"},
		"wss://h:1/path?q=1":     {"wss://u:p@h:1/path?q=1"},
		"nats://[::1]:4222":      {"[::1]:4222"},
		"nats://127.0.0.1:4222/": {"nats://127.0.0.1:4222/"},
	} {
		b := jsbroker.NewBroker(quiet(), broker.Addrs(addrs...))
		if got := b.Address(); got != want {
			t.Errorf("%v: Address() is %q, want %q", addrs, got, want)
		}
	}
	for _, addrs := range [][]string{{""}, {" ", ","}} {
		if got := jsbroker.NewBroker(broker.Addrs(addrs...)).Address(); got != nats.DefaultURL {
			t.Errorf("%q: Address() is %q", addrs, got)
		}
	}
	if s := jsbroker.NewBroker().String(); s != "jetstream" {
		t.Errorf("String() is %q", s)
	}
}

func TestCredentialsAreNeverShown(t *testing.T) {
	t.Parallel()
	s := startServer(t, func(o *server.Options) { o.Users = []*server.User{{Username: "user", Password: "s3cret"}} })
	hostPort := s.Addr().String()
	log := natstest.NewLog()
	states, onState := hookChan[jsbroker.ConnectionChanged]()
	b, err := connectTo(t, broker.Addrs("user:s3cret@"+hostPort), broker.Logger(log), jsbroker.WithHooks(jsbroker.Hooks{ConnectionChanged: onState}))
	if err != nil {
		t.Fatal(err)
	}
	if a := b.Address(); a != "nats://"+hostPort {
		t.Errorf("Address() is %q", a)
	}
	if e := receive(t, states); e.URL != "nats://"+hostPort {
		t.Errorf("event %+v", e)
	}
	var errs []error
	for _, addr := range []string{
		"user:s3cret@127.0.0.1:1", "nats://user:s3cret@127.0.0.1:notaport", "nats://user:s3cret@[::1", "nats://user:s3cret%zz@host", "nats://user:s3cret/x@host", "http://user:s3cret@host",
		"nats://user:s3cret@ho st", "nats://s3cret@" + hostPort, "user:s3cret@127.0.0.1:1,other:s3cret@127.0.0.1:2",
	} {
		_, err := connectTo(t, broker.Addrs(addr), broker.Logger(log))
		if err == nil {
			t.Errorf("%s: no error", addr)
		}
		errs = append(errs, err)
	}
	errs = append(errs, b.Init(broker.Addrs("nats://user:s3cret@elsewhere:4222")))
	_ = b.Disconnect()
	for _, text := range []string{log.Text(), errors.Join(errs...).Error()} {
		if strings.Contains(text, "s3cret") {
			t.Errorf("a password is shown: %s", text)
		}
	}
}

func TestWrongCredentialsAndUnreachableServersFailPromptly(t *testing.T) {
	t.Parallel()
	s := startServer(t, func(o *server.Options) { o.Users = []*server.User{{Username: "user", Password: "right"}} })
	for name, c := range map[string]struct {
		addr  string
		want  error
		parts []string
	}{
		"wrong password": {"user:wrong@" + s.Addr().String(), nats.ErrAuthorization, []string{s.Addr().String()}},
		"no password":    {s.Addr().String(), nats.ErrAuthorization, []string{s.Addr().String()}},
		"unreachable":    {"127.0.0.1:1", nats.ErrNoServers, []string{"127.0.0.1:1"}},
	} {
		var b broker.Broker
		var err error
		atOnce(t, name, func() { b, err = connectTo(t, broker.Addrs(c.addr)) })
		wantError(t, err, c.want, append(c.parts, "connect")...)
		wantError(t, b.Publish("orders", message("x")), jsbroker.ErrNotConnected)
		// It can be tried again, with other addresses.
		if err := b.Init(as("user:right", s)); err != nil {
			t.Error(err)
		}
		if err := b.Connect(); err != nil {
			t.Errorf("%s: again: %v", name, err)
		}
		_ = b.Disconnect()
	}
}

// The dead letter would be empty, and the original is terminated.
func TestDeadLettersExcludeHeadersOnly(t *testing.T) {
	t.Parallel()
	headersOnly := jsbroker.WithConsumerConfig(jetstream.ConsumerConfig{HeadersOnly: true})
	_, err := connectTo(t, broker.Addrs("127.0.0.1:1"), headersOnly, jsbroker.WithDeadLetter("graves"))
	wantError(t, err, jsbroker.ErrInvalidConfig, "WithDeadLetter", "WithConsumerConfig", "HeadersOnly")
}

func TestOptionsOutOfRangeAreReportedByConnectAndInit(t *testing.T) {
	t.Parallel()
	explicit := jetstream.AckExplicitPolicy
	for name, opt := range map[string]broker.Option{
		"WithBatchSize":              jsbroker.WithBatchSize(0),
		"batch: at most 100000":      jsbroker.WithBatchSize(1 << 59),
		"WithFetchBytes":             jsbroker.WithFetchBytes(0),
		"WithFetchWait":              jsbroker.WithFetchWait(0),
		"WithClientName":             jsbroker.WithClientName(""),
		"WithConcurrency":            jsbroker.WithConcurrency(0),
		"WithShutdownTimeout":        jsbroker.WithShutdownTimeout(-1),
		"WithMaxAckExtension":        jsbroker.WithMaxAckExtension(-1),
		"WithStreamName":             jsbroker.WithStreamName(nil),
		"WithDeadLetter":             jsbroker.WithDeadLetter("a.*"),
		"stream: WithStreamConfig":   jsbroker.WithStreamConfig(jetstream.StreamConfig{Name: "a.b"}),
		"NoAck":                      jsbroker.WithStreamConfig(jetstream.StreamConfig{NoAck: true}),
		"consumer: explicit":         jsbroker.WithConsumerConfig(jetstream.ConsumerConfig{AckPolicy: jetstream.AckNonePolicy}),
		"consumer: Durable":          jsbroker.WithConsumerConfig(jetstream.ConsumerConfig{AckPolicy: explicit, Durable: "x"}),
		"consumer: broker.Queue":     jsbroker.WithConsumerConfig(jetstream.ConsumerConfig{AckPolicy: explicit, Name: "x"}),
		"consumer: filter":           jsbroker.WithConsumerConfig(jetstream.ConsumerConfig{AckPolicy: explicit, FilterSubject: "x"}),
		"consumers: filter":          jsbroker.WithConsumerConfig(jetstream.ConsumerConfig{AckPolicy: explicit, FilterSubjects: []string{"x"}}),
		"consumer: DeliverSubject":   jsbroker.WithConsumerConfig(jetstream.ConsumerConfig{AckPolicy: explicit, DeliverSubject: "x"}),
		"consumer: priority":         jsbroker.WithConsumerConfig(jetstream.ConsumerConfig{AckPolicy: explicit, PriorityGroups: []string{"x"}}),
		"consumer: ReplayPolicy":     jsbroker.WithConsumerConfig(jetstream.ConsumerConfig{AckPolicy: explicit, ReplayPolicy: jetstream.ReplayOriginalPolicy}),
		"consumer: at least 10ms":    jsbroker.WithConsumerConfig(jetstream.ConsumerConfig{AckPolicy: explicit, AckWait: 30}),
		"consumers: at least 10ms":   jsbroker.WithConsumerConfig(jetstream.ConsumerConfig{AckPolicy: explicit, MaxDeliver: 3, BackOff: []time.Duration{1, 2}}),
		"consumer: AckWait":          jsbroker.WithConsumerConfig(jetstream.ConsumerConfig{AckPolicy: explicit, AckWait: -1}),
		"consumer: BackOff":          jsbroker.WithConsumerConfig(jetstream.ConsumerConfig{AckPolicy: explicit, MaxDeliver: 1, BackOff: []time.Duration{1, 2}}),
		"hook: the constructor says": jsbroker.WithHooks(jsbroker.Hooks{Err: errors.New("the constructor says")}),
		"address: scheme":            broker.Addrs("http://localhost:4222"),
	} {
		_, part, ok := strings.Cut(name, ": ")
		if !ok {
			part = name
		}
		_, err := connectTo(t, broker.Addrs("127.0.0.1:1"), opt)
		wantError(t, err, jsbroker.ErrInvalidConfig, part)

		b := jsbroker.NewBroker(quiet())
		wantError(t, b.Init(opt), jsbroker.ErrInvalidConfig, part)
		// What failed has changed nothing.
		if err := b.Init(broker.Addrs("127.0.0.1:1")); err != nil {
			t.Errorf("%s: a later Init: %v", name, err)
		}
	}
}

// The last value of an option counts. Hooks add up, and one that was refused would be missing.
func TestInitMendsWhatNewBrokerWasGiven(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	bad := jsbroker.WithHooks(jsbroker.Hooks{Err: errors.New("the constructor says")})
	for name, c := range map[string]struct {
		wrong, right broker.Option
		stays        bool
	}{
		"WithBatchSize":    {jsbroker.WithBatchSize(0), jsbroker.WithBatchSize(5), false},
		"WithStreamConfig": {jsbroker.WithStreamConfig(jetstream.StreamConfig{NoAck: true}), jsbroker.WithStreamConfig(jetstream.StreamConfig{}), false},
		"Addrs":            {broker.Addrs("http://localhost:4222"), broker.Addrs(s.ClientURL()), false},
		"another option":   {jsbroker.WithBatchSize(0), jsbroker.WithConcurrency(2), true},
		"hooks":            {bad, jsbroker.WithHooks(jsbroker.Hooks{}), true},
	} {
		b := jsbroker.NewBroker(quiet(), broker.Addrs(s.ClientURL()), c.wrong)
		wantError(t, b.Connect(), jsbroker.ErrInvalidConfig)
		err := b.Init(c.right)
		if c.stays {
			wantError(t, err, jsbroker.ErrInvalidConfig)
			wantError(t, b.Connect(), jsbroker.ErrInvalidConfig)
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		wantError(t, b.Init(c.wrong), jsbroker.ErrInvalidConfig)
		noErr(t, b.Connect())
		noErr(t, b.Disconnect())
	}
}

func TestNilOptionsContextsAndLoggersAreFine(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	noContext := func(o *broker.Options) { o.Context = nil }
	b := jsbroker.NewBroker(nil, noContext, broker.Addrs(s.ClientURL()), broker.Logger(nil), broker.ErrorHandler(nil), broker.Registry(nil), broker.TLSConfig(nil),
		jsbroker.WithNATSOptions(nil), jsbroker.WithNATSOptions(), jsbroker.WithHooks(), jsbroker.WithHooks(jsbroker.Hooks{}), nil)
	if err := b.Init(); err != nil {
		t.Fatal(err)
	}
	if err := b.Init(nil, quiet()); err != nil {
		t.Fatal(err)
	}
	if err := b.Connect(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = b.Disconnect() }()
	h, got := collector()
	sub := subscribe(t, b, "orders", h, nil, broker.SubscribeContext(nilContext), broker.Queue(""))
	publish(t, b, "orders", "x", nil, broker.PublishContext(nilContext), jsbroker.MessageID(""))
	if body := receive(t, got); body != "x" {
		t.Fatalf("got %q", body)
	}
	if err := sub.Unsubscribe(); err != nil {
		t.Fatal(err)
	}
	if o := b.Options(); o.Context == nil || o.Logger == nil {
		t.Errorf("options %+v", o)
	}
	for _, e := range []broker.Event{nil, (broker.Event)(nil)} {
		if ctx := jsbroker.EventContext(e); ctx == nil || ctx.Err() != nil {
			t.Errorf("EventContext(nil) is %v", ctx)
		}
	}
}

func TestInitWorksAsNewBrokerDoes(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	// As go-micro does for --broker=jetstream --broker_address=...
	b := jsbroker.NewBroker()
	if err := b.Init(quiet()); err != nil {
		t.Fatal(err)
	}
	if err := b.Init(broker.Addrs(s.Addr().String()), jsbroker.WithClientName("by-init")); err != nil {
		t.Fatal(err)
	}
	if a := b.Address(); a != "nats://"+s.Addr().String() {
		t.Errorf("Address() is %q", a)
	}
	if err := b.Connect(); err != nil {
		t.Fatal(err)
	}
	publish(t, b, "orders", "x")
	if names := clientNames(t, s); !slices.Contains(names, "by-init") {
		t.Errorf("clients %v", names)
	}
	if got := b.Options().Addrs; !slices.Equal(got, []string{s.Addr().String()}) {
		t.Errorf("options %v", got)
	}
	if err := b.Disconnect(); err != nil {
		t.Fatal(err)
	}
}

func clientNames(t testing.TB, s *server.Server) []string {
	t.Helper()
	conns, err := s.Connz(nil)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, c := range conns.Conns {
		names = append(names, c.Name)
	}
	return names
}

func TestClientNameIsShownToOperators(t *testing.T) {
	t.Parallel()
	host, err := os.Hostname()
	if err != nil {
		t.Skip("this machine has no name")
	}
	for want, opts := range map[string][]broker.Option{
		"go-micro-" + host: nil,
		"mine":             {jsbroker.WithClientName("mine")},
		"theirs":           {jsbroker.WithClientName("mine"), jsbroker.WithNATSOptions(nats.Name("theirs"))},
	} {
		s := startServer(t)
		states, onState := hookChan[jsbroker.ConnectionChanged]()
		newBroker(t, s, append(opts, jsbroker.WithHooks(jsbroker.Hooks{ConnectionChanged: onState}))...)
		if names := clientNames(t, s); !slices.Equal(names, []string{want}) {
			t.Errorf("clients %v, want %s", names, want)
		}
		if e := receive(t, states); e.ClientName != want || e.State != jsbroker.StateConnected {
			t.Errorf("event %+v, want the name %s", e, want)
		}
	}
}

func TestInitOnALiveConnection(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	hostPort := s.Addr().String()
	b := newBroker(t, s)
	for name, opt := range map[string]broker.Option{
		"same, bare":          broker.Addrs(hostPort),
		"same, with scheme":   broker.Addrs("nats://" + hostPort),
		"same, and empty":     broker.Addrs("", hostPort, " "),
		"registry":            broker.Registry(nil),
		"not secure":          broker.Secure(false),
		"of later subscribes": jsbroker.WithBatchSize(3),
		"same logger":         broker.Logger(b.Options().Logger),
	} {
		if err := b.Init(opt); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, opt := range map[string]broker.Option{
		"broker.Addrs":     broker.Addrs("nats://elsewhere:4222"),
		"broker.Secure":    broker.Secure(true),
		"broker.TLSConfig": broker.TLSConfig(&tls.Config{MinVersion: tls.VersionTLS13}),
		"WithClientName":   jsbroker.WithClientName("other"),
		"WithNATSOptions":  jsbroker.WithNATSOptions(nats.NoReconnect()),
		"WithHooks":        jsbroker.WithHooks(jsbroker.Hooks{}),
		"WithAsyncWindow":  jsbroker.WithAsyncWindow(2),
		"broker.Logger":    broker.Logger(natstest.NewLog()),
	} {
		before := b.Options()
		wantError(t, b.Init(opt, jsbroker.WithStreamName(func(string) string { return "SPOILED" })), jsbroker.ErrInvalidConfig, "while connected", "Disconnect")
		if after := b.Options(); !slices.Equal(before.Addrs, after.Addrs) || before.Secure != after.Secure || before.TLSConfig != after.TLSConfig {
			t.Errorf("%s: the failed Init changed the options to %+v", name, after)
		}
	}
	if a := b.Address(); a != "nats://"+hostPort {
		t.Errorf("Address() is %q", a)
	}
	publish(t, b, "orders", "x")
	_, js := natsConn(t, s)
	streamInfo(t, js, "ORDERS") // not SPOILED

	// Disconnected, everything may change.
	other := startServer(t)
	if err := b.Disconnect(); err != nil {
		t.Fatal(err)
	}
	if err := b.Init(broker.Addrs(other.ClientURL()), jsbroker.WithClientName("other")); err != nil {
		t.Fatal(err)
	}
	if err := b.Connect(); err != nil {
		t.Fatal(err)
	}
	if names := clientNames(t, other); !slices.Equal(names, []string{"other"}) {
		t.Errorf("clients %v", names)
	}
}

func TestInitAppliesToWhatComesLater(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	_, js := natsConn(t, s)
	b := newBroker(t, s)
	publish(t, b, "orders", "x")
	if err := b.Init(jsbroker.WithStreamConfig(jetstream.StreamConfig{MaxMsgs: 5})); err != nil {
		t.Fatal(err)
	}
	publish(t, b, "users", "x")
	if cfg := streamInfo(t, js, "USERS").Config; cfg.MaxMsgs != 5 {
		t.Errorf("created %+v", cfg)
	}
}

func TestNATSOptionsOfTheUserWin(t *testing.T) {
	t.Parallel()
	s := natstest.StartRestartable(t)
	disconnected, reconnected, closed, legacy := make(chan error, 10), make(chan string, 10), make(chan bool, 10), make(chan bool, 10)
	failed := make(chan error, 10)
	states, onState := hookChan[jsbroker.ConnectionChanged]()
	b := newBroker(t, s.Server,
		jsbroker.WithNATSOptions(nats.ReconnectWait(20*time.Millisecond), nats.ReconnectJitter(0, 0), nats.CustomInboxPrefix("_MINE"), nil),
		jsbroker.WithNATSOptions(
			nats.DisconnectErrHandler(func(_ *nats.Conn, err error) { disconnected <- err }),
			nats.ReconnectHandler(func(nc *nats.Conn) { reconnected <- nc.ConnectedUrl() }),
			nats.ClosedHandler(func(*nats.Conn) { closed <- true }),
			nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { failed <- err }),
		), jsbroker.WithHooks(jsbroker.Hooks{ConnectionChanged: onState}))
	old := newBroker(t, s.Server, jsbroker.WithNATSOptions(nats.ReconnectWait(20*time.Millisecond),
		nats.DisconnectHandler(func(*nats.Conn) { legacy <- true })))
	publish(t, old, "orders", "x")

	nc, _ := natsConn(t, s.Server)
	inbox := natstest.CountRequests(t, nc, "_MINE.>")
	publish(t, b, "orders", "x")
	if inbox.Seen(t) == 0 {
		t.Error("no answers on the user's inbox prefix")
	}
	nc.Close()
	s.Stop()
	_ = receive(t, disconnected)
	receive(t, legacy)
	s.Start(t)
	if url := receive(t, reconnected); url == "" {
		t.Error("no URL")
	}
	publish(t, b, "orders", "x")
	if err := b.Disconnect(); err != nil {
		t.Fatal(err)
	}
	receive(t, closed)
	for _, want := range []jsbroker.ConnectionState{jsbroker.StateConnected, jsbroker.StateDisconnected, jsbroker.StateReconnected, jsbroker.StateClosed} {
		if e := receive(t, states); e.State != want {
			t.Errorf("state %s, want %s", e.State, want)
		}
	}
}

func TestReconnectPolicyOfTheUserWins(t *testing.T) {
	t.Parallel()
	s := natstest.StartRestartable(t)
	states, onState := hookChan[jsbroker.ConnectionChanged]()
	b := newBroker(t, s.Server, jsbroker.WithNATSOptions(nats.NoReconnect()), jsbroker.WithHooks(jsbroker.Hooks{ConnectionChanged: onState}))
	publish(t, b, "orders", "x")
	s.Stop()
	for receive(t, states).State != jsbroker.StateClosed {
	}
	atOnce(t, "to say so", func() {
		wantError(t, b.Publish("orders", message("x")), jsbroker.ErrNotConnected)
		_, err := b.Subscribe("orders", ignore)
		wantError(t, err, jsbroker.ErrNotConnected)
	})
	s.Start(t)
	if err := b.Connect(); err != nil {
		t.Fatal(err)
	}
	publish(t, b, "orders", "x")
}

func TestFailingNATSOptionIsReported(t *testing.T) {
	t.Parallel()
	_, err := connectTo(t, jsbroker.WithNATSOptions(func(*nats.Options) error { return errors.New("no such file") }))
	wantError(t, err, jsbroker.ErrInvalidConfig, "WithNATSOptions", "no such file")
}

func TestInProcessConnection(t *testing.T) {
	t.Parallel()
	s := startServer(t, func(o *server.Options) { o.DontListen = true })
	if _, err := connectTo(t, jsbroker.WithNATSOptions(nats.InProcessServer(s))); err != nil {
		t.Fatal(err)
	}
}

// authority is a certificate authority made for one test.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pool *x509.CertPool
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{}
	var der []byte
	der, a.key = certificate(t, &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}, nil)
	var err error
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	a.pool = x509.NewCertPool()
	a.pool.AddCert(a.cert)
	return a
}

func certificate(t *testing.T, template *x509.Certificate, by *authority) ([]byte, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	parent, signer := template, key
	if by != nil {
		parent, signer = by.cert, by.key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	return der, key
}

// serverTLS is the configuration of a server at 127.0.0.1.
func (a *authority) serverTLS(t *testing.T) *tls.Config {
	der, key := certificate(t, &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "server"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}, a)
	return &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
}

func TestTLS(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	s := startServer(t, func(o *server.Options) { o.TLSConfig, o.TLS, o.TLSTimeout = ca.serverTLS(t), true, 5 })
	hostPort := s.Addr().String()
	trust := broker.TLSConfig(&tls.Config{MinVersion: tls.VersionTLS12, RootCAs: ca.pool})
	for name, opts := range map[string][]broker.Option{
		"tls:// and TLSConfig":      {broker.Addrs("tls://" + hostPort), trust},
		"Secure and TLSConfig":      {broker.Addrs(hostPort), broker.Secure(true), trust},
		"TLSConfig alone":           {broker.Addrs(hostPort), trust},
		"Secure with nats://":       {broker.Addrs("nats://" + hostPort), broker.Secure(true), trust},
		"NATS options":              {broker.Addrs("tls://" + hostPort), jsbroker.WithNATSOptions(nats.Secure(&tls.Config{MinVersion: tls.VersionTLS12, RootCAs: ca.pool}))},
		"NATS options win":          {broker.Addrs(hostPort), broker.Secure(true), broker.TLSConfig(&tls.Config{MinVersion: tls.VersionTLS12}), jsbroker.WithNATSOptions(nats.Secure(&tls.Config{MinVersion: tls.VersionTLS12, RootCAs: ca.pool}))},
		"credentials and Secure":    {broker.Addrs("u:p@" + hostPort), broker.Secure(true), trust},
		"Init with Secure later on": {broker.Addrs(hostPort), broker.Secure(false), broker.Secure(true), trust},
	} {
		b, err := connectTo(t, opts...)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if a := b.Address(); !strings.HasSuffix(a, "://"+hostPort) {
			t.Errorf("%s: Address() is %q", name, a)
		}
	}
	for name, opts := range map[string][]broker.Option{
		"unknown authority": {broker.Addrs(hostPort), broker.Secure(true)},
		"tls:// alone":      {broker.Addrs("tls://" + hostPort)},
	} {
		_, err := connectTo(t, opts...)
		if _, ok := errors.AsType[x509.UnknownAuthorityError](err); !ok {
			t.Errorf("%s: got %v, want that the authority is unknown", name, err)
		}
	}
}

func TestSecureNeverFallsBackToPlainText(t *testing.T) {
	t.Parallel()
	plain := startServer(t, func(o *server.Options) {
		o.Websocket = server.WebsocketOpts{Host: "127.0.0.1", Port: -1, NoTLS: true}
	})
	hostPort := plain.Addr().String()
	ws := strings.TrimPrefix(plain.WebsocketURL(), "ws://")
	config := &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: true} //nolint:gosec // the test is about plain text
	secure, withConfig := broker.Secure(true), broker.TLSConfig(config)
	for name, opts := range map[string][]broker.Option{
		"Secure":               {secure, broker.Addrs(hostPort)},
		"Secure, nats://":      {secure, broker.Addrs("nats://" + hostPort)},
		"Secure, tls://":       {secure, broker.Addrs("tls://" + hostPort)},
		"Secure, ws://":        {secure, broker.Addrs("ws://" + ws)},
		"Secure, wss://":       {secure, broker.Addrs("wss://" + ws)},
		"Secure, mixed":        {secure, broker.Addrs("nats://"+hostPort, "tls://"+hostPort)},
		"TLSConfig":            {withConfig, broker.Addrs(hostPort)},
		"TLSConfig, nats://":   {withConfig, broker.Addrs("nats://" + hostPort)},
		"TLSConfig, ws://":     {withConfig, broker.Addrs("ws://" + ws)},
		"tls://":               {broker.Addrs("tls://" + hostPort)},
		"both, nats:// before": {withConfig, secure, broker.Addrs("nats://"+hostPort, "nats://"+hostPort)},
	} {
		if _, err := connectTo(t, opts...); err == nil {
			t.Errorf("%s: connected in plain text", name)
		}
	}
	if _, err := connectTo(t, broker.Addrs("ws://"+ws)); err != nil {
		t.Errorf("ws:// without Secure: %v", err)
	}
}

func TestLoggerOfGoMicroIsUsed(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	log := natstest.NewLog()
	var _ logger.Logger = log
	b := newBroker(t, s, broker.Logger(log))
	subscribe(t, b, "orders", ignore, broker.Queue("q"))
	lines := log.Text()
	for _, part := range []string{"connected to nats://" + s.Addr().String(), "created stream ORDERS", "subscribed to orders (queue q, stream ORDERS, consumer q)"} {
		if !strings.Contains(lines, part) {
			t.Errorf("the log does not say %q:\n%s", part, lines)
		}
	}
}

func TestConnectIsIdempotent(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	b := newBroker(t, s)
	for range 3 {
		if err := b.Connect(); err != nil {
			t.Fatal(err)
		}
	}
	if n := s.NumClients(); n != 1 {
		t.Errorf("%d connections", n)
	}
}

func TestSubscribeAfterAFailedInitGoesOn(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	b := newBroker(t, s)
	wantError(t, b.Init(jsbroker.WithBatchSize(-1)), jsbroker.ErrInvalidConfig)
	h, got := collector()
	subscribe(t, b, "orders", h)
	publish(t, b, "orders", "x", broker.PublishContext(context.Background()))
	receive(t, got)
	if err := b.Init(jsbroker.WithBatchSize(5)); err != nil {
		t.Error(err)
	}
}

func TestUserWithoutAnInboxIsToldSoByConnect(t *testing.T) {
	t.Parallel()
	s := startServer(t, natstest.Limited(server.Permissions{Subscribe: &server.SubjectPermission{Allow: []string{"_MINE.>"}}}))
	// Without an inbox every answer is lost, and everything would time out.
	atOnce(t, "to say so", func() {
		_, err := connectTo(t, as("limited:pw", s))
		wantError(t, err, jsbroker.ErrPermission, "Subscription", "_INBOX", "nats.CustomInboxPrefix")
	})
	eventually(t, "no connection is left", func() bool { return s.NumClients() == 0 })
	if _, err := connectTo(t, as("limited:pw", s), jsbroker.WithNATSOptions(nats.CustomInboxPrefix("_MINE"))); err != nil {
		t.Errorf("the way out that the error names: %v", err)
	}
}

// The same for what is given to a call, on several brokers at a time.
func TestOptionsOfCallsCanBeShared(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	backOff, metadata := []time.Duration{time.Second}, map[string]string{"team": "a"}
	var handled, outcomes atomic.Int64
	sub := []broker.SubscribeOption{
		broker.Queue("q"), jsbroker.Concurrency(2), jsbroker.OrderBy(func(e broker.Event) string { return e.Topic() }),
		jsbroker.ConsumerConfig(jetstream.ConsumerConfig{BackOff: backOff, MaxDeliver: 2, Metadata: metadata}), broker.SubscribeContext(testContext(t)),
	}
	pub := []broker.PublishOption{jsbroker.MessageID("one"), jsbroker.TTL(time.Hour), jsbroker.Async(func(error) { outcomes.Add(1) }), broker.PublishContext(testContext(t))}
	redrive := []jsbroker.RedriveOption{jsbroker.RedriveLimit(1), jsbroker.RedriveFilter(func(jsbroker.DeadLetter) bool { return true })}
	publish(t, newBroker(t, s), "graves", "no letter")
	const brokers = 4
	var used sync.WaitGroup
	for range brokers {
		b := newBroker(t, s)
		used.Go(func() {
			subscribe(t, b, "orders", func(broker.Event) error { handled.Add(1); return nil }, sub...)
			if err := b.Publish("orders", message("x"), pub...); err != nil {
				t.Error(err)
			}
			if _, err := jsbroker.Redrive(testContext(t), b, "graves", redrive...); err != nil {
				t.Error(err)
			}
		})
	}
	backOff[0], metadata["team"] = 0, "b"
	used.Wait()
	eventually(t, "all have an outcome, and one is handled", func() bool { return outcomes.Load() == brokers && handled.Load() == 1 })
	_, js := natsConn(t, s)
	if cc := natstest.ConsumerInfo(t, js, "ORDERS", "q").Config; cc.BackOff[0] != time.Second || cc.Metadata["team"] != "a" {
		t.Errorf("what the caller has changed counts: %+v", cc)
	}
}

// One option value may serve several brokers, at a time, and the caller may change
// what it was made of.
func TestOptionsCanBeShared(t *testing.T) {
	t.Parallel()
	backOff, subjects := []time.Duration{time.Second}, []string{"orders.>"}
	hooks, nopts := []jsbroker.Hooks{{}}, []nats.Option{nats.NoEcho()}
	opts := []broker.Option{
		jsbroker.WithBatchSize(1), jsbroker.WithFetchBytes(1), jsbroker.WithFetchWait(time.Second), jsbroker.WithClientName("x"),
		jsbroker.WithNATSOptions(nopts...), jsbroker.WithHooks(hooks...), jsbroker.WithConcurrency(2), jsbroker.WithAsyncWindow(2),
		jsbroker.WithStreamConfig(jetstream.StreamConfig{Subjects: subjects}), jsbroker.WithStreamName(func(string) string { return "X" }),
		jsbroker.WithConsumerConfig(jetstream.ConsumerConfig{AckPolicy: jetstream.AckExplicitPolicy, BackOff: backOff}),
		jsbroker.WithDeadLetter("graves"), jsbroker.WithShutdownTimeout(time.Second), jsbroker.WithMaxAckExtension(time.Second),
	}
	var made sync.WaitGroup
	for range 8 {
		made.Go(func() {
			if err := jsbroker.NewBroker(opts...).Init(opts...); err != nil {
				t.Error(err)
			}
		})
	}
	backOff[0], subjects[0], hooks[0].Err, nopts[0] = 0, "spoilt", errors.New("spoilt"), nil
	made.Wait()
	if err := jsbroker.NewBroker(opts...).Init(); err != nil {
		t.Errorf("what the caller has changed counts: %v", err)
	}
}
