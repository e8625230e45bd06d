package streams

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"go-micro-jetstream/broker/internal/fault"
	"go-micro-jetstream/broker/internal/link"
	"go-micro-jetstream/broker/internal/wire"
)

// Later is where messages of a stream wait until they are due: in a companion, a
// WorkQueue stream that holds the schedules and what is due. The stream sources from
// there what is due. Schedules cannot be in the stream itself: the server refuses
// them next to DiscardNew and next to sources, an Interest stream does not keep
// them, and the limits of the stream would remove them.
//
// A stream of others may hold its schedules itself, if its owner wants it so. Streams
// of this module do where the server cannot do the above.
type Later struct {
	Stream *Stream // has the schedules
	Direct bool    // it is the topic's own stream
	MaxMsg int     // bytes that the topic's stream accepts as a message; 0: no limit

	checked time.Time
}

const (
	minorTTL       = 11 // of the first nats-server with allow_msg_ttl
	minorPins      = 11 // of the first one with consumers that serve one subscriber at a time
	minorSchedules = 12 // of the first one with allow_msg_schedules
	// minorCompanion is of the first nats-server with which a companion works. One
	// before drops what is due in a companion: the header Nats-Schedule-Next, which the
	// server itself has added, is refused by a stream without allow_msg_schedules
	// (processJetStreamMsg in server/stream.go), and a stream with sources cannot have
	// that. It also removes what is sourced from a WorkQueue stream before it is stored.
	minorCompanion = 14

	// laterFreshness is how long a companion is trusted without a look. Somebody may
	// have taken it away, or two processes may have changed the stream at a time.
	laterFreshness = time.Minute
	// changedFreshness is how long after the stream was changed: another process may
	// have changed it at the same time, and have undone that.
	changedFreshness = 3 * time.Second
)

// WithTTL returns the stream when it removes messages whose time to live is over. A
// stream of this module is changed for that.
func (ss *Streams) WithTTL(ctx context.Context, rules *Rules, s *Stream) (*Stream, error) {
	if s.TTL {
		return s, nil
	}
	if err := ss.ensuring.acquire(ctx); err != nil {
		return nil, err
	}
	defer ss.ensuring.release()
	sc, err := ss.config(ctx, s.Name)
	if err != nil {
		return nil, err
	}
	if version := ss.serverOf(sc); !link.AtLeast(version, minorTTL, 0) {
		return nil, fmt.Errorf("%w: a time to live needs nats-server 2.%d, and that of stream %s is %s", fault.ErrUnsupported, minorTTL, s.Name, version)
	}
	if !sc.AllowMsgTTL {
		if !s.Ours || rules.NeverCreateStreams {
			return nil, fmt.Errorf("%w: stream %s lacks allow_msg_ttl, and the broker does not change it: have its owner set the flag", fault.ErrUnsupported, s.Name)
		}
		sc.AllowMsgTTL = true
		if sc, err = ss.raise(ctx, sc); err != nil {
			return nil, err
		}
		if !sc.AllowMsgTTL {
			return nil, fmt.Errorf("%w: the server of stream %s does not know allow_msg_ttl: use nats-server 2.%d", fault.ErrUnsupported, s.Name, minorTTL)
		}
		ss.conn.Log().Info(fmt.Sprintf("stream %s has allow_msg_ttl now, because a message with a time to live is published", s.Name), "stream", s.Name)
	}
	now, err := ss.Info(ctx, s.Name)
	if err != nil {
		return nil, err
	}
	ss.cache.add(now)
	return now, nil
}

