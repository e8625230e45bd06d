package tracing

import (
	"context"
	"strings"
	"sync"

	"go.opentelemetry.io/otel/propagation"
)

// fields is a HeaderCarrier that was looked through once for the names that a
// propagator reads and writes. Looking for each of them anew, in every spelling,
// takes as long as making the span.
type fields struct {
	HeaderCarrier
	found []field // one for each of the propagator's names
	mixed bool    // a name stands there twice: only the carrier knows what counts
}

// field is a name of the propagator and how it stands in the header.
type field struct {
	name     string
	spelling string // empty if it does not
	value    string
	written  bool
}

var _ propagation.TextMapCarrier = (*fields)(nil)

var fieldsPool = sync.Pool{New: func() any { return new(fields) }}

// fieldsOf looks through a header. The caller releases the result.
func fieldsOf(header map[string]string, names []string) *fields {
	f := fieldsPool.Get().(*fields)
	f.HeaderCarrier = header
	for _, name := range names {
		f.found = append(f.found, field{name: name})
	}
	for k, v := range header {
		for i := range f.found {
			if at := &f.found[i]; sameName(k, at.name) {
				f.mixed = f.mixed || at.spelling != ""
				at.spelling, at.value = k, v
				break
			}
		}
	}
	return f
}

func (f *fields) release() {
	clear(f.found)
	*f = fields{found: f.found[:0]}
	fieldsPool.Put(f)
}

// field returns nil for a name that the propagator has not announced.
func (f *fields) field(name string) *field {
	if f.mixed {
		return nil
	}
	for i := range f.found {
		if sameName(f.found[i].name, name) {
			return &f.found[i]
		}
	}
	return nil
}

// Get is HeaderCarrier's.
func (f *fields) Get(name string) string {
	if at := f.field(name); at != nil {
		return at.value
	}
	return f.HeaderCarrier.Get(name)
}

// Set is HeaderCarrier's.
func (f *fields) Set(name, value string) {
	at := f.field(name)
	if at == nil {
		f.HeaderCarrier.Set(name, value)
		return
	}
	name = strings.ToLower(name)
	if at.spelling != name && at.spelling != "" {
		delete(f.HeaderCarrier, at.spelling)
	}
	f.HeaderCarrier[name] = value
	at.spelling, at.value, at.written = name, value, true
}

// replace lets a propagator write ctx in place of what stands in the header of
// its names. What ctx does not have, a tracestate for one, must not stay behind
// from the context before.
func (f *fields) replace(ctx context.Context, p propagation.TextMapPropagator) {
	if f.mixed {
		for i := range f.found {
			f.remove(f.found[i].name)
		}
	}
	p.Inject(ctx, f)
	for _, at := range f.found {
		if at.spelling != "" && !at.written && !f.mixed {
			delete(f.HeaderCarrier, at.spelling)
		}
	}
}
