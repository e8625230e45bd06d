// Package consume fetches the messages of a subscription, hands them to its workers in
// order, extends their ack deadlines while they are in hand, and sends their
// acknowledgements.
package consume

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"go-micro-jetstream/broker/internal/consumers"
	"go-micro-jetstream/broker/internal/fault"
	"go-micro-jetstream/broker/internal/goroutine"
	"go-micro-jetstream/broker/internal/hand"
	"go-micro-jetstream/broker/internal/hanging"
	"go-micro-jetstream/broker/internal/link"
	"go-micro-jetstream/broker/internal/logging"
	"go-micro-jetstream/broker/internal/pull"
	"go-micro-jetstream/broker/internal/streams"
	"go-micro-jetstream/broker/internal/wire"
)

// Config is what a subscription is made of. All fields are needed, except Queue,
// Limits, MaxAckExtension and HangsAfter.
type Config struct {
	Conn            *link.Conn
	Consumers       *consumers.Consumers
	Rules           *streams.Rules
	Topic           string // may have wildcards
	Queue           string // empty: a consumer of its own, which ends with the subscription
	Concurrency     int    // workers, at least 1; with more than one there is no order, except that of Key
	Limits          pull.Limits
	MaxAckExtension time.Duration   // how long after its arrival a message's ack deadline is extended
	HangsAfter      time.Duration   // how long no handler may be started, at least, until what waits is given back, and how long Key or the observer may hold up fetching until that is told; 0: [hanging.After]
	Parent          context.Context // its values are those of [Subscription.Context], its end is not

	// Handle handles a delivery and settles it. The slot is the number of the worker,
	// from 0: each has one delivery at a time. Handle may panic or call
	// runtime.Goexit, and the subscription goes on. A delivery that is not settled when
	// Handle returns stays unsettled until somebody calls [Delivery.Ack].
	Handle func(slot int, d *Delivery)
	// Key returns what the messages have in common that are handled one after the other,
	// in the order of the stream, also through retries. nil: with one worker all messages
	// are in order, but retries are not, and with more there is no order. Key is called
	// by one worker at a time. If it panics, it recovers and calls [Delivery.Unkey].
	Key      func(d *Delivery) string
	Observer Observer
	Log      *slog.Logger // lines get topic, queue, stream and consumer
}

// Observer is told what happens. It is called by the goroutine that does the work,
// several at a time, and never with a lock held: it may call the subscription, and
// what it does holds up the work. It must not panic.
type Observer interface {
	// Fetched tells that messages have come, and how many are left in the stream.
	Fetched(messages, bytes int, pending uint64)
	// FetchFailed tells of a failed fetch, the attempt-th in a row, and of the pause
	// after it.
	FetchFailed(err error, attempt int, delay time.Duration)
	// Recovered tells that fetching works again after failures.
	Recovered()
	// Learned tells what the server has said of the consumer without a delivery.
	Learned(State)
	// Crowded tells that fetching has come to a stand because of stuck keys, or goes on.
	// The log has a line about it.
	Crowded(c Crowd)
	// HeldUp tells once that Key, or another method of the observer, keeps the
	// subscription from fetching for longer than HangsAfter, or that this is over.
	HeldUp(h HeldUp, over bool)
	// Skipped tells that a fetched message is not handled. The log has a line about it.
	Skipped(d *Delivery, why SkipReason)
	// Turned tells that the subscription has become the one that the consumer serves, or
	// is no longer.
	Turned(active bool)
	hand.Observer
	// Exhausted tells that a message was given back on the last delivery that the
	// server makes.
	Exhausted(d *Delivery, cause error)
	// Ended tells of the end, just before Done is closed.
	Ended()
}

