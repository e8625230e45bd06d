package broker

import (
	"strconv"
	"sync/atomic"
)

// maxResting is how many reply subjects rest at most. It is few enough for the
// server to remember them, which keeps what the latest 512 subjects that a stream
// has answered to lead to (maxResultCacheSize in nats-server's client.go), and 1,024
// for all of an account (slCacheMax in its sublist.go).
const maxResting = 256

// minResting is how many rest when one is used again, so how many publishes there
// are at least between two with the same reply subject.
const minResting = maxResting / 2

// replies are the reply subjects of the publishes of a connection. They are used
// again: to answer to a subject that it remembers takes the server a tenth less of
// the time for a publish than to look for who listens to a new one. Where the server
// has a JetStream domain, its answers are longer than those that acks.receive can
// trust, and none is.
//
// A publish may be answered twice, though: by another subscriber of its subject, by
// a stream behind a leaf node, by the former and the new leader of its stream. What
// comes late must not count for the next publish with that reply subject. So
//   - one that has not been answered is never used again;
//   - an answer to one that was used before counts only if it cannot be an earlier
//     publish's, see acks.receive and publication.acked. Otherwise it is doubtful,
//     and the message is sent again, with its id and a reply subject of its own;
//   - when a second answer has come, none is used again on this connection.
//
// What this cannot tell apart is the late answer of a second stream that has the
// same name, no domain, and a higher sequence; the first one that meets a resting
// subject, or that has a lower sequence, ends it.
//
// The caller holds acks.mu.
type replies struct {
	prefix     string
	next       uint64
	taken      uint64 // how often one has been, of all
	byID       map[uint64]*reply
	rest       [maxResting]*reply // those that nobody uses: a ring
	first      int                // the one that has rested longest
	n          int
	distrusted bool // none is used again
}

// reply is a reply subject.
type reply struct {
	id      uint64
	subject string
	waiter  *waiter       // who waits for the answer; nil while it rests
	number  uint64        // of its latest use among those of all; they are in order
	used    bool          // more than once
	begun   atomic.Uint64 // number of the latest use whose message the client was given
	written atomic.Uint64 // the same, when the client has taken it
}

// take returns a reply subject for the waiter.
func (rs *replies) take(w *waiter) *reply {
	var r *reply
	if w.reuse && rs.n >= minResting {
		r = rs.pop()
		r.used = true
	} else {
		rs.next++
		r = &reply{id: rs.next, subject: rs.prefix + strconv.FormatUint(rs.next, 10)}
		rs.byID[r.id] = r
	}
	rs.taken++
	r.waiter, r.number = w, rs.taken
	return r
}

// release is for one that has been answered and may be used again.
func (rs *replies) release(r *reply) {
	if rs.distrusted || rs.n == maxResting {
		rs.retire(r)
		return
	}
	rs.rest[(rs.first+rs.n)%maxResting] = r
	rs.n++
}

// retire is for one that is not used again.
func (rs *replies) retire(r *reply) { delete(rs.byID, r.id) }

// distrust retires all that rest: publishes are answered twice here.
func (rs *replies) distrust() {
	rs.distrusted = true
	for rs.n > 0 {
		rs.retire(rs.pop())
	}
}

// pop returns the one that has rested longest.
func (rs *replies) pop() *reply {
	r := rs.rest[rs.first]
	rs.rest[rs.first] = nil
	rs.first, rs.n = (rs.first+1)%maxResting, rs.n-1
	return r
}
