package broker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"go-micro.dev/v5/logger"
)

// ownerKey marks, in their metadata, streams and consumers that this broker
// made. What lacks it belongs to somebody else and is never changed or made
// again.
const ownerKey = "go-micro-jetstream"

// Error codes of the server that nats.go has no name for (nats-server's
// errors.json).
const (
	codeStreamStoreFailed       = 10049
	codeStreamSubjectOverlap    = 10065
	codeConsumerWQNotUnfiltered = 10099
	codeConsumerWQNotUnique     = 10100
)

// stream is what the broker knows of a stream.
type stream struct {
	name       string
	subjects   []string
	retention  jetstream.RetentionPolicy
	duplicates time.Duration // the window of de-duplication
	transform  jetstream.SubjectTransformConfig
	created    time.Time // tells it from another of the same name
	ours       bool
	seen       atomic.Int64 // when it was last known to be so, in nanoseconds since 1970
	acked      *uint64      // the highest sequence that it has acknowledged; under acks.mu
}

// fresh is how long Subscribe believes what is known of a stream: a service makes
// many subscriptions at a time.
const fresh = time.Second

// streamCache remembers streams by their subjects, so that Publish asks the
// server once per stream, not per message, however many topics there are.
// Readers do not lock; writers hold connection.ensuring.
type streamCache struct {
	index atomic.Pointer[streamIndex]
}

// streamIndex is never changed once published.
type streamIndex struct {
	byToken map[string][]*stream // first token of a subject; "*" and ">" among them
	lost    []*stream            // not ours, and gone: not to be replaced by one of ours
}

func (sc *streamCache) find(topic string) *stream {
	idx := sc.index.Load()
	if idx == nil {
		return nil
	}
	for _, token := range [...]string{firstToken(topic), "*", ">"} {
		for _, s := range idx.byToken[token] {
			if coversAny(s.subjects, topic) {
				return s
			}
		}
	}
	return nil
}

// lost returns the foreign streams, now gone, that one with these subjects
// would overlap with.
func (sc *streamCache) lost(subjects []string) []*stream {
	idx := sc.index.Load()
	if idx == nil {
		return nil
	}
	return slices.DeleteFunc(slices.Clone(idx.lost), func(s *stream) bool {
		return !slices.ContainsFunc(s.subjects, func(a string) bool {
			return slices.ContainsFunc(subjects, func(b string) bool { return overlaps(a, b) })
		})
	})
}

func (sc *streamCache) add(s *stream) {
	idx := sc.without(s.name)
	for _, subject := range s.subjects {
		token := firstToken(subject)
		if !slices.Contains(idx.byToken[token], s) {
			idx.byToken[token] = append(slices.Clip(idx.byToken[token]), s)
		}
	}
	sc.index.Store(idx)
}

// remove forgets a stream that turned out to be gone or to have changed.
func (sc *streamCache) remove(s *stream) {
	idx := sc.without(s.name)
	if !s.ours {
		idx.lost = append(slices.Clip(idx.lost), s)
	}
	sc.index.Store(idx)
}

// without returns a copy of the index that lacks the named stream.
func (sc *streamCache) without(name string) *streamIndex {
	idx := &streamIndex{byToken: map[string][]*stream{}}
	named := func(s *stream) bool { return s.name == name }
	if old := sc.index.Load(); old != nil {
		for token, streams := range old.byToken {
			if left := slices.DeleteFunc(slices.Clone(streams), named); len(left) > 0 {
				idx.byToken[token] = left
			}
		}
		idx.lost = slices.DeleteFunc(slices.Clone(old.lost), named)
	}
	return idx
}

// ensureStream returns the stream that captures the topic. If there is none it
// creates one, unless that is left to others, or a stream that was not ours used
// to do it: its owner will want it back as it was.
func (c *connection) ensureStream(ctx context.Context, cfg *config, topic string) (*stream, error) {
	return c.findStream(ctx, topic, func() (*stream, error) {
		if cfg.othersStreams {
			return nil, c.streamMissing(ctx, cfg, topic, "WithExistingStreams")
		}
		return c.createStream(ctx, cfg, topic)
	})
}

