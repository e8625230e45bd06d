package broker

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"go-micro.dev/v5/broker"

	"go-micro-jetstream/broker/internal/deadletter"
	"go-micro-jetstream/broker/internal/fault"
	"go-micro-jetstream/broker/internal/wire"
)

// DeadLetter is a dead letter that [Redrive] has found.
type DeadLetter struct {
	Stream   string    // the stream that holds the letter
	Sequence uint64    // its place there
	Subject  string    // the dead-letter topic
	StoredAt time.Time // when it became a dead letter, by the server's clock

	Topic            string // where it came from, and where it goes
	OriginalStream   string // the stream that the original was in
	OriginalSequence uint64 // its place there
	Queue            string // the queue that gave it up; may be empty
	Reason           string // why
	Deliveries       uint64 // how often it was delivered
	Redriven         uint64 // how often it was redriven before
	Cut              string // what is missing: reason, headers, body; empty if nothing is

	Header map[string]string // as a handler of the dead-letter topic gets it
	Body   []byte
}

// RedriveOption is an option of [Redrive].
type RedriveOption func(*redrive)

// redrive is one call of Redrive.
type redrive struct {
	session  *session
	cfg      *config
	store    *deadletter.Store
	filter   func(DeadLetter) bool
	filtered bool
	limit    int
	limited  bool
	dryRun   bool

	taken  map[string]bool // message ids of the originals that were published for letters that lack something
	failed int
	errs   []error // the first maxRedriveErrors of them
}

// maxRedriveErrors is how many letters the error of Redrive names.
const maxRedriveErrors = 10

// RedriveFilter chooses the letters: those for which the function returns true. The
// others stay. It is called in the order of the stream, on the goroutine of [Redrive].
// A nil function makes Redrive fail with [ErrInvalidConfig].
func RedriveFilter(want func(DeadLetter) bool) RedriveOption {
	return func(r *redrive) { r.filter, r.filtered = want, true }
}

// RedriveLimit ends [Redrive] after n letters: at least 1, or Redrive fails with
// [ErrInvalidConfig]. The default is no limit.
func RedriveLimit(n int) RedriveOption {
	return func(r *redrive) { r.limit, r.limited = n, true }
}

// RedriveDryRun has [Redrive] count the letters that it would try to redrive, and change
// nothing. It does not ask whether they can be published. With [RedriveFilter] it lists
// them.
func RedriveDryRun() RedriveOption {
	return func(r *redrive) { r.dryRun = true }
}

// Redrive publishes dead letters to the topics that they came from, in the order of
// their stream, and removes each one as soon as it is stored there. It returns how
// many. Use it when the cause is fixed. The dead-letter topic may have wildcards. What
// becomes a dead letter after the call began stays. If several queues subscribe to a
// topic, each of them gets what is published there, not only the one that gave the
// message up. With the broker's own topic of
// [WithDeadLetter] it returns 0 while there has been no dead letter yet.
//
// A message that is redriven has its headers and body, and Micro-Dead-Letter-Redriven,
// which counts. If it fails again, it is a dead letter again and keeps that count. Of a
// letter without its body or some headers (see [WithDeadLetter]) the original is
// published, if its stream still has it. A stuck original is then removed, after its
// letter. If several such letters have the same original, because several queues have
// given it up, a call publishes it once and removes them all. A later call, as for a
// letter that a filter had left out, does not find the original: its [ErrDeadLetterCut]
// names the message id to look for.
//
// Redrive can be interrupted at any point and called again: nothing is lost. A letter
// that was published and not removed has the same message id the next time, so it is
// stored once within the duplicates window of the topic's stream (2 minutes by default),
// as far as that stream remembers ids. The same holds for two calls at a time. The number
// that a call returns is of the letters that it has removed itself: several calls count
// each letter once. Between a letter and its original only the end of the process or of
// the connection can interrupt. The original then stays in its stream, and may be handled
// again when its consumer is made again; an error says which one.
//
// Letters are read and removed by sequence, which needs no consumer and works beside
// subscribers of the dead-letter topic. What they have in hand, they handle all the
// same. A stream with WorkQueue retention has only letters that nobody has acked. One
// with Limits retention also has those that subscribers have handled: they are redriven,
// too. If there are consumers, a line in the log says so.
//
// A letter that cannot be published, because its topic or header is invalid, its stream
// is missing or full, or a part of it is missing, stays, and Redrive goes on. So does one
// for a stream with Interest retention that has no consumer of the topic, because that
// stream would acknowledge it and keep nothing ([ErrInvalidConfig]). That is asked just
// before, so let nobody delete that consumer while Redrive runs: the letter would be lost. The error
// then names the first 10 and the number of all. Redrive stops where it cannot go on:
// the context has ended, the connection or an outcome is lost, or a letter cannot be
// removed. Each letter takes three requests, one after the other, and two more for a topic in a stream with Interest
// retention.
//
// The user needs permission to publish to the topics, to
// $JS.API.STREAM.NAMES, and with the name of the dead letters' stream to
// $JS.API.STREAM.INFO, $JS.API.STREAM.MSG.GET and $JS.API.STREAM.MSG.DELETE. For letters
// that were cut it needs the last three for the streams of the originals, too, and for
// topics in streams with Interest retention $JS.API.CONSUMER.LIST of these.
//
// Errors: [ErrNotConnected], [ErrForeign], [ErrInvalidTopic], [ErrInvalidConfig],
// [ErrStreamNotFound], [ErrStreamMismatch], [ErrPermission], [ErrDeadLetterCut], and those of Publish.
func Redrive(ctx context.Context, b broker.Broker, deadLetterTopic string, opts ...RedriveOption) (n int, err error) {
	if ctx == nil {
		ctx = context.Background()
	}
	r, err := newRedrive(b, deadLetterTopic, opts)
	if err == nil {
		n, err = r.run(ctx, deadLetterTopic)
	}
	if err != nil {
		err = fmt.Errorf("jetstream: redrive %q: %w", wire.Shorten(deadLetterTopic), err)
	}
	return n, err
}

