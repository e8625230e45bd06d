package broker

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/nats-io/nats.go"
)

// defaultWindow is the default of [WithAsyncWindow]: enough to fill a fast
// network, few enough to fit into the server's buffer for a client.
const defaultWindow = 1000

// enterWindow waits for room among the messages of [Async] that have no answer
// yet.
func (p *publication) enterWindow(ctx context.Context) error {
	select {
	case p.conn.window <- struct{}{}:
		return nil
	default:
	}
	ctx, cancel := context.WithDeadline(ctx, p.deadline)
	defer cancel()
	select {
	case p.conn.window <- struct{}{}:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%w: %d messages wait for their answers: %w", errNotSent, cap(p.conn.window), ctx.Err())
	}
}

// waitTurn waits until the message may be sent: for room, for the connection and
// for the stream. The caller does it, so that messages are sent in the order of
// its calls.
func (a *asyncPublish) waitTurn(ctx context.Context) error {
	if err := a.enterWindow(ctx); err != nil {
		return err
	}
	st, err := a.ready(ctx)
	if err != nil {
		<-a.conn.window
		return err
	}
	a.stream = st
	return nil
}

// asyncPublish is a Publish that does not wait. Its first try costs no goroutine;
// what does not succeed at once goes on in one of its own.
type asyncPublish struct {
	waiter waiter
	publication
	call   publishCall
	done   func(error)
	stored ack
	err    error
	pen    sync.Mutex // held while the first try is being written
}

// begin sends the message.
func (a *asyncPublish) begin() {
	a.waiter = waiter{subject: a.msg.Subject, stream: a.stream, limit: a.tryUntil(a.stream), reuse: a.reusesReply(a.stream), async: a}
	epoch := a.conn.acks.now() // before looking at the state
	if !a.conn.nc.IsConnected() {
		go a.goOn(errConnectionLost)
		return
	}
	a.pen.Lock()
	err := a.conn.acks.publish(a.msg, &a.waiter, epoch)
	a.pen.Unlock()
	if err != nil {
		go a.goOn(err)
	}
}

// answered takes the answer to the first try.
func (a *asyncPublish) answered(got answer) {
	var err error
	if a.stored, err = a.acked(got, a.stream); err != nil {
		go a.goOn(err)
		return
	}
	a.end()
}

// goOn is what happens after a failed first try.
func (a *asyncPublish) goOn(failure error) {
	// The connection can be lost and back while the first try is still being
	// written: what that reads must not change.
	a.msg = &nats.Msg{Subject: a.msg.Subject, Header: a.msg.Header, Data: a.msg.Data}
	if err := a.retry(a.call.ctx, a.stream, failure); err != nil {
		a.err = a.fail(err)
	} else {
		a.stored, a.err = a.run(a.call.ctx)
	}
	a.pen.Lock() // with the end the body is the caller's again
	defer a.pen.Unlock()
	a.end()
}

// end makes room for the next message. What is told of the result waits its
// turn: where answers are received, it could not publish.
func (a *asyncPublish) end() {
	<-a.conn.window
	a.conn.completions.add(a)
}

// complete tells the hooks and the caller.
func (a *asyncPublish) complete() {
	defer a.conn.publishes.leave()
	a.done(a.call.end(a.stored, a.err))
}

// completions are publishes that have ended. They are completed one after the
// other, on a goroutine that there is as long as there are any.
type completions struct {
	mu      sync.Mutex
	queue   []*asyncPublish
	running bool
	id      atomic.Uint64 // the goroutine
}

func (q *completions) add(a *asyncPublish) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.queue = append(q.queue, a)
	if !q.running {
		q.running = true
		go q.run()
	}
}

// runsOn reports whether the goroutine is the one.
func (q *completions) runsOn(id uint64) bool { return id != 0 && q.id.Load() == id }

func (q *completions) run() {
	q.id.Store(goroutineID())
	for batch := q.take(nil); len(batch) > 0; batch = q.take(batch) {
		q.complete(batch)
	}
}

// take returns what is in the queue, which gets the room of the former batch.
func (q *completions) take(former []*asyncPublish) []*asyncPublish {
	clear(former)
	q.mu.Lock()
	defer q.mu.Unlock()
	batch := q.queue
	q.queue, q.running = former[:0], len(batch) > 0
	return batch
}

// complete completes the batch, and goes on elsewhere if the caller's code has
// ended this goroutine.
func (q *completions) complete(batch []*asyncPublish) {
	next, returned := 0, false
	defer func() {
		if !returned { // runtime.Goexit; a panic ends the program
			go func() {
				q.id.Store(goroutineID())
				q.complete(batch[next:])
				q.run()
			}()
		}
	}()
	for next < len(batch) {
		next++
		batch[next-1].complete()
	}
	returned = true
}
