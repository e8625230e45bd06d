package broker_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go-micro.dev/v5/broker"
	"go-micro.dev/v5/logger"

	jsbroker "go-micro-jetstream/broker"
)

// patience bounds every wait of the tests. It is no measure of speed: it only
// ends a test whose event never comes.
const patience = 20 * time.Second

// TestMain fails the run if a goroutine of the broker or of its client outlives
// the tests.
func TestMain(m *testing.M) {
	if runAsServer() || runAsService() || runAsDoomed() {
		return
	}
	code := m.Run()
	for deadline := time.Now().Add(patience); code == 0 && len(ourGoroutines()) > 0; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			fmt.Printf("left behind:\n%s\n", strings.Join(ourGoroutines(), "\n\n"))
			code = 1
		}
	}
	os.Exit(code)
}

// ourGoroutines returns the stacks of the goroutines that run code of the
// broker or of the NATS client, tests aside. The embedded server starts and
// ends its own whenever it pleases.
func ourGoroutines() []string {
	buf := make([]byte, 4<<20)
	var ours []string
	for stack := range strings.SplitSeq(string(buf[:runtime.Stack(buf, true)]), "\n\n") {
		if strings.Contains(stack, "nats-io/nats.go") || strings.Contains(stack, "go-micro-jetstream/broker.(") {
			ours = append(ours, stack)
		}
	}
	return ours
}

// startServer runs a real nats-server with JetStream in this process.
func startServer(t testing.TB, change ...func(*server.Options)) *server.Server {
	t.Helper()
	return runServer(t, serverOptions(t, change...))
}

func serverOptions(t testing.TB, change ...func(*server.Options)) *server.Options {
	o := &server.Options{Host: "127.0.0.1", Port: -1, JetStream: true, StoreDir: t.TempDir(), NoSigs: true}
	for _, c := range change {
		c(o)
	}
	return o
}

// startReloadable is startServer, and changes the options of the server while it runs.
func startReloadable(t testing.TB, change func(*server.Options)) (s *server.Server, reload func(change func(*server.Options))) {
	t.Helper()
	o := serverOptions(t, change)
	s = runServer(t, o.Clone())
	return s, func(change func(*server.Options)) {
		t.Helper()
		changed := o.Clone()
		change(changed)
		if err := s.ReloadOptions(changed); err != nil {
			t.Fatal(err)
		}
	}
}

// limited gives a server two users: limited:pw, with these permissions, and
// admin:admin, who may do everything.
func limited(p server.Permissions) func(*server.Options) {
	return func(o *server.Options) {
		o.Users = []*server.User{
			{Username: "admin", Password: "admin"},
			{Username: "limited", Password: "pw", Permissions: &p},
		}
	}
}

// noPublish and noSubscribe are permissions for all but these subjects.
func noPublish(subjects ...string) server.Permissions {
	return server.Permissions{Publish: &server.SubjectPermission{Deny: subjects}}
}

func noSubscribe(subjects ...string) server.Permissions {
	return server.Permissions{Subscribe: &server.SubjectPermission{Allow: []string{">"}, Deny: subjects}}
}

// runServer starts a server with these options and shuts it down with the test.
func runServer(t testing.TB, o *server.Options) *server.Server {
	t.Helper()
	s, err := server.NewServer(o)
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() { stopServer(s) })
	if !s.ReadyForConnections(patience) {
		t.Fatal("the server does not start")
	}
	return s
}

func stopServer(s *server.Server) {
	s.Shutdown()
	s.WaitForShutdown()
}

// newBroker returns a connected broker that is disconnected with the test.
func newBroker(t testing.TB, s *server.Server, opts ...broker.Option) broker.Broker {
	t.Helper()
	b := jsbroker.NewBroker(append([]broker.Option{broker.Addrs(s.ClientURL()), quiet()}, opts...)...)
	if err := b.Connect(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Disconnect() })
	return b
}

// quiet keeps the log out of the test's output, and out of the memory that
// benchmarks measure.
func quiet() broker.Option { return broker.Logger(silence()) }

func silence() logger.Logger {
	return logger.NewLogger(logger.WithOutput(io.Discard), logger.WithLevel(logger.Level(slog.LevelError)))
}

