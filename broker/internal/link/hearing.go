package link

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"

	"github.com/nats-io/nats.go"

	"go-micro-jetstream/broker/internal/client"
	"go-micro-jetstream/broker/internal/fault"
)

// hearing finds out whether answers arrive after the server has refused a subscription
// because there are too many. After a reconnect the client subscribes everything again,
// in any order, and the server does not say what it has refused. It may have been the
// client's inbox for requests, or the one of [Conn.Answers]. The zero value is ready.
type hearing struct {
	answers  atomic.Pointer[answers]
	refusals atomic.Uint64 // since a look has ended; while there are some, somebody looks
}

// answers is the inbox of [Conn.Answers].
type answers struct {
	listener *client.Listener
	echo     string        // a message to this subject is ours, and only shows that it arrives
	heard    chan struct{} // holds one; what arrived at echo
}

// Answers subscribes to the inbox with this prefix, and takes care that it hears: if the
// server refuses it after a reconnect, it is subscribed again, or [Conn.Deaf] says so. It
// is called once, after Dial. The prefix ends with a dot, and one token follows.
func (c *Conn) Answers(prefix string, receive nats.MsgHandler) error {
	a := &answers{echo: prefix + "hearing", heard: make(chan struct{}, 1)}
	var err error
	a.listener, err = c.Listen(func(nc *nats.Conn) (*nats.Subscription, error) {
		return nc.Subscribe(prefix+"*", func(m *nats.Msg) {
			if m.Subject != a.echo {
				receive(m)
				return
			}
			select {
			case a.heard <- struct{}{}:
			default:
			}
		})
	})
	if err == nil {
		c.hearing.answers.Store(a)
	}
	return err
}

// listensStill looks whether answers still arrive, after a refusal. One goroutine looks
// at a time.
func (c *Conn) listensStill() {
	if c.hearing.refusals.Add(1) > 1 {
		return
	}
	go func() {
		for {
			seen := c.hearing.refusals.Load()
			if err := c.hears(); err != nil {
				c.giveUpHearing(err)
			}
			if c.hearing.refusals.CompareAndSwap(seen, 0) || c.Expected() {
				return
			}
		}
	}()
}

// hears returns why no answer can arrive, or nil if one can, or if it cannot be told. Each
// inbox is asked for an answer of JetStream, which takes a user who may ask for INFO. That
// takes APITimeout at most.
func (c *Conn) hears() error {
	a := c.hearing.answers.Load()
	if a == nil { // Listen says that there is no room
		return nil
	}
	up, number := c.State()
	if !up || c.Deaf() != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), APITimeout)
	defer cancel()
	var requests error
	asked := make(chan struct{})
	go func() {
		defer close(asked)
		requests = c.Ask(ctx, "INFO", func(ctx context.Context) error {
			_, err := c.JetStream().AccountInfo(ctx)
			return err
		})
	}()
	heard := c.heardBy(ctx, a, asked)
	<-asked
	if _, now := c.State(); now != number || c.Expected() {
		return nil // if the new connection has too many as well, that is another refusal
	}
	if errors.Is(requests, fault.ErrPermission) {
		return nil // the user may not ask, so silence says nothing
	}
	if !heard {
		return c.answersAgain(a)
	}
	if errors.Is(requests, context.DeadlineExceeded) {
		return c.tooMany("the inbox for requests")
	}
	return nil
}

// heardBy reports whether an answer arrives in that inbox. It asks until asked is closed,
// and waits a moment longer.
func (c *Conn) heardBy(ctx context.Context, a *answers, asked <-chan struct{}) bool {
	select {
	case <-a.heard: // of an earlier look
	default:
	}
	for ctx.Err() == nil {
		_ = c.NATS().PublishRequest(c.API("INFO"), a.echo, nil)
		wait, cancel := context.WithTimeout(ctx, LookUpTimeout)
		select {
		case <-a.heard:
			cancel()
			return true
		case <-wait.Done():
			cancel()
		case <-c.Closing():
			cancel()
			return false
		}
		select {
		case <-asked:
			return false
		default:
		}
	}
	return false
}

// answersAgain subscribes to the inbox for answers once more. The answers that were on
// their way to it are lost.
func (c *Conn) answersAgain(a *answers) error {
	err := a.listener.Again()
	c.SayLost()
	if errors.Is(err, fault.ErrSubscriptionLimit) {
		return c.tooMany("the inbox for the answers of streams")
	}
	return nil
}

// tooMany is the error of a connection whose inbox the server refuses.
func (c *Conn) tooMany(inbox string) error {
	return fmt.Errorf("%w: %s is refused after a reconnect, as the server permits fewer than the %d subscriptions of this connection: %s: %w",
		fault.ErrSubscriptionLimit, inbox, c.NATS().NumSubscriptions(), client.MoreRoom, nats.ErrMaxSubscriptionsExceeded)
}

// giveUpHearing notes that no answer can arrive until there is another connection, and sees to
// that. What waits for an answer ends.
func (c *Conn) giveUpHearing(why error) {
	c.Line(slog.LevelError, fmt.Sprintf("nothing can be published or asked, reconnecting soon: %v", why))
	c.Deafen(why)
	c.calls.end(why)
}
