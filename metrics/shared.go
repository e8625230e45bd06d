package metrics

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go-micro.dev/v5/logger"

	jsbroker "go-micro-jetstream/broker"
)

const (
	// Replicas may be scraped at the same moment. Each waits for another time before it
	// asks its first question. Who hears that another one asks waits longer than the
	// server needs for the answer to each further question. It asks only if nothing comes:
	// then the other one has stopped.
	firstWait  = 250 * time.Millisecond
	followWait = 400 * time.Millisecond // and up to twice as long
	// Two that began to ask at the same moment wait for different times before the next
	// few questions, until one of them hears the other.
	tieWait  = 50 * time.Millisecond
	tieTries = 4
	// sharedWait is how long the first answer of a round may take on the shared subject.
	// Without it, the collector asks again on its own inbox.
	sharedWait = time.Second
	// maxHeard bounds the answers that are kept, by their size in bytes: those about 500
	// consumers are about half a MiB.
	maxHeard = 32 << 20
	// idleAfter is how long the collector goes on listening while nobody scrapes it.
	idleAfter = 5 * time.Minute
)

// ServerShared makes the replicas that name the same subject share the answers of the
// server, so that all of them together ask about as often as one. They ask with this
// subject as their reply subject, and all listen below it: each hears all answers. A
// replica asks only what no other one has asked within the last [ServerInterval]. One that
// stops asking holds up the others for about a second. Without this option each replica
// asks for itself.
//
// Each user must be permitted to subscribe to <subject>.*, and nobody needs to be
// permitted to publish there: whoever is can forge the metrics, as the subject can be
// guessed and an inbox cannot. A user without the permission asks for itself, and the log
// says so once. No stream may hold the subject, and it must not be below the inbox prefix
// of the connection, where a refusal would stop the broker.
//
// Only those share that ask the same JetStream: it does not matter that others use the
// subject with another domain, API prefix or cluster, or in another account. Accounts that
// export and import the subject to each other must each name another one: nothing in an
// answer tells their streams apart. Up to 32 MiB of answers are kept. What is beyond that
// each replica asks for itself. A collector that has not been scraped for five minutes
// listens no more.
//
// Errors: [jsbroker.ErrInvalidConfig] for a subject with wildcards, blanks or empty tokens,
// and for one that begins with $.
func ServerShared(subject string) ServerOption {
	return func(s *Server) error {
		if strings.HasPrefix(subject, "$") || strings.ContainsAny(subject, "*> \t\r\n") || strings.Contains("."+subject+".", "..") {
			return fmt.Errorf("%w: ServerShared(%q): want a subject without wildcards that does not begin with $, such as metrics.server", jsbroker.ErrInvalidConfig, subject)
		}
		s.shared.subject = subject
		return nil
	}
}

// shared is what replicas hear of the answers that one of them has asked for.
type shared struct {
	subject string // what they listen below; "": each asks for itself

	// Of the round under way.
	alone  time.Time // until when it asks for itself
	said   bool      // the log says why
	misses int       // rounds in a row in which no answer has arrived

	mu     sync.Mutex
	conn   *nats.Conn // that sub is on
	sub    *nats.Subscription
	wanted time.Time // when the latest round began
	heard  map[string]*heard
	size   int // of what is heard, in bytes
	room   int // how large size may become
}

// heard is the latest answer to a question of this collector.
type heard struct {
	question question
	wanted   time.Time // when the collector last had this question
	reply    *reply    // nil: none
	failure  error     // what the server has said instead, later than reply
	failedAt time.Time
	next     *turn
}

// turn is the next answer. It is there once done is closed.
type turn struct {
	done  chan struct{}
	reply *reply // nil: it is an error
}

func newTurn() *turn { return &turn{done: make(chan struct{})} }

