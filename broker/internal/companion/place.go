package companion

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"go-micro-jetstream/broker/internal/asset"
	"go-micro-jetstream/broker/internal/fault"
	"go-micro-jetstream/broker/internal/link"
	"go-micro-jetstream/broker/internal/streamapi"
	"go-micro-jetstream/broker/internal/wire"
)

const (
	minorSchedules = 12 // of the first nats-server with allow_msg_schedules
	// minorCompanion is of the first nats-server with which a companion works. One
	// before drops what is due in a companion: the header Nats-Schedule-Next, which the
	// server itself has added, is refused by a stream without allow_msg_schedules
	// (processJetStreamMsg in server/stream.go), and a stream with sources cannot have
	// that. It also removes what is sourced from a WorkQueue stream before it is stored.
	minorCompanion = 14

	// freshness is how long a companion is trusted without a look. Somebody may have
	// taken it away, or two processes may have changed the stream at a time.
	freshness = time.Minute
	// changedFreshness is how long after the stream was changed: another process may
	// have changed it at the same time, and have undone that.
	changedFreshness = 3 * time.Second
)

// Companions makes and links the companions of a connection's streams. One goroutine at
// a time may use it, except for [Known] and [Companions.Cancel].
type Companions struct {
	conn   *link.Conn
	api    *streamapi.API
	behind map[string]int // replicas that companions could not have, by name

	patience time.Duration // how long what is due may stand still before that is logged
	moves    map[string]movement
	blind    map[string]bool // streams whose movements the server does not show to this user
}

// New returns the companions of the connection. It sends nothing.
func New(conn *link.Conn, api *streamapi.API) *Companions {
	return &Companions{conn: conn, api: api, behind: map[string]int{}, patience: freshness / 2, moves: map[string]movement{}, blind: map[string]bool{}}
}

// Known returns where messages of the stream wait, or nil if that is not known, or was
// looked at too long ago.
func Known(s *asset.Stream) *asset.Later {
	if l := s.Later.Load(); l != nil && time.Since(l.Checked) < freshness {
		return l
	}
	return nil
}

// Place returns where messages of the stream wait. If may, it makes the companion, and
// has the stream source it. If nobody answers, it is where they waited before: cluster
// and consumer may be without a leader while both streams have theirs.
func (cs *Companions) Place(ctx context.Context, s *asset.Stream, may bool) (*asset.Later, error) {
	l, err := cs.look(ctx, s, may)
	if before := s.Later.Load(); err != nil && before != nil && isSilence(err) {
		again := *before
		again.Checked = time.Now()
		l, err = &again, nil
	}
	if err == nil {
		s.Later.Store(l)
	}
	return l, err
}

// isSilence reports that nobody has answered who could.
func isSilence(err error) bool {
	return errors.Is(err, context.DeadlineExceeded) || fault.HasCode(err, fault.CodeTemporarilyAway, fault.CodeStreamOffline)
}

// look is Place without what was known before.
func (cs *Companions) look(ctx context.Context, s *asset.Stream, may bool) (*asset.Later, error) {
	sc, err := cs.api.Config(ctx, s.Name)
	if err != nil {
		return nil, err
	}
	version := cs.api.ServerOf(sc)
	if !link.AtLeast(version, minorSchedules, 0) {
		return nil, fmt.Errorf("%w: to deliver a message later needs nats-server 2.%d, and that of stream %s is %s", fault.ErrUnsupported, minorSchedules, s.Name, version)
	}
	l := &asset.Later{MaxMsg: max(int(sc.MaxMsgSize), 0), Checked: time.Now()}
	switch {
	case holdsSchedules(sc):
		l.Stream, l.Direct, l.MaxWait = s, true, maxWait(sc)
		err = checkLimits(sc)
	case link.AtLeast(version, minorCompanion, 0):
		l.Stream, err = cs.companion(ctx, s, sc, may)
	default:
		l.Stream, l.Direct = s, true
		err = cs.allowSchedules(ctx, s, sc, version, may)
	}
	if err != nil {
		return nil, err
	}
	if !l.Direct && sourceIn(sc) < 0 { // it was added just now
		l.Checked = l.Checked.Add(changedFreshness - freshness)
	}
	return l, nil
}

// allowSchedules has a stream hold its schedules itself, as the server can do nothing
// better. If the server is replaced later by one that can, the stream stays so.
func (cs *Companions) allowSchedules(ctx context.Context, s *asset.Stream, sc jetstream.StreamConfig, version string, may bool) error {
	if !may {
		return fmt.Errorf("%w: stream %s lacks allow_msg_schedules with the subject %s, and the broker does not change it: have its owner add both (not with Interest retention)",
			fault.ErrUnsupported, s.Name, wire.LaterPattern(s.Name))
	}
	if what := noSchedules(sc); what != "" {
		return fmt.Errorf("%w: with nats-server %s messages cannot wait in stream %s, because it has %s: use nats-server 2.%d", fault.ErrUnsupported, version, s.Name, what, minorCompanion)
	}
	sc.AllowRollup, sc.AllowMsgTTL, sc.AllowMsgSchedules = true, true, true
	sc.Subjects = append(slices.Clip(sc.Subjects), wire.LaterPattern(s.Name))
	now, err := cs.api.Raise(ctx, sc)
	if err != nil {
		return err
	}
	if !now.AllowMsgSchedules {
		return unknownSchedules(s.Name, minorSchedules)
	}
	cs.conn.Log().Info(fmt.Sprintf("stream %s has allow_msg_schedules and the subject %s now, where messages wait that are delivered later", s.Name, wire.LaterPattern(s.Name)), "stream", s.Name)
	return nil
}

// noSchedules names what keeps schedules out of a stream, or would remove them.
func noSchedules(sc jetstream.StreamConfig) string {
	switch {
	case sc.Retention == jetstream.InterestPolicy:
		return "Interest retention"
	case sc.Discard == jetstream.DiscardNew:
		return "DiscardNew"
	case len(sc.Sources) > 0 || sc.Mirror != nil:
		return "sources or a mirror"
	case sc.DenyPurge:
		return "DenyPurge"
	case sc.MaxAge > 0 || sc.MaxMsgs > 0 || sc.MaxBytes > 0:
		return "limits, which may remove what waits"
	}
	return ""
}

func unknownSchedules(stream string, minor int) error {
	return fmt.Errorf("%w: the server of stream %s does not know allow_msg_schedules: use nats-server 2.%d", fault.ErrUnsupported, stream, minor)
}
