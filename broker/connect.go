package broker

import (
	"errors"
	"fmt"
	"runtime/debug"

	"github.com/nats-io/nats.go"

	"go-micro-jetstream/broker/internal/link"
	"go-micro-jetstream/broker/internal/wire"
)

// Connect connects to the server and checks that it has JetStream. It is
// idempotent and waits for a Disconnect under way. Subscriptions made before a
// Disconnect do not come back: subscribe again.
//
// Errors: [ErrInvalidConfig]; [ErrJetStreamUnavailable]; [ErrPermission] for a
// user who may not subscribe to an inbox; an error without a sentinel for a
// server before 2.10; or the client's own for servers that cannot be reached or
// that refuse the credentials. If your own code in it, such as a dialer, panics, ends its
// goroutine, or has not returned after nats.Timeout, the error says so.
//
// For each server it takes as long as nats.Timeout, 2 seconds, permits, and as long again
// for each piece of your own code that hangs. Then come 5 seconds for the check, and 2 for
// hooks.
func (b *jetstreamBroker) Connect() error {
	for {
		if err := b.invalid(); err != nil {
			return err
		}
		dial, s, dialing, closing := b.life.BeginDial()
		switch {
		case dial:
			return b.dial()
		case dialing != nil:
			<-dialing
		case closing != nil:
			if closing.calledFromWithin() {
				return fmt.Errorf("jetstream: connect: %w: the broker is shutting down and waits for the handler, or the hook, that calls Connect", ErrNotConnected)
			}
			<-closing.done
		case s.conn.Over():
			// The client has closed for good, at a limit that the user has set. Tidy
			// up and start again.
			_ = b.Disconnect()
		default:
			s.connects.Add(1)
			b.states.Await(s.reported.Last(), link.CloseTimeout) // of another Connect
			return nil
		}
	}
}

// dial opens a session. Other calls of Connect and Disconnect wait for it.
func (b *jetstreamBroker) dial() error {
	cfg := b.beginUse()
	defer b.endUse()
	s, err := b.open(cfg)
	if errors.Is(err, nats.ErrNoServers) {
		err = fmt.Errorf("%w: is a nats-server running there? Start one with: nats-server -js", err)
	}
	if errors.Is(err, nats.ErrAuthorization) {
		err = fmt.Errorf("%w: check the credentials: nats://user:password@host, or nats.UserCredentials in WithNATSOptions", err)
	}
	if err != nil {
		return fmt.Errorf("jetstream: connect to %s: %w", wire.Redacted(cfg.servers), err)
	}
	if len(s.hooks.consumerState) > 0 {
		go s.monitor()
	}
	s.reportFirst()
	if cfg.opts.Codec != nil {
		s.log.Warn("broker.Codec is ignored, because bodies are sent as they are: encode messages before Publish, and decode them in the handler, as go-micro's client and server do")
	}
	b.states.Await(s.reported.Last(), link.CloseTimeout)
	return nil
}

// open opens a session and ends the dial, whatever the user's code does in it: it may
// panic, or end its goroutine, so it gets one of its own.
func (b *jetstreamBroker) open(cfg *config) (s *session, err error) {
	err = errors.New("your own code ended the goroutine (runtime.Goexit)")
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer func() {
			if r := recover(); r != nil {
				err = fmt.Errorf("your own code panicked: %v", r)
				cfg.log.Error(fmt.Sprintf("connect: %v\n%s", err, debug.Stack()))
			}
		}()
		s, err = openSession(b, cfg)
	}()
	<-done
	b.life.EndDial(s)
	return s, err
}
