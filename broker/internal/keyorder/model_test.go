package keyorder

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// model is an order, and what must be true of it.
type model struct {
	*queue
	next    uint64          // the sequence of the next message
	running []*message      // taken and not finished
	late    []*message      // finished and not settled
	left    map[uint64]bool // sequences that have not ended
}

// FuzzOrder does what the bytes say, and checks the order after each step.
func FuzzOrder(f *testing.F) {
	for seed := range uint64(20) {
		random := rand.New(rand.NewPCG(seed, 0))
		steps := make([]byte, 3000)
		for i := range steps {
			steps[i] = byte(random.UintN(256))
		}
		f.Add(steps)
	}
	f.Fuzz(func(t *testing.T, steps []byte) {
		m := &model{queue: newQueue(t), next: 1, left: map[uint64]bool{}}
		for i, step := range steps {
			m.step(step%16, int(step/16))
			m.check(i, step)
		}
		m.finish()
	})
}

// keyOf returns the key of a message. One without a key has a lane of its own.
func (m *model) keyOf(d *message) uint64 {
	if d.keyless {
		return 1000 + d.place.Sequence
	}
	return d.place.Sequence % 5
}

func (m *model) insert(d *message) {
	m.left[d.place.Sequence] = true
	m.Insert(d, m.keyOf(d), m.now)
}

func (m *model) step(what byte, n int) {
	switch what {
	case 0, 1, 2:
		m.insert(&message{place: Place{Sequence: m.next}, delivery: 1, came: m.now, keyless: n == 0})
		m.next++
	case 3, 4, 5:
		m.take(n)
	case 6, 7:
		m.end(n, true)
	case 8:
		m.end(n, false)
	case 9:
		m.settle(n)
	case 10:
		for _, d := range m.Relieve(m.now, func(d *message) bool { return d.place.Sequence%3 == 0 }) {
			m.again(d)
		}
	case 11:
		for _, d := range m.Strand(m.now, func(d *message) bool { return d.place.Sequence%7 > 0 }) {
			m.again(d)
		}
	case 12:
		if n == 0 {
			m.empty()
		}
	case 13:
		m.Forget(m.now)
	default:
		m.pass(time.Duration(n) * time.Millisecond)
		if n == 15 {
			m.pass(2 * maxAge) // handlers that run hang
		}
	}
}

// pass has time go by. Messages whose keys are asked for again come back with a key.
func (m *model) pass(d time.Duration) {
	m.now = m.now.Add(d)
	for _, d := range m.Elapse(m.now) {
		d.keyless = false
		m.insert(d)
	}
}

// take starts a message. Some have expired, and with them others of their key.
func (m *model) take(n int) {
	retried := m.first != nil && m.first.repeats() // before what has come again since
	d, ready := m.Take(m.now)
	if !ready {
		return
	}
	for _, other := range m.running {
		if other.seat.lane != nil && other.seat.lane == d.seat.lane {
			m.t.Fatalf("%d is started while %d of its key runs", d.place.Sequence, other.place.Sequence)
		}
	}
	if l := d.seat.lane; !retried && len(l.waiting) > 0 && d.place.Compare(l.waiting[0].place) > 0 {
		m.t.Fatalf("%d is started before %d", d.place.Sequence, l.waiting[0].place.Sequence)
	}
	if n > 1 {
		m.running = append(m.running, d)
		return
	}
	wait := time.Duration(n) * 10 * time.Millisecond // 0: it is not to be handled at all
	also := m.Drop(d, m.now, wait, func(d *message) bool { return d.place.Sequence%2 == 0 })
	if wait == 0 {
		m.gone(d)
		return
	}
	for _, d := range append(also, d) {
		m.again(d)
	}
}

// again has the server deliver a message once more.
func (m *model) again(d *message) {
	m.Insert(&message{place: d.place, delivery: d.delivery + 1, came: m.now, keyless: d.keyless}, m.keyOf(d), m.now)
}

// end ends a handler: with an ack or a retry, or with nothing.
func (m *model) end(n int, settles bool) {
	d := remove(&m.running, n)
	switch {
	case d == nil:
	case !settles:
		m.Finish(d, m.now, m.now.Add(5*time.Millisecond))
		m.late = append(m.late, d)
	case n < 4:
		d.settled = true
		kept := m.Keep(d, d.Repeat(), m.now, m.now.Add(time.Duration(n)*time.Millisecond))
		if m.Finish(d, m.now, m.now); !kept { // it is given back
			m.again(d)
		}
	default:
		m.ack(d)
		m.gone(d)
	}
}