// Later returns where messages of the stream wait. For a stream of this module it
// makes the companion, and has the stream source it.
func (ss *Streams) Later(ctx context.Context, rules *Rules, s *Stream) (*Later, error) {
	if l := s.later.Load(); l != nil && time.Since(l.checked) < laterFreshness {
		return l, nil
	}
	if err := ss.ensuring.acquire(ctx); err != nil {
		return nil, err
	}
	defer ss.ensuring.release()
	if l := s.later.Load(); l != nil && time.Since(l.checked) < laterFreshness {
		return l, nil
	}
	sc, err := ss.config(ctx, s.Name)
	if err != nil {
		return nil, err
	}
	version := ss.serverOf(sc)
	if !link.AtLeast(version, minorSchedules, 0) {
		return nil, fmt.Errorf("%w: to deliver a message later needs nats-server 2.%d, and that of stream %s is %s", fault.ErrUnsupported, minorSchedules, s.Name, version)
	}
	l := &Later{MaxMsg: max(int(sc.MaxMsgSize), 0), checked: time.Now()}
	may := s.Ours && !rules.NeverCreateStreams
	switch {
	case sc.AllowMsgSchedules && wire.CoversAny(sc.Subjects, wire.LaterPattern(s.Name)) && sc.Retention != jetstream.InterestPolicy:
		l.Stream, l.Direct = s, true
	case link.AtLeast(version, minorCompanion, 0):
		l.Stream, err = ss.companion(ctx, s, sc, may)
	default:
		l.Stream, l.Direct = s, true
		err = ss.allowSchedules(ctx, s, sc, version, may)
	}
	if err != nil {
		return nil, err
	}
	if !l.Direct && sourceIn(sc) < 0 { // it was added just now
		l.checked = l.checked.Add(changedFreshness - laterFreshness)
	}
	s.later.Store(l)
	return l, nil
}

