package produce

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"

	"go-micro-jetstream/broker/internal/asset"
	"go-micro-jetstream/broker/internal/wire"
)

// Done is told how an async publish has ended.
type Done interface {
	// Stored is called once, with the acknowledgement or with the error that Publish
	// would have returned. All calls of a publisher come one after the other, on one
	// goroutine. Stored may publish.
	Stored(ack wire.PubAck, err error)
}

// asyncPublishes keeps the memory of async publishes that are over.
var asyncPublishes = sync.Pool{New: func() any { return &asyncPublish{publication: publication{waiter: newWaiter()}} }}

// PublishAsync returns when the message is sent, and tells done when the publish is
// over. If it returns an error, it does not tell done.
//
// It waits for the connection, for the stream, and for room: fewer publishes than the
// window has may be without an answer, and fewer may wait for their done to be called.
// Called from done, it does not wait for other calls of done. The context bounds
// this, and its deadline the whole publish; to cancel it later changes nothing.
func (p *Publisher) PublishAsync(ctx context.Context, m Message, done Done) error {
	a := asyncPublishes.Get().(*asyncPublish)
	if err := a.init(ctx, p, &m); err != nil {
		return err
	}
	begun := false
	defer func() {
		if !begun { // also if the user's function for stream names panics
			p.gate.Leave()
		}
	}()
	st, err := a.awaitTurn(ctx)
	if err != nil {
		return err
	}
	if ctx.Done() != nil {
		ctx = context.WithoutCancel(ctx)
	}
	a.ctx, a.done = ctx, done
	begun = true
	a.begin(st)
	return nil
}

// asyncPublish is a publish whose caller does not wait. Its first try costs no
// goroutine. If that does not store the message, the later tries run on a goroutine of
// their own.
type asyncPublish struct {
	publication
	ctx  context.Context // not cancelled; the deadline is that of the publication
	done Done

	// The first try is over when the client has returned and the answer is there. The
	// two come on different goroutines, in any order. Until then done is not told: the
	// client still reads the body.
	parts   atomic.Int32 // of the two, those that are still to come
	written result       // of the first part; pending: the client has the message
	got     answer       // of the second

	ack wire.PubAck // what done is told
	err error
}

// awaitTurn waits for room in the window, for the connection and for the stream. The
// caller of PublishAsync does that, so that messages are sent in the order of its calls.
// Without an error one element of the window belongs to the publish.
func (a *asyncPublish) awaitTurn(ctx context.Context) (st *asset.Stream, err error) {
	if err := a.enterWindow(ctx); err != nil {
		return nil, err
	}
	defer func() {
		if st == nil { // also if the user's function for stream names panics
			<-a.publisher.window
		}
	}()
	return a.ready(ctx)
}

// enterWindow waits for room among the publishes without an answer, and until fewer
// than the window holds wait for done.
func (a *asyncPublish) enterWindow(ctx context.Context) error {
	window, completions := a.publisher.window, &a.publisher.completions
	if completions.Len() < cap(window) {
		select {
		case window <- struct{}{}:
			return nil
		default:
		}
	}
	ctx, cancel := context.WithDeadline(ctx, a.deadline)
	defer cancel()
	if err := completions.AwaitRoom(ctx, cap(window)); err != nil {
		return fmt.Errorf("%w: %d messages have their answers, and wait for done of those before to return: %w", errNotSent, cap(window), err)
	}
	select {
	case window <- struct{}{}:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%w: %d messages wait for their answers: %w", errNotSent, cap(window), ctx.Err())
	}
}

// Window returns how many async publishes wait for their answers, or for their done,
// whichever are more, and how many of either may.
func (p *Publisher) Window() (used, limit int) {
	return max(len(p.window), p.completions.Len()), cap(p.window)
}

// begin sends the message. The publish may be over, and its memory in use by another
// one, when begin returns.
func (a *asyncPublish) begin(st *asset.Stream) {
	a.parts.Store(2)
	if r := a.register(st, a); r.outcome != pending {
		go a.goOn(r)
		return
	}
	a.written = a.write()
	parts := int32(1)
	if a.written.outcome != pending && a.publisher.inflight.remove(&a.waiter) {
		parts = 2 // there will be no answer
	}
	a.endParts(parts)
}

// answered takes the answer to the first try.
func (a *asyncPublish) answered(got answer) {
	a.got = got
	a.endParts(1)
}

// endParts ends the first try with its last part.
func (a *asyncPublish) endParts(n int32) {
	if a.parts.Add(-n) > 0 {
		return
	}
	r := a.written
	if r.outcome == pending {
		r = a.read(a.got)
	}
	if r.outcome == stored {
		a.end(r.ack, nil)
		return
	}
	go a.goOn(r) // this goroutine must not wait
}

// goOn continues after a first try that has not stored the message.
func (a *asyncPublish) goOn(r result) {
	a.end(a.run(a.ctx, r))
}

// end makes room in the window and has done told. It does not call done itself: on the
// goroutine that receives answers, done could not publish.
func (a *asyncPublish) end(ack wire.PubAck, err error) {
	a.ack, a.err = ack, err
	<-a.publisher.window
	a.publisher.completions.Add(a)
}

// Run tells done. It is called by the queue of completions.
func (a *asyncPublish) Run() {
	defer a.publisher.gate.Leave()
	a.done.Stored(a.ack, a.err)
	a.reset()
	a.ctx, a.done, a.written, a.got, a.ack, a.err = nil, nil, result{}, answer{}, wire.PubAck{}, nil
	asyncPublishes.Put(a)
}
