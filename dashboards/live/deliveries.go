package live

import (
	"strings"
	"time"

	jsbroker "go-micro-jetstream/broker"
)

// deliveries are those of one subscription that are being handled, and the latest of
// those that are over. Each has a slot that stays its own when its handler has
// returned, so that nothing is copied then. Whoever holds one locks it.
type deliveries struct {
	slots   []slot
	size    int // of slots, unless more than that are being handled
	next    int // the slot that is looked at first when one is needed
	running []running
}

// running says which slot has a delivery that is being handled.
type running struct {
	consumer, stream uint64 // sequences, which tell deliveries apart
	slot             int
}

// slot is one delivery.
type slot struct {
	// text has the subject, the message id and the traceparent one after the other. It
	// is a copy in memory that is used again. The strings of a delivery are parts of one
	// string with all headers of the message, which they would keep in memory.
	text                []byte
	subjectEnds, idEnds int

	sequence, delivery uint64
	stored             time.Time
	lag                time.Duration // from then until the handler began
	size               int
	runs               bool
	duration           time.Duration // of the handler
	result             jsbroker.Result
}

// clip bounds what is copied. One byte more than cut leaves shows that there was more.
func clip(s string) string { return s[:min(len(s), maxText+1)] }

// start takes in a delivery that is about to be handled.
func (d *deliveries) start(e *jsbroker.HandleStart) {
	at := d.free()
	s := &d.slots[at]
	s.text = append(s.text[:0], clip(e.Subject)...)
	s.subjectEnds = len(s.text)
	s.text = append(s.text, clip(e.MessageID)...)
	s.idEnds = len(s.text)
	s.text = append(s.text, traceparent(e.Header)...)
	s.sequence, s.delivery, s.stored, s.size = e.StreamSequence, e.NumDelivered, e.StoredAt, e.Size
	// The clock costs more than all the rest. It is read only where the event does not
	// say what time it is: the server's clock is ahead of ours.
	if s.lag = e.Lag; s.lag <= 0 {
		s.lag = time.Since(e.StoredAt)
	}
	s.runs = true
	d.running = append(d.running, running{e.ConsumerSequence, e.StreamSequence, at})
}

// free returns the slot whose delivery is over for longest, or one more.
func (d *deliveries) free() int {
	if len(d.slots) >= d.size {
		for range d.slots {
			at := d.next
			if d.next++; d.next == len(d.slots) {
				d.next = 0
			}
			if !d.slots[at].runs {
				return at
			}
		}
	}
	d.slots = append(d.slots, slot{})
	return len(d.slots) - 1
}

// find returns the place of a delivery among those that are being handled, or -1.
// There are as many as handlers run, so looking at all of them is quick.
func (d *deliveries) find(e *jsbroker.Delivery) int {
	for i := range d.running {
		if r := &d.running[i]; r.consumer == e.ConsumerSequence && r.stream == e.StreamSequence {
			return i
		}
	}
	return -1
}

// end notes how a handler has ended.
func (d *deliveries) end(e *jsbroker.Handled) {
	i := d.find(&e.Delivery)
	if i < 0 {
		return
	}
	s := &d.slots[d.running[i].slot]
	s.runs, s.duration, s.result = false, e.Duration, e.Result
	last := len(d.running) - 1
	d.running[i] = d.running[last]
	d.running = d.running[:last]
}

// traceparent returns that of a delivery that is being handled.
func (d *deliveries) traceparent(e *jsbroker.Delivery) string {
	i := d.find(e)
	if i < 0 {
		return ""
	}
	s := &d.slots[d.running[i].slot]
	return string(s.text[s.idEnds:])
}

// snapshot returns those that are being handled and those that are over, the latest
// first.
func (d *deliveries) snapshot(of *jsbroker.Subscription, now time.Time) (running, over []messageJSON) {
	for i := range d.slots {
		s := &d.slots[(d.next+len(d.slots)-1-i)%len(d.slots)]
		m := s.message().json(of, string(s.result))
		if !s.runs {
			m.Seconds = s.duration.Seconds()
			over = append(over, m)
			continue
		}
		m.State, m.Seconds = "running", max(now.Sub(s.stored.Add(s.lag)), 0).Seconds()
		running = append(running, m)
	}
	return running, over
}

func (s *slot) message() *message {
	return &message{
		subject: string(s.text[:s.subjectEnds]), id: string(s.text[s.subjectEnds:s.idEnds]), traceparent: string(s.text[s.idEnds:]),
		sequence: s.sequence, delivery: s.delivery, stored: s.stored, size: s.size,
	}
}

// lengthTraceparent is that of version 00: later ones may be longer, but begin alike.
const lengthTraceparent = 55

// traceparent returns the header with the trace, without what a later version may add.
// The hooks of package tracing write it in lower case. Without them the header is as
// somebody else has written it.
func traceparent(header map[string]string) string {
	value, ok := header["traceparent"]
	if !ok {
		value = header["Traceparent"] // as go-micro writes it
	}
	if len(value) < lengthTraceparent {
		return ""
	}
	return value[:lengthTraceparent]
}

// traceID is the trace in a traceparent header: version-trace-parent-flags, of fixed
// lengths. It is empty if the header has no valid one.
func traceID(traceparent string) string {
	if len(traceparent) != lengthTraceparent || traceparent[2] != '-' || traceparent[35] != '-' {
		return ""
	}
	id := traceparent[3:35]
	if strings.Trim(id, "0123456789abcdef") != "" || strings.Trim(id, "0") == "" {
		return ""
	}
	return id
}
