package metrics

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	jsbroker "go-micro-jetstream/broker"
)

// serverState is what the server has said. It does not change once it is made.
type serverState struct {
	streams   []streamState
	truncated bool
	complete  bool                 // every question of the latest round was answered
	refused   map[string]time.Time // when the server has refused a question, by its subject
	said      map[string]bool      // of which kinds of questions the log has said that they are refused
	oldest    time.Time            // when the oldest answer of the latest round arrived
}

// streamState is what the server has said of a stream.
type streamState struct {
	at        time.Time
	info      *jetstream.StreamInfo
	consumers []*jetstream.ConsumerInfo
	topic     string // of the dead letters; "": it has none
	letters   uint64 // how many
}

// inquiry is one round of questions.
type inquiry struct {
	server *Server
	before *serverState
	state  serverState
	room   int  // how many more consumers may have series
	down   bool // the connection is: no question will be answered

	begun    bool          // the first question has been asked
	sharing  bool          // answers are shared
	hears    bool          // and arrive
	led      int           // how many questions this collector has asked of those
	patience time.Duration // how long to wait for another replica to ask
}

func (q *inquiry) run(ctx context.Context) serverState {
	q.room = q.server.maxConsumers
	q.state.complete = true
	q.state.oldest = time.Now()
	q.state.said = q.before.said
	q.state.refused = maps.Clone(q.before.refused)
	maps.DeleteFunc(q.state.refused, func(_ string, at time.Time) bool { return time.Since(at) > 2*refusedFor }) // nobody has asked again: it is gone
	names, ok := q.names(ctx)
	if !ok {
		names = names[:0]
		for i := range q.before.streams {
			names = append(names, q.before.streams[i].info.Config.Name)
		}
	}
	for _, name := range names {
		st := q.stream(ctx, name)
		if st == nil {
			st = q.former(name)
		}
		if st != nil {
			q.state.streams = append(q.state.streams, *st)
		}
	}
	return q.state
}

// names returns the streams to ask for, and whether they are known.
func (q *inquiry) names(ctx context.Context) (names []string, ok bool) {
	s := q.server
	if len(s.only) > 0 {
		q.state.truncated = len(s.only) > s.maxStreams
		return slices.Clone(s.only[:min(len(s.only), s.maxStreams)]), true
	}
	ctx, cancel := context.WithTimeout(ctx, streamTimeout)
	defer cancel()
	ok = q.question(ctx, "STREAM.NAMES", func(ctx context.Context, js jetstream.JetStream) error {
		for offset := 0; ; {
			r, err := q.answer(ctx, js, namesFrom(offset))
			if err != nil {
				return err
			}
			for _, name := range r.Names {
				switch {
				case slices.Contains(names, name): // the list has moved between two pages
				case len(names) == s.maxStreams:
					q.state.truncated = true
					return nil
				default:
					names = append(names, name)
				}
			}
			offset += len(r.Names)
			if offset >= r.Total || len(r.Names) == 0 {
				return nil
			}
		}
	})
	return names, ok
}

// stream asks for a stream. It returns nil if there is no answer.
func (q *inquiry) stream(ctx context.Context, name string) *streamState {
	ctx, cancel := context.WithTimeout(ctx, streamTimeout)
	defer cancel()
	var r *reply
	if !q.question(ctx, "STREAM.INFO."+name, func(ctx context.Context, js jetstream.JetStream) (err error) {
		r, err = q.answer(ctx, js, aboutStream(name, ""))
		return err
	}) {
		return nil
	}
	st := &streamState{at: r.at, info: r.StreamInfo}
	q.deadLetters(ctx, st)
	if !q.consumers(ctx, st) {
		return nil
	}
	return st
}

// consumers asks for the consumers of a stream. It returns false if there was no
// answer, and true also if the server refuses one: the stream is known all the same.
func (q *inquiry) consumers(ctx context.Context, st *streamState) bool {
	stream := st.info.Config.Name
	api := "CONSUMER.LIST." + stream
	room := q.room
	seen := map[string]bool{}
	answered := q.question(ctx, api, func(ctx context.Context, js jetstream.JetStream) error {
		for offset := 0; ; {
			r, err := q.answer(ctx, js, consumersFrom(stream, offset))
			if err != nil {
				return err
			}
			for _, c := range r.Consumers {
				switch {
				case seen[c.Name], nameless(c): // the list has moved between two pages, or nobody has the consumer
				case q.room == 0:
					q.state.truncated = true
					return nil
				default:
					seen[c.Name] = true
					q.room--
					st.consumers = append(st.consumers, c)
				}
			}
			offset += len(r.Consumers)
			if offset >= r.Total || len(r.Consumers) == 0 {
				return nil
			}
		}
	})
	_, refused := q.state.refused[api]
	if !answered && !refused {
		q.room = room // former takes it
	}
	return answered || refused
}