// listen begins a round, and reports whether answers are shared.
func (s *shared) listen(nc *nats.Conn, log logger.Logger, keep time.Duration) bool {
	if s.subject == "" || time.Now().Before(s.alone) {
		return false
	}
	prefix := nc.Opts.InboxPrefix
	if prefix == "" {
		prefix = strings.TrimSuffix(nats.InboxPrefix, ".")
	}
	if strings.HasPrefix(s.subject+".", prefix+".") {
		s.giveUp(log, "it is below the inbox prefix "+prefix)
		return false
	}
	old, current := s.begin(nc, keep)
	if old != nil {
		_ = old.Unsubscribe() // mostly its connection is closed, and it has ended
	}
	if current {
		return true
	}
	sub, err := nc.Subscribe(s.subject+".*", s.hear)
	if err != nil {
		return false // the connection is about to be replaced
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conn, s.sub = nc, sub
	return true
}

// begin forgets what is not asked any more. It returns a subscription to end, and
// reports whether there is one on the connection.
func (s *shared) begin(nc *nats.Conn, keep time.Duration) (old *nats.Subscription, current bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	s.wanted = now
	for token, h := range s.heard {
		if now.Sub(h.wanted) > keep {
			s.keep(h, nil)
			delete(s.heard, token)
		}
	}
	if s.conn == nc && s.sub.IsValid() {
		return nil, true
	}
	old, s.sub, s.conn = s.sub, nil, nil
	return old, false
}

// giveUp has the collector ask for itself, for half an hour.
func (s *shared) giveUp(log logger.Logger, why string) {
	s.alone, s.misses = time.Now().Add(refusedFor), 0
	if sub := s.leave(); sub != nil {
		_ = sub.Unsubscribe() // or each reconnect would ask for it again
	}
	if !s.said {
		s.said = true
		say(log, fmt.Sprintf("metrics: ServerShared(%q): this process asks the server for itself: %s", s.subject, why))
	}
}

// leave returns the subscription to end.
func (s *shared) leave() (sub *nats.Subscription) {
	s.mu.Lock()
	defer s.mu.Unlock()
	sub, s.sub, s.conn = s.sub, nil, nil
	return sub
}

// hear takes in an answer. What is not the answer to a question of this collector is
// ignored.
func (s *shared) hear(m *nats.Msg) {
	token := m.Subject[strings.LastIndexByte(m.Subject, '.')+1:]
	one, idle := s.waitsFor(token)
	if idle != nil {
		_ = idle.Unsubscribe()
	}
	if one == nil {
		return
	}
	r, err := one.parse(m)
	s.took(token, r, err)
}

// waitsFor returns the question, nil if it is none of this collector, and the
// subscription if nobody has scraped for long.
func (s *shared) waitsFor(token string) (one *question, idle *nats.Subscription) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if time.Since(s.wanted) > idleAfter {
		idle, s.sub, s.conn = s.sub, nil, nil
		return nil, idle
	}
	if h := s.heard[token]; h != nil {
		return &h.question, nil
	}
	return nil, nil
}

func (s *shared) took(token string, r *reply, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	h := s.heard[token]
	if h == nil || errors.Is(err, errNoAnswer) {
		return
	}
	if err != nil {
		h.failure, h.failedAt = err, time.Now()
	} else {
		s.keep(h, nil)
		if s.size+r.size <= s.room { // who waits gets it anyway
			s.keep(h, r)
		}
		h.failure = nil
	}
	h.next.reply = r
	close(h.next.done)
	h.next = newTurn()
}

// keep replaces an answer. The caller holds the lock.
func (s *shared) keep(h *heard, r *reply) {
	if h.reply != nil {
		s.size -= h.reply.size
	}
	if r != nil {
		s.size += r.size
	}
	h.reply = r
}

// latest returns what was heard since then, the next answer, and the error that was the
// answer since then.
func (s *shared) latest(token string, one *question, since time.Time) (r *reply, next *turn, failure error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	h := s.heard[token]
	if h == nil {
		h = &heard{question: *one, next: newTurn()}
		if s.heard == nil {
			s.heard = map[string]*heard{}
		}
		s.heard[token] = h
	}
	h.wanted = time.Now()
	if h.reply != nil && !h.reply.at.Before(since) {
		r = h.reply
	}
	if h.failure != nil && !h.failedAt.Before(since) {
		failure = h.failure
	}
	return r, h.next, failure
}

