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
// yet, and until no more than as many wait for their done. Where done itself publishes,
// it does not wait for that.
func (p *publication) enterWindow(ctx context.Context) error {
	if !p.conn.completions.full(cap(p.conn.window)) {
		select {
		case p.conn.window <- struct{}{}:
			return nil
		default:
		}
	}
	ctx, cancel := context.WithDeadline(ctx, p.deadline)
	defer cancel()
	if err := p.conn.completions.awaitRoom(ctx, cap(p.conn.window)); err != nil {
		return fmt.Errorf("%w: %d messages have their answers, and wait for done of those before to return: %w", errNotSent, cap(p.conn.window), err)
	}
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
	defer func() {
		if a.stream == nil { // the WithStreamName function may panic
			<-a.conn.window
		}
	}()
	var err error
	a.stream, err = a.ready(ctx)
	return err
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
	use    use        // what it makes of its reply subject; under the pen
}

// begin sends the message.
func (a *asyncPublish) begin() {
	a.waiter = waiter{subject: a.msg.Subject, stream: a.stream, limit: a.tryUntil(a.stream), reuse: a.reusesReply(a.stream), async: a}
	epoch := a.conn.acks.now() // before looking at the state
	if !a.conn.link.connected() {
		go a.goOn(errConnectionLost)
		return
	}
	a.pen.Lock()
	var err error
	a.use, err = a.conn.acks.publish(a.msg, &a.waiter, epoch)
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
	if a.pen.TryLock() {
		a.accept()
		return
	}
	go func() { // begin is not back yet; other answers do not wait for it
		a.pen.Lock()
		a.accept()
	}()
}

// accept ends it, unless the answer came before the message was written. The caller
// holds the pen; accept releases it.
func (a *asyncPublish) accept() {
	written := a.use.written()
	a.pen.Unlock()
	if !written {
		go a.goOn(a.conn.acks.premature())
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

// complete tells the hooks and the caller, whatever the hooks do.
func (a *asyncPublish) complete() {
	defer a.conn.publishes.leave()
	err := a.call.result(a.err)
	defer func() { a.done(err) }()
	a.call.tell(a.stored, err)
}

// recycle leaves its memory to another, when the caller has been told.
func (a *asyncPublish) recycle() {
	if a.err != nil || !a.clean() {
		return
	}
	a.reset()
	a.waiter, a.call, a.done, a.stored, a.use = waiter{}, publishCall{}, nil, ack{}, use{}
	asyncPublishes.Put(a)
}

// completions are publishes that have ended. They are completed one after the
// other, on a goroutine that there is as long as there are any.
type completions struct {
	mu      sync.Mutex
	queue   []*asyncPublish
	running bool
	id      atomic.Uint64                 // the goroutine
	count   atomic.Int64                  // those that wait for it, and the one that it is at
	fewer   atomic.Pointer[chan struct{}] // closed when there are fewer; nil: nobody waits for that
}

// full reports whether limit or more wait.
func (q *completions) full(limit int) bool { return q.count.Load() >= int64(limit) }

// awaitRoom waits until fewer than limit wait.
func (q *completions) awaitRoom(ctx context.Context, limit int) error {
	for q.full(limit) && !q.runsOn(goroutineID()) {
		fewer := q.fewer.Load()
		if fewer == nil {
			ch := make(chan struct{})
			if fewer = &ch; !q.fewer.CompareAndSwap(nil, fewer) {
				continue
			}
		}
		if !q.full(limit) { // since before there was somebody to tell
			return nil
		}
		select {
		case <-*fewer:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

func (q *completions) add(a *asyncPublish) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.queue = append(q.queue, a)
	q.count.Add(1)
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
		q.completeOne(batch[next-1])
	}
	returned = true
}

func (q *completions) completeOne(a *asyncPublish) {
	defer func() {
		q.count.Add(-1)
		if q.fewer.Load() != nil {
			if fewer := q.fewer.Swap(nil); fewer != nil {
				close(*fewer)
			}
		}
	}()
	a.complete()
	a.recycle()
}
