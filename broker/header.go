package broker

import (
	"fmt"
	"slices"
	"strings"

	"github.com/nats-io/nats.go"
)

// The header boundary: what may pass between go-micro's Message.Header and
// NATS headers, and how it is spelled on either side.

const (
	// natsPrefix begins the names of headers that control JetStream. go-micro
	// copies what a handler received into what it publishes, and a copied
	// Nats-Msg-Id would silently drop that message as a duplicate, a forged
	// Nats-Rollup purge the stream. So they never pass, in any case.
	natsPrefix = "nats-"
	// statusHeader in a message without a body makes NATS clients take the
	// message for a control message.
	statusHeader = "Status"

	// headerSeparators are what nats.go does not allow in keys.
	headerSeparators = `"(),/:;<=>?@[\]{}`

	topicHeader       = "Micro-Topic" // set by go-micro's client on everything it publishes
	contentTypeHeader = "Content-Type"
)

// traceHeaders are the headers of the common propagators (W3C trace context and
// baggage, B3, Jaeger): one value per message, in lower case on the wire.
var traceHeaders = [...]string{
	traceparent: "traceparent", tracestate: "tracestate", 2: "baggage",
	3: "b3", 4: "x-b3-traceid", 5: "x-b3-spanid", 6: "x-b3-parentspanid", 7: "x-b3-sampled", 8: "x-b3-flags",
	9: "uber-trace-id",
}

var canonicalTraceHeaders = func() (names [len(traceHeaders)]string) {
	for i, name := range traceHeaders {
		names[i] = canonical(name)
	}
	return names
}()

// Positions in traceHeaders.
const (
	traceparent = 0
	tracestate  = 1
)

// traceIndex returns the position of a key, in any case, among the trace
// headers, or -1.
func traceIndex(key string) int {
	switch len(key) {
	case 2, 7, 10, 11, 12, 13, 17: // lengths of traceHeaders: most keys end here
		for i, h := range traceHeaders {
			if len(h) == len(key) && strings.EqualFold(h, key) {
				return i
			}
		}
	}
	return -1
}

// traces are the trace headers of one message, one spelling of each.
type traces struct {
	found [len(traceHeaders)]struct{ key, value string }
	stale bool // there was more than one traceparent
}

// add takes in a header if it is one of them.
func (t *traces) add(key, value string) bool {
	i := traceIndex(key)
	if i < 0 {
		return false
	}
	old := t.found[i].key
	t.stale = t.stale || old != "" && i == traceparent
	if old == "" || fresher(key, old, traceHeaders[i]) {
		t.found[i].key, t.found[i].value = key, value
	}
	return true
}

// fresher reports whether of two spellings of a header the first is to be
// preferred. go-micro's OTel wrapper writes the canonical one beside the
// lower-case one that was delivered, which is therefore stale.
func fresher(a, b, name string) bool {
	rank := func(key string) int {
		switch key {
		case canonical(name):
			return 2
		case name:
			return 0
		}
		return 1
	}
	ra, rb := rank(a), rank(b)
	return ra > rb || ra == rb && a < b
}

// each passes on the headers in their lower-case spelling.
func (t *traces) each(set func(key, value string)) {
	for i, f := range t.found {
		if f.key == "" || i == tracestate && t.stale && f.key == traceHeaders[i] {
			continue // the state of a stale parent is as stale
		}
		set(traceHeaders[i], f.value)
	}
}

func isNATSHeader(key string) bool {
	return len(key) >= len(natsPrefix) && strings.EqualFold(key[:len(natsPrefix)], natsPrefix)
}

// outgoingHeader copies a Message.Header without what must not leave.
func outgoingHeader(in map[string]string) map[string]string {
	out := make(map[string]string, len(in)+2)
	for k, v := range in {
		if !isNATSHeader(k) {
			out[k] = v
		}
	}
	return out
}

// wireHeader makes NATS headers, one after the other, in the same memory.
type wireHeader struct {
	header nats.Header
	values []string // one array behind all the one-element slices
}

// maxReused is how many headers a message may have for its wireHeader to be used again:
// a map that was large once takes long to clear.
const maxReused = 32