// Subscription is a consumer, the workers that serve it, and what they have in hand.
// It is safe for concurrent use.
type Subscription struct {
	cfg   Config
	log   *slog.Logger
	lines logging.Limiter

	base   context.Context    // the parent of all contexts that handlers get
	giveUp context.CancelFunc // cancels it
	life   context.Context    // ends with StopWithin
	end    context.CancelFunc // ends it

	stopping atomic.Bool
	stopper  atomic.Uint64   // the goroutine that gives back in StopWithin, while it does; otherwise 0
	returned chan struct{}   // closed when StopWithin has given back what was not started
	done     chan struct{}   // closed when the last worker has ended
	workers  atomic.Int64    // that have not ended
	ids      []atomic.Uint64 // goroutines of the workers; before Begin, the one that has called Open

	hand    *hand.Hand
	crowded atomic.Bool // see Crowd
	fetcher *fetcher
	keyed   *hanging.Call // Config.Key
	beside  beside
	turning *hanging.Call // Observer.Turned
	limit   limitWatch
}

// Open finds or creates the consumer and opens the inbox. It fetches nothing yet. The
// context bounds it. On an error it leaves nothing behind. Otherwise the caller calls
// Begin or Discard. Errors: those of [consumers.Consumers.Bind].
func Open(ctx context.Context, cfg Config) (*Subscription, *jetstream.ConsumerInfo, error) {
	cs, info, err := cfg.Consumers.Bind(ctx, cfg.Rules, cfg.Topic, cfg.Queue)
	if err != nil {
		return nil, nil, err
	}
	if cfg.HangsAfter == 0 {
		cfg.HangsAfter = hanging.After
	}
	s := &Subscription{
		cfg:      cfg,
		returned: make(chan struct{}),
		done:     make(chan struct{}),
		ids:      make([]atomic.Uint64, cfg.Concurrency),
	}
	s.base, s.giveUp = context.WithCancel(context.WithoutCancel(cfg.Parent))
	s.life, s.end = context.WithCancel(context.Background())
	s.hand = hand.New(hand.Config{
		Conn: cfg.Conn, Topic: cfg.Topic, Workers: cfg.Concurrency, Ordered: cfg.Key != nil, Single: cfg.single(),
		MaxAckExtension: cfg.MaxAckExtension, HangsAfter: cfg.HangsAfter,
		Observer: cfg.Observer, Base: s.base, Life: s.life, KeepAlive: s.keepAlive,
	}, cs, info)
	s.log = cfg.Log.With("topic", cfg.Topic, "queue", cfg.Queue, "stream", cs.Stream.Name, "consumer", consumerName{s})
	if err = s.open(); err != nil {
		s.end()
		s.giveUp()
		return nil, nil, fmt.Errorf("open the inbox: %w", fault.API(err))
	}
	s.fetcher, s.turning = newFetcher(s), s.newCall(HeldUp{})
	s.keyed, s.beside.call = s.newCall(HeldUp{Key: true}), s.newCall(HeldUp{Beside: true})
	s.workers.Store(int64(cfg.Concurrency))
	s.ids[0].Store(goroutine.ID())
	return s, info, nil
}

func (s *Subscription) open() error {
	if err := s.hand.Open(s.cfg.Limits); err != nil {
		s.deleteConsumer()
		return err
	}
	if err := s.beginSingle(); err != nil {
		s.hand.Pull().Close()
		return err
	}
	return nil
}

// consumerName is the name of the consumer at the time when a log line is written: one
// that is made again may have another name.
type consumerName struct{ s *Subscription }

func (n consumerName) LogValue() slog.Value { return slog.StringValue(n.s.Consumer().Name) }

// Discard ends a subscription that has not begun: it closes the inbox and deletes an
// ephemeral consumer.
func (s *Subscription) Discard() {
	s.end()
	s.giveUp()
	s.hand.Pull().Close()
	s.endSingle()
	s.deleteConsumer()
}

// Begin starts the workers. They wait for the delay before the first fetch. The context
// is a child of [Subscription.Context], and the context of all deliveries until
// Config.Handle sets another one. Begin is called once, also after StopWithin: the workers
// then end at once, and with them the subscription.
func (s *Subscription) Begin(ctx context.Context, delay time.Duration) {
	s.hand.Begin(ctx)
	s.log.Info(fmt.Sprintf("subscribed to %s (%s)", s.cfg.Topic, s.describe()))
	s.ids[0].Store(0)
	if s.hand.Pin() != nil {
		s.hand.Pin().RenewIn(delay)
	}
	for slot := range s.cfg.Concurrency {
		go func() {
			if delay > 0 {
				s.pause(pause{length: delay}, nil)
			}
			s.work(slot)
		}()
	}
}

