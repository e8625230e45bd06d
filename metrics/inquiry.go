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
	slow      []string             // the streams that have not answered, in the order in which they are asked next
}

// streamState is what the server has said of a stream.
type streamState struct {
	name      string
	at        time.Time             // when info arrived
	info      *jetstream.StreamInfo // nil: it is not known
	letters   letters
	consumers []consumerState
}

// letters are the dead letters of the broker in a stream.
type letters struct {
	at    time.Time // when the answer arrived
	topic string    // "": the stream has none
	count uint64
}

// consumerState is what the server has said of a consumer.
type consumerState struct {
	at   time.Time // when the answer arrived
	info *jetstream.ConsumerInfo
}

// inquiry is one round of questions.
type inquiry struct {
	server *Server
	before *serverState
	state  serverState
	room   int  // how many more consumers may have series
	down   bool // the connection is: no question will be answered
	brief  bool // a stream that does not answer is asked again later in the round

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
			names = append(names, q.before.streams[i].name)
		}
	}
	q.streams(ctx, names)
	return q.state
}

// names returns the streams to ask for, and whether they are known.
func (q *inquiry) names(ctx context.Context) (names []string, ok bool) {
	s := q.server
	if len(s.only) > 0 {
		q.state.truncated = len(s.only) > s.maxStreams
		return slices.Clone(s.only[:min(len(s.only), s.maxStreams)]), true
	}
	for offset := 0; ; {
		r, how := q.question(ctx, namesFrom(offset), infoTimeout)
		if how != answered {
			return names, false
		}
		for _, name := range r.Names {
			switch {
			case slices.Contains(names, name): // the list has moved between two pages
			case len(names) == s.maxStreams:
				q.state.truncated = true
				return names, true
			default:
				names = append(names, name)
			}
		}
		offset += len(r.Names)
		if offset >= r.Total || len(r.Names) == 0 {
			return names, true
		}
	}
}

// outcome is how a question has ended.
type outcome int

const (
	answered outcome = iota
	gone             // the stream is
	silent           // there was no answer in time
	failed           // there was another one
)

// stream asks for a stream and for its consumers. What is not answered is as it was, if
// that is not too old.
func (q *inquiry) stream(ctx context.Context, name string, info, list time.Duration) (st *streamState, how outcome) {
	st = q.former(name)
	r, how := q.question(ctx, aboutStream(name, ""), info)
	switch how {
	case gone:
		return nil, gone
	case answered:
		st.at, st.info = r.at, r.StreamInfo
		if lettersHow := q.deadLetters(ctx, st, info); lettersHow != answered {
			how = lettersHow
		}
	default:
		list = min(list, info) // its consumers may answer at once, or not at all
	}
	if listed := q.consumers(ctx, st, list); listed != answered {
		how = listed
	}
	return st, how
}

// consumers asks for the consumers of a stream.
func (q *inquiry) consumers(ctx context.Context, st *streamState, patience time.Duration) outcome {
	all := q.noConsumers()
	for offset := 0; ; {
		r, how := q.question(ctx, consumersFrom(st.name, offset), patience)
		if how != answered {
			return how
		}
		for _, c := range r.Consumers {
			if !nameless(c) {
				all.take(consumerState{at: r.at, info: c})
				offset++
			}
		}
		if len(r.Missing) > 0 {
			q.missing(all, st, r.Missing)
		}
		offset += len(r.Missing)
		if offset >= r.Total || len(r.Consumers)+len(r.Missing) == 0 || all.full() {
			q.state.truncated = q.state.truncated || all.refused || offset < r.Total && all.full()
			st.consumers = all.taken
			return answered
		}
	}
}

// missing takes consumers whose server does not answer as they were.
func (q *inquiry) missing(all *consumerList, st *streamState, names []string) {
	for _, c := range st.consumers {
		if slices.Contains(names, c.info.Name) {
			all.take(c)
		}
	}
	q.state.complete = false
	q.server.errors.WithLabelValues(reason("", jsbroker.ErrOffline)).Inc()
}

