package wire

import (
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"go-micro-jetstream/broker/internal/fault"
)

// This file names what a message has that is delivered later. Until it is due, it is
// a schedule under a subject of its own, _later.STREAM.<topic>.<id>. The server then
// stores it as _due.STREAM.<topic>, from where it gets to its topic.

const (
	laterToken = "_later"
	dueToken   = "_due"

	// ScheduleHeader has the time of a schedule, as "@at " and a time of RFC 3339.
	ScheduleHeader = "Nats-Schedule"
	// ScheduleTargetHeader is the subject that a message gets when it is due.
	ScheduleTargetHeader = "Nats-Schedule-Target"
	// ScheduleTTLHeader is the time to live from then on, in seconds.
	ScheduleTTLHeader = "Nats-Schedule-TTL"
	// TTLHeader is the time to live of a message, in seconds.
	TTLHeader = "Nats-TTL"
	// lateIDHeader keeps the message id of a schedule: the server takes off
	// Nats-Msg-Id when the message is due.
	lateIDHeader = "Nats-Micro-Msg-Id"

	atPrefix = "@at "
	// LaterOverhead is what the servers and this package add at most to the header of
	// a message that is delivered later, in bytes, subjects aside.
	LaterOverhead = 1024
	// MaxHeader is how many bytes of headers a stream takes (the check of math.MaxUint16
	// in nats-server's server/stream.go).
	MaxHeader = math.MaxUint16
)

// latest is beyond what the server can represent.
var latest = time.Date(2262, 1, 1, 0, 0, 0, 0, time.UTC)

// CheckDueTime reports why a message cannot be delivered at that time.
func CheckDueTime(t time.Time) error {
	if t.After(latest) {
		return fmt.Errorf("%w: the message is due at %s, and the server can wait until 2262: choose an earlier time", fault.ErrInvalidConfig, t.Format(time.RFC3339))
	}
	return nil
}

// LaterPattern covers the schedules of a stream, DuePattern what is due.
func LaterPattern(stream string) string { return laterToken + "." + stream + ".>" }

// DuePattern covers the subjects of messages of a stream that are due.
func DuePattern(stream string) string { return dueToken + "." + stream + ".>" }

// LaterSubject is the subject of one schedule. Each id of a topic has its own.
func LaterSubject(stream, topic, id string) string {
	return laterToken + "." + stream + "." + topic + "." + idToken(id)
}

// DueSubject is the subject of a message that is due.
func DueSubject(stream, topic string) string { return dueToken + "." + stream + "." + topic }

// LaterStream names the stream that holds the schedules of another one. No topic
// gives that name to its stream by default, as those are in upper case.
func LaterStream(stream string) string {
	const suffix = "-later"
	if len(stream)+len(suffix) > MaxName {
		stream = stream[:MaxName-len(suffix)-30] + hashed(stream)
	}
	return stream + suffix
}

// idToken returns the id as a token of a subject: as it is, so that people can read
// it, or a hash if it does not fit.
func idToken(id string) string {
	if len(id) == 0 || len(id) > 64 {
		return hashed(id)
	}
	for i := range len(id) {
		switch c := id[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '_':
		default:
			return hashed(id)
		}
	}
	return id
}

func hashed(s string) string {
	sum := sha256.Sum256([]byte(s))
	return "=" + base64.RawURLEncoding.EncodeToString(sum[:16])
}

// SetSchedule makes the header that of a schedule.
func SetSchedule(h nats.Header, at time.Time, target, id string, onlyOnce bool, ttl time.Duration) {
	h[ScheduleHeader] = []string{atPrefix + at.UTC().Format(time.RFC3339Nano)}
	h[ScheduleTargetHeader] = []string{target}
	h[lateIDHeader] = []string{id}
	if onlyOnce { // a schedule that waits is not replaced by a second one
		h[nats.ExpectedLastSubjSeqHdr] = []string{"0"}
	}
	if ttl > 0 {
		h[ScheduleTTLHeader] = []string{Seconds(ttl)}
	}
}

// DueTime returns when the message of a schedule is due.
func DueTime(h nats.Header) (time.Time, bool) {
	at, ok := strings.CutPrefix(h.Get(ScheduleHeader), atPrefix)
	t, err := time.Parse(time.RFC3339, at)
	return t, ok && err == nil
}

// Seconds writes a duration as whole seconds, rounded up.
func Seconds(d time.Duration) string {
	return fmt.Sprint(int64((d + time.Second - 1) / time.Second))
}

// MessageID returns the id that a message was published with, or "".
func MessageID(h nats.Header) string {
	if id := h.Get(nats.MsgIdHdr); id != "" {
		return id
	}
	return h.Get(lateIDHeader)
}
