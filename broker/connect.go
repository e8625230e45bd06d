package broker

import (
	"fmt"

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
// that refuse the credentials.
func (b *jetstreamBroker) Connect() error {
	for {
		cfg, err := b.config()
		if err != nil {
			return err
		}
		dial, s, dialing, closing := b.beginDial()
		switch {
		case dial:
			return b.dial(cfg)
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
			b.states.await(s.reported.last(), link.CloseTimeout) // of another Connect
			return nil
		}
	}
}

// dial opens a session. Other calls of Connect and Disconnect wait for it.
func (b *jetstreamBroker) dial(cfg *config) error {
	s, err := openSession(b, cfg)
	b.endDial(s)
	if err != nil {
		return fmt.Errorf("jetstream: connect to %s: %w", wire.Redacted(cfg.servers), err)
	}
	if len(s.hooks.consumerState) > 0 {
		go s.monitor()
	}
	s.reportFirst()
	b.states.await(s.reported.last(), link.CloseTimeout)
	return nil
}
