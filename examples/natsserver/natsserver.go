// Package natsserver runs a nats-server inside the process, so that examples and
// tests need nothing but Go.
package natsserver

import (
	"fmt"
	"os"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// startTimeout only ends the wait for a server that never comes up.
const startTimeout = 30 * time.Second

// Server is a running nats-server.
type Server struct {
	srv *server.Server
	dir string
}

// Open returns the address of the server at NATS_URL, if that is set, or else of
// one that it starts, and what is to be called in the end.
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

// Start runs a server with JetStream on a free loopback port. Its data is in a
// temporary directory that Stop removes. Each change may alter the options.
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
		// An ack means written, not synced to disk: that comes every two minutes,
		// as with any nats-server. Where the power may fail, say true
		// (sync_interval: always), or have replicas. It costs speed.
		SyncAlways: false,
		NoLog:      true,
		NoSigs:     true, // signals are for the program
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

// URL is where clients connect.
func (s *Server) URL() string { return s.srv.ClientURL() }

// Stop shuts the server down, waits until it is, and removes its data.
func (s *Server) Stop() {
	s.srv.Shutdown()
	s.srv.WaitForShutdown()
	_ = os.RemoveAll(s.dir)
}

// Version is the version of the embedded server.
const Version = server.VERSION
