package goroutine

import "sync"

// Gate counts work under way and lets a shutdown wait for it. The zero value is
// an open gate. It is safe for concurrent use.
type Gate struct {
	mu     sync.Mutex
	n      int
	closed bool
	empty  chan struct{} // made by Close; closed when n is 0
}

// Enter counts one more piece of work. It returns false, and counts nothing,
// once the gate is closed. Every successful Enter needs one [Gate.Leave].
func (g *Gate) Enter() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return false
	}
	g.n++
	return true
}

// Leave ends a piece of work.
func (g *Gate) Leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.n--
	if g.closed && g.n == 0 {
		close(g.empty)
	}
}

// Inside returns how much work is under way.
func (g *Gate) Inside() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.n
}

// Close lets no more work in. It returns a channel that is closed when all work
// has left. A second call returns the same channel.
func (g *Gate) Close() <-chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return g.empty
	}
	g.closed = true
	g.empty = make(chan struct{})
	if g.n == 0 {
		close(g.empty)
	}
	return g.empty
}
