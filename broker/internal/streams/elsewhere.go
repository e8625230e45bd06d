package streams

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"go-micro-jetstream/broker/internal/fault"
	"go-micro-jetstream/broker/internal/wire"
)

const (
	// noStream is a stream that cannot exist. A message that expects to be stored there is
	// refused by every stream, and none keeps it.
	noStream = "no.such.stream"
	// answerTimeout bounds the wait for a stream that may store the topic under another
	// subject. If nobody has the subject, the server says so at once.
	answerTimeout = 500 * time.Millisecond
)

// elsewhere looks for a stream that stores what is published to the topic, although none
// has it among its subjects: a subject mapping of the account, or an import, leads there.
// A second stream would stay empty. It asks by a message that no stream keeps. It returns
// nil if there is none; who does not answer in time counts as none. The stream that it
// returns is for publishing only, as its messages have other subjects. The caller holds
// ss.ensuring.
func (ss *Streams) elsewhere(ctx context.Context, topic string, consume bool) (*Stream, error) {
	name := ss.answering(ctx, topic)
	if name == "" {
		return nil, nil
	}
	s, err := ss.Info(ctx, name)
	switch {
	case errors.Is(err, jetstream.ErrStreamNotFound):
		return nil, fmt.Errorf("%w: stream %s answers for it, and %s has none of that name: it is that of another account, or of the hub of this leaf node; use it with WithAPIPrefix or WithDomain, or remove the topic from its subjects or from the import", fault.ErrStreamMismatch, name, ss.conn.Domain())
	case err != nil:
		return nil, err
	case wire.CoversAny(s.Subjects, topic): // made a moment ago
		return s, nil
	case consume:
		return nil, fmt.Errorf("%w: what is published to it is stored by stream %s under another subject (it captures %s), because a subject mapping of the account leads there: subscribe to that subject, or remove the mapping", fault.ErrStreamMismatch, name, strings.Join(s.Subjects, ", "))
	}
	ss.conn.Log().Warn(fmt.Sprintf("what is published to %s is stored by stream %s under another subject, because a subject mapping of the account leads there: subscribers have to name that subject", topic, name), "topic", topic, "stream", name)
	s.Subjects, s.mapped = []string{topic}, true
	return s, nil
}

// answering returns the name of a stream that hears what is published to the topic, or "".
func (ss *Streams) answering(ctx context.Context, topic string) string {
	patience := answerTimeout
	if deadline, ok := ctx.Deadline(); ok {
		patience = min(patience, time.Until(deadline)/4) // the rest is for what comes after
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	m := nats.NewMsg(strings.NewReplacer("*", "_", ">", "_").Replace(topic))
	m.Header.Set(nats.ExpectedStreamHdr, noStream)
	got, err := ss.conn.NATS().RequestMsgWithContext(ctx, m)
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
