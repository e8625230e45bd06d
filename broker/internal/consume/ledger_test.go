package consume

import (
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"go-micro-jetstream/broker/internal/consumers"
	"go-micro-jetstream/broker/internal/streams"
	"go-micro-jetstream/broker/internal/wire"
)

func newHand(cs *consumers.Consumer) *inHand {
	return newInHand(&Subscription{cfg: Config{Concurrency: 1}}, cs, &jetstream.ConsumerInfo{})
}

// A consumer that is made again begins with the oldest message that is not settled,
// however many there are: what is remembered of them is bounded.
func TestOldestUnsettledMessageIsNotForgotten(t *testing.T) {
	t.Parallel()
	h := newHand(&consumers.Consumer{Ephemeral: true, Config: jetstream.ConsumerConfig{DeliverPolicy: jetstream.DeliverNewPolicy}})
	deliver := func(sequence, delivery uint64, r Result) {
		d := &Delivery{Meta: wire.Metadata{StreamSequence: sequence, NumDelivered: delivery}}
		h.ledger.started(d)
		h.settled(d, r, 0)
	}
	resumes := func(want uint64) {
		t.Helper()
		if n := h.resumeAt(); n != want {
			t.Errorf("resumes at %d, want %d", n, want)
		}
	}
	deliver(10, 1, Ack)
	resumes(11)
	deliver(11, 1, Nak)
	deliver(12, 1, Nak)
	deliver(13, 1, Ack)
	resumes(11)
	deliver(11, 2, Ack)
	resumes(12)
	deliver(12, 2, Term)
	resumes(14)
	for sequence := uint64(14); sequence < 14+3*remembered; sequence++ {
		deliver(sequence, 1, Nak)
	}
	resumes(14)
	if n := len(h.ledger.owed); n > remembered {
		t.Errorf("remembers %d", n)
	}
}

// What was handled, but not settled, is to be delivered again, until somebody acks it
// after all.
func TestUnsettledDeliveryIsOwedUntilItIsAcked(t *testing.T) {
	t.Parallel()
	h := newHand(&consumers.Consumer{Ephemeral: true, Config: jetstream.ConsumerConfig{DeliverPolicy: jetstream.DeliverNewPolicy}})
	d := &Delivery{Meta: wire.Metadata{StreamSequence: 7, NumDelivered: 1}}
	h.running[0] = d
	h.ledger.started(d)
	h.finish(0, d)
	if n := h.resumeAt(); n != 7 {
		t.Errorf("resumes at %d, want 7", n)
	}
	h.settled(d, Ack, 0)
	if n := h.resumeAt(); n != 8 {
		t.Errorf("resumes at %d, want 8", n)
	}
}

func TestSettledMessagesAreRecognised(t *testing.T) {
	t.Parallel()
	var l ledger
	cs := &consumers.Consumer{Stream: &streams.Stream{Retention: jetstream.WorkQueuePolicy}}
	delivery := func(sequence, n uint64, storedAt int64) *Delivery {
		return &Delivery{Meta: wire.Metadata{StreamSequence: sequence, NumDelivered: n, StoredAt: storedAt}}
	}
	l.settle(cs, delivery(1, 1, 100), Ack)
	l.settle(cs, delivery(2, 1, 200), Term)
	l.started(delivery(2, 1, 200))
	for _, tt := range []struct {
		name string
		d    *Delivery
		want *refusal
	}{
		{"acked", delivery(1, 2, 100), handled},
		{"terminated", delivery(2, 2, 200), terminated},
		{"of another stream", delivery(1, 2, 101), nil},
		{"not settled", delivery(3, 2, 300), nil},
	} {
		if why := l.repeated(tt.d); why != tt.want {
			t.Errorf("%s: %v, want %v", tt.name, why, tt.want)
		}
	}
	if l.mayRepeat(delivery(1, 1, 100)) {
		t.Error("a first delivery passes for a second one")
	}
	l.expectCopies(cs, []*Delivery{delivery(5, 1, 500)})
	if !l.mayRepeat(delivery(5, 1, 500)) || l.mayRepeat(delivery(6, 1, 600)) {
		t.Error("a new consumer repeats what was fetched from the former one, and nothing else")
	}
	l.settle(cs, delivery(1, 2, 100), Nak) // an operator has it delivered again
	if err := l.repeated(delivery(1, 3, 100)); err != nil {
		t.Error(err)
	}
	l.expectCopies(&consumers.Consumer{Stream: &streams.Stream{Retention: jetstream.LimitsPolicy}}, nil)
	if err := l.repeated(delivery(2, 1, 200)); err != nil {
		t.Errorf("a replay is wanted: %v", err)
	}
}