func (s *Subscription) describe() string {
	kind := "queue " + s.cfg.Queue + ", "
	if s.cfg.Queue == "" {
		kind = ""
	}
	cs := s.Consumer()
	return fmt.Sprintf("%sstream %s, consumer %s", kind, cs.Stream.Name, cs.Name)
}

// Context is the base of all contexts that handlers get. It has the values of
// Config.Parent, and is cancelled by Abandon and at the end of the subscription.
func (s *Subscription) Context() context.Context { return s.base }

// Log returns a logger whose lines have topic, queue, stream and consumer.
func (s *Subscription) Log() *slog.Logger { return s.log }

// Consumer returns what is known of the consumer now. It takes no lock.
func (s *Subscription) Consumer() *consumers.Consumer { return s.hand.Consumer() }

// Done is closed when the last worker has ended.
func (s *Subscription) Done() <-chan struct{} { return s.done }

// Stopped reports whether StopWithin was called.
func (s *Subscription) Stopped() bool { return s.life.Err() != nil }

// Running returns how many deliveries are being handled.
func (s *Subscription) Running() int { return s.hand.Running() }

// RunsOn reports whether the goroutine with that [goroutine.ID] is one that the end of
// the subscription waits for: a worker's, or the one that gives back in StopWithin. Until
// Begin it is the one that has called Open. It is false for 0.
func (s *Subscription) RunsOn(id uint64) bool {
	if id == 0 {
		return false
	}
	return s.stopper.Load() == id || s.works(id)
}

// works reports whether the goroutine is a worker's.
func (s *Subscription) works(id uint64) bool {
	for i := range s.ids {
		if s.ids[i].Load() == id {
			return true
		}
	}
	return false
}

// Abandon cancels the contexts of the handlers that run, and lets their ack deadlines
// pass: nobody waits for them any more.
func (s *Subscription) Abandon() { s.giveUp() }

// InHand returns how many messages were fetched and are not being handled.
func (s *Subscription) InHand() int { return s.hand.Len() }

// Refuse tells the subscription of a permission violation. If it is about the
// subscription's requests, or about the answers to them, the fetch fails.
func (s *Subscription) Refuse(violation error) {
	subject, _ := wire.RefusedSubject(violation, wire.PublishViolation)
	if subject != s.cfg.Conn.API(s.Consumer().Next()) && !strings.Contains(violation.Error(), s.hand.Pull().Inbox()) {
		return
	}
	s.fetcher.refuse(fault.Permission(violation))
}

// Pause waits for d, or until the connection is back after a loss. It returns false if
// the subscription was stopped meanwhile.
func (s *Subscription) Pause(d time.Duration) (goOn bool) {
	_, goOn = s.pause(pause{length: d, changed: s.cfg.Conn.Changed()}, nil)
	return goOn
}

// pause is a wait that ends early when the connection is back.
type pause struct {
	length  time.Duration
	changed <-chan struct{} // of the connection, since the pause was called for; nil: it does not matter
	down    bool            // the connection was seen down since
	wake    <-chan struct{} // see [hand.Hand.Wake]
}

// pause also ends when a message comes in the inbox, which it returns, and when it is
// woken.
func (s *Subscription) pause(p pause, inbox <-chan *nats.Msg) (m *nats.Msg, goOn bool) {
	timer := time.NewTimer(p.length)
	defer timer.Stop()
	for {
		if p.down && s.cfg.Conn.Up() {
			return nil, !s.Stopped()
		}
		select {
		case <-timer.C:
			return nil, true
		case <-s.life.Done():
			return nil, false
		case <-p.changed:
			p.changed, p.down = s.cfg.Conn.Changed(), true
		case <-p.wake:
			return nil, false
		case m := <-inbox:
			return m, false
		}
	}
}