// await waits for an answer that is not older than since. Without one the error is that
// of the context.
func (s *shared) await(ctx context.Context, token string, one *question, since time.Time, failures bool) (*reply, error) {
	r, next, failure := s.latest(token, one, since)
	for r == nil && (failure == nil || !failures) {
		select {
		case <-next.done:
			if next.reply != nil {
				return next.reply, nil
			}
			r, next, failure = s.latest(token, one, since)
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	if r != nil {
		return r, nil
	}
	return nil, failure
}

// token stands for a question to a JetStream. Others on the same subject may ask another
// one: that of a leaf node, of a domain, or of the hub.
func (q *question) token(js jetstream.JetStream) string {
	nc := js.Conn()
	place := nc.ConnectedClusterName()
	if place == "" {
		place = nc.ConnectedServerId()
	}
	sum := sha256.Sum256([]byte(strings.Join([]string{q.subject(js), q.body, nc.ConnectedDomain(), place}, "\x00")))
	return hex.EncodeToString(sum[:16])
}

// answer returns the answer to a question: one that was heard on the shared subject, which
// another replica may have asked for, or one that this connection alone has got.
func (q *inquiry) answer(ctx context.Context, js jetstream.JetStream, one *question) (r *reply, overheard bool, err error) {
	s, nc := q.server.shared, js.Conn()
	if !q.begun {
		q.begun = true
		q.sharing = s.listen(nc, q.server.log, q.server.keep()+2*q.server.interval)
		q.patience = rand.N(firstWait)
	}
	if !q.sharing {
		r, err = one.ask(ctx, js)
		return r, false, err
	}
	token := one.token(js)
	patient, cancel := halfOf(ctx, q.patience)
	r, err = s.await(patient, token, one, time.Now().Add(-q.server.renewal()), false)
	cancel()
	if err == nil {
		s.misses, q.patience = 0, followWait+rand.N(followWait)
		return r, true, nil
	}
	q.patience = 0 // it is this collector that asks
	if q.led++; q.led <= tieTries {
		q.patience = rand.N(tieWait)
	}
	since := time.Now()
	if err := nc.PublishRequest(one.subject(js), s.subject+"."+token, []byte(one.body)); err != nil {
		return nil, false, err
	}
	if q.hears {
		r, err = s.await(ctx, token, one, since, true)
		return r, true, err
	}
	return q.firstAnswer(ctx, js, one, token, since)
}

// firstAnswer waits for the first answer of a round to this collector. It shows whether
// answers arrive on the shared subject.
func (q *inquiry) firstAnswer(ctx context.Context, js jetstream.JetStream, one *question, token string, since time.Time) (r *reply, overheard bool, err error) {
	s := q.server.shared
	limited, cancel := halfOf(ctx, sharedWait)
	r, err = s.await(limited, token, one, since, true)
	cancel()
	if !errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		q.hears, s.misses = true, 0
		return r, true, err
	}
	r, err = one.ask(ctx, js)
	if err != nil {
		return nil, false, err
	}
	// What was asked first is answered first, also by a slow server. One question may have
	// been lost all the same, so it takes two rounds until that is a reason.
	limited, cancel = context.WithTimeout(ctx, firstWait)
	defer cancel()
	if _, none := s.await(limited, token, one, since, false); none != nil && ctx.Err() == nil {
		q.sharing = false
		if s.misses++; s.misses > 1 {
			s.giveUp(q.server.log, "no answer arrives there. Permit the user to subscribe to "+s.subject+".*")
		}
	}
	return r, false, nil
}

// halfOf returns a context for as long, and for half of the remaining time at most.
func halfOf(ctx context.Context, patience time.Duration) (context.Context, context.CancelFunc) {
	if deadline, ok := ctx.Deadline(); ok {
		patience = min(patience, time.Until(deadline)/2)
	}
	return context.WithTimeout(ctx, patience)
}
