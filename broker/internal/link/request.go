package link

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"

	"go-micro-jetstream/broker/internal/fault"
)

// Do runs a request to JetStream's API. It waits for the connection first, and takes
// [APITimeout] at most. The name is what follows $JS.API., or another prefix, in the
// request's subject, as far as it is known: that tells which request a permission violation is about.
//
// Errors: fault.ErrNotConnected if the connection does not come back in time,
// fault.ErrPermission as soon as the server refuses the request or the inbox,
// fault.ErrJetStreamUnavailable if nobody answers, or the request's own.
func (c *Conn) Do(ctx context.Context, name string, request func(context.Context) error) error {
	err := c.request(ctx, c.API(name), request)
	c.heard(err)
	return c.explain(err)
}

// request is Do with the whole subject.
func (c *Conn) request(ctx context.Context, subject string, request func(context.Context) error) error {
	ctx, cancelTimeout := context.WithTimeout(ctx, APITimeout)
	defer cancelTimeout()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer c.calls.begin(subject, cancel)()

	// The client would keep the request during an outage and send it afterwards, when
	// nobody waits for it any more. It would leave a consumer that nobody knows of.
	if err := c.Await(ctx); err != nil {
		return fault.Outage(err)
	}
	if err := c.Deaf(); err != nil {
		return err
	}
	err := request(ctx)
	if errors.Is(err, nats.ErrConnectionClosed) && !c.Over() { // another client is on its way
		err = fmt.Errorf("%w: %w", fault.ErrConnectionLost, err)
	}
	if cause := context.Cause(ctx); cause != nil && err != nil && (errors.Is(cause, fault.ErrPermission) || errors.Is(cause, fault.ErrSubscriptionLimit)) {
		return cause
	}
	return fault.API(err)
}

// Ask is [Conn.Do] for a question, which may be asked again without harm. A question
// that finds no leader is never answered, and for a moment a stream or consumer that was
// just made has none. So the first try takes [LookUpTimeout] at most, and each further
// one twice as long. All together take [APITimeout] at most.
func (c *Conn) Ask(ctx context.Context, name string, question func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, APITimeout)
	defer cancel()
	for patience := LookUpTimeout; ; patience *= 2 {
		err := c.try(ctx, patience, name, question)
		if ctx.Err() != nil || !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, fault.ErrConnectionLost) || c.Over() {
			return err
		}
	}
}

// try asks a question once.
func (c *Conn) try(ctx context.Context, patience time.Duration, name string, question func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return c.Do(ctx, name, question)
}