// streamForConsumer is ensureStream for Subscribe: what is known is looked at
// again, and a stream made now would not have the consumer that
// [WithExistingConsumers] asks for.
func (c *connection) streamForConsumer(ctx context.Context, cfg *config, topic string) (*stream, error) {
	if err := c.verifyStream(ctx, topic); err != nil {
		return nil, err
	}
	var st *stream
	var err error
	if cfg.othersConsumers {
		st, err = c.findStream(ctx, topic, func() (*stream, error) {
			return nil, c.streamMissing(ctx, cfg, topic, "WithExistingConsumers")
		})
	} else {
		st, err = c.ensureStream(ctx, cfg, topic)
	}
	if err == nil {
		err = st.checkTransform(topic)
	}
	return st, err
}

// streamMissing is what a topic without a stream gets where an option keeps the
// broker from creating one.
func (c *connection) streamMissing(ctx context.Context, cfg *config, topic, option string) error {
	if err := c.checkLost(ctx, []string{topic}); err != nil {
		return err
	}
	token := firstToken(topic)
	return fmt.Errorf("%w, and with %s the broker creates none: create one that does, such as %s with the subjects %s and %s.>",
		ErrStreamNotFound, option, cfg.streamName(topic), token, token)
}

// findStream returns the stream that captures the topic, or what missing says.
func (c *connection) findStream(ctx context.Context, topic string, missing func() (*stream, error)) (*stream, error) {
	if s := c.streams.find(topic); s != nil {
		return s, nil
	}
	select {
	case c.ensuring <- struct{}{}:
		defer func() { <-c.ensuring }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if s := c.streams.find(topic); s != nil { // somebody else was quicker
		return s, nil
	}
	s, err := c.lookUpStream(ctx, topic)
	if errors.Is(err, ErrStreamNotFound) {
		s, err = missing()
	}
	if err != nil {
		return nil, err
	}
	c.remember(s)
	return s, nil
}

// remember adds a stream to those that are known.
func (c *connection) remember(s *stream) {
	s.acked = c.acks.ackedBy(s.name)
	c.streams.add(s)
}

// verifyStream forgets what is known of the topic's stream if that is so no more.
// The server makes a consumer for what its stream does not capture, too: nothing
// would ever come, and nobody would say so.
func (c *connection) verifyStream(ctx context.Context, topic string) error {
	known := c.streams.find(topic)
	if known == nil || time.Since(time.Unix(0, known.seen.Load())) < fresh {
		return nil
	}
	s, err := c.streamInfo(ctx, known.name)
	switch {
	case err == nil && s.created.Equal(known.created) && coversAny(s.subjects, topic) && s.duplicates == known.duplicates && s.transform == known.transform:
		known.seen.Store(s.seen.Load())
		return nil
	case err == nil, errors.Is(err, jetstream.ErrStreamNotFound):
		return c.forgetStream(ctx, known)
	}
	return err
}

// forgetStream has the next ensureStream ask the server again.
func (c *connection) forgetStream(ctx context.Context, s *stream) error {
	select {
	case c.ensuring <- struct{}{}:
		defer func() { <-c.ensuring }()
	case <-ctx.Done():
		return ctx.Err()
	}
	c.streams.remove(s)
	return nil
}

// doubt is forgetStream for a publish that got no answer: it does not wait, and
// leaves alone what somebody else has looked up meanwhile.
func (c *connection) doubt(s *stream, topic string) {
	select {
	case c.ensuring <- struct{}{}:
		defer func() { <-c.ensuring }()
	default:
		return
	}
	if c.streams.find(topic) == s {
		c.streams.remove(s)
	}
}

// checkLost reports a foreign stream that is gone and that one with these
// subjects would keep its owner from making again.
func (c *connection) checkLost(ctx context.Context, subjects []string) error {
	for _, lost := range c.streams.lost(subjects) {
		s, err := c.streamInfo(ctx, lost.name)
		if errors.Is(err, jetstream.ErrStreamNotFound) {
			return fmt.Errorf("%w: stream %s is gone and was not made by this broker: create it again", ErrStreamNotFound, lost.name)
		}
		if err != nil {
			return err
		}
		c.remember(s) // it is there, with other subjects
	}
	return nil
}

// lookUpStream asks the server for a stream that covers the topic.
func (c *connection) lookUpStream(ctx context.Context, topic string) (*stream, error) {
	names, err := c.streamNames(ctx, topic)
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		s, err := c.streamInfo(ctx, name)
		switch {
		case errors.Is(err, jetstream.ErrStreamNotFound): // deleted meanwhile
		case err != nil:
			return nil, err
		case coversAny(s.subjects, topic):
			return s, nil
		}
	}
	if len(names) > 0 {
		return nil, fmt.Errorf("%w: stream %s captures a part of it only; subscribe to what it captures, or add the topic to its subjects", ErrStreamMismatch, strings.Join(names, ", "))
	}
	return nil, ErrStreamNotFound
}

