package main

import (
	"errors"
	"sync"

	jsbroker "go-micro-jetstream/broker"
)

// ledger counts messages by their bodies, each of which is unique.
type ledger struct {
	mu          sync.Mutex
	published   int
	stored      map[string]bool // acknowledged to the publisher
	unknown     int             // stored or not
	refused     int             // not stored
	handled     map[string]int
	dead        map[string]int
	slow        int // times that the client dropped messages
	disturbed   map[string]int
	fetchErrors int
}

func newLedger() *ledger {
	return &ledger{stored: map[string]bool{}, handled: map[string]int{}, dead: map[string]int{}, disturbed: map[string]int{}}
}

func (l *ledger) update(f func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f()
}

// answered notes how a publish ended.
func (l *ledger) answered(body string, err error) {
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

// lost is how many were stored and neither handled nor dead-lettered.
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

func again(counts map[string]int) (n int) {
	for _, times := range counts {
		n += times - 1
	}
	return n
}
