package wire

import (
	"fmt"
	"strings"

	"github.com/nats-io/nats.go"

	"go-micro-jetstream/broker/internal/fault"
)

// This file is the border between go-micro's Message.Header and NATS headers: it
// says what may pass, and how keys are spelled on either side.

const (
	// natsPrefix begins the keys of the headers that control JetStream. They never
	// pass, in any case. They are taken off what is delivered, because go-micro
	// copies what a handler received into what it publishes: a copied Nats-Msg-Id
	// would silently drop that message as a duplicate. So one that is to be
	// published was set by somebody who wants something of JetStream. It is refused,
	// because there is an option for that, and because a forged Nats-Rollup would
	// purge the stream.
	natsPrefix = "nats-"
	// statusHeader in a message without a body makes NATS clients take the message
	// for a control message.
	statusHeader = "Status"
	// separators are the printable ASCII characters that nats.go does not allow in
	// keys.
	separators = `"(),/:;<=>?@[\]{}`

	topicHeader       = "Micro-Topic" // go-micro's client sets it on every message
	binarySuffix      = "-bin"        // of the keys of gRPC metadata with binary values
	contentTypeHeader = "Content-Type"
)

// inKeys says of each byte whether a key may contain it. A table is used because
// searching separators for each byte took longer than all other checks of a
// publish.
var inKeys = func() (in [256]bool) {
	for c := byte('!'); c < 0x7f; c++ {
		in[c] = strings.IndexByte(separators, c) < 0
	}
	return in
}()

// CheckHeader reports why NATS cannot carry a header. The error wraps
// [fault.ErrInvalidHeader] and names the key.
//
// The rules are those of ADR-4 (keys are printable ASCII without a colon) and of
// the Go client, which refuses more separators but does not say which key is
// wrong. Line breaks and NULs in values are refused too, because a line break
// ends a header and could forge another. emptyBody says that the message has no
// body.
func CheckHeader(key, value string, emptyBody bool) error {
	if why := faultOfHeader(key, value, emptyBody); why != "" {
		return fmt.Errorf("%w %q: %s", fault.ErrInvalidHeader, Shorten(key), why)
	}
	return nil
}

// faultOfHeader returns what is wrong with a header, or "".
func faultOfHeader(key, value string, emptyBody bool) string {
	if key == "" {
		return "the key is empty"
	}
	for i := range len(key) {
		if !inKeys[key[i]] {
			return "a key is made of printable ASCII characters other than blank and " + separators
		}
	}
	for i := range len(value) {
		if c := value[i]; c == '\r' || c == '\n' || c == 0 {
			return "the value contains a line break or a NUL"
		}
	}
	if emptyBody && key == statusHeader {
		return "NATS clients take a message without a body that has this key for a control message; give it a body or another key"
	}
	return ""
}

func isNATSHeader(key string) bool {
	return len(key) >= len(natsPrefix) && strings.EqualFold(key[:len(natsPrefix)], natsPrefix)
}

// controlError refuses a Nats-* header in a Message.Header. It names the option
// for what the header would do.
func controlError(key string) error {
	hint := "the broker has no option for it: publish such a message with a NATS client"
	switch lower := strings.ToLower(key); {
	case lower == "nats-msg-id":
		hint = "use the option MessageID"
	case lower == "nats-ttl":
		hint = "use the option TTL"
	case strings.HasPrefix(lower, "nats-schedule"):
		hint = "use the options DeliverAt and DeliverAfter"
	}
	return fmt.Errorf("%w %q: headers that begin with Nats- control JetStream and do not travel in Message.Header; %s", fault.ErrInvalidHeader, Shorten(key), hint)
}

// fromTransport reports whether a header that NATS cannot carry is one of those
// that nobody sets by hand. They are part of an RPC, and go-micro's client copies
// them from there: the pseudo-headers of HTTP/2, such as :authority, and gRPC's
// binary metadata.
func fromTransport(key string) bool {
	return strings.HasPrefix(key, ":") ||
		len(key) > len(binarySuffix) && strings.EqualFold(key[len(key)-len(binarySuffix):], binarySuffix)
}

// OutgoingHeader copies a Message.Header. The copy has one spelling of each trace
// header, in lower case. It is never nil.
func OutgoingHeader(in map[string]string) map[string]string {
	out := make(map[string]string, len(in)+2)
	var trace traces
	for k, v := range in {
		if !trace.add(k, v) {
			out[k] = v
		}
	}
	trace.each(&traceHeaders, func(k, v string) { out[k] = v })
	return out
}

