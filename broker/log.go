package broker

import (
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"go-micro.dev/v5/logger"
)

// log writes a line with what identifies the subscription and, if e is not nil,
// the message, as fields.
func (s *subscription) log(level logger.Level, e *event, text string) {
	fields := map[string]any{
		"topic":    s.Subscription.Topic,
		"queue":    s.Queue,
		"stream":   s.Stream,
		"consumer": s.Consumer,
	}
	if e != nil {
		fields["subject"] = e.msg.Subject
		fields["sequence"] = e.meta.streamSequence
		fields["deliveries"] = e.meta.numDelivered
		if id := e.msg.Header.Get(nats.MsgIdHdr); id != "" {
			fields["message_id"] = id
		}
		if id := traceID(e.message.Header); id != "" {
			fields["trace_id"] = id
		}
	}
	s.conn.log.Fields(fields).Log(level, "jetstream: "+text)
}

// traceID reads the trace id out of a W3C traceparent header.
func traceID(h map[string]string) string {
	tp := h["Traceparent"]
	if tp == "" {
		tp = h["traceparent"]
	}
	if parts := strings.Split(tp, "-"); len(parts) >= 4 && len(parts[1]) == 32 {
		return parts[1]
	}
	return ""
}

// limiter lets one log line per second through and counts the others.
type limiter struct {
	mu         sync.Mutex
	next       time.Time
	suppressed int
}

func (l *limiter) allow() (suppressed int, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	if now.Before(l.next) {
		l.suppressed++
		return 0, false
	}
	suppressed, l.suppressed = l.suppressed, 0
	l.next = now.Add(time.Second)
	return suppressed, true
}
