package live

import (
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	jsbroker "go-micro-jetstream/broker"
)

// ring keeps the latest values.
type ring[T any] struct {
	size  int
	items []T
	next  int
}

func (r *ring[T]) add(v *T) {
	if len(r.items) < r.size {
		r.items = append(r.items, *v)
		return
	}
	r.items[r.next] = *v
	if r.next++; r.next == r.size {
		r.next = 0
	}
}

// latest returns the values, the latest first.
func (r *ring[T]) latest() []T {
	all := make([]T, 0, len(r.items))
	for i := range r.items {
		all = append(all, r.items[(r.next+len(r.items)-1-i)%len(r.items)])
	}
	return all
}

// message says which message something is about.
type message struct {
	subject   string
	id        string
	sequence  uint64 // in the stream
	delivery  uint64 // 1 for the first
	stored    time.Time
	size      int
	trace     string // the traceparent header, or empty
	consumed  uint64 // the consumer sequence, which tells deliveries apart
	startedAt time.Time
	duration  time.Duration // of the handler; 0 while it runs
	result    string        // empty while it runs
}

func (m *message) set(d *jsbroker.Delivery, trace string) {
	m.subject, m.id, m.sequence, m.delivery = d.Subject, d.MessageID, d.StreamSequence, d.NumDelivered
	m.stored, m.size, m.trace, m.consumed = d.StoredAt, d.Size, trace, d.ConsumerSequence
}

func messageOf(d *jsbroker.Delivery, trace string) (m message) {
	m.set(d, trace)
	return m
}

// failure is something that went wrong.
type failure struct {
	at      time.Time
	of      jsbroker.Subscription
	message message
	what    string
	result  string
	delay   time.Duration
	err     string
}

// retry is a message that comes back.
type retry struct {
	s       *subscription
	message message
	due     time.Time
	snoozed bool // the handler has asked for it, and nothing has failed
}

func (r *retry) json() messageJSON {
	state := "waits for its retry"
	if r.snoozed {
		state = "snoozed"
	}
	m := r.message.json(r.s.name, state)
	due := r.due
	m.Due = &due
	return m
}

// connection is what is known of a broker's connection.
type connection struct {
	broker     string
	client     string
	state      jsbroker.ConnectionState
	url        string
	since      time.Time
	reconnects int
	err        string
	errAt      time.Time
}

func (c *connection) change(e jsbroker.ConnectionChanged) {
	c.client, c.state, c.since = e.ClientName, e.State, time.Now()
	if e.URL != "" {
		c.url = e.URL
	}
	if e.State == jsbroker.StateReconnected {
		c.reconnects++
	}
	if e.Err != nil {
		c.err, c.errAt = text(e.Err), c.since
	}
}

// subscription is what is known of a subscription.
type subscription struct {
	name  jsbroker.Subscription
	since time.Time
	most  int // how many handlers may run at a time

	mu      sync.Mutex
	running []message // deliveries that are being handled
	recent  ring[message]
	state   subscriptionState
}

// subscriptionState is what the page shows of a subscription, beside its messages.
type subscriptionState struct {
	consumer   string // its name now
	pending    uint64
	ackPending int
	ackLimit   int       // of ackPending; 0 means none
	paused     time.Time // until when the consumer is paused
	askedAt    time.Time // when the server told ackPending
	results    results
	failures   uint64
	attempt    int
	until      time.Time // the end of the back-off
	err        string
	errAt      time.Time
	failure    string // what a handler has returned last
	failureAt  time.Time
	ended      time.Time
}

// results counts deliveries by how they were settled.
type results struct{ ack, nak, term, none uint64 }

func (r *results) count(result jsbroker.Result) {
	switch result {
	case jsbroker.ResultAck:
		r.ack++
	case jsbroker.ResultNak:
		r.nak++
	case jsbroker.ResultTerm:
		r.term++
	default:
		r.none++
	}
}