// make turns a Message.Header into a NATS header that carries id as the message id. It
// returns the bytes the header takes on the wire, for the size check. The map that it
// is given stays as it is.
func (w *wireHeader) make(in map[string]string, id string, emptyBody bool) (size int, err error) {
	if w.header == nil || cap(w.values) <= len(in) {
		w.header, w.values = make(nats.Header, len(in)+1), make([]string, 0, len(in)+1)
	}
	size = len("NATS/1.0\r\n") + len("\r\n")
	var trace traces
	set := func(k, v string) {
		n := len(w.values)
		w.values = append(w.values, v)
		w.header[k] = w.values[n : n+1 : n+1]
		size += len(k) + len(": ") + len(v) + len("\r\n")
	}
	for k, v := range in {
		if isNATSHeader(k) {
			continue
		}
		if err := checkHeader(k, v, emptyBody); err != nil {
			return 0, err
		}
		if !trace.add(k, v) {
			set(k, v)
		}
	}
	trace.each(set)
	set(nats.MsgIdHdr, id)
	return size, nil
}

// reset forgets the header, but for its memory.
func (w *wireHeader) reset() {
	if cap(w.values) > maxReused {
		*w = wireHeader{}
		return
	}
	clear(w.header)
	clear(w.values)
	w.values = w.values[:0]
}

// addValues adds to a wire header what Message.Header has no place for: the values after
// the first that its keys have in the original of the message.
func addValues(out, original nats.Header) {
	for k, vs := range original {
		if len(vs) < 2 || len(out[k]) != 1 || out[k][0] != vs[0] || isNATSHeader(k) || traceIndex(k) >= 0 {
			continue // or it is not the original's, or has one value on the wire
		}
		for _, v := range vs[1:] {
			if checkHeader(k, v, false) == nil { // else it is from a client that minds less than ours
				out[k] = append(out[k], v)
			}
		}
	}
}

// inHeaderKeys tells of each character whether a key may contain it: a search of
// headerSeparators for each took longer than all other checks of a publish.
var inHeaderKeys = func() (in [256]bool) {
	for c := byte('!'); c < 0x7f; c++ {
		in[c] = strings.IndexByte(headerSeparators, c) < 0
	}
	return in
}()

// checkHeader applies the NATS header rules (ADR-4: printable ASCII but colon
// for names; the Go client wants no other separators either, and does not say
// which key it minds) and refuses line breaks, which would end or forge a header.
func checkHeader(key, value string, emptyBody bool) error {
	invalid := func(why string) error {
		return fmt.Errorf("%w %q: %s", ErrInvalidHeader, shorten(key), why)
	}
	if key == "" {
		return invalid("the key is empty")
	}
	for i := range len(key) {
		if !inHeaderKeys[key[i]] {
			return invalid("a key is made of printable ASCII characters other than blank and " + headerSeparators)
		}
	}
	for i := range len(value) {
		if c := value[i]; c == '\r' || c == '\n' || c == 0 {
			return invalid("the value contains a line break or a NUL")
		}
	}
	if emptyBody && key == statusHeader {
		return invalid("NATS clients take a message without a body that has this key for a control message; give it a body or another key")
	}
	return nil
}

// incomingHeader is the Message.Header of a delivery: a new map, never nil,
// without JetStream's control headers. It also tells whether there are trace
// headers in a message that go-micro's client has published.
func incomingHeader(in nats.Header) (out map[string]string, traced bool) {
	out = make(map[string]string, len(in))
	byGoMicro := false
	for k, vs := range in {
		if len(vs) == 0 || isNATSHeader(k) {
			continue
		}
		// Values after the first have no place in go-micro's map. NATS clients
		// read the first, too.
		switch {
		case len(k) == len(contentTypeHeader) && strings.EqualFold(k, contentTypeHeader):
			// go-micro looks for this spelling only, and without it takes the body
			// for protobuf. A canonical key beside another spelling wins.
			if _, ok := in[contentTypeHeader]; !ok {
				k = contentTypeHeader
			}
		case k == topicHeader:
			byGoMicro = true
		case traceIndex(k) >= 0:
			traced = true
		}
		out[k] = vs[0]
	}
	return out, traced && byGoMicro
}

// spellForGoMicro gives the trace headers of a delivery the spelling that
// go-micro's own OTel wrapper writes (Traceparent): it then replaces them. Left
// in lower case they would stand beside the wrapper's, and the wrapper takes
// the one or the other by chance when it looks for the parent.
func spellForGoMicro(h map[string]string) {
	for k, v := range h {
		if k == "" || k[0] < 'a' { // few keys begin with a small letter
			continue
		}
		if i := slices.Index(traceHeaders[:], k); i >= 0 {
			delete(h, k)
			h[canonicalTraceHeaders[i]] = v
		}
	}
}

// canonical upper-cases the first letter of each part of an ASCII header name.
func canonical(name string) string {
	b := []byte(name)
	for i := range b {
		if (i == 0 || b[i-1] == '-') && 'a' <= b[i] && b[i] <= 'z' {
			b[i] -= 'a' - 'A'
		}
	}
	return string(b)
}