func newRedrive(b broker.Broker, topic string, opts []RedriveOption) (*redrive, error) {
	r := &redrive{taken: map[string]bool{}}
	for _, opt := range opts {
		if opt != nil {
			opt(r)
		}
	}
	own, ok := b.(*jetstreamBroker)
	switch {
	case !ok || own == nil:
		return nil, fmt.Errorf("%w: the broker is a %T, not one of NewBroker", ErrForeign, b)
	case r.filtered && r.filter == nil:
		return nil, fmt.Errorf("%w: RedriveFilter: the function is nil", ErrInvalidConfig)
	case r.limited && r.limit < 1:
		return nil, fmt.Errorf("%w: RedriveLimit(%d): want at least 1", ErrInvalidConfig, r.limit)
	}
	if err := wire.CheckSubscribeTopic(topic); err != nil {
		return nil, err
	}
	r.session, r.cfg = own.life.Session(), own.cfg.Load()
	if r.session == nil || r.cfg == nil {
		return nil, fault.ErrNoConnection
	}
	return r, nil
}

func (r *redrive) run(ctx context.Context, topic string) (n int, err error) {
	r.store, err = deadletter.Open(ctx, r.session.streams, topic)
	if topic == r.cfg.rules.DeadLetter && errors.Is(err, ErrStreamNotFound) {
		return 0, nil // its stream comes with the first dead letter
	}
	if err != nil {
		return 0, err
	}
	if r.store.Consumers > 0 && !r.dryRun {
		r.session.log.Info(fmt.Sprintf("redriving %s beside %d consumers of stream %s: letters that they have in hand may be handled by them, too", topic, r.store.Consumers, r.store.Name))
	}
	for next := uint64(1); next <= r.store.Last && (!r.limited || n < r.limit); {
		m, err := r.store.Next(ctx, next)
		if err != nil {
			return n, err
		}
		if m == nil || m.Sequence > r.store.Last {
			break
		}
		next = m.Sequence + 1
		done, err := r.one(ctx, m)
		if done {
			n++
		}
		if err != nil {
			return n, err
		}
	}
	if r.failed > len(r.errs) {
		r.errs = append(r.errs, fmt.Errorf("and %d more", r.failed-len(r.errs)))
	}
	return n, errors.Join(r.errs...)
}

// one redrives a letter. An error ends Redrive.
func (r *redrive) one(ctx context.Context, m *deadletter.Stored) (done bool, err error) {
	l, ok := deadletter.Parse(m)
	if !ok {
		return false, nil // put there by somebody else
	}
	redriven, _ := wire.ParseUint(m.Header.Get(deadletter.Redriven))
	if r.filter != nil && !r.filter(found(m, &l, redriven)) {
		return false, nil
	}
	if r.dryRun {
		return true, nil
	}
	source, err := r.source(ctx, m, &l)
	if err == nil && source != nil {
		err = publishOn(r.session, r.cfg, l.Topic,
			&broker.Message{Header: deadletter.Again(source.Header, redriven+1), Body: source.Body},
			publishOptions{ctx: ctx, messageID: source.id, original: source.Header, kept: true})
	}
	if err != nil {
		err = fmt.Errorf("letter %d of stream %s: %w", m.Sequence, m.Stream, err)
		if ctx.Err() != nil || errors.Is(err, ErrNotConnected) || errors.Is(err, ErrPublishUnknown) || errors.Is(err, ErrJetStreamUnavailable) {
			return false, err
		}
		if r.failed++; len(r.errs) < maxRedriveErrors {
			r.errs = append(r.errs, err)
		}
		return false, nil
	}
	if source != nil && source.Stored != m {
		r.taken[source.id] = true
	}
	return r.remove(ctx, m, source)
}

