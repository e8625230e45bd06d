// Package natsserver runs a nats-server inside the process, so that the examples
// and tests need nothing but Go.
package natsserver

import (
	"fmt"
	"os"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// startTimeout limits the wait for a server that never becomes ready.
const startTimeout = 30 * time.Second

// Server is a running nats-server.
type Server struct {
	srv *server.Server
	dir string
}

// Open returns the address in NATS_URL if that is set. Otherwise it starts a server
// and returns the address of that one. Call stop when you are done; it stops only
// a server that Open started.
func Open() (url string, stop func(), err error) {
	if url := os.Getenv("NATS_URL"); url != "" {
		return url, func() {}, nil
	}
	s, err := Start()
	if err != nil {
		return "", nil, err
	}
	return s.URL(), s.Stop, nil
}

// Start starts a server with JetStream on a free port of 127.0.0.1. It keeps its
// data in a temporary directory, which Stop removes. Each of the changes may modify
// the options before the server starts.
func Start(changes ...func(*server.Options)) (*Server, error) {
	dir, err := os.MkdirTemp("", "nats-server-*")
	if err != nil {
		return nil, err
	}
	o := &server.Options{
		Host:      "127.0.0.1",
		Port:      server.RANDOM_PORT,
		JetStream: true,
		StoreDir:  dir,
		// The server acknowledges a message once it is written, but syncs it to disk
		// only every two minutes, as any nats-server does by default. If you must
		// survive a power failure, set this to true (sync_interval: always), which is
		// slower, or use replicas.
		SyncAlways: false,
		NoLog:      true,
		NoSigs:     true, // the program handles signals itself
	}
	for _, change := range changes {
		change(o)
	}
	srv, err := server.NewServer(o)
	if err != nil {
		_ = os.RemoveAll(dir)
		return nil, err
	}
	s := &Server{srv: srv, dir: dir}
	srv.Start()
	if !srv.ReadyForConnections(startTimeout) {
		s.Stop()
		return nil, fmt.Errorf("the embedded nats-server is not ready after %v", startTimeout)
	}
	return s, nil
}

// URL returns the address that clients connect to.
func (s *Server) URL() string { return s.srv.ClientURL() }

// Stop shuts the server down, waits for it to end, and removes its data.
func (s *Server) Stop() {
	s.srv.Shutdown()
	s.srv.WaitForShutdown()
	_ = os.RemoveAll(s.dir)
}

// Version is the version of the embedded server.
const Version = server.VERSION
