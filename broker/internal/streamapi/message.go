package streamapi

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"go-micro-jetstream/broker/internal/fault"
)

// Message is one that a stream has stored.
type Message struct {
	Stream   string
	Sequence uint64
	Subject  string
	Header   nats.Header
	Body     []byte
	StoredAt time.Time
}

// At returns the message of a stream with that sequence, or nil if there is none.
func (a *API) At(ctx context.Context, stream string, sequence uint64) (*Message, error) {
	return a.message(ctx, stream, map[string]any{"seq": sequence})
}

// Next returns the first message of a stream from the sequence on whose subject the
// pattern covers, or nil if there is none.
func (a *API) Next(ctx context.Context, stream, pattern string, from uint64) (*Message, error) {
	return a.message(ctx, stream, map[string]any{"seq": from, "next_by_subj": pattern})
}

// Last returns the last message of a stream with that subject, or nil if there is none.
func (a *API) Last(ctx context.Context, stream, subject string) (*Message, error) {
	return a.message(ctx, stream, map[string]any{"last_by_subj": subject})
}

// message asks the leader of a stream for a message. A direct get may be answered by a
// replica that still has what was removed, or does not have yet what was just stored.
func (a *API) message(ctx context.Context, stream string, which map[string]any) (*Message, error) {
	var answer struct {
		Message *struct {
			Subject string    `json:"subject"`
			Seq     uint64    `json:"seq"`
			Header  []byte    `json:"hdrs"`
			Data    []byte    `json:"data"`
			Time    time.Time `json:"time"`
		} `json:"message"`
	}
	err := a.conn.Ask(ctx, "STREAM.MSG.GET."+stream, func(ctx context.Context) error {
		return a.request(ctx, "STREAM.MSG.GET."+stream, which, &answer)
	})
	switch {
	case fault.HasCode(err, jetstream.JSErrCodeMessageNotFound):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("read stream %s: %w", stream, err)
	case answer.Message == nil:
		return nil, fmt.Errorf("read stream %s: the answer has no message", stream)
	}
	m := answer.Message
	stored := &Message{Stream: stream, Sequence: m.Seq, Subject: m.Subject, Body: m.Data, StoredAt: m.Time}
	if len(m.Header) > 0 {
		if stored.Header, err = nats.DecodeHeadersMsg(m.Header); err != nil {
			return nil, fmt.Errorf("read message %d of stream %s: %w", m.Seq, stream, err)
		}
	}
	return stored, nil
}

// Remove removes a message from a stream. It returns how often it has asked: an earlier
// request may have removed the message although a later one is refused. The error is the
// server's if there is no such message any more.
func (a *API) Remove(ctx context.Context, stream string, sequence uint64) (tries int, err error) {
	name := "STREAM.MSG.DELETE." + stream
	err = a.conn.Ask(ctx, name, func(ctx context.Context) error {
		tries++
		return a.request(ctx, name, map[string]any{"seq": sequence, "no_erase": true}, nil)
	})
	return tries, err
}

// MayRemove returns an error if this user must not remove messages of a stream. The server
// refuses a request without content before it does anything.
func (a *API) MayRemove(ctx context.Context, stream string) error {
	name := "STREAM.MSG.DELETE." + stream
	err := a.conn.Ask(ctx, name, func(ctx context.Context) error {
		return a.request(ctx, name, map[string]any{}, nil)
	})
	if fault.HasCode(err, jetstream.JSErrCodeBadRequest) {
		return nil
	}
	return err
}

// request sends a request and reads the answer, unless that is nil.
func (a *API) request(ctx context.Context, name string, body map[string]any, answer any) error {
	data, err := json.Marshal(body)
	if err != nil {
		return err
	}
	m, err := a.conn.NATS().RequestWithContext(ctx, a.conn.API(name), data)
	if err != nil {
		return err
	}
	var failed struct {
		Error *jetstream.APIError `json:"error"`
	}
	if err := json.Unmarshal(m.Data, &failed); err != nil {
		return err
	}
	if failed.Error != nil {
		return failed.Error
	}
	if answer == nil {
		return nil
	}
	return json.Unmarshal(m.Data, answer)
}
