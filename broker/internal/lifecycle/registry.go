package lifecycle

import "sync"

// Registry holds what is open until it is closed itself, such as the subscriptions of a
// session. The zero value is ready; it is safe for concurrent use.
type Registry[T comparable] struct {
	mu     sync.Mutex
	open   map[T]struct{}
	closed bool
}

// Add adds one, and reports false once the registry is closed.
func (r *Registry[T]) Add(v T) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return false
	}
	if r.open == nil {
		r.open = make(map[T]struct{})
	}
	r.open[v] = struct{}{}
	return true
}

// Remove removes one.
func (r *Registry[T]) Remove(v T) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.open, v)
}

// All returns those that there are.
func (r *Registry[T]) All() []T {
	r.mu.Lock()
	defer r.mu.Unlock()
	open := make([]T, 0, len(r.open))
	for v := range r.open {
		open = append(open, v)
	}
	return open
}

// Close lets none in any more, and returns those that there are.
func (r *Registry[T]) Close() []T {
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	return r.All()
}
