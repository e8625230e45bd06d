package queue_test

import (
	"os"
	"slices"
	"testing"
	"time"

	"go-micro-jetstream/broker/internal/keyorder"
	"go-micro-jetstream/broker/internal/queue"
	"go-micro-jetstream/internal/natstest"
)

func TestMain(m *testing.M) { os.Exit(natstest.Main(m)) }

type message struct {
	n       uint64
	settled bool
	keyless bool
	seat    keyorder.Seat[*message]
}

func (m *message) Seat() *keyorder.Seat[*message] { return &m.seat }
func (m *message) Place() keyorder.Place          { return keyorder.Place{Sequence: m.n} }
func (m *message) Weight() int                    { return 10 }
func (m *message) Settled() bool                  { return m.settled }
func (m *message) Hangs(time.Time) bool           { return false }
func (m *message) Keyless() bool                  { return m.keyless }
func (m *message) Repeat() *message               { return &message{n: m.n, keyless: m.keyless} }
func (m *message) Renew(time.Time)                {}
func (m *message) AskAgain()                      { m.keyless = false }

func add(q *queue.Queue[*message], from, to uint64) {
	for n := from; n <= to; n++ {
		q.Add(&message{n: n})
	}
}

// take takes what can be started, up to a number of messages.
func take(q *queue.Queue[*message], most int) (ds []*message) {
	for len(ds) < most {
		d := q.Take()
		if d == nil {
			break
		}
		ds = append(ds, d)
	}
	return ds
}

func numbers(ds []*message) (ns []uint64) {
	for _, d := range ds {
		ns = append(ns, d.n)
	}
	return ns
}

func check(t *testing.T, what string, ds []*message, want ...uint64) {
	t.Helper()
	if got := numbers(ds); !slices.Equal(got, want) {
		t.Errorf("%s: %v, want %v", what, got, want)
	}
}

func nudged(q *queue.Queue[*message]) bool {
	select {
	case <-q.Wake():
		return true
	default:
		return false
	}
}

func TestWithoutKeysMessagesKeepTheirOrder(t *testing.T) {
	t.Parallel()
	q := queue.New[*message](false)
	if message, key := q.Startable(); message || key || q.ByKey() || q.Take() != nil {
		t.Error("an empty queue has something")
	}
	add(&q, 1, 3)
	check(t, "taken", take(&q, 2), 1, 2)
	add(&q, 4, 9)
	if d, waits := q.First(); !waits || d.n != 3 || q.Len() != 7 || q.Backlog() != 7 || q.IdleBacklog(time.Hour) != 0 {
		t.Errorf("first %v, %d wait", d, q.Len())
	}
	check(t, "stranded", q.Strand(time.Now(), func(d *message) bool { return d.n%2 == 0 }), 4, 6, 8)
	var all []*message
	q.All(func(d *message, unwatched bool) {
		if !unwatched {
			t.Errorf("%d waits for another one", d.n)
		}
		all = append(all, d)
	})
	check(t, "left", all, 3, 5, 7, 9)
	add(&q, 2, 2)
	q.Sort()
	check(t, "sorted and emptied", q.Empty(), 2, 3, 5, 7, 9)
	if q.Shrink(); q.Len() != 0 {
		t.Errorf("%d wait", q.Len())
	}
	d := &message{n: 1}
	if q.Finish(d, 0); q.Keep(d, 0) || len(q.Refuse(d, 0, nil)) > 0 || len(q.Relieve(nil)) > 0 {
		t.Error("there are keys")
	}
}

// A queue that is filled and emptied again and again needs no memory for that.
func TestQueueUsesItsMemoryAgain(t *testing.T) {
	q := queue.New[*message](false)
	d := &message{}
	fill := func() {
		for range 100 {
			q.Add(d)
		}
		for q.Take() != nil {
		}
	}
	fill()
	if n := testing.AllocsPerRun(10, fill); n > 0 {
		t.Errorf("%v allocations", n)
	}
}

// Messages are started when their keys are known, those of one key one after the other.
func TestKeysAreAskedForInOrder(t *testing.T) {
	t.Parallel()
	q := queue.New[*message](true)
	add(&q, 1, 5)
	if message, key := q.Startable(); message || !key {
		t.Error("a message has no key yet")
	}
	check(t, "to ask for", q.Unsorted(4), 1, 2, 3, 4)
	if _, asking := q.Asking(); !asking || len(q.Unsorted(4)) > 0 {
		t.Error("two ask for keys")
	}
	q.Sorted([]uint64{7, 7, 8}) // the fourth one comes next time
	if _, asking := q.Asking(); asking || !nudged(&q) {
		t.Error("somebody still asks, or nobody is woken")
	}
	if held, keys := q.Held(); held != 3 || keys != 2 || q.Bytes() != 30 || q.Len() != 5 {
		t.Errorf("%d of %d keys, %d bytes, %d in all", held, keys, q.Bytes(), q.Len())
	}
	started := take(&q, 5)
	check(t, "started", started, 1, 3)
	check(t, "to ask for", q.Unsorted(1), 4)
	check(t, "emptied", q.Empty(), 2, 4, 5)
	q.Sorted([]uint64{9}) // too late
	if q.Len() != 0 {
		t.Errorf("%d wait", q.Len())
	}
}

func TestMessageThatIsKeptIsHandledAgainInItsTurn(t *testing.T) {
	t.Parallel()
	q := queue.New[*message](true)
	add(&q, 1, 2)
	q.Unsorted(2)
	q.Sorted([]uint64{7, 7})
	nudged(&q)
	first := q.Take()
	if !q.Keep(first, time.Millisecond) || q.Take() != nil {
		t.Error("it is not kept")
	}
	first.settled = true
	q.Finish(first, time.Hour)
	natstest.Receive(t, q.Wake())
	again := q.Take()
	if again == nil || again.n != 1 || again == first {
		t.Fatalf("taken: %v", again)
	}
	check(t, "refused", q.Refuse(again, 0, func(*message) bool { return false }))
	check(t, "taken", take(&q, 2), 2)
	q.End()
}

// One whose handler has left it unsettled holds up its key until somebody settles it.
func TestUnsettledMessageHoldsUpItsKey(t *testing.T) {
	t.Parallel()
	q := queue.New[*message](true)
	add(&q, 1, 2)
	q.Unsorted(2)
	q.Sorted([]uint64{7, 7})
	nudged(&q)
	first := q.Take()
	q.Finish(first, time.Hour)
	if q.Take() != nil || q.Backlog() != 0 {
		t.Error("the next one does not wait")
	}
	first.settled = true
	if q.Settled(first); !nudged(&q) {
		t.Error("nobody is woken")
	}
	check(t, "taken", take(&q, 2), 2)
	q.End()
}

// Everything is taken out while somebody asks for keys. Until that is over nobody asks for
// others, and the keys are of none of them.
func TestKeysOfWhatWasTakenOutAreDropped(t *testing.T) {
	t.Parallel()
	q := queue.New[*message](true)
	add(&q, 1, 3)
	check(t, "asked for", q.Unsorted(10), 1, 2, 3)
	check(t, "taken out", q.Empty(), 1, 2, 3)
	add(&q, 4, 5)
	check(t, "asked for meanwhile", q.Unsorted(10))
	if _, key := q.Startable(); key {
		t.Error("a worker would ask in vain")
	}
	q.Sorted([]uint64{1, 1, 1})
	if !nudged(&q) {
		t.Error("nobody is woken to ask for the others")
	}
	check(t, "asked for then", q.Unsorted(10), 4, 5)
	q.Sorted([]uint64{2, 3})
	check(t, "started", take(&q, 10), 4, 5)
}
