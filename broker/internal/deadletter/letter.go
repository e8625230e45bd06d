// Package deadletter makes dead letters that fit into what the server accepts, and reads
// them back from their stream.
package deadletter

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/nats-io/nats.go"

	"go-micro-jetstream/broker/internal/wire"
)

// Headers of a dead letter, beside the original's own.
const (
	Reason     = "Micro-Dead-Letter-Reason"     // the error of the last delivery
	Topic      = "Micro-Dead-Letter-Topic"      // the original's concrete subject; see Encode
	Stream     = "Micro-Dead-Letter-Stream"     // the original's stream; see Encode
	Sequence   = "Micro-Dead-Letter-Sequence"   // the original's sequence in it
	Queue      = "Micro-Dead-Letter-Queue"      // the queue that gave it up; may be empty; see Encode
	Deliveries = "Micro-Dead-Letter-Deliveries" // how often it was delivered
	Hops       = "Micro-Dead-Letter-Hops"       // how often it has become a dead letter; see MaxHops
	Redriven   = "Micro-Dead-Letter-Redriven"   // how often it was redriven; absent: never
	Cut        = "Micro-Dead-Letter-Cut"        // what did not fit: reason, headers, body; absent: nothing
)

// prefix begins the names of all of them.
const prefix = "Micro-Dead-Letter-"

const (
	// MaxHops is how often a message may become a dead letter without being redriven. A
	// chain of dead-letter topics is rarely longer than two. More is a loop.
	MaxHops = 5
	// maxReason and minReason bound an error text in a header, in bytes.
	maxReason = 1024
	minReason = 128
	// spare is left free for the headers that hooks add, such as those of a trace.
	spare = 1024
)

// Letter is a dead letter that is going to be published.
type Letter struct {
	Original   nats.Header // of the message that is given up
	Body       []byte      // of the same
	Reason     string
	Topic      string
	Stream     string
	Queue      string
	Sequence   uint64
	Deliveries uint64
	ID         string // the message id of the letter
}

// OriginalID tells the original of a letter from all other messages, whichever queue has
// given it up: its stream, its place there, and when it was stored.
func (l *Letter) OriginalID() string {
	return fmt.Sprintf("%s:%d:%s", Encode(l.Stream), l.Sequence, l.ID[strings.LastIndex(l.ID, ":")+1:])
}

// Hops returns how often the message has been a dead letter, this time included.
func (l *Letter) Hops() uint64 {
	n, _ := wire.ParseUint(l.Original.Get(Hops))
	return min(n, math.MaxUint64-1) + 1
}

// Form is how much of the original a dead letter has: less with each form.
type Form int

// The forms, in the order in which they are tried.
const (
	Whole        Form = iota
	ShortReason       // and a reason of at most minReason bytes, as in all that follow
	FewerHeaders      // without the largest headers of the original
	OwnHeaders        // without headers of the original
	Reference         // without the body, and with those headers that fit
	Bare              // without body and headers of the original
)

// HasBody reports whether the form has the body of the original.
func (f Form) HasBody() bool { return f < Reference }

// Made is a letter in one of its forms.
type Made struct {
	Header map[string]string
	Body   []byte
	Cut    string // what is missing: the value of the header Cut
	size   int    // of the headers on the wire, with the message id
}

// Fits reports whether headers and body are within the limit of the server, in bytes;
// 0 or less: it has none. Hooks may add headers, and the stream may have a limit of its
// own.
func (m *Made) Fits(limit int64) bool {
	return m.size <= wire.MaxHeader && (limit <= 0 || int64(m.size+len(m.Body)) <= limit)
}

// Make makes the letter in a form. The limit is what the server accepts, in bytes; 0 or
// less: everything.
func (l *Letter) Make(f Form, limit int64) *Made {
	m := &Made{Header: l.headers(f)}
	if f.HasBody() {
		m.Body = l.Body
	}
	kept := l.carried(len(m.Body) == 0)
	lost := len(kept) < l.foreign()
	m.size = size(m.Header) + len(nats.MsgIdHdr) + len(l.ID) + perHeader
	switch f {
	case OwnHeaders, Bare:
		lost, kept = lost || len(kept) > 0, nil
	case FewerHeaders, Reference:
		room := wire.MaxHeader - spare - m.size
		if limit > 0 {
			room = min(room, int(limit)-spare-m.size-len(m.Body))
		}
		lost = l.shrink(kept, room) || lost
	default:
	}
	for k, v := range kept {
		m.Header[k] = v
		m.size += l.sizeOf(k, v)
	}
	m.Cut = l.cut(f, lost)
	if m.Cut != "" {
		m.Header[Cut] = m.Cut
		m.size += len(Cut) + len(m.Cut) + perHeader
	}
	return m
}

