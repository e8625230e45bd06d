package metrics

import (
	"sync"
	"time"
)

// running knows the deliveries that handlers of a subscription work on. The zero value
// is ready. All methods are safe for concurrent use. Nothing is allocated once there
// was room for as many handlers as run at a time.
type running struct {
	mu  sync.Mutex
	all []begun
}

// begun is a delivery whose handler has started.
type begun struct {
	stream, consumer uint64 // sequences, which tell deliveries apart
	at               time.Time
}

func (r *running) begin(stream, consumer uint64) {
	now := time.Now()
	r.mu.Lock()
	r.all = append(r.all, begun{stream, consumer, now})
	r.mu.Unlock()
}

func (r *running) end(stream, consumer uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	// There are as many as handlers run, so looking at all of them is quick.
	for i := range r.all {
		if b := &r.all[i]; b.consumer == consumer && b.stream == stream {
			last := len(r.all) - 1
			r.all[i] = r.all[last]
			r.all = r.all[:last]
			return
		}
	}
}

// oldest returns for how long the handler runs that has started first; 0 if none runs.
func (r *running) oldest(now time.Time) (age time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range r.all {
		age = max(age, now.Sub(r.all[i].at))
	}
	return age
}
