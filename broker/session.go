package broker

import (
	"log/slog"
	"sync/atomic"

	"go-micro-jetstream/broker/internal/consumers"
	"go-micro-jetstream/broker/internal/goroutine"
	"go-micro-jetstream/broker/internal/lifecycle"
	"go-micro-jetstream/broker/internal/link"
	"go-micro-jetstream/broker/internal/produce"
	"go-micro-jetstream/broker/internal/streams"
)

// session is one connection of a broker, from Connect to Disconnect, and
// everything that ends with it.
type session struct {
	broker *jetstreamBroker
	cfg    *config // as it was at Connect
	hooks  *dispatcher
	log    *slog.Logger

	conn      *link.Conn
	streams   *streams.Streams
	consumers *consumers.Consumers
	publisher *produce.Publisher

	reported   lifecycle.Report // what hooks have been told of the connection
	subs       lifecycle.Registry[*subscription]
	subscribes goroutine.Gate // Subscribe calls under way, and the monitor while it looks
	connects   atomic.Int64   // calls of Connect that found the session open
	watcher    atomic.Uint64  // the goroutine of the monitor, while it looks
}

// openSession connects to the server. The session is ready to publish and to
// subscribe when it returns without an error.
func openSession(b *jetstreamBroker, cfg *config) (*session, error) {
	s := &session{broker: b, cfg: cfg, hooks: cfg.dispatch}
	s.conn = link.New(link.Config{
		Servers: cfg.servers,
		Name:    cfg.clientName,
		TLS:     cfg.opts.TLSConfig,
		Secure:  cfg.opts.Secure,
		Options: cfg.natsOptions,
		Domain:  cfg.domain, APIPrefix: cfg.apiPrefix,
		Log: cfg.log,
		Events: link.Events{
			Up:      func(url string) { s.report(lifecycle.Reconnected, url, nil) },
			Down:    func(err error) { s.report(lifecycle.Disconnected, "", err) },
			Closed:  s.closedByClient,
			Lost:    func() { s.publisher.Interrupt() },
			Refused: s.refused,
		},
	})
	s.streams = streams.New(s.conn)
	s.consumers = consumers.New(s.conn, s.streams)
	s.publisher = produce.New(s.conn, s.streams, cfg.window)
	opened := false
	defer func() {
		if !opened { // also if code of the user panics
			s.conn.Close()
		}
	}()
	if err := s.conn.Dial(); err != nil {
		return nil, err
	}
	s.log = s.conn.Log()
	if err := s.publisher.Open(); err != nil {
		return nil, err
	}
	opened = true
	return s, nil
}

// closedByClient is for a client that has given up, because of a limit that
// the user has set. The subscriptions end: nothing can arrive any more.
func (s *session) closedByClient(err error) {
	s.report(lifecycle.Closed, "", err)
	for _, sub := range s.subs.All() {
		go func() { _ = sub.Unsubscribe() }()
	}
}

// refused passes a permission violation on to whom it may be about.
func (s *session) refused(violation error) {
	s.publisher.Refuse(violation)
	for _, sub := range s.subs.All() {
		sub.core.Refuse(violation)
	}
}
