// Package elsewhere finds streams that have the messages of a topic which no stream
// captures, and other JetStreams that hear the topic as well.
package elsewhere

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"go-micro-jetstream/broker/internal/asset"
	"go-micro-jetstream/broker/internal/fault"
	"go-micro-jetstream/broker/internal/link"
	"go-micro-jetstream/broker/internal/streamapi"
	"go-micro-jetstream/broker/internal/wire"
)

// Finder asks on one connection. It is safe for concurrent use.
type Finder struct {
	conn *link.Conn
	api  *streamapi.API
}

// New returns the finder of the connection. It sends nothing.
func New(conn *link.Conn, api *streamapi.API) *Finder { return &Finder{conn: conn, api: api} }

const (
	// noStream is a stream that cannot exist. A message that expects to be stored there is
	// refused by every stream, and none keeps it.
	noStream = "no.such.stream"
	// answerTimeout bounds the wait for a stream that may store the topic under another
	// subject. If nobody has the subject, the server says so at once.
	answerTimeout = 500 * time.Millisecond
)

// Mapped looks for a stream that stores what is published to the topic, although none
// has it among its subjects: a subject mapping of the account, or an import, leads there.
// A second stream would stay empty. It asks by a message that no stream keeps. It returns
// nil if there is none; who does not answer in time counts as none. The stream that it
// returns is for publishing only, as its messages have other subjects.
func (f *Finder) Mapped(ctx context.Context, topic string, consume bool) (*asset.Stream, error) {
	name := f.answering(ctx, topic)
	if name == "" {
		return nil, nil
	}
	s, err := f.api.Info(ctx, name)
	switch {
	case errors.Is(err, jetstream.ErrStreamNotFound):
		return nil, fmt.Errorf("%w: stream %s answers for it, and %s has none of that name: it is that of another account, or of the hub of this leaf node; use it with WithAPIPrefix or WithDomain, or remove the topic from its subjects or from the import", fault.ErrStreamMismatch, name, f.conn.Domain())
	case err != nil:
		return nil, err
	case wire.CoversAny(s.Subjects, topic): // made a moment ago
		return s, nil
	case consume:
		return nil, fmt.Errorf("%w: what is published to it is stored by stream %s under another subject (it captures %s), because a subject mapping of the account leads there: subscribe to that subject, or remove the mapping", fault.ErrStreamMismatch, name, strings.Join(s.Subjects, ", "))
	}
	f.conn.Log().Warn(fmt.Sprintf("what is published to %s is stored by stream %s under another subject, because a subject mapping of the account leads there: subscribers have to name that subject", topic, name), "topic", topic, "stream", name)
	s.Subjects, s.Mapped = []string{topic}, true
	return s, nil
}

// answering returns the name of a stream that hears what is published to the topic, or "".
func (f *Finder) answering(ctx context.Context, topic string) string {
	patience := answerTimeout
	if deadline, ok := ctx.Deadline(); ok {
		patience = min(patience, time.Until(deadline)/4) // the rest is for what comes after
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	m := nats.NewMsg(strings.NewReplacer("*", "_", ">", "_").Replace(topic))
	m.Header.Set(nats.ExpectedStreamHdr, noStream)
	got, err := f.conn.NATS().RequestMsgWithContext(ctx, m)
	if err != nil {
		return ""
	}
	var refusal struct {
		Stream string              `json:"stream"`
		Error  *jetstream.APIError `json:"error"`
	}
	if json.Unmarshal(got.Data, &refusal) != nil || refusal.Error == nil || refusal.Error.ErrorCode != fault.CodeStreamNotMatch || wire.CheckName(refusal.Stream) != nil {
		return ""
	}
	return refusal.Stream
}
