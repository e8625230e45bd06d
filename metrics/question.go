package metrics

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// reply is what the server answers to any of the questions. See api.go of nats.go's
// package jetstream.
type reply struct {
	*jetstream.StreamInfo
	Type      string                    `json:"type"`
	Error     *jetstream.APIError       `json:"error"`
	Total     int                       `json:"total"`
	Offset    int                       `json:"offset"`
	Names     []string                  `json:"streams"`
	Consumers []*jetstream.ConsumerInfo `json:"consumers"`
	Missing   []string                  `json:"missing"` // consumers that nobody has answered for

	size int       // of the answer, in bytes
	at   time.Time // when it arrived
}

// question is one that the server is asked.
type question struct {
	api   string // what follows $JS.API. in its subject
	body  string
	kind  string            // of the answer
	valid func(*reply) bool // whether it is the answer to this question
}

// errNoAnswer is about a message that does not answer a question.
var errNoAnswer = errors.New("the answer is not valid")

// parse reads an answer. The error is what the server has said, or errNoAnswer.
func (q *question) parse(m *nats.Msg) (*reply, error) {
	if len(m.Data) == 0 && m.Header.Get("Status") == "503" {
		return nil, nats.ErrNoResponders
	}
	r := &reply{size: len(m.Data), at: time.Now()}
	if err := json.Unmarshal(m.Data, r); err != nil {
		return nil, fmt.Errorf("%w: %w", errNoAnswer, err)
	}
	switch {
	case r.Type != "io.nats.jetstream.api.v1."+q.kind+"_response":
		return nil, fmt.Errorf("%w: its type is %.100q", errNoAnswer, r.Type)
	case r.Error != nil && errors.Is(r.Error, jetstream.ErrStreamNotFound):
		return nil, jetstream.ErrStreamNotFound
	case r.Error != nil:
		return nil, r.Error
	case !q.valid(r):
		return nil, errNoAnswer
	}
	return r, nil
}

// namesFrom asks for a page of the names of streams. Where the list has become shorter
// since the last page, the server answers for its end.
func namesFrom(offset int) question {
	return question{"STREAM.NAMES", fmt.Sprintf(`{"offset":%d}`, offset), "stream_names", func(r *reply) bool { return r.Offset <= offset }}
}

// aboutStream asks for a stream, and for how many messages it has on a topic if there is one.
func aboutStream(name, topic string) question {
	body := ""
	if topic != "" {
		text, _ := json.Marshal(topic) // a string has no error
		body = `{"subjects_filter":` + string(text) + `}`
	}
	return question{"STREAM.INFO." + name, body, "stream_info", func(r *reply) bool {
		return r.StreamInfo != nil && r.Config.Name == name
	}}
}

// consumersFrom asks for a page of the consumers of a stream. A consumer whose servers are
// all away has neither a name nor a stream in it (jsConsumerListRequest in
// server/jetstream_api.go).
func consumersFrom(stream string, offset int) question {
	return question{"CONSUMER.LIST." + stream, fmt.Sprintf(`{"offset":%d}`, offset), "consumer_list", func(r *reply) bool {
		for _, c := range r.Consumers {
			if c == nil || c.Stream != stream && !nameless(c) {
				return false
			}
		}
		return r.Offset <= offset
	}}
}

func nameless(c *jetstream.ConsumerInfo) bool { return c.Name == "" && c.Stream == "" }

// subject returns where to ask.
func (q *question) subject(js jetstream.JetStream) string {
	o := js.Options()
	switch {
	case o.Domain != "":
		return "$JS." + o.Domain + ".API." + q.api
	case o.APIPrefix != "":
		return strings.TrimSuffix(o.APIPrefix, ".") + "." + q.api
	default:
		return "$JS.API." + q.api
	}
}

// ask asks the server for an answer that nobody else gets.
func (q *question) ask(ctx context.Context, js jetstream.JetStream) (*reply, error) {
	m, err := js.Conn().RequestWithContext(ctx, q.subject(js), []byte(q.body))
	if err != nil {
		return nil, err
	}
	return q.parse(m)
}