// testLog is a logger that keeps its lines.
type testLog struct {
	logger.Logger
	mu     *sync.Mutex
	lines  *[]logLine
	fields map[string]any
}

type logLine struct {
	level  logger.Level
	text   string
	fields map[string]any
}

func (l logLine) String() string { return fmt.Sprintf("%s %s %v", l.level, l.text, l.fields) }

func newLog() *testLog {
	return &testLog{
		Logger: silence(),
		mu:     &sync.Mutex{}, lines: &[]logLine{},
	}
}

func (l *testLog) Fields(fields map[string]any) logger.Logger {
	all := maps.Clone(l.fields) // go-micro's loggers add to what they have
	if all == nil {
		all = map[string]any{}
	}
	maps.Copy(all, fields)
	return &testLog{Logger: l.Logger, mu: l.mu, lines: l.lines, fields: all}
}

func (l *testLog) Log(level logger.Level, v ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	*l.lines = append(*l.lines, logLine{level, fmt.Sprint(v...), l.fields})
}

func (l *testLog) Logf(level logger.Level, format string, v ...any) {
	l.Log(level, fmt.Sprintf(format, v...))
}

// all returns the lines logged so far.
func (l *testLog) all() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var all []string
	for _, line := range *l.lines {
		all = append(all, line.String())
	}
	return all
}

// with returns the lines logged so far that contain a text.
func (l *testLog) with(text string) (lines []logLine) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, line := range *l.lines {
		if strings.Contains(line.text, text) {
			lines = append(lines, line)
		}
	}
	return lines
}

