package broker

import (
	"context"
	"fmt"
	"sync"

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

func (p *publication) leaveWindow() { <-p.conn.window }

// completions are functions that run one after the other, on a goroutine that
// there is as long as there are any.
type completions struct {
	mu      sync.Mutex
	queue   []func()
	running bool
}

func (q *completions) add(f func()) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.queue = append(q.queue, f)
	if !q.running {
		q.running = true
		go q.run()
	}
}

func (q *completions) run() {
	var batch []func()
	for {
		q.mu.Lock()
		batch, q.queue = q.queue, batch[:0]
		q.running = len(batch) > 0
		q.mu.Unlock()
		if len(batch) == 0 {
			return
		}
		for _, f := range batch {
			f()
		}
		clear(batch)
	}
}

// runAsync is run without waiting: the first try costs no goroutine, and what
// does not succeed at once goes on in one of its own.
func (p *publication) runAsync(ctx context.Context, done func(ack, error)) {
	st := p.conn.streams.find(p.msg.Subject)
	if st == nil || !p.conn.nc.IsConnected() {
		go func() { done(p.run(ctx)) }()
		return
	}
	goOn := func(err error) {
		// The connection can be lost and back while the first try is still being
		// written: what that reads must not change.
		p.msg = &nats.Msg{Subject: p.msg.Subject, Header: p.msg.Header, Data: p.msg.Data}
		if err := p.retry(ctx, st, err); err != nil {
			done(ack{}, p.fail(err))
			return
		}
		done(p.run(ctx))
	}
	err := p.conn.acks.send(p.msg, p.tryUntil(st), func(a answer) {
		if a.err == nil {
			var stored ack
			if stored, a.err = parseAck(a.msg, st.name); a.err == nil {
				done(stored, nil)
				return
			}
		}
		go goOn(a.err)
	})
	if err != nil {
		go goOn(err)
	}
}
