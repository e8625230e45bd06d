package companion

import (
	"context"
	"errors"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"go-micro-jetstream/broker/internal/asked"
	"go-micro-jetstream/broker/internal/asset"
	"go-micro-jetstream/broker/internal/fault"
	"go-micro-jetstream/broker/internal/wire"
)

// ageMargin is how long before MaxAge a message that waits in its own stream must be
// due. The server may be a moment late, above all after a start.
const ageMargin = time.Minute

// holdsSchedules reports whether the messages that wait for a stream are in that stream.
func holdsSchedules(sc jetstream.StreamConfig) bool {
	return sc.AllowMsgSchedules && wire.CoversAny(sc.Subjects, wire.LaterPattern(sc.Name)) && sc.Retention != jetstream.InterestPolicy
}

// checkLimits refuses a stream that holds schedules itself, and may remove them to make
// room for other messages. MaxAge is another matter: it is known beforehand what that
// removes.
func checkLimits(sc jetstream.StreamConfig) error {
	if sc.MaxMsgs <= 0 && sc.MaxBytes <= 0 {
		return nil
	}
	return fmt.Errorf("%w: messages cannot wait in stream %s, because its MaxMsgs or MaxBytes may remove what waits: have its owner take these limits off",
		fault.ErrUnsupported, sc.Name)
}

// maxWait returns how long messages can wait in a stream that holds them itself; 0: for
// any time.
func maxWait(sc jetstream.StreamConfig) time.Duration {
	if sc.MaxAge <= 0 {
		return 0
	}
	return max(sc.MaxAge-ageMargin, 1)
}

// Spare takes out of the changes to a stream what messages that wait for it do not
// survive. A message that the stream refuses when it is due holds up all behind it. What
// waits in the stream itself may be removed by a new limit. It returns what is to be
// asked for instead, and what it has taken out.
func (cs *Companions) Spare(ctx context.Context, sc, want jetstream.StreamConfig, changes []asked.Change) (jetstream.StreamConfig, []asked.Change) {
	var fields []string
	switch {
	case sourceIn(sc) >= 0:
		fields = []string{"MaxMsgSize"}
	case holdsSchedules(sc):
		fields = []string{"MaxMsgSize", "MaxAge", "MaxMsgs", "MaxBytes"}
	}
	var spared []asked.Change
	h, w := reflect.ValueOf(&sc).Elem(), reflect.ValueOf(&want).Elem()
	for _, c := range changes {
		if slices.Contains(fields, c.Field) && limit(w, c.Field) < limit(h, c.Field) {
			spared = append(spared, c)
		}
	}
	if len(spared) == 0 || !cs.mayWait(ctx, sc) {
		return want, nil
	}
	for _, c := range spared {
		w.FieldByName(c.Field).Set(h.FieldByName(c.Field))
	}
	return want, spared
}

// limit reads a limit of a stream. The server takes 0 and less for none.
func limit(sc reflect.Value, field string) int64 {
	if n := sc.FieldByName(field).Int(); n > 0 {
		return n
	}
	return math.MaxInt64
}

// mayWait reports whether messages wait for a stream, or nobody can tell.
func (cs *Companions) mayWait(ctx context.Context, sc jetstream.StreamConfig) bool {
	if holdsSchedules(sc) {
		has, err := cs.api.Has(ctx, sc.Name, wire.LaterPattern(sc.Name))
		return has || err != nil
	}
	info, err := cs.api.State(ctx, wire.LaterStream(sc.Name))
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return false
	}
	return err != nil || info.State.Msgs > 0
}

// PlaceOf names where messages wait for a stream.
func PlaceOf(sc jetstream.StreamConfig) string {
	if holdsSchedules(sc) {
		return "stream " + sc.Name + " under " + wire.LaterPattern(sc.Name)
	}
	return "stream " + wire.LaterStream(sc.Name)
}

// CheckMapped refuses a topic whose messages are stored under another subject: a
// subject mapping of the account leads there. It does not apply to what is due.
func CheckMapped(s *asset.Stream, topic string) error {
	if !s.Mapped {
		return nil
	}
	return fmt.Errorf("%w: what is published to %s is stored by stream %s under another subject, because a subject mapping of the account leads there, which does not apply to what is delivered later: publish to that subject (the stream captures %s)",
		fault.ErrUnsupported, topic, s.Name, strings.Join(s.Config.Subjects, ", "))
}
