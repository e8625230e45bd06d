package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
)

// maxTraces limits how many unfinished traces the collector keeps.
const maxTraces = 10000

// collector is a span processor that picks one trace to show: a complete one, of an
// order whose payment failed at first.
type collector struct {
	picked chan *tree // receives the trace

	mu     sync.Mutex
	found  bool
	first  *tree                   // the first complete trace, in case no payment fails
	traces map[trace.TraceID]*tree // not complete yet
}

var _ sdktrace.SpanProcessor = (*collector)(nil)

func newCollector() *collector {
	return &collector{picked: make(chan *tree, 1), traces: map[trace.TraceID]*tree{}}
}

// OnEnd collects a span of any service.
func (c *collector) OnEnd(s sdktrace.ReadOnlySpan) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.found {
		return
	}
	id := s.SpanContext().TraceID()
	t := c.traces[id]
	if t == nil {
		if len(c.traces) == maxTraces {
			return
		}
		t = &tree{id: id}
		c.traces[id] = t
	}
	t.spans = append(t.spans, s)
	if !t.complete() {
		return
	}
	if t.retried() {
		c.found = true
		c.first, c.traces = nil, nil
		c.picked <- t
		return
	}
	if c.first == nil {
		c.first = t
	}
	delete(c.traces, id)
}

// fallback returns the trace to show at the end of a run in which none was shown,
// or nil.
func (c *collector) fallback() *tree {
	select {
	case t := <-c.picked:
		return t
	default:
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.first
}

// OnStart does nothing: a span is collected when it ends.
func (c *collector) OnStart(context.Context, sdktrace.ReadWriteSpan) {}

// Shutdown does nothing: the collector serves several providers.
func (c *collector) Shutdown(context.Context) error { return nil }

// ForceFlush does nothing: no spans are buffered.
func (c *collector) ForceFlush(context.Context) error { return nil }

// tree is one trace.
type tree struct {
	id    trace.TraceID
	spans []sdktrace.ReadOnlySpan
}

// complete reports whether the last handler of the chain has succeeded, and the
// parents of all spans have ended, too.
func (t *tree) complete() bool {
	ended := make(map[trace.SpanID]bool, len(t.spans))
	for _, s := range t.spans {
		ended[s.SpanContext().SpanID()] = true
	}
	last := false
	for _, s := range t.spans {
		if p := s.Parent(); p.IsValid() && !ended[p.SpanID()] {
			return false
		}
		last = last || s.Name() == "process "+shippingSent && s.Status().Code != codes.Error
	}
	return last
}

// retried reports whether the payment of the order failed at least once.
func (t *tree) retried() bool {
	return slices.ContainsFunc(t.spans, func(s sdktrace.ReadOnlySpan) bool {
		return s.Name() == "process "+ordersCreated && s.Status().Code == codes.Error
	})
}

// line is a span and its position in the tree.
type line struct {
	branch string // drawn before the name of the span
	depth  int
	span   sdktrace.ReadOnlySpan
}

// start returns the time from the start of the trace until the span started.
func (l line) start(t *tree) time.Duration { return l.span.StartTime().Sub(t.started()) }

// duration returns how long the span took.
func (l line) duration() time.Duration { return l.span.EndTime().Sub(l.span.StartTime()) }

// started returns the start of the first span.
func (t *tree) started() time.Time {
	return slices.MinFunc(t.spans, byStart).StartTime()
}

func byStart(a, b sdktrace.ReadOnlySpan) int { return a.StartTime().Compare(b.StartTime()) }

// lines lists every span below its parent, and siblings in the order of their start.
func (t *tree) lines() []line {
	children := map[trace.SpanID][]sdktrace.ReadOnlySpan{}
	for _, s := range t.spans {
		children[s.Parent().SpanID()] = append(children[s.Parent().SpanID()], s)
	}
	var lines []line
	var walk func(parent trace.SpanID, indent string, depth int)
	walk = func(parent trace.SpanID, indent string, depth int) {
		spans := children[parent]
		slices.SortFunc(spans, byStart)
		for i, s := range spans {
			branch, below := "├─ ", "│  "
			switch {
			case !s.Parent().IsValid():
				branch, below = "", ""
			case i == len(spans)-1:
				branch, below = "└─ ", "   "
			}
			lines = append(lines, line{indent + branch, depth, s})
			walk(s.SpanContext().SpanID(), indent+below, depth+1)
		}
	}
	walk(trace.SpanID{}, "", 0)
	return lines
}

// String draws the tree as text.
func (t *tree) String() string {
	lines := t.lines()
	width := 0
	for _, l := range lines {
		width = max(width, utf8.RuneCountInString(l.branch+l.span.Name()))
	}
	var b strings.Builder
	fmt.Fprintf(&b, "One order through all services, trace %s\n\n", t.id)
	fmt.Fprintf(&b, "  %-*s  %-8s  %10s  %10s\n", width, "span", "service", "start", "duration")
	for _, l := range lines {
		text := fmt.Sprintf("  %-*s  %-8s  %10s  %10s  %s", width, l.branch+l.span.Name(), serviceOf(l.span),
			"+"+round(l.start(t)), round(l.duration()), remark(l.span))
		b.WriteString(strings.TrimRight(text, " ") + "\n")
	}
	return b.String()
}

func serviceOf(s sdktrace.ReadOnlySpan) string {
	v, _ := s.Resource().Set().Value("service.name")
	return v.AsString()
}

// remark describes what is unusual about a span: its error, or that it is a
// redelivery.
func remark(s sdktrace.ReadOnlySpan) string {
	attrs := attribute.NewSet(s.Attributes()...)
	if s.Status().Code == codes.Error {
		text := "failed"
		for _, e := range s.Events() {
			set := attribute.NewSet(e.Attributes...)
			if v, ok := set.Value("exception.message"); ok {
				text += ": " + plainReason(v.AsString())
				break
			}
		}
		if v, ok := attrs.Value("messaging.nats.redelivery.delay"); ok {
			text += fmt.Sprintf("; again in %s", round(time.Duration(v.AsFloat64()*float64(time.Second))))
		}
		return text
	}
	if v, ok := attrs.Value("messaging.nats.message.delivery_count"); ok && v.AsInt64() > 1 {
		return fmt.Sprintf("delivery %d", v.AsInt64())
	}
	return ""
}
