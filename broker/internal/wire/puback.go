package wire

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// PubAck is a stream's acknowledgement of a publish.
type PubAck struct {
	Stream    string
	Sequence  uint64 // of the message in the stream
	Duplicate bool   // an earlier publish with the same id has stored it
}

// PlainAck reads the usual answer to a publish to the named stream,
//
//	{"stream":"ORDERS","seq":42}
//
// by hand, because decoding JSON takes as long as the rest of a publish. It is not
// ok for any other answer; [ParsePubAck] reads those.
func PlainAck(data []byte, stream string) (sequence uint64, ok bool) {
	rest, ok := bytes.CutPrefix(data, plainAckStart)
	if !ok || len(rest) < len(stream) || string(rest[:len(stream)]) != stream {
		return 0, false
	}
	number, ok := bytes.CutPrefix(rest[len(stream):], []byte(`","seq":`))
	if !ok {
		return 0, false
	}
	number, ok = bytes.CutSuffix(number, []byte("}"))
	if !ok {
		return 0, false
	}
	return ParseUint(string(number))
}

var plainAckStart = []byte(`{"stream":"`)

// IsPubAnswer reports whether a message can be the answer to a publish: an
// acknowledgement, a refusal, or that no stream has the subject. Whoever subscribes
// to the subject sees the reply subject, too, and may send something else there.
func IsPubAnswer(m *nats.Msg) bool {
	if rest, ok := bytes.CutPrefix(m.Data, plainAckStart); ok {
		if end := bytes.IndexByte(rest, '"'); end > 0 {
			if _, ok := PlainAck(m.Data, string(rest[:end])); ok {
				return true
			}
		}
	}
	_, err := ParsePubAck(m)
	var api *jetstream.APIError
	return err == nil || errors.Is(err, nats.ErrNoResponders) || errors.As(err, &api) && api.Code != 0
}

// ParsePubAck reads any answer to a publish. Its errors are
// [nats.ErrNoResponders] if no stream has the subject, the [jetstream.APIError] of
// a stream that refuses the message, or that the answer is no acknowledgement.
func ParsePubAck(m *nats.Msg) (PubAck, error) {
	if len(m.Data) == 0 && m.Header.Get("Status") == "503" {
		return PubAck{}, nats.ErrNoResponders
	}
	var answer struct {
		Stream    string              `json:"stream"`
		Sequence  uint64              `json:"seq"`
		Duplicate bool                `json:"duplicate"`
		Error     *jetstream.APIError `json:"error"`
	}
	if err := json.Unmarshal(m.Data, &answer); err != nil {
		return PubAck{}, fmt.Errorf("the answer is not a JetStream acknowledgement: %w", err)
	}
	if answer.Error != nil {
		return PubAck{}, answer.Error
	}
	if answer.Stream == "" {
		return PubAck{}, fmt.Errorf("the answer is not a JetStream acknowledgement: %w", jetstream.ErrInvalidJSAck)
	}
	return PubAck{Stream: answer.Stream, Sequence: answer.Sequence, Duplicate: answer.Duplicate}, nil
}