// deadLetters counts the dead letters of the broker if they are in this stream.
func (q *inquiry) deadLetters(ctx context.Context, st *streamState) {
	topic := jsbroker.DeadLetterTopic(q.server.broker)
	if topic == "" || !slices.ContainsFunc(st.info.Config.Subjects, func(pattern string) bool { return covers(pattern, topic) }) {
		return
	}
	q.question(ctx, "STREAM.INFO."+st.info.Config.Name, func(ctx context.Context, js jetstream.JetStream) error {
		r, err := q.answer(ctx, js, aboutStream(st.info.Config.Name, topic))
		if err == nil {
			st.topic, st.letters = topic, r.State.Subjects[topic]
		}
		return err
	})
}

// former returns the latest answer about a stream, nil if that is too old.
func (q *inquiry) former(name string) *streamState {
	for i := range q.before.streams {
		st := &q.before.streams[i]
		if st.info.Config.Name == name && time.Since(st.at) < q.server.keep() {
			q.room = max(q.room-len(st.consumers), 0)
			return st
		}
	}
	return nil
}

// question asks, unless the server has refused that lately. It reports whether there
// is an answer.
func (q *inquiry) question(ctx context.Context, api string, ask func(context.Context, jetstream.JetStream) error) bool {
	if at, ok := q.state.refused[api]; q.down || ok && time.Since(at) < refusedFor {
		q.state.complete = false
		return false
	}
	s := q.server
	err := jsbroker.JetStream(ctx, s.broker, api, ask)
	if errors.Is(err, jetstream.ErrStreamNotFound) && len(s.only) == 0 {
		return false // removed since it was listed
	}
	if err == nil {
		delete(q.state.refused, api)
		return true
	}
	q.state.complete = false
	q.down = errors.Is(err, jsbroker.ErrNotConnected)
	s.errors.WithLabelValues(reason("", err)).Inc()
	if errors.Is(err, jsbroker.ErrPermission) {
		q.refuse(api, err)
	}
	return false
}

// refuse remembers that the server has refused a question, and says so once for all
// questions of the kind.
func (q *inquiry) refuse(api string, err error) {
	if q.state.refused == nil {
		q.state.refused = map[string]time.Time{}
	}
	q.state.refused[api] = time.Now()
	kind := strings.Join(strings.SplitN(api, ".", 3)[:2], ".")
	if q.state.said[kind] {
		return
	}
	said := map[string]bool{kind: true}
	maps.Copy(said, q.state.said)
	q.state.said = said
	say(q.server.log, fmt.Sprintf("metrics: no permission to ask the server for $JS.API.%s: what depends on it is missing in the metrics, and all else goes on. Permit the user to publish there, or do without metrics.NewServer: %v", api, err))
}

// covers reports whether the subject matches the pattern.
func covers(pattern, subject string) bool {
	p, s := strings.Split(pattern, "."), strings.Split(subject, ".")
	for i, token := range p {
		switch {
		case token == ">":
			return len(s) > i
		case i >= len(s), token != "*" && token != s[i]:
			return false
		}
	}
	return len(p) == len(s)
}

// topicOf returns what a consumer is subscribed to, as the label of a subscription
// is; "" for one without a filter.
func topicOf(c *jetstream.ConsumerConfig) string {
	if c.FilterSubject != "" {
		return c.FilterSubject
	}
	return strings.Join(c.FilterSubjects, ",")
}

// queueOf returns the queue of a durable consumer: its name, or what the broker has
// made the name of. See durableName of package consumers.
func queueOf(c *jetstream.ConsumerConfig) string {
	name := c.Durable
	cut := strings.LastIndexByte(name, '-')
	if cut < 0 || len(name)-cut != 9 {
		return name
	}
	for i := range name[:cut] {
		if name[i] != '-' {
			continue
		}
		sum := sha256.Sum256([]byte(name[:i] + "\x00" + topicOf(c)))
		if hex.EncodeToString(sum[:4]) == name[cut+1:] {
			return name[:i]
		}
	}
	return name
}