// cut says what is missing, also of what was cut when the message was given up before.
func (l *Letter) cut(f Form, headers bool) string {
	var parts []string
	former := l.Original.Get(Cut)
	for _, part := range []struct {
		name    string
		missing bool
	}{
		{"reason", f >= ShortReason && len(l.Reason) > minReason},
		{"headers", headers},
		{"body", !f.HasBody() && len(l.Body) > 0},
	} {
		if part.missing || strings.Contains(former, part.name) {
			parts = append(parts, part.name)
		}
	}
	return strings.Join(parts, ", ")
}

// headers returns the letter's own headers.
func (l *Letter) headers(f Form) map[string]string {
	reason := Text(l.Reason, maxReason)
	if f >= ShortReason {
		reason = Text(l.Reason, minReason)
	}
	h := map[string]string{
		Reason:     reason,
		Topic:      Encode(l.Topic),
		Stream:     Encode(l.Stream),
		Sequence:   strconv.FormatUint(l.Sequence, 10),
		Queue:      Encode(l.Queue),
		Deliveries: strconv.FormatUint(l.Deliveries, 10),
		Hops:       strconv.FormatUint(l.Hops(), 10),
	}
	if n, ok := wire.ParseUint(l.Original.Get(Redriven)); ok {
		h[Redriven] = strconv.FormatUint(n, 10)
	}
	return h
}

// carried returns the original's headers that NATS can carry: other clients check less
// than ours.
func (l *Letter) carried(emptyBody bool) map[string]string {
	h, _ := wire.IncomingHeader(l.Original)
	maps.DeleteFunc(h, func(k, v string) bool {
		return strings.HasPrefix(k, prefix) || wire.CheckHeader(k, v, emptyBody) != nil
	})
	return h
}

// foreign returns how many headers of the original should be carried.
func (l *Letter) foreign() (n int) {
	h, _ := wire.IncomingHeader(l.Original)
	for k := range h {
		if !strings.HasPrefix(k, prefix) {
			n++
		}
	}
	return n
}

// shrink removes the largest headers until the others have room, and reports whether it
// has removed any. It removes the type of the body last.
func (l *Letter) shrink(h map[string]string, room int) (removed bool) {
	total := 0
	for k, v := range h {
		total += l.sizeOf(k, v)
	}
	keys := slices.SortedFunc(maps.Keys(h), func(a, b string) int {
		switch {
		case strings.EqualFold(a, "Content-Type"):
			return 1
		case strings.EqualFold(b, "Content-Type"):
			return -1
		}
		return cmp.Or(l.sizeOf(b, h[b])-l.sizeOf(a, h[a]), strings.Compare(a, b))
	})
	for _, k := range keys {
		if total <= room {
			break
		}
		total -= l.sizeOf(k, h[k])
		delete(h, k)
		removed = true
	}
	return removed
}

// perHeader is how many bytes a header takes beside its key and its value.
const perHeader = len(": ") + len("\r\n")

// sizeOf returns the bytes of a header of the original, with all its values.
func (l *Letter) sizeOf(k, v string) int {
	n := len(k) + len(v) + perHeader
	for i, more := range l.Original[k] {
		if i > 0 {
			n += len(k) + len(more) + perHeader
		}
	}
	return n
}

func size(h map[string]string) int {
	n := len("NATS/1.0\r\n") + len("\r\n")
	for k, v := range h {
		n += len(k) + len(v) + perHeader
	}
	return n
}

// Text makes a text fit for a header value of at most n bytes.
func Text(s string, n int) string {
	if len(s) > n {
		s = s[:n]
	}
	s = strings.ToValidUTF8(s, "?")
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, s)
}

// Encode makes a name fit for a header value: bytes that a header cannot carry, control
// characters, what is no UTF-8, and the percent sign are written as %XX. Other clients
// can publish to subjects, and make streams, that contain them.
func Encode(s string) string {
	var out strings.Builder
	for rest := s; rest != ""; {
		r, n := utf8.DecodeRuneInString(rest)
		if r < ' ' || r == 0x7f || r == '%' || r == utf8.RuneError && n == 1 {
			fmt.Fprintf(&out, "%%%02X", rest[0])
		} else {
			out.WriteString(rest[:n])
		}
		rest = rest[n:]
	}
	return out.String()
}

// Decode reverses Encode. What Encode cannot have written is returned as it is.
func Decode(s string) string {
	if decoded, err := url.PathUnescape(s); err == nil {
		return decoded
	}
	return s
}