// streamNames lists the streams with a subject that overlaps the pattern.
func (c *connection) streamNames(ctx context.Context, pattern string) ([]string, error) {
	var names []string
	err := c.look(ctx, "STREAM.NAMES", func(ctx context.Context) error {
		names = nil
		list := c.js.StreamNames(ctx, jetstream.WithStreamListSubject(pattern))
		for name := range list.Name() {
			names = append(names, name)
		}
		return list.Err()
	})
	if err != nil {
		return nil, fmt.Errorf("look up the stream: %w", err)
	}
	return names, nil
}

func (c *connection) streamInfo(ctx context.Context, name string) (*stream, error) {
	var info *jetstream.StreamInfo
	err := c.look(ctx, "STREAM.INFO."+name, func(ctx context.Context) error {
		s, err := c.js.Stream(ctx, name)
		if err == nil {
			info = s.CachedInfo()
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("look up stream %s: %w", name, err)
	}
	return streamOf(info)
}

func streamOf(info *jetstream.StreamInfo) (*stream, error) {
	if info.Config.NoAck {
		return nil, fmt.Errorf("%w: stream %s has NoAck set and does not acknowledge what it stores", ErrInvalidConfig, info.Config.Name)
	}
	_, ours := info.Config.Metadata[ownerKey]
	s := &stream{
		name:       info.Config.Name,
		subjects:   info.Config.Subjects,
		retention:  info.Config.Retention,
		duplicates: info.Config.Duplicates,
		created:    info.Created,
		ours:       ours,
	}
	if t := info.Config.SubjectTransform; t != nil {
		s.transform = *t
	}
	s.seen.Store(time.Now().UnixNano())
	return s, nil
}

// checkTransform reports a stream that stores all that is published to the topic under
// other subjects, so that a consumer of the topic never gets anything. Publish minds
// nothing of that: the message is stored as the stream's owner wants it.
func (st *stream) checkTransform(topic string) error {
	source, destination := cmp.Or(st.transform.Source, ">"), st.transform.Destination
	if destination == "" || !covers(source, topic) || overlaps(transformed(destination), topic) {
		return nil
	}
	return fmt.Errorf("%w: the subject transform of stream %s, from %s to %s, leaves nothing to subscribers of it: take it off, or give it a destination within what they subscribe to",
		ErrStreamMismatch, st.name, source, destination)
}

// transformed returns a pattern of what a subject transform with that destination makes,
// or of more than that: $1 and {{partition(3,1)}} stand for a token, and {{split(1,-)}}
// for any number.
func transformed(destination string) string {
	tokens := strings.Split(destination, ".")
	for i, token := range tokens {
		switch function := strings.ToLower(token); {
		case strings.Contains(function, "split"), strings.Contains(function, "slice"):
			return strings.Join(append(tokens[:i], ">"), ".")
		case strings.HasPrefix(token, "$"), strings.Contains(token, "{{"):
			tokens[i] = "*"
		}
	}
	return strings.Join(tokens, ".")
}

// createStream makes the stream of a topic. Creation is idempotent on the
// server, so that many processes may do it at a time.
func (c *connection) createStream(ctx context.Context, cfg *config, topic string) (*stream, error) {
	if err := c.checkVersion(); err != nil { // it may have changed since Connect
		return nil, err
	}
	sc, err := cfg.streamConfigFor(topic)
	if err != nil {
		return nil, err
	}
	if err := c.checkInbox(sc.Subjects); err != nil {
		return nil, err
	}
	if err := c.checkLost(ctx, sc.Subjects); err != nil {
		return nil, err
	}
	info, err := c.requestStream(ctx, sc)
	if err == nil {
		c.log.Fields(fields{"topic": topic, "stream": sc.Name}).
			Logf(logger.InfoLevel, "jetstream: created stream %s for %s", sc.Name, strings.Join(sc.Subjects, ", "))
		return streamOf(info)
	}
	var api *jetstream.APIError
	switch {
	case errors.Is(err, jetstream.ErrStreamNameAlreadyInUse):
		// By another process with another template a moment ago, or by a stream
		// that captures something else.
		s, lookUpErr := c.streamInfo(ctx, sc.Name)
		if lookUpErr != nil {
			return nil, lookUpErr
		}
		if coversAny(s.subjects, topic) {
			return s, nil
		}
		return nil, fmt.Errorf("%w: the topic's stream would be named %s, but a stream of that name exists and captures %s; add the topic to its subjects, or choose another name with WithStreamName: %w",
			ErrStreamMismatch, sc.Name, strings.Join(s.subjects, ", "), err)
	case errors.As(err, &api) && api.ErrorCode == codeStreamSubjectOverlap:
		var others []string
		for _, subject := range sc.Subjects {
			names, _ := c.streamNames(ctx, subject)
			others = append(others, names...)
		}
		slices.Sort(others)
		return nil, fmt.Errorf("%w: stream %s for %s would overlap with stream %s; add the topic to that stream, or set Subjects with WithStreamConfig: %w",
			ErrStreamMismatch, sc.Name, strings.Join(sc.Subjects, ", "), strings.Join(slices.Compact(others), ", "), err)
	}
	return nil, fmt.Errorf("create stream %s: %w", sc.Name, err)
}

// requestStream asks the server to create a stream. One of that name that was
// deleted a moment ago may still be on the disk; that passes.
func (c *connection) requestStream(ctx context.Context, sc jetstream.StreamConfig) (info *jetstream.StreamInfo, err error) {
	for pause := minRetryPause; ; pause *= 2 {
		err = c.api(ctx, "STREAM.CREATE."+sc.Name, func(ctx context.Context) error {
			s, err := c.js.CreateStream(ctx, sc)
			if err == nil {
				info = s.CachedInfo()
			}
			return err
		})
		var api *jetstream.APIError
		if !errors.As(err, &api) || api.ErrorCode != codeStreamStoreFailed || pause > maxRetryPause/2 {
			return info, err
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil, err
		}
	}
}

// checkInbox refuses subjects with which a stream would store the answers to the
// broker's own requests, its acknowledgements among them.
func (c *connection) checkInbox(subjects []string) error {
	prefix := cmp.Or(c.nc.Opts.InboxPrefix, "_INBOX")
	for _, s := range subjects {
		if overlaps(s, prefix+".>") {
			return fmt.Errorf("%w: its stream would capture %s, and with that the client's own inboxes, %s.>: choose another prefix with nats.CustomInboxPrefix, or set Subjects with WithStreamConfig", ErrInvalidTopic, s, prefix)
		}
	}
	return nil
}

// streamConfigFor fills in the template for a topic.
func (c *config) streamConfigFor(topic string) (jetstream.StreamConfig, error) {
	sc := jetstream.StreamConfig{Retention: jetstream.WorkQueuePolicy, Storage: jetstream.FileStorage}
	if c.streamConfig != nil {
		sc = *c.streamConfig
	}
	if sc.Name == "" {
		sc.Name = c.streamName(topic)
		if err := checkAssetName(sc.Name); err != nil {
			return sc, fmt.Errorf("%w %q: its stream would be named %q: %w; choose another name with WithStreamName", ErrInvalidTopic, shorten(topic), shorten(sc.Name), err)
		}
	}
	if len(sc.Subjects) == 0 {
		// orders.> does not match orders, and go-micro's topics are often bare.
		token := firstToken(topic)
		sc.Subjects = []string{token, token + ".>"}
	}
	if !coversAny(sc.Subjects, topic) {
		return sc, fmt.Errorf("%w: no stream captures it, and the Subjects of WithStreamConfig (%s) do not either", ErrStreamMismatch, strings.Join(sc.Subjects, ", "))
	}
	sc.Metadata = owned(sc.Metadata)
	return sc, nil
}

// owned returns a copy of the metadata that names this module as the maker.
func owned(metadata map[string]string) map[string]string {
	m := maps.Clone(metadata)
	if m == nil {
		m = map[string]string{}
	}
	m[ownerKey] = "1"
	return m
}
