package ledger

import (
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"go-micro-jetstream/broker/internal/asset"
	"go-micro-jetstream/broker/internal/consumers"
	"go-micro-jetstream/broker/internal/wire"
)

// A consumer that is made again begins with the oldest message that is not settled,
// however many there are: what is remembered of them is bounded.
func TestOldestUnsettledMessageIsNotForgotten(t *testing.T) {
	t.Parallel()
	cs := &consumers.Consumer{Ephemeral: true, Config: jetstream.ConsumerConfig{DeliverPolicy: jetstream.DeliverNewPolicy}}
	l := New(0)
	deliver := func(sequence, delivery uint64, settle func(wire.Metadata)) {
		m := wire.Metadata{StreamSequence: sequence, NumDelivered: delivery}
		l.Started(m)
		settle(m)
	}
	ack := func(m wire.Metadata) { l.Ack(cs, m) }
	term := func(m wire.Metadata) { l.Term(cs, m) }
	owe := func(m wire.Metadata) { l.Owe(cs, m, m.NumDelivered) }
	resumes := func(want uint64) {
		t.Helper()
		if n := l.ResumeAt(); n != want {
			t.Errorf("resumes at %d, want %d", n, want)
		}
	}
	deliver(10, 1, ack)
	resumes(11)
	deliver(11, 1, owe)
	deliver(12, 1, owe)
	deliver(13, 1, ack)
	resumes(11)
	deliver(11, 2, ack)
	resumes(12)
	deliver(12, 2, term)
	resumes(14)
	for sequence := uint64(14); sequence < 14+3*remembered; sequence++ {
		deliver(sequence, 1, owe)
	}
	resumes(14)
	if n := len(l.owed); n > remembered {
		t.Errorf("remembers %d", n)
	}
}

func TestSettledMessagesAreRecognised(t *testing.T) {
	t.Parallel()
	var l Ledger
	cs := &consumers.Consumer{Stream: &asset.Stream{Retention: jetstream.WorkQueuePolicy}}
	delivery := func(sequence, n uint64, storedAt int64) wire.Metadata {
		return wire.Metadata{StreamSequence: sequence, NumDelivered: n, StoredAt: storedAt}
	}
	l.Ack(cs, delivery(1, 1, 100))
	l.Term(cs, delivery(2, 1, 200))
	l.Started(delivery(2, 1, 200))
	l.Spend(&consumers.Consumer{Limit: 3, ByServer: true}, delivery(4, 3, 400), 2)
	for _, tt := range []struct {
		name string
		m    wire.Metadata
		want Fate
	}{
		{"acked", delivery(1, 2, 100), Acked},
		{"terminated", delivery(2, 2, 200), Terminated},
		{"spent", delivery(4, 3, 400), Spent},
		{"of another stream", delivery(1, 2, 101), Open},
		{"not settled", delivery(3, 2, 300), Open},
	} {
		if fate := l.Fate(tt.m); fate != tt.want {
			t.Errorf("%s: %v, want %v", tt.name, fate, tt.want)
		}
	}
	if l.MayRepeat(delivery(1, 1, 100)) {
		t.Error("a first delivery passes for a second one")
	}
	l.ExpectCopies(cs, 5)
	if !l.MayRepeat(delivery(5, 1, 500)) || l.MayRepeat(delivery(6, 1, 600)) {
		t.Error("a new consumer repeats what was fetched from the former one, and nothing else")
	}
	l.Owe(cs, delivery(1, 2, 100), 2) // an operator has it delivered again
	if fate := l.Fate(delivery(1, 3, 100)); fate != Open {
		t.Errorf("%v", fate)
	}
	l.ExpectCopies(&consumers.Consumer{Stream: &asset.Stream{Retention: jetstream.LimitsPolicy}}, 0)
	if fate := l.Fate(delivery(2, 1, 200)); fate != Open {
		t.Errorf("a replay is wanted: %v", fate)
	}
}

// A message whose failures are forgotten begins with none: it has more tries, not fewer.
func TestFailuresOfManyMessagesAreBounded(t *testing.T) {
	t.Parallel()
	const n = maxFailing + 1000
	l := New(0)
	message := func(sequence uint64) wire.Metadata {
		return wire.Metadata{StreamSequence: sequence, NumDelivered: 1, StoredAt: int64(sequence)}
	}
	for sequence := uint64(1); sequence <= n; sequence++ {
		l.Failed(message(sequence), 1)
		l.Failed(message(sequence), 2) // once more
	}
	forgotten := 0
	for sequence := uint64(1); sequence <= n; sequence++ {
		switch failures := l.Started(message(sequence)); failures {
		case 0:
			forgotten++
		case 2:
		default:
			t.Errorf("message %d has failed %d times", sequence, failures)
		}
	}
	if forgotten != n-maxFailing || len(l.failures) != maxFailing {
		t.Errorf("%d are forgotten, and %d remembered", forgotten, len(l.failures))
	}
	if failures := l.Started(message(n)); failures != 2 {
		t.Errorf("the latest message has failed %d times", failures)
	}
	cs := &consumers.Consumer{Stream: &asset.Stream{}}
	l.Ack(cs, message(n))
	if failures := l.Started(message(n)); failures != 0 {
		t.Error("a settled message is still remembered")
	}
}
