package ledger

import (
	"time"

	"go-micro-jetstream/broker/internal/consumers"
	"go-micro-jetstream/broker/internal/wire"
)

const (
	// blockSize is how many neighbours in the stream a block has room for.
	blockSize = 32
	// maxBlocks bounds the memory: a million messages that are neighbours, or at least
	// one message per block. With its index a block takes about 130 bytes.
	maxBlocks = 1 << 15
	// minBlocks are kept however old they are. An outage, which may last for ever, loses
	// the acks of no more messages.
	minBlocks = 1 << 10
	// extraTime is how much longer than the longest ack deadline messages are remembered:
	// the time until the connection is back, and until the server delivers.
	extraTime = time.Minute
)

// memory remembers messages that were settled for good, for as long as the server may
// deliver them again because the settlement was lost. Its memory is bounded. It has no
// lock.
type memory struct {
	blocks map[uint64]*block // by their first sequence
	queue  []*block          // in the order in which they were made
	latest *block            // the one used last
}

// block has sums of the messages that begin with a sequence. A sum stands for the
// message's identity: its time tells it from the message of the same number in a stream
// that was made again. 0: the message is not remembered.
type block struct {
	first uint64
	made  time.Time
	sums  [blockSize]uint16
}

func sum(id wire.Identity) uint16 {
	const golden = 0x9e3779b97f4a7c15
	return uint16(uint64(id.StoredAt)*golden>>48) | 1
}

// add remembers a message of a consumer.
func (m *memory) add(cs *consumers.Consumer, id wire.Identity) {
	if id.Sequence == 0 {
		return // no delivery of a stream
	}
	first := id.Sequence - id.Sequence%blockSize
	if m.latest == nil || m.latest.first != first {
		m.latest = m.block(cs, first)
	}
	m.latest.sums[id.Sequence-first] = sum(id)
}

func (m *memory) has(id wire.Identity) bool {
	b := m.blocks[id.Sequence-id.Sequence%blockSize]
	return b != nil && b.sums[id.Sequence%blockSize] == sum(id)
}

func (m *memory) forget(id wire.Identity) {
	if m.has(id) {
		m.blocks[id.Sequence-id.Sequence%blockSize].sums[id.Sequence%blockSize] = 0
	}
}

// block returns the block that begins there. If it makes one, it drops those that are too
// old, or too many.
func (m *memory) block(cs *consumers.Consumer, first uint64) *block {
	if b := m.blocks[first]; b != nil {
		return b
	}
	now := time.Now()
	for len(m.queue) >= maxBlocks || len(m.queue) >= minBlocks && now.Sub(m.queue[0].made) > longest(cs)+extraTime {
		delete(m.blocks, m.queue[0].first)
		m.queue[0] = nil
		m.queue = m.queue[1:]
	}
	if m.blocks == nil {
		m.blocks = map[uint64]*block{}
	}
	b := &block{first: first, made: now}
	m.blocks[first] = b
	m.queue = append(m.queue, b)
	return b
}

// longest returns the longest ack deadline of a consumer.
func longest(cs *consumers.Consumer) time.Duration {
	wait := max(cs.Config.AckWait, consumers.DefaultAckWait)
	for _, d := range cs.Config.BackOff {
		wait = max(wait, d)
	}
	return wait
}
