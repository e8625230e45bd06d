package main

import (
	"testing"
	"time"
)

// TestNothingIsLostInAShortSoak runs the program's work against one server and
// against three.
func TestNothingIsLostInAShortSoak(t *testing.T) {
	for _, servers := range []int{1, 3} {
		s := &soak{servers: servers, rate: 50, every: time.Second, ledger: newLedger()}
		if err := s.run(t.Context(), 5*time.Second); err != nil {
			t.Errorf("%d servers: %v", servers, err)
		}
		if len(s.ledger.stored) == 0 || s.ledger.unknown > 0 {
			t.Errorf("%d servers: %d stored, %d unknown", servers, len(s.ledger.stored), s.ledger.unknown)
		}
	}
}
