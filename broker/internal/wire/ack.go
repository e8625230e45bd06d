package wire

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// The bodies of acknowledgements (ADR-15). Nobody may change them.
var (
	AckBody      = []byte("+ACK")
	NakBody      = []byte("-NAK") // delivers again at once
	TermBody     = []byte("+TERM")
	ProgressBody = []byte("+WPI") // restarts the ack wait
)

// DelayedNak is the body of a nak that has the server wait for d before it delivers
// the message again. A d of 0 or less is not the same as [NakBody]: for a consumer
// with a BackOff schedule the server may still wait then.
func DelayedNak(d time.Duration) []byte {
	return fmt.Appendf(nil, `-NAK {"delay":%d}`, d.Nanoseconds())
}

// Metadata is what the ack subject of a delivery says.
type Metadata struct {
	NumDelivered     uint64 // 1 on the first delivery
	StreamSequence   uint64
	ConsumerSequence uint64
	StoredAt         int64  // nanoseconds since 1970
	Pending          uint64 // messages that the consumer has not delivered yet
}

// Identity tells a message from all others of its consumer. The time tells it from
// the message of the same number in a stream that was deleted and made again.
type Identity struct {
	Sequence uint64
	StoredAt int64 // nanoseconds since 1970
}

// Identity returns the identity of the message.
func (m Metadata) Identity() Identity { return Identity{m.StreamSequence, m.StoredAt} }

// ErrNotAckSubject is the error of [ParseMetadata].
var ErrNotAckSubject = errors.New("not the ack subject of a JetStream delivery")

// ParseMetadata reads an ack subject. There are two forms (ADR-15):
//
//	$JS.ACK.<stream>.<consumer>.<delivered>.<stream seq>.<consumer seq>.<time>.<pending>
//	$JS.ACK.<domain>.<account>.<stream>.<consumer>.<delivered>.<stream seq>.<consumer seq>.<time>.<pending>[.<more>]
func ParseMetadata(reply string) (Metadata, error) {
	rest, ok := strings.CutPrefix(reply, "$JS.ACK.")
	if !ok {
		return Metadata{}, ErrNotAckSubject
	}
	names := 2 // stream and consumer
	switch tokens := strings.Count(rest, ".") + 1; {
	case tokens == 7:
	case tokens >= 9:
		names = 4
	default:
		return Metadata{}, ErrNotAckSubject
	}
	for range names {
		_, rest, _ = strings.Cut(rest, ".")
	}
	var numbers [5]uint64
	for i := range numbers {
		n, digits := leadingUint(rest)
		if digits == 0 || digits < len(rest) && rest[digits] != '.' {
			return Metadata{}, ErrNotAckSubject
		}
		numbers[i] = n
		rest = rest[min(digits+1, len(rest)):]
	}
	return Metadata{
		NumDelivered:     numbers[0],
		StreamSequence:   numbers[1],
		ConsumerSequence: numbers[2],
		StoredAt:         int64(numbers[3]),
		Pending:          numbers[4],
	}, nil
}

// PinHeader is set in each message that the server delivers to the pinned subscriber of
// a consumer (ADR-42).
const PinHeader = "Nats-Pin-Id"

// AckSubject returns an ack subject for a message that was delivered to somebody else.
// The consumer sequence must be that of a delivery that is not settled, or a later one.
func AckSubject(stream, consumer string, streamSequence, consumerSequence uint64) string {
	return fmt.Sprintf("$JS.ACK.%s.%s.1.%d.%d.%d.0", stream, consumer, streamSequence, consumerSequence, time.Now().UnixNano())
}

// AckSubjectLike is AckSubject for a server that wants what the ack subjects of its own
// deliveries have: domain and account. It returns "" if the reply is none of these.
func AckSubjectLike(reply string, streamSequence, consumerSequence uint64) string {
	tokens := strings.Split(reply, ".")
	first := 4 // of the numbers
	switch n := len(tokens); {
	case n == 9:
	case n >= 11:
		first = 6
	default:
		return ""
	}
	tokens[first+1] = strconv.FormatUint(streamSequence, 10)
	tokens[first+2] = strconv.FormatUint(consumerSequence, 10)
	return strings.Join(tokens, ".")
}

// Acknowledges reports whether a subject is the ack subject of a delivery by that
// consumer of that stream.
func Acknowledges(reply, stream, consumer string) bool {
	if _, err := ParseMetadata(reply); err != nil {
		return false
	}
	rest := strings.TrimPrefix(reply, "$JS.ACK.")
	if strings.Count(rest, ".") >= 8 { // with domain and account
		_, rest, _ = strings.Cut(rest, ".")
		_, rest, _ = strings.Cut(rest, ".")
	}
	rest, ok := strings.CutPrefix(rest, stream+".")
	return ok && strings.HasPrefix(rest, consumer+".")
}

// ParseUint reads a decimal number without a sign. It does not allocate, and it is
// not ok if s has anything else in it or is beyond 64 bits.
func ParseUint(s string) (n uint64, ok bool) {
	n, digits := leadingUint(s)
	if digits == 0 || digits < len(s) {
		return 0, false
	}
	return n, true
}

// leadingUint reads the digits that s begins with, as far as they fit 64 bits.
func leadingUint(s string) (n uint64, digits int) {
	for ; digits < len(s); digits++ {
		d := uint64(s[digits] - '0')
		if d > 9 || n > (math.MaxUint64-d)/10 {
			break
		}
		n = n*10 + d
	}
	return n, digits
}
