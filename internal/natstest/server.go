package natstest

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/nats-io/nats-server/v2/server"
)

// Start runs a nats-server with JetStream on a free port of the loopback
// interface. Each change may alter its options before it starts. The server is
// stopped with the test, and its data is removed.
func Start(t testing.TB, change ...func(*server.Options)) *server.Server {
	t.Helper()
	return Run(t, options(t, change...))
}

// StartConfigured is Start with options from the text of a configuration file.
func StartConfigured(t testing.TB, config string) *server.Server {
	t.Helper()
	return Start(t, Configured(t, config))
}

// Configured is a change for Start: what the text of a configuration file says.
func Configured(t testing.TB, config string) func(*server.Options) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "nats.conf")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	return func(o *server.Options) {
		if err := o.ProcessConfigFile(file); err != nil {
			t.Error(err)
		}
	}
}

// Run runs a server with exactly these options and stops it with the test.
func Run(t testing.TB, o *server.Options) *server.Server {
	t.Helper()
	s, err := launch(t, o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// Stop stops a server and waits until it is down. A server that is down already
// stays so.
func Stop(s *server.Server) {
	s.Shutdown()
	s.WaitForShutdown()
}

func options(t testing.TB, change ...func(*server.Options)) *server.Options {
	t.Helper()
	o := &server.Options{
		Host: "127.0.0.1", Port: Port(t),
		JetStream: true, StoreDir: t.TempDir(),
		NoLog: true, NoSigs: true,
	}
	for _, c := range change {
		c(o)
	}
	return o
}

// launch may be called on any goroutine.
func launch(t testing.TB, o *server.Options) (*server.Server, error) {
	s, err := server.NewServer(o)
	if err != nil {
		return nil, err
	}
	s.Start()
	t.Cleanup(func() { Stop(s) })
	if !s.ReadyForConnections(Patience) {
		return nil, server.ErrServerNotRunning
	}
	return s, nil
}

// StartReloadable is like Start. It also returns a function that gives the
// running server other options: those that it was started with, changed. A
// second call of it does not see what the first has changed.
func StartReloadable(t testing.TB, change ...func(*server.Options)) (s *server.Server, reload func(change func(*server.Options))) {
	t.Helper()
	o := options(t, change...)
	s = Run(t, o.Clone())
	return s, func(change func(*server.Options)) {
		t.Helper()
		changed := o.Clone()
		change(changed)
		if err := s.ReloadOptions(changed); err != nil {
			t.Fatal(err)
		}
	}
}

// Restartable is a server that can be stopped and started again. It keeps its
// address and its data.
type Restartable struct {
	// Server is the one that runs, or has run last.
	*server.Server
	// Options are those of the next start. They may be changed until then.
	Options *server.Options
}

// StartRestartable is like Start, for a server that will be stopped and started
// again.
func StartRestartable(t testing.TB, change ...func(*server.Options)) *Restartable {
	t.Helper()
	r := &Restartable{Options: options(t, change...)}
	r.Start(t)
	return r
}

// Start starts the server again.
func (r *Restartable) Start(t testing.TB) {
	t.Helper()
	r.Server = Run(t, r.Options)
}

// Stop stops the server and waits until it is down.
func (r *Restartable) Stop() { Stop(r.Server) }
