package produce

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"go-micro-jetstream/broker/internal/asset"
	"go-micro-jetstream/broker/internal/fault"
	"go-micro-jetstream/broker/internal/wire"
)

// Timing is when a message is delivered, and how long it is kept. The zero value is
// at once, and for as long as the stream keeps messages.
type Timing struct {
	Due time.Time     // not before; zero: at once
	TTL time.Duration // from Due on; zero: none. Set TTLSet for one that is to be checked
	// TTLSet says that somebody has asked for a time to live.
	TTLSet bool
}

// maxTTL is the longest time to live that is surely accepted: a hundred years. The server
// counts in nanoseconds from now.
const maxTTL = 100 * 365 * 24 * time.Hour

// longPassed is for a time that has passed: the server does not know all times, and any
// that has passed for this long is now, also by its clock.
const longPassed = time.Hour

// check reports what cannot be had of any server.
func (t *Timing) check() error {
	if t.TTLSet && t.TTL < time.Second {
		return fmt.Errorf("%w: TTL(%v): want at least 1s", fault.ErrInvalidConfig, t.TTL)
	}
	if t.TTL > maxTTL {
		return fmt.Errorf("%w: TTL(%v): want at most %v", fault.ErrInvalidConfig, t.TTL, maxTTL)
	}
	return wire.CheckDueTime(t.Due)
}

// timed reports whether the message needs more of its stream than others.
func (p *publication) timed() bool { return !p.timing.Due.IsZero() || p.timing.TTL > 0 }

// forgo drops a time that has passed. With an id of the caller's the message still
// goes through the companion, which knows whether the same message waits or was
// delivered a moment ago.
func (p *publication) forgo() {
	if p.ownID && !p.timing.Due.After(time.Now()) {
		p.timing.Due = time.Time{}
	}
}

// addressed returns the stream that a message with a timing is sent to, and gives
// the message the subject and the headers for that.
func (p *publication) addressed(ctx context.Context, st *asset.Stream) (*asset.Stream, error) {
	p.topics = st
	if p.timing.TTL > 0 {
		var err error
		if st, err = p.publisher.streams.WithTTL(ctx, p.rules, st); err != nil {
			return nil, p.lookAgainIfGone(err)
		}
		p.topics = st
		if p.timing.Due.IsZero() {
			p.untimed()
			p.msg.Header[wire.TTLHeader] = []string{wire.Seconds(p.timing.TTL)}
			return st, nil
		}
	}
	later, err := p.publisher.streams.Later(ctx, p.rules, st, p.topic)
	passed := !p.timing.Due.After(time.Now())
	if passed && errors.Is(err, fault.ErrUnsupported) && !p.mayWait() {
		return p.unscheduled(st, p.topic), nil // nothing can wait there
	}
	if err != nil {
		return nil, p.lookAgainIfGone(err)
	}
	if err := p.fits(later, st); err != nil {
		return nil, err
	}
	target := wire.DueSubject(st.Name, p.topic)
	if later.Direct {
		target = p.topic
	}
	if passed && p.sent.IsZero() && later.Direct {
		return p.unscheduled(later.Stream, target), nil
	}
	// A companion gets it as a schedule even if it is due. Stored under _due directly it
	// would keep its Nats-Msg-Id, and the topic's stream would silently drop it as a
	// duplicate of another message with that id.
	due := p.timing.Due
	if now := time.Now(); due.Before(now.Add(-longPassed)) {
		due = now.Add(-longPassed)
	}
	p.untimed()
	p.msg.Subject = wire.LaterSubject(st.Name, p.topic, p.id)
	wire.SetSchedule(p.msg.Header, due, target, p.id, !p.ownID, p.timing.TTL)
	return later.Stream, nil
}

// mayWait reports whether an earlier try may have stored the message where it waits. The
// stream of the topic does not recognise a second copy.
func (p *publication) mayWait() bool { return p.unknown && p.msg.Subject != p.topic }

// unscheduled sends the message as it is: its time has passed.
func (p *publication) unscheduled(st *asset.Stream, subject string) *asset.Stream {
	p.untimed()
	p.msg.Subject = subject
	if p.timing.TTL > 0 {
		p.msg.Header[wire.TTLHeader] = []string{wire.Seconds(p.timing.TTL)}
	}
	return st
}

// untimed takes away what an earlier try, for another stream, has put into the header.
// It is called only when the stream of the next try is known: without one, the message
// is sent as before.
func (p *publication) untimed() {
	for _, key := range timedHeaders {
		delete(p.msg.Header, key)
	}
}

// lookAgainIfGone has the stream looked up again if it is not there.
func (p *publication) lookAgainIfGone(err error) error {
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		p.doubt()
		p.last = err
		return errLookAgain
	}
	return err
}

// errLookAgain is about a stream that was known and is gone.
var errLookAgain = errors.New("the stream is gone")

// fits reports that the message would not outlive its wait, or that the topic's stream
// would refuse it when it is due. It would then stand in the way of all that are due later.
func (p *publication) fits(later *asset.Later, st *asset.Stream) error {
	extra := wire.LaterOverhead + 3*len(p.topic) + 3*len(st.Name) + len(p.id)
	if n := p.headerSize + extra; n > wire.MaxHeader {
		return fmt.Errorf("%w: with what is added when it is due its header has up to %d bytes, and the server accepts %d", fault.ErrMessageTooLarge, n, wire.MaxHeader)
	}
	if wait := time.Until(p.timing.Due); later.MaxWait > 0 && wait > later.MaxWait {
		return fmt.Errorf("%w: it would wait for %v in stream %s, which can keep it for %v because of its MaxAge: deliver it earlier, or have the owner of the stream raise MaxAge",
			fault.ErrUnsupported, wait.Round(time.Second), st.Name, later.MaxWait.Round(time.Second))
	}
	if n := p.headerSize + len(p.msg.Data) + extra; later.MaxMsg > 0 && n > later.MaxMsg {
		return fmt.Errorf("%w: with what is added when it is due it has up to %d bytes, and stream %s accepts %d", fault.ErrMessageTooLarge, n, st.Name, later.MaxMsg)
	}
	return nil
}

// doubt has the stream of the latest try looked up again.
func (p *publication) doubt() {
	if p.topics != nil {
		p.publisher.streams.Doubt(p.topics, p.topic)
		return
	}
	p.publisher.streams.Doubt(p.stream, p.topic)
}

// alreadyWaits reads the refusal of a second schedule with the id of one that waits.
func alreadyWaits(err *jetstream.APIError, st *asset.Stream) result {
	_, number, _ := strings.Cut(err.Description, ": ")
	sequence, _ := strconv.ParseUint(strings.TrimSpace(number), 10, 64)
	return result{outcome: stored, ack: wire.PubAck{Stream: st.Name, Sequence: sequence, Duplicate: true}}
}

// timedHeaders are those that a message has from its timing.
var timedHeaders = []string{wire.ScheduleHeader, wire.ScheduleTargetHeader, wire.ScheduleTTLHeader, wire.TTLHeader, nats.ExpectedLastSubjSeqHdr}