// settle settles a message whose handler has left it unsettled.
func (m *model) settle(n int) {
	if d := remove(&m.late, n); d != nil {
		d.settled = true
		m.Settled(d, m.now)
		m.gone(d)
	}
}

// gone notes that a message has ended, unless there is another delivery of it.
func (m *model) gone(d *message) { delete(m.left, d.place.Sequence) }

// empty takes everything out, and delivers it again.
func (m *model) empty() {
	ds := m.Empty()
	m.check(-1, 12)
	if m.held != 0 || len(m.lanes) != 0 {
		m.t.Fatalf("left: %+v", m.Order)
	}
	Sort(ds)
	for _, d := range ds {
		m.again(d)
	}
}

func remove(ds *[]*message, n int) *message {
	if len(*ds) == 0 {
		return nil
	}
	i := n % len(*ds)
	d := (*ds)[i]
	*ds = slices.Delete(*ds, i, i+1)
	return d
}

// check checks what must be true after each step.
func (m *model) check(i int, step byte) {
	m.t.Helper()
	row := m.checkRow()
	held, blocked, waits := 0, 0, 0
	for key, l := range m.lanes {
		held += l.size()
		if l.index > 0 {
			waits++
			blocked += l.size()
		}
		m.checkLane(key, l, slices.Contains(row, l))
	}
	if m.held != held || m.bytes != 100*held || m.blocked != blocked || len(m.waits) != waits {
		m.t.Fatalf("step %d, %d: holds %d, %d bytes, %d blocked, %d wait; want %d, %d, %d", i, step, m.held, m.bytes, m.blocked, len(m.waits), held, blocked, waits)
	}
	for i, l := range m.waits {
		if l.index != i+1 || i > 0 && l.due.Before(m.waits[(i-1)/2].due) {
			m.t.Fatalf("the heap: place %d has index %d, due %v", i, l.index, l.due)
		}
	}
}

// checkRow returns the lanes that are ready.
func (m *model) checkRow() (row []*lane[*message]) {
	var last *lane[*message]
	for l := m.first; l != nil; l = l.next {
		if slices.Contains(row, l) || m.lanes[l.key] != l {
			m.t.Fatalf("lane %d is in the row twice, or is gone", l.key)
		}
		row, last = append(row, l), l
	}
	if m.last != last {
		m.t.Fatal("the row does not end with its last lane")
	}
	return row
}

func (m *model) checkLane(key uint64, l *lane[*message], inRow bool) {
	states := 0
	for _, is := range []bool{inRow, l.index > 0, l.runs()} {
		if is {
			states++
		}
	}
	if l.key != key || states != 1 || inRow && l.size() == 0 || l.size() == 0 && !l.runs() && len(l.missing) == 0 {
		m.t.Fatalf("lane %d: in row %v, %+v", key, inRow, l)
	}
	if !slices.IsSortedFunc(l.waiting, func(a, b *message) int { return a.place.Compare(b.place) }) {
		m.t.Fatalf("lane %d is not in order", key)
	}
	all := slices.Clone(l.waiting)
	if l.runs() {
		all = append(all, l.running)
	}
	if l.repeats() {
		all = append(all, l.again)
	}
	for _, d := range all {
		if d.seat.lane != l {
			m.t.Fatalf("%d does not know its lane %d", d.place.Sequence, key)
		}
	}
}

// finish ends everything that is left, which must be possible.
func (m *model) finish() {
	for len(m.late) > 0 {
		m.settle(0)
	}
	for rounds := 0; len(m.lanes) > 0 || len(m.running) > 0; rounds++ {
		for len(m.running) > 0 {
			m.end(4, true)
		}
		for d, ready := m.Take(m.now); ready; d, ready = m.Take(m.now) {
			m.ack(d)
			m.gone(d)
		}
		m.pass(time.Minute)
		m.check(-1, 0)
		if rounds > 100 {
			m.t.Fatalf("%d lanes are left for ever", len(m.lanes))
		}
	}
	if len(m.left) > 0 {
		m.t.Fatalf("never handled to the end: %v", m.left)
	}
}
