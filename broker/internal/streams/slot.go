package streams

import "context"

// slot is a semaphore with room for one. Unlike a mutex, it lets a goroutine
// stop waiting when its context ends.
type slot chan struct{}

// acquire waits for the slot. It returns the context's error if that ends first.
func (s slot) acquire(ctx context.Context) error {
	select {
	case s <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// tryAcquire takes the slot if nobody holds it, and reports whether it did.
func (s slot) tryAcquire() bool {
	select {
	case s <- struct{}{}:
		return true
	default:
		return false
	}
}

func (s slot) release() { <-s }
