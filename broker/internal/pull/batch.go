package pull

import "time"

const (
	// minBatch is how many messages a request asks for at first, when the stream
	// has no backlog, and when handlers are slow.
	minBatch = 10
	// maxBatch is what the default MaxAckPending of 1000 leaves when a hundred acks
	// are on their way. With 500, which is nats.go's own window for Consume, a busy
	// machine makes the server wait for the next request now and then, and a
	// twenty-fifth of the speed is lost.
	maxBatch = 900
	// batchTime is how much work a batch may hold. What one replica has fetched no
	// other can handle.
	batchTime = 50 * time.Millisecond
	// batchBytes is how much an adaptive batch may weigh, by the weight of the
	// latest messages. A few large messages keep a network as busy as many small ones.
	batchBytes = 4 << 20
	// batchGrowth keeps one lucky batch from making the next one far too large.
	batchGrowth = 4
)

// batchSizer decides how many messages may be under way, which means asked for or
// waiting to be handled. That is a fixed number, or as many as the subscription has
// lately handled in batchTime.
type batchSizer struct {
	fixed int
	size  int
	since time.Time // when the first message of the batch arrived
	bytes int       // the weight of a message lately, on average
}

func newBatchSizer(fixed int) batchSizer {
	return batchSizer{fixed: fixed, size: max(fixed, minBatch)}
}

// largest is the most messages that may be under way.
func (b *batchSizer) largest() int {
	if b.fixed > 0 {
		// After a reconnect the server may still serve the request from before
		// beside the new one.
		return 2 * b.fixed
	}
	return maxBatch + 10*minBatch // reset keeps the second request small
}

// arrived notes that messages have come.
func (b *batchSizer) arrived(now time.Time) {
	if b.since.IsZero() {
		b.since = now
	}
}

// weigh learns how large messages are. A large one counts at once, small ones count
// little by little.
func (b *batchSizer) weigh(n int) {
	b.bytes = max(n, b.bytes+(n-b.bytes)/8)
}

// handled learns from the n messages that were handled since the last call. It is
// called when more messages are wanted. With full, everything that was asked for has
// come, so there is a backlog.
func (b *batchSizer) handled(n int, full bool, now time.Time) {
	took := now.Sub(b.since)
	b.since = time.Time{}
	switch {
	case b.fixed > 0:
	case !full:
		b.size = minBatch // leave what comes to all replicas
	default:
		fits := maxBatch
		if took > 0 {
			fits = int(min(int64(n)*int64(batchTime)/int64(took), maxBatch))
		}
		b.size = max(min(fits, batchGrowth*b.size), minBatch)
	}
}

// early reports whether to ask for more while this many messages are under way. Quick
// handlers then need not wait for the answer.
func (b *batchSizer) early(under int) bool {
	return b.fixed == 0 && b.size > minBatch && under <= b.next()/2
}

// reset forgets what was learned. It is called when nobody knows how a request ended.
func (b *batchSizer) reset() {
	b.since = time.Time{}
	if b.fixed == 0 {
		b.size = minBatch
	}
}

// next returns how many messages may be under way.
func (b *batchSizer) next() int {
	if b.fixed > 0 {
		return b.fixed
	}
	if b.bytes > batchBytes/maxBatch {
		return max(min(b.size, batchBytes/b.bytes), 1)
	}
	return b.size
}
