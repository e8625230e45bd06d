package link_test

import (
	"context"
	"log/slog"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"go-micro-jetstream/broker/internal/link"
	"go-micro-jetstream/internal/natstest"
)

// TestMain also fails the run if a goroutine outlives the tests.
func TestMain(m *testing.M) { os.Exit(natstest.Main(m)) }

func startServer(t *testing.T, change ...func(*server.Options)) *natstest.Restartable {
	t.Helper()
	return natstest.StartRestartable(t, change...)
}

// reload changes the options of a server while it runs.
func reload(t *testing.T, s *natstest.Restartable, change func(*server.Options)) {
	t.Helper()
	opts := s.Options.Clone()
	change(opts)
	if err := s.ReloadOptions(opts); err != nil {
		t.Fatal(err)
	}
}

// limited gives a server one user, named limited, who may not publish and not subscribe
// to some subjects.
func limited(noPublish, noSubscribe string) func(*server.Options) {
	return func(o *server.Options) {
		o.Users = []*server.User{{Username: "limited", Password: "pw", Permissions: &server.Permissions{
			Publish:   &server.SubjectPermission{Allow: []string{">"}, Deny: []string{noPublish}},
			Subscribe: &server.SubjectPermission{Allow: []string{">"}, Deny: []string{noSubscribe}},
		}}}
	}
}

// quick makes the client reconnect at once.
func quick() []nats.Option {
	return []nats.Option{nats.ReconnectWait(time.Millisecond), nats.ReconnectJitter(0, 0)}
}

// recorder keeps the events of a connection and its log.
type recorder struct {
	conn *link.Conn
	seen chan string // each event, in their order

	mu    sync.Mutex
	lines []string
}

// newConn returns a connection to the server that is not dialled, and closes it with the
// test. Each event is recorded with what the connection says of itself at that moment.
func newConn(t *testing.T, s *natstest.Restartable, opts ...nats.Option) (*link.Conn, *recorder) {
	t.Helper()
	r := &recorder{seen: make(chan string, 1000)}
	r.conn = link.New(link.Config{
		Servers: []string{s.ClientURL()},
		Name:    "tester",
		Options: append(quick(), opts...),
		Log:     slog.New(slog.NewTextHandler(r, nil)),
		Events: link.Events{
			Up:      func(url string) { r.record("up at " + url) },
			Down:    func(error) { r.record("down") },
			Closed:  func(error) { r.record("closed") },
			Lost:    func() { r.record("lost") },
			Refused: func(error) { r.record("refused") },
		},
	})
	t.Cleanup(r.conn.Close)
	return r.conn, r
}

// dialled is newConn with Dial.
func dialled(t *testing.T, s *natstest.Restartable, opts ...nats.Option) (*link.Conn, *recorder) {
	t.Helper()
	c, r := newConn(t, s, opts...)
	if err := c.Dial(); err != nil {
		t.Fatal(err)
	}
	return c, r
}

func (r *recorder) record(event string) {
	if r.conn.NATS() == nil {
		event += " without a client"
	}
	if r.conn.Deaf() != nil {
		event += ", deaf"
	}
	r.seen <- event
}

// Write keeps a line of the log.
func (r *recorder) Write(line []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lines = append(r.lines, string(line))
	return len(line), nil
}

// logged returns the line that contains a text. There must be one, and it must have the
// fields of a line about the connection.
func (r *recorder) logged(t *testing.T, text string) {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	var found []string
	for _, line := range r.lines {
		if strings.Contains(line, text) {
			found = append(found, line)
		}
	}
	if len(found) != 1 || !strings.Contains(found[0], "client=tester") || !strings.Contains(found[0], "server=") {
		t.Errorf("of %q is said %q in:\n%s", text, found, strings.Join(r.lines, ""))
	}
}

// wantEvents fails unless these come next. They are given without URLs.
func (r *recorder) wantEvents(t *testing.T, want ...string) {
	t.Helper()
	for _, w := range want {
		got := receive(t, r.seen)
		if before, _, ok := strings.Cut(got, " nats://"); ok {
			got = before
		}
		if got != w {
			t.Fatalf("event %q instead of %q, of %q", got, w, want)
		}
	}
}

// wantNoEvents fails if one has come.
func (r *recorder) wantNoEvents(t *testing.T) {
	t.Helper()
	select {
	case got := <-r.seen:
		t.Errorf("event %q", got)
	default:
	}
}

func receive[T any](t testing.TB, ch <-chan T) T {
	t.Helper()
	return natstest.Receive(t, ch)
}

func eventually(t testing.TB, what string, holds func() bool) {
	t.Helper()
	natstest.Eventually(t, what, holds)
}

func testContext(t testing.TB) context.Context {
	t.Helper()
	return natstest.Context(t)
}
