package broker

import (
	"testing"

	"github.com/nats-io/nats.go/jetstream"
)

// A consumer that is made again begins with the oldest message that is not settled,
// however many there are: what is remembered of them is bounded.
func TestOldestUnsettledMessageIsNotForgotten(t *testing.T) {
	t.Parallel()
	s := &subscription{consumer: &consumer{ephemeral: true, cfg: jetstream.ConsumerConfig{DeliverPolicy: jetstream.DeliverNewPolicy}}}
	deliver := func(sequence, delivery uint64, r Result) {
		s.last = max(s.last, sequence)
		s.remember(&event{meta: metadata{streamSequence: sequence, numDelivered: delivery}}, r)
	}
	resumes := func(want uint64) {
		t.Helper()
		if n := s.resumeAt(); n != want {
			t.Errorf("resumes at %d, want %d", n, want)
		}
	}
	deliver(10, 1, ResultAck)
	resumes(11)
	deliver(11, 1, ResultNak)
	deliver(12, 1, ResultNak)
	deliver(13, 1, ResultAck)
	resumes(11)
	deliver(11, 2, ResultAck)
	resumes(12)
	deliver(12, 2, ResultTerm)
	resumes(14)
	for sequence := uint64(14); sequence < 14+3*remembered; sequence++ {
		deliver(sequence, 1, ResultNak)
	}
	resumes(14)
	if n := len(s.owed); n > remembered {
		t.Errorf("remembers %d", n)
	}
}
