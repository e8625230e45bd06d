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
	Domain    string // of the JetStream; empty: none
}

const (
	// maxName is how long the names of streams are at most (JSMaxNameLen in
	// nats-server's server/jetstream_api.go).
	maxName = 255
	// maxDescription bounds the text of a refusal, in bytes. The server's are far
	// shorter, but anybody who sees the reply subject may answer.
	maxDescription = 512
)

// PlainAck reads the usual answer to a publish to the named stream, of a JetStream
// without and with a domain:
//
//	{"stream":"ORDERS","seq":42}
//	{"stream":"ORDERS","domain":"hub","seq":42}
//
// It does that by hand, because decoding JSON takes as long as the rest of a publish. It
// is not ok for any other answer; [ParsePubAck] reads those.
func PlainAck(data []byte, stream string) (sequence uint64, ok bool) {
	named, _, sequence, ok := plainAck(data)
	return sequence, ok && string(named) == stream
}

func plainAck(data []byte) (stream, domain []byte, sequence uint64, ok bool) {
	rest, ok := bytes.CutPrefix(data, []byte(`{"stream":"`))
	if !ok {
		return nil, nil, 0, false
	}
	stream, rest, _ = bytes.Cut(rest, []byte(`","`))
	if after, has := bytes.CutPrefix(rest, []byte(`domain":"`)); has {
		domain, rest, _ = bytes.Cut(after, []byte(`","`))
	}
	number, ok := bytes.CutPrefix(rest, []byte(`seq":`))
	if !ok {
		return nil, nil, 0, false
	}
	number, ok = bytes.CutSuffix(number, []byte("}"))
	if !ok || len(stream) > maxName || len(domain) > maxName || bytes.ContainsAny(stream, `"\\`) || bytes.ContainsAny(domain, `"\\`) {
		return nil, nil, 0, false
	}
	sequence, ok = ParseUint(string(number))
	return stream, domain, sequence, ok
}

// PubAnswer reports whether a message can be the answer to a publish: an
// acknowledgement, a refusal, or that no stream has the subject. Whoever subscribes
// to the subject sees the reply subject, too, and may send something else there. The
// domain is that of the JetStream that has stored the message; other answers say none,
// and said is false.
func PubAnswer(m *nats.Msg) (domain string, said, ok bool) {
	if _, domain, _, ok := plainAck(m.Data); ok {
		return string(domain), true, true
	}
	ack, err := ParsePubAck(m)
	if err == nil {
		return ack.Domain, true, true
	}
	var api *jetstream.APIError
	return "", false, errors.Is(err, nats.ErrNoResponders) || errors.As(err, &api) && api.Code != 0
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
		Domain    string              `json:"domain"`
		Error     *jetstream.APIError `json:"error"`
	}
	if err := json.Unmarshal(m.Data, &answer); err != nil {
		return PubAck{}, fmt.Errorf("the answer is not a JetStream acknowledgement: %w", err)
	}
	if answer.Error != nil {
		answer.Error.Description = cut(answer.Error.Description, maxDescription)
		return PubAck{}, answer.Error
	}
	if answer.Stream == "" || len(answer.Stream) > maxName || len(answer.Domain) > maxName {
		return PubAck{}, fmt.Errorf("the answer is not a JetStream acknowledgement: %w", jetstream.ErrInvalidJSAck)
	}
	return PubAck{Stream: answer.Stream, Sequence: answer.Sequence, Duplicate: answer.Duplicate, Domain: answer.Domain}, nil
}
