package deadletter

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strconv"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"go-micro-jetstream/broker/internal/fault"
	"go-micro-jetstream/broker/internal/streamapi"
	"go-micro-jetstream/broker/internal/streams"
	"go-micro-jetstream/broker/internal/wire"
)

// Store is the stream that holds the letters of a topic. It is read by sequence, which
// needs no consumer.
type Store struct {
	Name      string
	Last      uint64 // the sequence of the last message when the store was opened
	Consumers int    // how many there were then
	streams   *streams.Streams
	topic     string
}

// Open finds the stream of a dead-letter topic, which may have wildcards. It refuses one
// from which nothing can be removed.
func Open(ctx context.Context, ss *streams.Streams, topic string) (*Store, error) {
	st, err := ss.Existing(ctx, topic)
	if errors.Is(err, fault.ErrStreamNotFound) {
		err = fmt.Errorf("%w: there has been no dead letter yet, or the topic is misspelt", err)
	}
	if err != nil {
		return nil, err
	}
	s := &Store{Name: st.Name, streams: ss, topic: topic}
	info, err := ss.State(ctx, st.Name)
	if err != nil {
		return nil, err
	}
	if info.Config.DenyDelete || info.Config.Sealed {
		return nil, fmt.Errorf("%w: stream %s has DenyDelete set, or is sealed: nothing can be removed from it, so each run would publish all its letters again", fault.ErrInvalidConfig, st.Name)
	}
	s.Last, s.Consumers = info.State.LastSeq, info.State.Consumers
	return s, nil
}

// Stored is a message in a stream.
type Stored = streamapi.Message

// Next returns the first message of the topic from the sequence on, or nil if there is
// none.
func (s *Store) Next(ctx context.Context, from uint64) (*Stored, error) {
	return s.streams.Next(ctx, s.Name, s.topic, from)
}

// Remove removes a message from its stream, and reports whether it has: that somebody
// else has done so before is no error. If an answer is lost, Remove asks again. That the
// message is gone then, it takes for its own doing. Two calls at a time may both do so.
func (s *Store) Remove(ctx context.Context, m *Stored) (removed bool, err error) {
	tries, err := s.streams.Remove(ctx, m.Stream, m.Sequence)
	if _, refused := errors.AsType[*jetstream.APIError](err); refused {
		if left, again := s.streams.At(ctx, m.Stream, m.Sequence); again == nil && left == nil {
			return tries > 1, nil
		}
	}
	if err != nil {
		return false, fmt.Errorf("remove message %d of stream %s: %w", m.Sequence, m.Stream, err)
	}
	return true, nil
}

// Parse returns what the headers of a dead letter say. It is not ok if the message is
// none.
func Parse(m *Stored) (l Letter, ok bool) {
	topic, ok := m.Header[Topic]
	if !ok || len(topic) == 0 || topic[0] == "" {
		return l, false
	}
	number := func(key string) uint64 {
		n, _ := wire.ParseUint(m.Header.Get(key))
		return n
	}
	return Letter{
		Original: m.Header, Body: m.Body, Reason: m.Header.Get(Reason), Topic: Decode(topic[0]), Stream: Decode(m.Header.Get(Stream)), Queue: Decode(m.Header.Get(Queue)),
		Sequence: number(Sequence), Deliveries: number(Deliveries), ID: m.Header.Get(nats.MsgIdHdr),
	}, true
}

// isName reports whether a stream may have that name.
func isName(stream string) bool { return wire.CheckName(stream) == nil }

// Original returns the message that a letter with something missing was made of, or nil
// if it is gone. Its place may have been taken by the message of another stream of that
// name: the id of the letter tells them apart.
func (s *Store) Original(ctx context.Context, l *Letter) (*Stored, error) {
	if l.Sequence == 0 || !isName(l.Stream) {
		return nil, nil
	}
	m, err := s.streams.At(ctx, l.Stream, l.Sequence)
	if errors.Is(err, jetstream.ErrStreamNotFound) || fault.HasCode(err, jetstream.JSErrCodeStreamNotFound) {
		m, err = nil, nil
	}
	if err != nil || m == nil || m.Subject != l.Topic || !strings.HasSuffix(l.ID, fmt.Sprintf(":%d:%d", m.Sequence, m.StoredAt.UnixNano())) {
		return nil, err
	}
	return m, nil
}

// Has reports whether a message is still in its stream.
func (s *Store) Has(ctx context.Context, m *Stored) (bool, error) {
	there, err := s.streams.At(ctx, m.Stream, m.Sequence)
	return there != nil, err
}

// Sticks reports whether what is given up stays in a stream until it is removed. If it
// cannot be removed, or not by this user, that is an error.
func (s *Store) Sticks(ctx context.Context, stream string) (bool, error) {
	info, err := s.streams.State(ctx, stream)
	if err != nil || info.Config.Retention == jetstream.LimitsPolicy {
		return false, err
	}
	if info.Config.DenyDelete || info.Config.Sealed {
		return false, fmt.Errorf("%w: stream %s, which has the original, has DenyDelete set, or is sealed: the original could not be removed, and would be handled again", fault.ErrInvalidConfig, stream)
	}
	err = s.streams.MayRemove(ctx, stream)
	if err != nil {
		return false, fmt.Errorf("remove from stream %s: %w", stream, err)
	}
	return true, nil
}

// Again returns the header with which a message is published to its topic again. Its
// hops begin anew.
func Again(original nats.Header, redriven uint64) map[string]string {
	h, _ := wire.IncomingHeader(original)
	maps.DeleteFunc(h, func(k, _ string) bool { return strings.HasPrefix(k, prefix) })
	h[Redriven] = strconv.FormatUint(redriven, 10)
	return h
}