// Header makes NATS headers, one after the other, in the same memory. The zero
// value is ready. It is not safe for concurrent use.
type Header struct {
	header  nats.Header
	values  []string // the array behind all the one-element slices in header
	leftOut string   // a key that a reader of the log may miss in header
}

// maxReused is how many headers a message may have for its [Header] to keep the
// memory. It takes long to clear a map that was large once.
const maxReused = 32

// Make builds the NATS header from a Message.Header, with id as the message id. It
// returns the bytes that the header takes on the wire, for the check of the size.
// The error is that of [CheckHeader], or about a Nats-* header. Make does not change
// in. Call [Header.Reset] before the next Make.
//
// Headers that NATS cannot carry are left out, and are no error, if nobody has set
// them by hand. These are the pseudo-headers and the binary metadata of RPCs. In a
// message of go-micro's client they are all such headers, because it makes its
// headers of the metadata of a context, and most of that comes from elsewhere.
func (h *Header) Make(in map[string]string, id string, emptyBody bool) (size int, err error) {
	if h.header == nil || cap(h.values) <= len(in) {
		h.header, h.values = make(nats.Header, len(in)+1), make([]string, 0, len(in)+1)
	}
	size = len("NATS/1.0\r\n") + len("\r\n")
	set := func(k, v string) {
		n := len(h.values)
		h.values = append(h.values, v)
		h.header[k] = h.values[n : n+1 : n+1]
		size += len(k) + len(": ") + len(v) + len("\r\n")
	}
	var trace traces
	for k, v := range in {
		if isNATSHeader(k) {
			return 0, controlError(k)
		}
		if faultOfHeader(k, v, emptyBody) != "" {
			if _, byGoMicro := in[topicHeader]; !byGoMicro && !fromTransport(k) {
				return 0, CheckHeader(k, v, emptyBody)
			}
			if !fromTransport(k) {
				h.leftOut = Shorten(k)
			}
			continue
		}
		if !trace.add(k, v) {
			set(k, v)
		}
	}
	trace.each(&traceHeaders, set)
	set(nats.MsgIdHdr, id)
	return size, nil
}

// LeftOut returns the key of a header of go-micro's client that [Header.Make] has
// left out, or "". It does not tell of what is always left out.
func (h *Header) LeftOut() string { return h.leftOut }

// Map returns the header that [Header.Make] has built. It is valid until
// [Header.Reset].
func (h *Header) Map() nats.Header { return h.header }

// Reset empties the header for the next message and keeps its memory.
func (h *Header) Reset() {
	if cap(h.values) > maxReused {
		*h = Header{}
		return
	}
	clear(h.header)
	clear(h.values)
	h.values, h.leftOut = h.values[:0], ""
}

// AddValues adds to out the values for which Message.Header has no place: those
// after the first of each key in original, the message that out is a copy of. A
// key is left alone if its first values differ, as it is not a copy then. Trace
// headers have one value on the wire and are left alone as well.
func AddValues(out, original nats.Header) {
	for k, vs := range original {
		if len(vs) < 2 || len(out[k]) != 1 || out[k][0] != vs[0] || isNATSHeader(k) || traceIndex(k) >= 0 {
			continue
		}
		for _, v := range vs[1:] {
			if CheckHeader(k, v, false) == nil { // other clients check less than ours
				out[k] = append(out[k], v)
			}
		}
	}
}

// IncomingHeader returns the Message.Header of a delivery: a new map, never nil,
// without Nats-* headers. Of several values of a key it takes the first, as NATS
// clients do, except for trace headers; see received. traced says that go-micro's client has published the message and
// that it has trace headers; see [SpellForGoMicro].
func IncomingHeader(in nats.Header) (out map[string]string, traced bool) {
	out = make(map[string]string, len(in))
	byGoMicro := false
	for k, vs := range in {
		if len(vs) == 0 || isNATSHeader(k) {
			continue
		}
		v := vs[0]
		switch i := traceIndex(k); {
		case len(k) == len(contentTypeHeader) && strings.EqualFold(k, contentTypeHeader):
			// go-micro looks for this spelling only, and without it takes the body
			// for protobuf. If the message has this spelling too, it wins.
			if _, ok := in[contentTypeHeader]; !ok {
				k = contentTypeHeader
			}
		case k == topicHeader:
			byGoMicro = true
		case i >= 0:
			traced = true
			if len(vs) > 1 {
				v = received(i, vs)
			}
		}
		out[k] = v
	}
	return out, traced && byGoMicro
}
