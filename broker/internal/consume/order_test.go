package consume

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"go-micro-jetstream/broker/internal/wire"
)

// queue is an order, and the time in which it lives.
type queue struct {
	*order
	t   *testing.T
	sub *Subscription
	now time.Time
}

func newQueue(t *testing.T) *queue {
	return &queue{newOrder(), t, &Subscription{cfg: Config{MaxAckExtension: time.Hour}}, time.Now()}
}

func (q *queue) delivery(sequence uint64) *Delivery {
	return &Delivery{
		Msg: nats.NewMsg("orders"), Received: q.now, sub: q.sub,
		Meta: wire.Metadata{NumDelivered: 1, StreamSequence: sequence},
	}
}

func (q *queue) add(key uint64, sequences ...uint64) {
	for _, n := range sequences {
		q.insert(q.delivery(n), key, q.now)
	}
}

// starts takes the next message, which must be this one; 0: none.
func (q *queue) starts(sequence uint64) *Delivery {
	q.t.Helper()
	d := q.take(q.now)
	switch {
	case d == nil && sequence != 0:
		q.t.Fatalf("nothing to start, want %d", sequence)
	case d != nil && d.Meta.StreamSequence != sequence:
		q.t.Fatalf("starts %d, want %d", d.Meta.StreamSequence, sequence)
	}
	return d
}

func (q *queue) ack(d *Delivery) {
	d.settled.Store(settlement(Ack, 0))
	q.finish(d, q.now, q.now)
}

func (q *queue) fail(d *Delivery, delay time.Duration) {
	q.t.Helper()
	d.settled.Store(settlement(Ack, 0))
	if !q.keep(d, d.repeat(), q.now, q.now.Add(delay)) {
		q.t.Fatal("not kept")
	}
	q.finish(d, q.now, q.now)
}

func (q *queue) pass(d time.Duration) {
	q.now = q.now.Add(d)
	q.elapse(q.now)
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
	if again.Meta.NumDelivered != 2 || again.served() != 1 || again.Settled() {
		t.Errorf("delivery %d, %d of the server", again.Meta.NumDelivered, again.served())
	}
	q.fail(again, time.Minute)
	q.pass(time.Minute)
	again = q.starts(1)
	if again.Meta.NumDelivered != 3 {
		t.Errorf("delivery %d", again.Meta.NumDelivered)
	}
	q.ack(again)
	q.ack(q.starts(2))
	q.ack(q.starts(5))
	q.holds(0, 0)
	if len(q.lanes) != 0 || q.first != nil || q.last != nil || len(q.waits) != 0 || q.bytes != 0 {
		t.Errorf("left: %+v", q.order)
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
		gone := func(d *Delivery) bool { return d.Meta.StreamSequence == 2 }
		if also := q.drop(q.starts(1), q.now, time.Minute, gone); len(also) != 1 {
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
	q.finish(d, q.now, q.now.Add(time.Minute))
	q.starts(0)
	d.settled.Store(settlement(Ack, 0))
	q.settled(d, q.now)
	d = q.starts(2)
	q.finish(d, q.now, q.now.Add(time.Minute))
	q.pass(time.Minute)
	again := q.starts(2)
	if again == d || again.Meta.NumDelivered != 2 {
		t.Errorf("delivery %d", again.Meta.NumDelivered)
	}
	d.settled.Store(settlement(Ack, 0))
	q.settled(d, q.now) // late
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
	if gone := q.relieve(q.now, func(*Delivery) bool { return false }); len(gone) > 0 {
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
	for i, d := range q.empty(nil) {
		if d.Meta.StreamSequence != want[i] {
			t.Errorf("number %d is %d, want %d", i, d.Meta.StreamSequence, want[i])
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
	var running []*Delivery
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
			if d := q.take(q.now); d != nil {
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
			if key := d.Meta.StreamSequence % 37; d.Meta.StreamSequence <= last[key] {
				t.Fatalf("%d after %d", d.Meta.StreamSequence, last[key])
			} else {
				last[key] = d.Meta.StreamSequence
			}
			q.ack(d)
			ended++
		case 3:
			q.pass(time.Millisecond)
		}
	}
	q.holds(0, 0)
	if len(q.lanes) != 0 || len(q.waits) != 0 || q.bytes != 0 {
		t.Errorf("left: %+v", q.order)
	}
}