// remove removes a letter that is published, and then its original if that is stuck. If
// the original went first, a call that is interrupted would leave a letter without it,
// and nobody could tell that it was published.
func (r *redrive) remove(ctx context.Context, m *deadletter.Stored, source *redriveSource) (done bool, err error) {
	stuck, hint := source != nil && source.stuck, ""
	if stuck { // the end of the caller's context does not come between the two
		ctx = context.WithoutCancel(ctx)
		hint = fmt.Sprintf(" (if it is gone all the same, remove its original, message %d of stream %s)", source.Sequence, source.Stream)
	}
	done, err = r.store.Remove(ctx, m) // if it is not done, another call has moved it, and counts it
	if err != nil {
		return false, fmt.Errorf("letter %d of stream %s is published, but not removed%s: %w", m.Sequence, m.Stream, hint, err)
	}
	if !stuck {
		return done, nil
	}
	if _, err = r.store.Remove(ctx, source.Stored); err != nil {
		return done, fmt.Errorf("letter %d of stream %s is published and removed, but its original is not: remove message %d of stream %s, or it is handled again when its consumer is made again: %w",
			m.Sequence, m.Stream, source.Sequence, source.Stream, err)
	}
	return done, nil
}

// redriveSource is what is published for a letter.
type redriveSource struct {
	*deadletter.Stored
	id    string // the message id with which it is published
	stuck bool   // it is the original, and stays in its stream until it is removed
}

// source returns what is to be published: the letter, or its original if headers or
// body of the letter are missing. It returns nil if that is published already: by way of
// another letter of the same original, or by another call, which has removed the letter.
// What must hold for the original to be removed is asked before it is published.
func (r *redrive) source(ctx context.Context, m *deadletter.Stored, l *deadletter.Letter) (*redriveSource, error) {
	cut := m.Header.Get(deadletter.Cut)
	if !strings.Contains(cut, "headers") && !strings.Contains(cut, "body") {
		return &redriveSource{Stored: m, id: fmt.Sprintf("redrive:%s:%d:%d", deadletter.Encode(m.Stream), m.Sequence, m.StoredAt.UnixNano())}, nil
	}
	id := "redrive:" + l.OriginalID()
	if r.taken[id] {
		return nil, nil
	}
	original, err := r.store.Original(ctx, l)
	if err != nil {
		return nil, err
	}
	if original == nil {
		return nil, r.missing(ctx, m, l, cut, id)
	}
	stuck, err := r.store.Sticks(ctx, original.Stream)
	if err != nil {
		return nil, err
	}
	return &redriveSource{Stored: original, id: id, stuck: stuck}, nil
}

// missing is the error of a letter whose original is gone. It is nil if the letter is gone,
// too: another call has redriven it.
func (r *redrive) missing(ctx context.Context, m *deadletter.Stored, l *deadletter.Letter, cut, id string) error {
	if there, err := r.store.Has(ctx, m); err != nil || !there {
		return err
	}
	return fmt.Errorf("%w: %s, and stream %s does not have the original, message %d, any more. A call of Redrive for another letter of the same message may have published it, with the message id %q: look for that in the stream of %s. If it is there, or was handled, remove the letter. Otherwise publish what there is by hand",
		ErrDeadLetterCut, cut, l.Stream, l.Sequence, id, wire.Shorten(l.Topic))
}

func found(m *deadletter.Stored, l *deadletter.Letter, redriven uint64) DeadLetter {
	header, _ := wire.IncomingHeader(m.Header)
	return DeadLetter{
		Stream: m.Stream, Sequence: m.Sequence, Subject: m.Subject, StoredAt: m.StoredAt,
		Topic: l.Topic, OriginalStream: l.Stream, OriginalSequence: l.Sequence, Queue: l.Queue, Reason: l.Reason,
		Deliveries: l.Deliveries, Redriven: redriven, Cut: m.Header.Get(deadletter.Cut),
		Header: header, Body: m.Body,
	}
}