// consumerList is what is known of the consumers of a stream, each once, as long as there
// is room.
type consumerList struct {
	room    int
	seen    map[string]bool
	taken   []consumerState
	refused bool // one for lack of room
}

func (q *inquiry) noConsumers() *consumerList {
	return &consumerList{room: q.room, seen: map[string]bool{}}
}

func (l *consumerList) full() bool { return len(l.taken) == l.room }

// take adds a consumer, unless it is there: a list moves between two pages.
func (l *consumerList) take(c consumerState) {
	switch {
	case l.seen[c.info.Name]:
	case l.full():
		l.refused = true
	default:
		l.seen[c.info.Name] = true
		l.taken = append(l.taken, c)
	}
}

// deadLetters counts the dead letters of the broker if they are in this stream.
func (q *inquiry) deadLetters(ctx context.Context, st *streamState, patience time.Duration) outcome {
	topic := jsbroker.DeadLetterTopic(q.server.broker)
	if topic == "" || !slices.ContainsFunc(st.info.Config.Subjects, func(pattern string) bool { return covers(pattern, topic) }) {
		st.letters = letters{}
		return answered
	}
	r, how := q.question(ctx, aboutStream(st.name, topic), patience)
	if how == answered {
		st.letters = letters{r.at, topic, r.State.Subjects[topic]}
	}
	return how
}

// former returns what is known of a stream and not too old.
func (q *inquiry) former(name string) *streamState {
	st := &streamState{name: name}
	i := slices.IndexFunc(q.before.streams, func(s streamState) bool { return s.name == name })
	if i < 0 {
		return st
	}
	old, keep := &q.before.streams[i], q.server.keep()
	if time.Since(old.at) < keep {
		st.at, st.info = old.at, old.info
	}
	if time.Since(old.letters.at) < keep {
		st.letters = old.letters
	}
	for _, c := range old.consumers {
		if time.Since(c.at) < keep {
			st.consumers = append(st.consumers, c)
		}
	}
	return st
}

// errOverheard has the broker draw no conclusions from an answer that another replica may
// have got: it does not show that JetStream answers on this connection.
var errOverheard = errors.New("the answer is heard on the shared subject")

// question asks, unless the server has refused that lately.
func (q *inquiry) question(ctx context.Context, one question, patience time.Duration) (r *reply, how outcome) {
	if at, ok := q.state.refused[one.api]; q.down || ok && time.Since(at) < refusedFor {
		q.state.complete = false
		return nil, failed
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	s := q.server
	var told error
	err := jsbroker.JetStream(ctx, s.broker, one.api, func(ctx context.Context, js jetstream.JetStream) error {
		var overheard bool
		r, overheard, told = q.answer(ctx, js, &one)
		var said *jetstream.APIError
		if overheard && (told == nil || errors.As(told, &said)) {
			return errOverheard
		}
		return told
	})
	if errors.Is(err, errOverheard) {
		err = told
	}
	if err == nil {
		delete(q.state.refused, one.api)
		if r.at.Before(q.state.oldest) {
			q.state.oldest = r.at
		}
		return r, answered
	}
	if errors.Is(err, jetstream.ErrStreamNotFound) && len(s.only) == 0 {
		return nil, gone // removed since it was listed
	}
	late := errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, jsbroker.ErrNotConnected)
	if late && q.brief {
		return nil, silent
	}
	q.state.complete = false
	q.down = errors.Is(err, jsbroker.ErrNotConnected)
	s.errors.WithLabelValues(reason("", err)).Inc()
	switch {
	case errors.Is(err, jetstream.ErrStreamNotFound):
		return nil, gone
	case errors.Is(err, jsbroker.ErrPermission):
		q.refuse(one.api, err)
	case late:
		return nil, silent
	}
	return nil, failed
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
