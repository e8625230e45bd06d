package live

import (
	"encoding/json"
	"fmt"
	"strings"
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

// message says which message a failure or a retry is about. Its texts are copies: those
// of a delivery are parts of a string with all headers of the message, which they would
// keep in memory.
type message struct {
	subject     string
	id          string
	traceparent string
	sequence    uint64 // in the stream
	delivery    uint64 // 1 for the first
	stored      time.Time
	size        int
}

func messageOf(d *jsbroker.Delivery, traceparent string) message {
	return message{
		subject: strings.Clone(cut(d.Subject)), id: strings.Clone(cut(d.MessageID)), traceparent: traceparent,
		sequence: d.StreamSequence, delivery: d.NumDelivered, stored: d.StoredAt, size: d.Size,
	}
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
	m := r.message.json(&r.s.name, state)
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
	async      func() (used, limit int) // the window of Async; nil: closed
}

func (c *connection) change(e jsbroker.ConnectionChanged) {
	c.async = e.AsyncWindow
	if e.State == jsbroker.StateClosed {
		c.async = nil // it keeps the broker in memory
	}
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
