package main

import (
	"errors"
	"sync"

	jsbroker "go-micro-jetstream/broker"
)

// ledger records what happens to every message. Messages are identified by their
// body, which is unique.
type ledger struct {
	mu          sync.Mutex
	published   int
	stored      map[string]bool // acknowledged by a stream
	unknown     int             // may or may not be stored
	refused     int             // not stored
	handled     map[string]int  // how often
	dead        map[string]int  // how often
	dropped     int             // how often the client dropped messages, as a slow consumer
	faults      map[string]int  // by kind
	fetchErrors int
}

func newLedger() *ledger {
	return &ledger{stored: map[string]bool{}, handled: map[string]int{}, dead: map[string]int{}, faults: map[string]int{}}
}

// update calls f with the ledger locked.
func (l *ledger) update(f func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f()
}

// publishEnded records the outcome of a publish.
func (l *ledger) publishEnded(body string, err error) {
	l.update(func() {
		l.published++
		switch {
		case err == nil:
			l.stored[body] = true
		case errors.Is(err, jsbroker.ErrPublishUnknown):
			l.unknown++
		default:
			l.refused++
		}
	})
}

// lost returns how many messages were stored, but neither handled nor dead-lettered.
func (l *ledger) lost() (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for body := range l.stored {
		if l.handled[body]+l.dead[body] == 0 {
			n++
		}
	}
	return n
}

// duplicates returns how many of the counts are repetitions.
func duplicates(counts map[string]int) (n int) {
	for _, times := range counts {
		n += times - 1
	}
	return n
}
