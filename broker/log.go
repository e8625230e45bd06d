package broker

import (
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"go-micro.dev/v5/logger"
)

// fields are what a log line is about. All lines of a connection have the
// client's name as well.
type fields = map[string]any

// log writes a line with what identifies the subscription and, if e is not nil,
// the message, as fields.
func (s *subscription) log(level logger.Level, e *event, format string, args ...any) {
	f := fields{
		"topic":    s.Subscription.Topic,
		"queue":    s.Queue,
		"stream":   s.Stream,
		"consumer": s.identity().Consumer,
	}
	if e != nil {
		f["subject"] = e.msg.Subject
		f["sequence"] = e.meta.streamSequence
		f["deliveries"] = e.meta.numDelivered
		if id := e.msg.Header.Get(nats.MsgIdHdr); id != "" {
			f["message_id"] = id
		}
		if id := e.traceID(); id != "" {
			f["trace_id"] = id
		}
	}
	s.conn.log.Fields(f).Log(level, "jetstream: "+fmt.Sprintf(format, args...))
}

// logSome is log for lines that each message of a flood would repeat: of those
// with one format, one in a second is written, which counts the others.
func (s *subscription) logSome(level logger.Level, e *event, format string, args ...any) {
	if more, ok := s.lines.allow(format); ok {
		s.log(level, e, "%s%s", fmt.Sprintf(format, args...), more)
	}
}

// traceID returns the id of the trace that the message belongs to, or "". The
// traceparent header tells it, so this package need not know who traces: a hook
// that starts a span has written it there, and without one it is the publisher's.
func (e *event) traceID() string {
	h := e.message.Header
	if h == nil { // not handed to the handler yet
		h, _ = incomingHeader(e.msg.Header)
	}
	var t traces
	for k, v := range h {
		t.add(k, v)
	}
	// version-traceid-parentid-flags, of fixed lengths
	if v := t.found[traceparent].value; len(v) >= 55 && v[2] == '-' && v[35] == '-' {
		return v[3:35]
	}
	return ""
}

// limiter lets one log line of each kind per second through and counts the
// others. There must not be many kinds.
type limiter struct {
	mu    sync.Mutex
	kinds map[string]*lineCount
}

type lineCount struct {
	next       time.Time // when the next may be written
	suppressed int
}

// allow reports whether a line may be written, and what it then says of those
// that were not.
func (l *limiter) allow(kind string) (more string, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	n, now := l.kinds[kind], time.Now()
	switch {
	case n == nil:
		if l.kinds == nil {
			l.kinds = make(map[string]*lineCount)
		}
		n = &lineCount{}
		l.kinds[kind] = n
	case now.Before(n.next):
		n.suppressed++
		return "", false
	}
	if n.suppressed > 0 {
		more = fmt.Sprintf(" (and %d more since the last such line)", n.suppressed)
	}
	n.next, n.suppressed = now.Add(time.Second), 0
	return more, true
}
