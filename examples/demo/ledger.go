package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"slices"
	"sync"
	"time"
)

// ledger records what happens to every order, by its id. It is independent of the
// broker and its metrics, so that it can prove them right.
type ledger struct {
	run string // part of every id, to tell the orders of this run from others

	mu      sync.Mutex
	entries map[string]*entry
	counts  counts
	all     chan struct{} // closed and replaced when no order is missing any more
	foreign int           // orders of other runs that have arrived
}

// counts counts distinct orders.
type counts struct {
	published, shipped, dead int
	missing                  int // published, but not arrived
}

// entry is the record of one order.
type entry struct {
	number    int
	created   time.Time
	published bool // a stream has acknowledged it
	shipped   int  // how often
	dead      []deadLetter
	took      time.Duration // from its creation until it was shipped
}

// arrived reports whether the order came to an end: shipped or as a dead letter.
func (e *entry) arrived() bool { return e.shipped > 0 || len(e.dead) > 0 }

// deadLetter is a message that was given up.
type deadLetter struct {
	number     int
	topic      string
	queue      string
	deliveries int
	reason     string
}

func newLedger() *ledger {
	return &ledger{run: rand.Text()[:8], entries: map[string]*entry{}, all: make(chan struct{})}
}

// open creates an order and returns its id.
func (l *ledger) open(number int) string {
	id := fmt.Sprintf("%s-%06d", l.run, number)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.entries[id] = &entry{number: number, created: time.Now()}
	return id
}

// published records that a stream has stored the order. By then, the order may
// already have arrived.
func (l *ledger) published(id string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := l.entries[id]
	e.published = true
	l.counts.published++
	if !e.arrived() {
		l.counts.missing++
	}
}

// shipped records that the order was shipped.
func (l *ledger) shipped(id string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if e := l.arrive(id); e != nil {
		if e.shipped++; e.shipped == 1 {
			l.counts.shipped++
			e.took = time.Since(e.created)
		}
	}
}

// dead records that the order became a dead letter.
func (l *ledger) dead(id string, d deadLetter) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if e := l.arrive(id); e != nil {
		if e.dead = append(e.dead, d); len(e.dead) == 1 {
			l.counts.dead++
		}
	}
}

// arrive returns the entry of an order that has just arrived, or nil if the order is
// of another run.
func (l *ledger) arrive(id string) *entry {
	e := l.entries[id]
	if e == nil {
		l.foreign++
		return nil
	}
	if e.published && !e.arrived() {
		if l.counts.missing--; l.counts.missing == 0 {
			close(l.all)
			l.all = make(chan struct{})
		}
	}
	return e
}

// soFar returns the current counts.
func (l *ledger) soFar() counts {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.counts
}

// await waits until every published order has arrived. Call it only when no more
// orders are published.
func (l *ledger) await(ctx context.Context) error {
	l.mu.Lock()
	all, n := l.all, l.counts.missing
	l.mu.Unlock()
	if n == 0 {
		return context.Cause(ctx)
	}
	select {
	case <-all:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// summary counts the orders, by distinct id.
func (l *ledger) summary() summary {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := summary{foreign: l.foreign}
	for _, e := range l.entries {
		if !e.published {
			if e.arrived() {
				s.unconfirmed++
			}
			continue
		}
		s.published++
		if e.shipped > 0 {
			s.shipped++
			s.took = append(s.took, e.took)
		}
		if len(e.dead) > 0 {
			s.dead++
			s.letters = append(s.letters, e.dead...)
		}
		if e.shipped+len(e.dead) > 1 {
			s.twice = append(s.twice, e.number)
		}
		if !e.arrived() {
			s.missing = append(s.missing, e.number)
		}
	}
	slices.Sort(s.took)
	slices.Sort(s.missing)
	slices.Sort(s.twice)
	slices.SortFunc(s.letters, func(a, b deadLetter) int { return a.number - b.number })
	return s
}
