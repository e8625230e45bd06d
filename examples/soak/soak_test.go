package main

import (
	"testing"
	"time"
)

// TestNothingIsLostInAShortSoak runs the program's work against one server and
// against three.
func TestNothingIsLostInAShortSoak(t *testing.T) {
	if testing.Short() {
		t.Skip("restarting servers takes too long for -short")
	}
	for _, servers := range []int{1, 3} {
		s := &soak{servers: servers, rate: 50, every: time.Second, ledger: newLedger()}
		if err := s.run(t.Context(), 5*time.Second); err != nil {
			t.Errorf("%d servers: %v", servers, err)
		}
		if len(s.ledger.stored) == 0 {
			t.Errorf("%d servers: nothing stored", servers)
		}
		t.Logf("%d servers: %d stored, %d of unknown outcome", servers, len(s.ledger.stored), s.ledger.unknown)
	}
}