// handleStart notes that a handler begins. The time is taken from the event, because
// a clock costs more than everything else here.
func (s *subscription) handleStart(e *jsbroker.HandleStart) {
	trace := e.Header["traceparent"]
	s.mu.Lock()
	s.running = append(s.running, message{})
	m := &s.running[len(s.running)-1]
	m.set(&e.Delivery, trace)
	m.startedAt = e.StoredAt.Add(e.Lag)
	s.state.pending = e.NumPending
	s.mu.Unlock()
}

// handled notes that a handler is done, and returns the message's traceparent.
func (s *subscription) handled(e *jsbroker.Handled) (trace string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range s.running {
		if s.running[i].consumed != e.ConsumerSequence {
			continue
		}
		m := &s.running[i]
		m.duration, m.result = e.Duration, string(e.Result)
		s.recent.add(m)
		trace = m.trace
		last := len(s.running) - 1
		if i < last {
			*m = s.running[last]
		}
		s.running[last] = message{}
		s.running = s.running[:last]
		break
	}
	s.state.results.count(e.Result)
	if e.Err != nil {
		s.state.failures++
	}
	return trace
}

func (s *subscription) traceOf(consumed uint64) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range s.running {
		if s.running[i].consumed == consumed {
			return s.running[i].trace
		}
	}
	return ""
}

func (s *subscription) learned(pending uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.state.pending = pending
}

func (s *subscription) consumerState(e jsbroker.ConsumerState) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.state.pending, s.state.ackPending, s.state.askedAt = e.Pending, e.AckPending, time.Now()
	s.state.ackLimit, s.state.paused = e.MaxAckPending, e.PausedUntil
	s.state.consumer = e.Consumer
}

// failed notes what a handler has returned.
func (s *subscription) failed(err string, at time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.state.failure, s.state.failureAt = err, at
}

func (s *subscription) fetchFailed(e jsbroker.FetchError) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.state.err, s.state.errAt = text(e.Err), time.Now()
}

func (s *subscription) backedOff(e jsbroker.Backoff) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.state.attempt, s.state.until = e.Attempt, time.Now().Add(e.Delay)
	s.state.consumer = e.Consumer
}

func (s *subscription) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.state.ended = time.Now()
}

// topics counts what is published.
type topics struct {
	mu     sync.RWMutex
	byName map[string]*topic
}

// topic is what was published to one topic.
type topic struct {
	name        string
	outstanding atomic.Int64
	published   atomic.Int64
	bytes       atomic.Int64
	failures    atomic.Int64

	mu     sync.Mutex
	reason string
	err    string
	errAt  time.Time
}

const other = "other"

// get returns the topic, or "other" for one too many.
func (t *topics) get(name string) *topic {
	t.mu.RLock()
	known := t.byName[name]
	t.mu.RUnlock()
	if known != nil {
		return known
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if known := t.byName[name]; known != nil {
		return known
	}
	if len(t.byName) >= maxTopics || len(name) > maxText {
		name = other
		if known := t.byName[name]; known != nil {
			return known
		}
	}
	made := &topic{name: strings.Clone(name)}
	t.byName[made.name] = made
	return made
}

func (t *topic) failed(reason string, err error) {
	t.failures.Add(1)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.reason, t.err, t.errAt = reason, text(err), time.Now()
}

// text is the text of an error, cut to what the page shows. It survives an Error
// method that panics.
func text(err error) string {
	if err == nil {
		return ""
	}
	return cut(detail(fmt.Sprint(err)))
}

// detail is what a person wants to read of an error of go-micro's server. Its text is
// JSON, and the cause is one of its members.
func detail(s string) string {
	if !strings.HasPrefix(s, `{"id":`) {
		return s
	}
	var e struct{ Detail string }
	if json.Unmarshal([]byte(s), &e) != nil || e.Detail == "" {
		return s
	}
	return strings.TrimPrefix(e.Detail, "subscriber error: ")
}

// cut shortens a text to maxText bytes and makes it valid UTF-8.
func cut(s string) string {
	if len(s) > maxText {
		s = s[:maxText] + "..."
	}
	return strings.ToValidUTF8(s, "\uFFFD")
}