// allowSchedules has a stream hold its schedules itself, as the server can do nothing
// better. If the server is replaced later by one that can, the stream stays so.
func (ss *Streams) allowSchedules(ctx context.Context, s *Stream, sc jetstream.StreamConfig, version string, may bool) error {
	if !may {
		return fmt.Errorf("%w: stream %s lacks allow_msg_schedules with the subject %s, and the broker does not change it: have its owner add both (not with Interest retention)",
			fault.ErrUnsupported, s.Name, wire.LaterPattern(s.Name))
	}
	if what := noSchedules(sc); what != "" {
		return fmt.Errorf("%w: with nats-server %s messages cannot wait in stream %s, because it has %s: use nats-server 2.%d", fault.ErrUnsupported, version, s.Name, what, minorCompanion)
	}
	sc.AllowRollup, sc.AllowMsgTTL, sc.AllowMsgSchedules = true, true, true
	sc.Subjects = append(slices.Clip(sc.Subjects), wire.LaterPattern(s.Name))
	now, err := ss.raise(ctx, sc)
	if err != nil {
		return err
	}
	if !now.AllowMsgSchedules {
		return unknownSchedules(s.Name, minorSchedules)
	}
	ss.conn.Log().Info(fmt.Sprintf("stream %s has allow_msg_schedules and the subject %s now, where messages wait that are delivered later", s.Name, wire.LaterPattern(s.Name)), "stream", s.Name)
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

// companion returns the companion of a stream. If may, it makes what is missing.
func (ss *Streams) companion(ctx context.Context, s *Stream, sc jetstream.StreamConfig, may bool) (*Stream, error) {
	name := wire.LaterStream(s.Name)
	lc, err := ss.config(ctx, name)
	missing := errors.Is(err, jetstream.ErrStreamNotFound)
	if err != nil && !missing {
		return nil, err
	}
	at := sourceIn(sc)
	sourced := at >= 0
	ready := !missing && isCompanionOf(s.Name, lc)
	if !may && (!ready || !sourced) {
		return nil, fmt.Errorf("%w: stream %s lacks allow_msg_schedules with the subject %s, and the broker does not change it: "+
			"have its owner add both (not with Interest retention), or make a stream %s with them and %s, which %s sources with the transform %s to >",
			fault.ErrUnsupported, s.Name, wire.LaterPattern(s.Name), name, wire.DuePattern(s.Name), s.Name, wire.DuePattern(s.Name))
	}
	if !ready {
		if err := ss.readyCompanion(ctx, s, sc, lc, missing); err != nil {
			return nil, err
		}
	}
	if may {
		if err := ss.sourceCompanion(ctx, &sc, at); err != nil {
			return nil, err
		}
	}
	companion, err := ss.Info(ctx, name)
	if err != nil || !may {
		return companion, err
	}
	return ss.followStream(ctx, sc, companion), nil
}

// sourceCompanion has a stream source its companion, with a consumer that is there. The
// index is that of the source, -1 if it has none yet.
func (ss *Streams) sourceCompanion(ctx context.Context, sc *jetstream.StreamConfig, at int) error {
	sourced := at >= 0
	if !sourced || sc.Sources[at].Consumer != nil {
		// Who may not make it can use one that is there.
		if err := ss.makeSourceConsumer(ctx, sc.Name); err != nil && (!sourced || !errors.Is(err, fault.ErrPermission)) {
			return err
		}
	}
	if sourced {
		return nil
	}
	sc.Sources = append(slices.Clip(sc.Sources), sourceOf(sc.Name))
	if _, err := ss.raise(ctx, *sc); err != nil {
		return err
	}
	ss.conn.Log().Info(fmt.Sprintf("stream %s sources %s now, where messages wait that are delivered later", sc.Name, wire.LaterStream(sc.Name)), "stream", sc.Name)
	return nil
}

// isCompanionOf reports whether a stream has all that the companion of this one needs.
func isCompanionOf(stream string, lc jetstream.StreamConfig) bool {
	return lc.AllowMsgSchedules && lc.AllowMsgTTL &&
		wire.CoversAny(lc.Subjects, wire.LaterPattern(stream)) && wire.CoversAny(lc.Subjects, wire.DuePattern(stream))
}

// readyCompanion makes the companion of a stream, or adds to one that is there, lc, what
// it lacks. The rest of that stays as it is: an operator may have tuned it.
func (ss *Streams) readyCompanion(ctx context.Context, s *Stream, sc, lc jetstream.StreamConfig, missing bool) (err error) {
	if missing {
		lc, err = ss.makeCompanion(ctx, s, sc)
	} else {
		lc, err = ss.mendCompanion(ctx, s, lc)
	}
	if err == nil && !lc.AllowMsgSchedules {
		err = unknownSchedules(lc.Name, minorCompanion)
	}
	return err
}

// sourceOf is what a stream has as the source of its companion. With a consumer that is
// there already, the server goes on at once after a restart. A consumer that it makes by
// itself delivers nothing until the next check of its health, ten seconds later or more
// (sourceHealthCheckInterval in server/stream.go).
func sourceOf(stream string) *jetstream.StreamSource {
	return &jetstream.StreamSource{
		Name:              wire.LaterStream(stream),
		SubjectTransforms: []jetstream.SubjectTransformConfig{{Source: wire.DuePattern(stream), Destination: ">"}},
		Consumer:          &jetstream.StreamConsumerSource{Name: stream, DeliverSubject: wire.SourceSubject(stream)},
	}
}

// sourceIn returns where the companion is among the sources of a stream, or -1.
func sourceIn(sc jetstream.StreamConfig) int {
	return slices.IndexFunc(sc.Sources, func(src *jetstream.StreamSource) bool { return src.Name == wire.LaterStream(sc.Name) })
}

// addSource has a stream that is about to be made source a companion that is there: it
// has outlived an earlier stream of that name, and what waits in it is not lost. What
// cannot be found out is left to the next message that is delivered later.
func (ss *Streams) addSource(ctx context.Context, sc *jetstream.StreamConfig) {
	if sourceIn(*sc) >= 0 || sc.Mirror != nil || sc.AllowMsgSchedules {
		return
	}
	names, err := ss.names(ctx, wire.DuePattern(sc.Name))
	if err != nil || !slices.Contains(names, wire.LaterStream(sc.Name)) {
		return
	}
	companion, err := ss.Info(ctx, wire.LaterStream(sc.Name))
	if err != nil || !companion.Ours || ss.makeSourceConsumer(ctx, sc.Name) != nil {
		return
	}
	sc.Sources = append(slices.Clip(sc.Sources), sourceOf(sc.Name))
}

// makeSourceConsumer makes the consumer of the companion that the stream sources from,
// if it is not there.
func (ss *Streams) makeSourceConsumer(ctx context.Context, stream string) error {
	name := wire.LaterStream(stream)
	err := ss.conn.Do(ctx, "CONSUMER.CREATE."+name+"."+stream, func(ctx context.Context) error {
		_, err := ss.conn.JetStream().CreatePushConsumer(ctx, name, jetstream.ConsumerConfig{
			Durable:        stream,
			Description:    "delivers to stream " + stream + " what is due",
			DeliverSubject: wire.SourceSubject(stream),
			FilterSubject:  wire.DuePattern(stream),
			AckPolicy:      jetstream.AckFlowControlPolicy,
			FlowControl:    true,
			IdleHeartbeat:  time.Second, // as the server demands
			Metadata:       Owned(nil),
		})
		return err
	})
	if err != nil && !errors.Is(err, jetstream.ErrConsumerExists) {
		return fmt.Errorf("create consumer %s of stream %s: %w", stream, name, err)
	}
	return nil
}

// makeCompanion makes the companion of a stream, on the same servers and as safe.
func (ss *Streams) makeCompanion(ctx context.Context, s *Stream, sc jetstream.StreamConfig) (jetstream.StreamConfig, error) {
	lc := jetstream.StreamConfig{
		Name:              wire.LaterStream(s.Name),
		Description:       "messages of stream " + s.Name + " that are delivered later",
		Subjects:          []string{wire.LaterPattern(s.Name), wire.DuePattern(s.Name)},
		Retention:         jetstream.WorkQueuePolicy,
		Storage:           sc.Storage,
		Replicas:          sc.Replicas,
		Placement:         sc.Placement,
		Compression:       sc.Compression,
		Duplicates:        sc.Duplicates,
		AllowRollup:       true,
		AllowMsgTTL:       true,
		AllowMsgSchedules: true,
		Metadata:          Owned(nil),
	}
	lc.Metadata[AskedKey] = companionSettings.RecordOf(lc).String()
	info, err := ss.request(ctx, lc)
	if err != nil {
		return lc, cmp.Or(ss.limitError(ctx, lc, err), fmt.Errorf("create stream %s: %w", lc.Name, err))
	}
	ss.conn.Log().Info(fmt.Sprintf("created stream %s, where messages of stream %s wait that are delivered later", lc.Name, s.Name), "stream", lc.Name)
	return info.Config, nil
}

// mendCompanion adds to the companion of a stream what it lacks.
func (ss *Streams) mendCompanion(ctx context.Context, s *Stream, lc jetstream.StreamConfig) (jetstream.StreamConfig, error) {
	wanted := []string{wire.LaterPattern(s.Name), wire.DuePattern(s.Name)}
	if _, ours := lc.Metadata[OwnerKey]; !ours {
		return lc, fmt.Errorf("%w: stream %s is not of this broker and lacks allow_msg_schedules, allow_msg_ttl or the subjects %s and %s",
			fault.ErrUnsupported, lc.Name, wanted[0], wanted[1])
	}
	lc.AllowRollup, lc.AllowMsgTTL, lc.AllowMsgSchedules = true, true, true
	for _, subject := range wanted {
		if !wire.CoversAny(lc.Subjects, subject) {
			lc.Subjects = append(slices.Clip(lc.Subjects), subject)
		}
	}
	return ss.raise(ctx, lc)
}

// serverVersion is the metadata in which a server says its version, since nats-server
// 2.11 (ADR-44).
const serverVersion = "_nats.ver"

// serverOf returns the version of the server that a stream is on. That need not be the
// one that the client is connected to, such as a leaf node. Before nats-server 2.11 it
// does not say, and the connected one is taken for it where both have one JetStream.
func (ss *Streams) serverOf(sc jetstream.StreamConfig) string {
	switch version := sc.Metadata[serverVersion]; {
	case version != "":
		return version
	case ss.conn.Remote():
		return "2.10 or earlier"
	}
	return ss.conn.NATS().ConnectedServerVersion()
}

// CheckSingleActive reports that the server of a stream cannot have one of all subscribers
// of a consumer get messages: it would take the consumer without the policy for that.
func (ss *Streams) CheckSingleActive(s *Stream) error {
	if version := ss.serverOf(s.config); !link.AtLeast(version, minorPins, 0) {
		return fmt.Errorf("%w: SingleActive needs nats-server 2.%d, and that of stream %s is %s", fault.ErrUnsupported, minorPins, s.Name, version)
	}
	return nil
}

// raise asks the server to change a stream, and returns its configuration then.
func (ss *Streams) raise(ctx context.Context, sc jetstream.StreamConfig) (jetstream.StreamConfig, error) {
	info, err := ss.change(ctx, sc)
	if err != nil {
		return sc, fmt.Errorf("change stream %s: %w", sc.Name, err)
	}
	return info.Config, nil
}

// Cancel takes back the message with that id that waits for the topic. It returns
// fault.ErrNotScheduled if there is none, or if it falls due meanwhile.
func (ss *Streams) Cancel(ctx context.Context, rules *Rules, topic, id string) error {
	stream, err := ss.waitsFor(ctx, rules, topic)
	if err != nil {
		return err
	}
	for _, name := range []string{wire.LaterStream(stream), stream} {
		err := ss.cancelIn(ctx, name, wire.LaterSubject(stream, topic, id))
		if !errors.Is(err, jetstream.ErrMsgNotFound) && !errors.Is(err, jetstream.ErrStreamNotFound) {
			return err
		}
	}
	return fault.ErrNotScheduled
}

// waitsFor names the stream that messages of the topic wait for. If that is gone, it is
// the one that would be made now: it would get from a companion that has outlived the
// former one what falls due.
func (ss *Streams) waitsFor(ctx context.Context, rules *Rules, topic string) (string, error) {
	if s := ss.Known(topic); s != nil {
		return s.Name, nil
	}
	if err := ss.ensuring.acquire(ctx); err != nil {
		return "", err
	}
	defer ss.ensuring.release()
	s, err := ss.lookUp(ctx, topic)
	switch {
	case err == nil:
		return s.Name, nil
	case !errors.Is(err, fault.ErrStreamNotFound):
		return "", err
	}
	sc, err := rules.StreamConfig(topic)
	switch {
	case errors.Is(err, fault.ErrInvalidConfig): // the name is not known, as its function failed
		return "", err
	case err != nil: // there can be no such stream
		return "", fault.ErrNotScheduled
	}
	return sc.Name, nil
}

// cancelIn deletes the schedule with that subject.
func (ss *Streams) cancelIn(ctx context.Context, name, subject string) error {
	var due time.Time
	var sequence uint64
	err := ss.conn.Ask(ctx, "STREAM.MSG.GET."+name, func(ctx context.Context) error {
		s, err := ss.conn.JetStream().Stream(ctx, name)
		if err != nil {
			return err
		}
		m, err := s.GetLastMsgForSubject(ctx, subject)
		if err == nil {
			sequence = m.Sequence
			due, _ = wire.DueTime(m.Header)
		}
		return err
	})
	if err != nil {
		return err
	}
	if !time.Now().Before(due) {
		return fmt.Errorf("%w: it was due at %s and is delivered just now", fault.ErrNotScheduled, due.Format(time.RFC3339))
	}
	err = ss.conn.Do(ctx, "STREAM.MSG.DELETE."+name, func(ctx context.Context) error {
		s, err := ss.conn.JetStream().Stream(ctx, name)
		if err != nil {
			return err
		}
		return s.DeleteMsg(ctx, sequence)
	})
	if errors.Is(err, jetstream.ErrMsgDeleteUnsuccessful) || fault.HasCode(err, fault.CodeMsgDeleteFailed) {
		return fmt.Errorf("%w: it was delivered or cancelled meanwhile", fault.ErrNotScheduled)
	}
	if err == nil && !time.Now().Before(due) {
		return fmt.Errorf("%w: it fell due while it was being cancelled, and may be delivered", fault.ErrNotScheduled)
	}
	return err
}
