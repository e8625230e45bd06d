package keyorder

import (
	"math/rand/v2"
	"testing"
	"time"
)

// maxAge is how old a message becomes until its handler counts as hanging.
const maxAge = time.Hour

// message is a message that is handled.
type message struct {
	seat     Seat[*message]
	place    Place
	delivery int
	came     time.Time
	settled  bool
	keyless  bool
}

func (m *message) Seat() *Seat[*message]    { return &m.seat }
func (m *message) Place() Place             { return m.place }
func (m *message) Weight() int              { return 100 }
func (m *message) Settled() bool            { return m.settled }
func (m *message) Hangs(now time.Time) bool { return now.Sub(m.came) > maxAge }
func (m *message) Keyless() bool            { return m.keyless }
func (m *message) Renew(now time.Time)      { m.came = now }
func (m *message) Repeat() *message {
	return &message{place: m.place, delivery: m.delivery + 1, came: m.came, keyless: m.keyless}
}

// queue is an order, and the time in which it lives.
type queue struct {
	*Order[*message]
	t   *testing.T
	now time.Time
}

func newQueue(t *testing.T) *queue { return &queue{New[*message](), t, time.Now()} }

func (q *queue) add(key uint64, sequences ...uint64) {
	for _, n := range sequences {
		q.Insert(&message{place: Place{Sequence: n}, delivery: 1, came: q.now}, key, q.now)
	}
}

// starts takes the next message, which must be this one; 0: none.
func (q *queue) starts(sequence uint64) *message {
	q.t.Helper()
	d, ready := q.Take(q.now)
	switch {
	case !ready && sequence != 0:
		q.t.Fatalf("nothing to start, want %d", sequence)
	case ready && d.place.Sequence != sequence:
		q.t.Fatalf("starts %d, want %d", d.place.Sequence, sequence)
	}
	return d
}

func (q *queue) ack(d *message) {
	d.settled = true
	q.Finish(d, q.now, q.now)
}

func (q *queue) fail(d *message, delay time.Duration) {
	q.t.Helper()
	d.settled = true
	if !q.Keep(d, d.Repeat(), q.now, q.now.Add(delay)) {
		q.t.Fatal("not kept")
	}
	q.Finish(d, q.now, q.now)
}

func (q *queue) pass(d time.Duration) {
	q.now = q.now.Add(d)
	q.Elapse(q.now)
}

// holds checks the counts, and that nothing is left where nothing should be.
func (q *queue) holds(held, blocked int) {
	q.t.Helper()
	if q.held != held || q.blocked != blocked {
		q.t.Errorf("holds %d, of which %d blocked, want %d and %d", q.held, q.blocked, held, blocked)
	}
}

func TestKeysDoNotWaitForEachOther(t *testing.T) {
	t.Parallel()
	q := newQueue(t)
	q.add(1, 1, 2, 5)
	q.add(2, 3, 4)
	first, third := q.starts(1), q.starts(3)
	q.starts(0)
	q.holds(3, 0)
	q.fail(first, time.Second)
	q.holds(4, 3)
	q.ack(third)
	fourth := q.starts(4)
	q.ack(fourth)
	q.starts(0)
	if len(q.lanes) != 1 {
		t.Errorf("%d lanes", len(q.lanes))
	}
	q.pass(time.Second)
	q.holds(3, 0)
	again := q.starts(1)
	if again.delivery != 2 || again.Settled() {
		t.Errorf("delivery %d", again.delivery)
	}
	q.fail(again, time.Minute)
	q.pass(time.Minute)
	again = q.starts(1)
	if again.delivery != 3 {
		t.Errorf("delivery %d", again.delivery)
	}
	q.ack(again)
	q.ack(q.starts(2))
	q.ack(q.starts(5))
	q.holds(0, 0)
	if len(q.lanes) != 0 || q.first != nil || q.last != nil || len(q.waits) != 0 || q.bytes != 0 {
		t.Errorf("left: %+v", q.Order)
	}
}

// What another replica has given back comes before what is here already.
func TestEarlierMessageGoesFirst(t *testing.T) {
	t.Parallel()
	q := newQueue(t)
	q.add(1, 7, 8)
	d := q.starts(7)
	q.add(1, 5, 9, 6)
	q.ack(d)
	for _, n := range []uint64{5, 6, 8, 9} {
		q.ack(q.starts(n))
	}
}

