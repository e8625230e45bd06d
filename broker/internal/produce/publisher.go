// Package produce stores messages in their streams: it sends each one, waits for
// the stream's acknowledgement, and sends it again while that is safe and of use.
//
// A message passes through the files in this order: publisher.go or async.go
// takes it in, publication.go sends it once or more often, inflight.go finds its
// answer, and outcome.go and refusal.go say what the answer means.
package produce

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"go-micro-jetstream/broker/internal/asset"
	"go-micro-jetstream/broker/internal/fault"
	"go-micro-jetstream/broker/internal/goroutine"
	"go-micro-jetstream/broker/internal/link"
	"go-micro-jetstream/broker/internal/logging"
	"go-micro-jetstream/broker/internal/streams"
	"go-micro-jetstream/broker/internal/wire"
)

// PublishTimeout bounds a publish whose context has no deadline. It is the default
// of nats.go.
const PublishTimeout = 5 * time.Second

// Message is what to publish. The publisher does not change the maps, and does not
// use maps and body any more when the publish is over.
type Message struct {
	Topic    string
	Header   map[string]string // Nats-* headers are refused
	Body     []byte
	ID       string      // by this id the stream recognises a second copy
	OwnID    bool        // nobody else has the id: a duplicate is one of the publisher's own tries
	Original nats.Header // what Header was copied from, for keys with several values; may be nil
	Timing   Timing
	Kept     bool         // not for a stream that would keep nothing of it: see streams.CheckKept
	Rules    *asset.Rules // for a stream that is to be created
}

// Publisher publishes on one connection. It is safe for concurrent use. The methods
// for publishing also work on a nil Publisher: they check the message and return
// fault.ErrNoConnection.
type Publisher struct {
	conn     *link.Conn
	streams  *streams.Streams
	inflight inflight

	gate        goroutine.Gate  // publishes under way
	window      chan struct{}   // one element for each async publish without an answer
	completions goroutine.Queue // async publishes that are over
	lines       logging.Limiter
}

// New returns a publisher that sends nothing yet. The window is how many async
// publishes may wait for their answers at a time; it must be positive.
func New(conn *link.Conn, ss *streams.Streams, window int) *Publisher {
	p := &Publisher{
		conn:     conn,
		streams:  ss,
		inflight: inflight{waiting: make(map[uint64]*waiter)},
		window:   make(chan struct{}, window),
	}
	p.inflight.strange = p.strange
	return p
}

// Open subscribes to the inbox for the answers. It is called once, after Dial of the
// connection and before the first publish.
func (p *Publisher) Open() error { return p.inflight.open(p.conn) }

// publications keeps the memory of publishes that are over. Most of the garbage of a
// publish would be that.
var publications = sync.Pool{New: func() any { return &publication{waiter: newWaiter()} }}

// Publish returns when the stream has acknowledged the message. It gives up at the
// deadline of the context, or after [PublishTimeout] if there is none. While nats.go
// holds the lock of the connection it may take longer: as long as it dials a server,
// or up to natsopts.WriteTimeout for a write to a network that takes nothing.
//
// The error wraps fault.ErrPublishUnknown if the message may be stored. Every other
// error says that it is not.
func (p *Publisher) Publish(ctx context.Context, m Message) (wire.PubAck, error) {
	one := publications.Get().(*publication)
	if err := one.init(ctx, p, &m); err != nil {
		return wire.PubAck{}, err
	}
	defer p.gate.Leave()
	ack, err := one.run(ctx, result{})
	one.reset()
	publications.Put(one)
	return ack, err
}

// accept takes in a message that is ready to be sent. The size is that of headers and
// body, in bytes. Without an error the caller has to leave the gate.
func (p *Publisher) accept(ctx context.Context, size int) error {
	if p == nil || !p.gate.Enter() {
		return fault.ErrNoConnection
	}
	var err error
	if limit, ok := p.conn.Accepts(size); !ok {
		err = fmt.Errorf("%w: %d bytes with headers, the server accepts %d: store the body elsewhere, or raise max_payload", fault.ErrMessageTooLarge, size, limit)
	} else if ctx.Err() != nil {
		err = notSentError(ctx.Err())
	}
	if err != nil {
		p.gate.Leave()
	}
	return err
}

// sayLeftOut logs that a header was left out, once in a second at most.
func (p *Publisher) sayLeftOut(topic, key string) {
	if key == "" {
		return
	}
	if more, ok := p.lines.Allow("left out"); ok {
		p.conn.Log().Warn(fmt.Sprintf("published without the header %q, which came from go-micro's client and which NATS cannot carry%s", key, more), "topic", topic)
	}
}

// sayElsewhere logs that another stream than the topic's has stored a message, once in a
// second at most.
func (p *Publisher) sayElsewhere(topic, by, of string) {
	if more, ok := p.lines.Allow("stored elsewhere"); ok {
		p.conn.Log().Warn(fmt.Sprintf("a message was stored by stream %s, and not by stream %s, which captured the topic: if the topic has not moved there, a subject mapping of the account leads there, and subscribers of the topic do not get it%s", wire.Shorten(by), of, more),
			"topic", wire.Shorten(topic))
	}
}

// strange reports whether that domain is of another JetStream than the one that is used.
// It has stored the message, too, then, and a line says so.
func (p *Publisher) strange(domain string) bool {
	if !p.conn.Elsewhere(domain) {
		return false
	}
	if more, ok := p.lines.Allow("elsewhere"); ok {
		p.conn.Log().Error(fmt.Sprintf("a message was stored twice: a JetStream with the domain %q, beside that of %s, has a stream for it, too; take its topic off that stream%s", domain, p.conn.Domain(), more))
	}
	return true
}

// Interrupt says that all answers under way are lost, with the connection or with its
// inbox. Tries that wait for one end, and their messages are sent again if that is
// safe. It does not block.
func (p *Publisher) Interrupt() { p.inflight.interrupt() }

// Refuse passes on a permission violation. If it is about a publish, that publish
// fails at once. It does not block.
func (p *Publisher) Refuse(violation error) { p.inflight.refuse(violation) }

// Shutdown lets no publish begin any more. The channel is closed when all have ended,
// and the async ones have been told.
func (p *Publisher) Shutdown() <-chan struct{} { return p.gate.Close() }

// Inside returns how many publishes have not ended, or not been told.
func (p *Publisher) Inside() int { return p.gate.Inside() }

// RunsOn reports whether the goroutine with that [goroutine.ID] is the one that calls
// [Done]. Whoever waits there for async publishes waits for itself.
func (p *Publisher) RunsOn(id uint64) bool { return p.completions.RunsOn(id) }

// Close ends what would outlive the connection, which must be closed before. Publishes
// that still wait fail.
func (p *Publisher) Close() { p.inflight.close() }
