// Package logging keeps a flood of equal log lines small.
package logging

import (
	"fmt"
	"sync"
	"time"
)

// interval is the least time between two lines of one kind.
const interval = time.Second

// Limiter lets one log line of each kind through per second and counts the
// others. The zero value is ready. It is safe for concurrent use. It never
// forgets a kind, so there must be few, such as the formats of the lines.
type Limiter struct {
	mu    sync.Mutex
	kinds map[string]*lines
}

// lines is what the limiter knows of one kind.
type lines struct {
	next       time.Time // when the next one may be written
	suppressed int       // since the last one was written
}

// Allow reports whether a line of that kind may be written now. If it may, more
// is the text to append to it, which counts the lines suppressed before; it is ""
// if there were none.
func (l *Limiter) Allow(kind string) (more string, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	n, now := l.kinds[kind], time.Now()
	switch {
	case n == nil:
		if l.kinds == nil {
			l.kinds = make(map[string]*lines)
		}
		n = &lines{}
		l.kinds[kind] = n
	case now.Before(n.next):
		n.suppressed++
		return "", false
	}
	if n.suppressed > 0 {
		more = fmt.Sprintf(" (and %d more since the last such line)", n.suppressed)
	}
	n.next, n.suppressed = now.Add(interval), 0
	return more, true
}