// A message that has expired in hand is delivered again, and those after it wait for
// that, but not for ever.
func TestLaterMessagesWaitForOneThatHasExpired(t *testing.T) {
	t.Parallel()
	for _, comes := range []bool{true, false} {
		q := newQueue(t)
		q.add(1, 1, 2, 3, 4)
		gone := func(d *message) bool { return d.place.Sequence == 2 }
		if also := q.Drop(q.starts(1), q.now, time.Minute, gone); len(also) != 1 {
			t.Errorf("dropped %d more", len(also))
		}
		q.starts(0)
		q.holds(2, 2)
		if comes {
			q.add(1, 1)
			q.ack(q.starts(1))
			q.starts(0)
			q.add(1, 2)
			q.ack(q.starts(2))
		} else {
			q.pass(time.Minute)
		}
		q.ack(q.starts(3))
		q.ack(q.starts(4))
		if len(q.lanes) != 0 {
			t.Errorf("%d lanes are left", len(q.lanes))
		}
	}
}

// A message that its handler has left unsettled holds the others of its key up until it
// is settled, or is handled again.
func TestUnsettledMessageHoldsItsKey(t *testing.T) {
	t.Parallel()
	q := newQueue(t)
	q.add(1, 1, 2)
	d := q.starts(1)
	q.Finish(d, q.now, q.now.Add(time.Minute))
	q.starts(0)
	d.settled = true
	q.Settled(d, q.now)
	d = q.starts(2)
	q.Finish(d, q.now, q.now.Add(time.Minute))
	q.pass(time.Minute)
	again := q.starts(2)
	if again == d || again.delivery != 2 {
		t.Errorf("delivery %d", again.delivery)
	}
	d.settled = true
	q.Settled(d, q.now) // late
	q.ack(again)
	q.holds(0, 0)
}

// A handler that hangs holds its key up until the server has delivered its message once
// more.
func TestHandlerThatHangsLosesItsKey(t *testing.T) {
	t.Parallel()
	q := newQueue(t)
	q.add(1, 1, 2)
	hangs := q.starts(1)
	q.pass(2 * time.Hour)
	if gone := q.Relieve(q.now, func(*message) bool { return false }); len(gone) > 0 {
		t.Error("something has expired")
	}
	q.starts(0)
	q.add(1, 1)
	again := q.starts(1)
	q.ack(hangs)
	q.starts(0)
	q.ack(again)
	q.ack(q.starts(2))
	q.holds(0, 0)
}

func TestEverythingIsGivenBackInOrder(t *testing.T) {
	t.Parallel()
	q := newQueue(t)
	q.add(1, 1, 4)
	q.add(2, 2, 3)
	q.fail(q.starts(1), time.Hour)
	running := q.starts(2)
	want := []uint64{1, 3, 4}
	left := q.Empty()
	Sort(left)
	for i, d := range left {
		if d.place.Sequence != want[i] {
			t.Errorf("number %d is %d, want %d", i, d.place.Sequence, want[i])
		}
	}
	q.ack(running)
	if q.starts(0); len(q.lanes) != 0 {
		t.Errorf("%d lanes are left", len(q.lanes))
	}
}

// Many random steps: each key keeps its order, each message ends once, and nothing is
// left.
func TestOrderInTheLongRun(t *testing.T) {
	t.Parallel()
	q := newQueue(t)
	last := map[uint64]uint64{}
	var running []*message
	ended := 0
	const n = 20_000
	for sequence := uint64(1); ended < n; {
		switch rand.N(4) {
		case 0:
			if sequence <= n {
				q.add(sequence%37, sequence)
				sequence++
			}
		case 1:
			if d, ready := q.Take(q.now); ready {
				running = append(running, d)
			}
		case 2:
			if len(running) == 0 {
				continue
			}
			i := rand.N(len(running))
			d := running[i]
			running = append(running[:i], running[i+1:]...)
			if rand.N(3) == 0 {
				q.fail(d, rand.N(20*time.Millisecond))
				continue
			}
			if key := d.place.Sequence % 37; d.place.Sequence <= last[key] {
				t.Fatalf("%d after %d", d.place.Sequence, last[key])
			} else {
				last[key] = d.place.Sequence
			}
			q.ack(d)
			ended++
		case 3:
			q.pass(time.Millisecond)
		}
	}
	q.holds(0, 0)
	if len(q.lanes) != 0 || len(q.waits) != 0 || q.bytes != 0 {
		t.Errorf("left: %+v", q.Order)
	}
}
