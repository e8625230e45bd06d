package ledger

import (
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"go-micro-jetstream/broker/internal/consumers"
	"go-micro-jetstream/broker/internal/wire"
)

func id(sequence uint64) wire.Identity {
	return wire.Identity{Sequence: sequence, StoredAt: int64(sequence) * 1000}
}

func TestMemory(t *testing.T) {
	t.Parallel()
	cs := &consumers.Consumer{Config: jetstream.ConsumerConfig{AckWait: 30 * time.Second, BackOff: []time.Duration{time.Second, 2 * time.Minute}}}
	remembers := func(m *memory, first, last, step uint64, want bool) {
		t.Helper()
		for n := first; n <= last; n += step {
			if m.has(id(n)) != want {
				t.Fatalf("message %d: %v, want %v", n, !want, want)
			}
		}
	}
	fill := func(m *memory, first, last, step uint64) {
		for n := first; n <= last; n += step {
			m.add(cs, id(n))
		}
	}
	t.Run("neighbours", func(t *testing.T) {
		t.Parallel()
		var m memory
		const n = 900_000
		fill(&m, 1, n, 1)
		remembers(&m, 1, n, 997, true)
		remembers(&m, n+1, n+100, 1, false)
		m.forget(id(5))
		remembers(&m, 5, 5, 1, false)
		remembers(&m, 6, 6, 1, true)
	})
	t.Run("bounded", func(t *testing.T) {
		t.Parallel()
		for name, step := range map[string]uint64{"neighbours": 1, "every second": 2, "one per block": blockSize, "far apart": 1 << 20} {
			var m memory
			last := 3 * maxBlocks * max(step, blockSize)
			fill(&m, step, last, step)
			if len(m.blocks) > maxBlocks || len(m.queue) > maxBlocks {
				t.Errorf("%s: %d blocks, %d in the queue", name, len(m.blocks), len(m.queue))
			}
			remembers(&m, last-(maxBlocks-2)*step, last, step, true)
			remembers(&m, step, step, 1, false)
		}
	})
	t.Run("for as long as a redelivery can take", func(t *testing.T) {
		t.Parallel()
		var m memory
		fill(&m, 1, 3*minBlocks*blockSize, 1)
		age := func(d time.Duration) {
			for _, b := range m.queue {
				b.made = b.made.Add(-d)
			}
		}
		age(2*time.Minute + extraTime - time.Second)
		m.add(cs, id(1<<30))
		remembers(&m, 1, 3*minBlocks*blockSize, 997, true)
		age(2 * time.Second)
		m.add(cs, id(1<<31))
		if n := len(m.blocks); n != minBlocks {
			t.Errorf("%d blocks, want %d, which an outage may need", n, minBlocks)
		}
		remembers(&m, 1, blockSize, 1, false)
	})
	t.Run("of a stream that was made again", func(t *testing.T) {
		t.Parallel()
		var m memory
		fill(&m, 1, 100, 1)
		for n := uint64(1); n <= 100; n++ {
			if m.has(wire.Identity{Sequence: n, StoredAt: int64(n)*1000 + 1e9}) {
				t.Errorf("message %d of the new stream passes for one of the old one", n)
			}
		}
	})
	t.Run("no delivery of a stream", func(t *testing.T) {
		t.Parallel()
		var m memory
		m.add(cs, wire.Identity{})
		if m.has(wire.Identity{}) || len(m.blocks) > 0 {
			t.Error("remembered")
		}
	})
}

func BenchmarkMemory(b *testing.B) {
	cs := &consumers.Consumer{Config: jetstream.ConsumerConfig{AckWait: 30 * time.Second}}
	var m memory
	for n := range b.N {
		m.add(cs, id(uint64(n)+1))
	}
}
