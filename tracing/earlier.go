package tracing

import (
	"sync"
	"time"

	"go.opentelemetry.io/otel/trace"

	jsbroker "go-micro-jetstream/broker"
)

// maxEarlier bounds the messages whose earlier delivery is remembered, per value that
// [New] returns. One takes about 200 bytes.
const maxEarlier = 4096

// message identifies a message of a consumer.
type message struct {
	stream, consumer string
	sequence         uint64
}

func messageOf(d jsbroker.Delivery) message {
	return message{stream: d.Stream, consumer: d.Consumer, sequence: d.StreamSequence}
}

// delivered is what is known of an earlier delivery of a message.
type delivered struct {
	span      trace.SpanContext // of its handler; not valid if there was none
	givenBack time.Time         // when it was given back before its handler had started; zero if it was not
}

// earlier remembers deliveries whose messages are delivered again, the last ones of
// this process. The zero value is ready. All methods are safe for concurrent use.
type earlier struct {
	mu    sync.Mutex
	known map[message]delivered
	order []message // from the oldest on, beginning at next; a message may be in it twice
	next  int
}

func (e *earlier) remember(m message, d delivered) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.known == nil {
		e.known = make(map[message]delivered)
	}
	e.known[m] = d
	if len(e.order) < maxEarlier {
		e.order = append(e.order, m)
		return
	}
	if oldest := e.order[e.next]; oldest != m {
		delete(e.known, oldest)
	}
	e.order[e.next] = m
	e.next = (e.next + 1) % maxEarlier
}

// take returns what is known of the delivery before this one, and forgets it.
func (e *earlier) take(m message) (delivered, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	d, ok := e.known[m]
	delete(e.known, m)
	return d, ok
}