// natsConn is a plain NATS client, for what users do beside the broker.
func natsConn(t testing.TB, s *server.Server, opts ...nats.Option) (*nats.Conn, jetstream.JetStream) {
	t.Helper()
	nc, err := nats.Connect(s.ClientURL(), opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	return nc, js
}

// testContext ends with the patience of the tests.
func testContext(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

// receive returns the next value from a channel, or its end.
func receive[T any](t testing.TB, ch <-chan T) T {
	t.Helper()
	select {
	case v := <-ch:
		return v
	case <-time.After(patience):
		t.Fatalf("nothing received within %v", patience)
	}
	panic("unreachable")
}

// eventually waits until something that has no event of its own holds.
func eventually(t testing.TB, what string, holds func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for !holds() {
		if time.Now().After(deadline) {
			t.Fatalf("still not so after %v: %s", patience, what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// message makes a message with a body.
func message(body string) *broker.Message { return &broker.Message{Body: []byte(body)} }

// publish publishes and fails the test on an error.
func publish(t testing.TB, b broker.Broker, topic, body string, opts ...broker.PublishOption) {
	t.Helper()
	if err := b.Publish(topic, message(body), opts...); err != nil {
		t.Fatal(err)
	}
}

// subscribe subscribes and fails the test on an error.
func subscribe(t testing.TB, b broker.Broker, topic string, h broker.Handler, opts ...broker.SubscribeOption) broker.Subscriber {
	t.Helper()
	sub, err := b.Subscribe(topic, h, opts...)
	if err != nil {
		t.Fatal(err)
	}
	return sub
}

// collector is a handler that passes on the bodies it gets.
func collector() (broker.Handler, <-chan string) {
	ch := make(chan string, 10000)
	return func(e broker.Event) error {
		ch <- string(e.Message().Body)
		return nil
	}, ch
}

// consumerInfo returns what the server knows of a consumer.
func consumerInfo(t testing.TB, js jetstream.JetStream, stream, name string) *jetstream.ConsumerInfo {
	t.Helper()
	c, err := js.Consumer(testContext(t), stream, name)
	if err != nil {
		t.Fatal(err)
	}
	info, err := c.Info(testContext(t))
	if err != nil {
		t.Fatal(err)
	}
	return info
}

// streamInfo returns what the server knows of a stream.
func streamInfo(t testing.TB, js jetstream.JetStream, name string) *jetstream.StreamInfo {
	t.Helper()
	st, err := js.Stream(testContext(t), name)
	if err != nil {
		t.Fatal(err)
	}
	info, err := st.Info(testContext(t))
	if err != nil {
		t.Fatal(err)
	}
	return info
}

// hookChan returns a channel and the function that fills it from a hook.
func hookChan[E any]() (<-chan E, func(context.Context, E)) {
	ch := make(chan E, 10000)
	return ch, func(_ context.Context, e E) { ch <- e }
}

// runningServer is a server that can be stopped and started again at the same
// address with the same store.
type runningServer struct {
	*server.Server
	opts *server.Options
}

func startRestartable(t testing.TB) *runningServer {
	t.Helper()
	o := &server.Options{Host: "127.0.0.1", Port: -1, JetStream: true, StoreDir: t.TempDir(), NoSigs: true}
	r := &runningServer{Server: runServer(t, o), opts: o}
	o.Port = r.Addr().(*net.TCPAddr).Port
	return r
}

func (r *runningServer) stop() { stopServer(r.Server) }

func (r *runningServer) start(t testing.TB) {
	t.Helper()
	r.Server = runServer(t, r.opts)
}

// proxy is a TCP proxy before a server, which can hold back what the server
// answers while the client's side goes on, as a stalled server does, or take in
// nothing, as a network without an other end.
type proxy struct {
	listener net.Listener
	upstream string
	pumps    sync.WaitGroup

	mu      sync.Mutex
	release chan struct{}       // closed when answers may pass
	admit   chan struct{}       // closed when what the client sends may pass
	last    string              // what the client sends last before a stall; empty: nothing
	lost    string              // what the client sends in vain, once; empty: nothing
	edit    func([]byte) []byte // of what the server sends; nil: nothing
	conns   []net.Conn
	closed  chan struct{}
}

func startProxy(t testing.TB, s *server.Server) *proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{listener: l, upstream: s.Addr().String(), release: make(chan struct{}), admit: make(chan struct{}), closed: make(chan struct{})}
	close(p.release)
	close(p.admit)
	p.pumps.Add(1)
	go p.accept()
	t.Cleanup(p.close)
	return p
}

func (p *proxy) url() string { return "nats://" + p.listener.Addr().String() }

func (p *proxy) accept() {
	defer p.pumps.Done()
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		upstream, err := net.Dial("tcp", p.upstream)
		if err != nil {
			_ = client.Close()
			continue
		}
		p.mu.Lock()
		p.conns = append(p.conns, client, upstream)
		p.mu.Unlock()
		p.pumps.Add(2)
		go p.pump(upstream, client, &p.admit)
		go p.pump(client, upstream, &p.release)
	}
}

func (p *proxy) pump(to, from net.Conn, gate *chan struct{}) {
	defer p.pumps.Done()
	defer func() { _ = to.Close() }()
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		if n > 0 {
			p.mu.Lock()
			open := *gate
			if gate == &p.admit && p.last != "" && bytes.Contains(buf[:n], []byte(p.last)) {
				p.release = make(chan struct{})
				p.last = ""
			}
			if gate == &p.admit && p.lost != "" && bytes.Contains(buf[:n], []byte(p.lost)) {
				p.lost = ""
				p.mu.Unlock()
				continue
			}
			data := buf[:n]
			if gate == &p.release && p.edit != nil {
				data = p.edit(data)
			}
			p.mu.Unlock()
			select {
			case <-open:
			case <-p.closed:
				return
			}
			if _, err := to.Write(data); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// stall holds back the server's answers until resume.
func (p *proxy) stall() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.release = make(chan struct{})
}

// stallAfter lets a request pass and holds back its answer, and all after it.
func (p *proxy) stallAfter(request string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.last = request
}

// lose swallows a request, as a server does that looks for a leader.
func (p *proxy) lose(request string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lost = request
}

// takeNothing leaves what the client sends where it is.
func (p *proxy) takeNothing() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.admit = make(chan struct{})
}

func (p *proxy) takeAgain() {
	p.mu.Lock()
	defer p.mu.Unlock()
	close(p.admit)
}

func (p *proxy) resume() {
	p.mu.Lock()
	defer p.mu.Unlock()
	close(p.release)
}

// cut breaks the connections that there are.
func (p *proxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.conns {
		_ = c.Close()
	}
	p.conns = nil
}

func (p *proxy) close() {
	_ = p.listener.Close()
	close(p.closed)
	p.mu.Lock()
	for _, c := range p.conns {
		_ = c.Close()
	}
	p.mu.Unlock()
	p.pumps.Wait()
}

// listen returns what is sent to a subject from now on.
func listen(t testing.TB, nc *nats.Conn, subject string) <-chan *nats.Msg {
	t.Helper()
	ch := make(chan *nats.Msg, 10)
	if _, err := nc.ChanSubscribe(subject, ch); err != nil {
		t.Fatal(err)
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	return ch
}

// requests counts what clients send to subjects, such as those of JetStream's
// API, from now on.
type requests struct {
	nc  *nats.Conn
	sub *nats.Subscription
}

func countRequests(t testing.TB, nc *nats.Conn, subject string) *requests {
	t.Helper()
	sub, err := nc.SubscribeSync(subject)
	if err != nil {
		t.Fatal(err)
	}
	r := &requests{nc: nc, sub: sub}
	r.seen(t) // the server knows of the subscription now
	return r
}

// seen returns how many have come since the last call.
func (r *requests) seen(t testing.TB) int {
	t.Helper()
	return len(r.messages(t))
}

// messages returns those that have come since the last call.
func (r *requests) messages(t testing.TB) (all []*nats.Msg) {
	t.Helper()
	if err := r.nc.Flush(); err != nil {
		t.Fatal(err)
	}
	for {
		m, err := r.sub.NextMsg(time.Millisecond)
		if err != nil {
			return all
		}
		all = append(all, m)
	}
}

// makeStream creates a stream as a user would, beside the broker.
func makeStream(t testing.TB, js jetstream.JetStream, cfg jetstream.StreamConfig) *jetstream.StreamInfo {
	t.Helper()
	st, err := js.CreateStream(testContext(t), cfg)
	if err != nil {
		t.Fatal(err)
	}
	return st.CachedInfo()
}

// updateStream changes a stream, as its owner would.
func updateStream(t testing.TB, js jetstream.JetStream, cfg jetstream.StreamConfig) {
	t.Helper()
	if _, err := js.UpdateStream(testContext(t), cfg); err != nil {
		t.Fatal(err)
	}
}

// makeConsumer creates a consumer as a user would, beside the broker.
func makeConsumer(t testing.TB, js jetstream.JetStream, stream string, cfg jetstream.ConsumerConfig) {
	t.Helper()
	var err error
	if cfg.DeliverSubject != "" {
		_, err = js.CreatePushConsumer(testContext(t), stream, cfg)
	} else {
		_, err = js.CreateConsumer(testContext(t), stream, cfg)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// storedMessage returns what a stream has stored last for a subject.
func storedMessage(t testing.TB, js jetstream.JetStream, stream, subject string) *jetstream.RawStreamMsg {
	t.Helper()
	st, err := js.Stream(testContext(t), stream)
	if err != nil {
		t.Fatal(err)
	}
	m, err := st.GetLastMsgForSubject(testContext(t), subject)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// consumerNames returns the names of a stream's consumers, sorted.
func consumerNames(t testing.TB, js jetstream.JetStream, stream string) []string {
	t.Helper()
	st, err := js.Stream(testContext(t), stream)
	if err != nil {
		t.Fatal(err)
	}
	list := st.ConsumerNames(testContext(t))
	var names []string
	for name := range list.Name() {
		names = append(names, name)
	}
	if err := list.Err(); err != nil {
		t.Fatal(err)
	}
	slices.Sort(names)
	return names
}

// wantError checks that an error is the sentinel and that its text has all the
// parts: whoever reads it must be able to act on it.
func wantError(t testing.TB, err, sentinel error, parts ...string) {
	t.Helper()
	if !errors.Is(err, sentinel) {
		t.Fatalf("got error %v, want %v", err, sentinel)
	}
	for _, part := range parts {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("the error does not name %q: %v", part, err)
		}
	}
}

// ignore is a handler that acks everything.
func ignore(broker.Event) error { return nil }

// nilContext is what callers pass who have none.
var nilContext context.Context
