package asset

import (
	"errors"
	"strings"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"go-micro-jetstream/broker/internal/fault"
	"go-micro-jetstream/broker/internal/wire"
)

func TestDefaultStreamName(t *testing.T) {
	t.Parallel()
	for topic, want := range map[string]string{
		"orders":             "ORDERS",
		"orders.created":     "ORDERS",
		"orders.*":           "ORDERS",
		"user-events.login":  "USER_EVENTS",
		"user_events.login":  "USER_EVENTS",
		"a-b-c.d-e":          "A_B_C",
		"go.micro.srv.x":     "GO",
		"größe.x":            strings.ToUpper("größe"), // whatever Go makes of it
		"already_UPPER-9.xx": "ALREADY_UPPER_9",
	} {
		if got := DefaultStreamName(topic); got != want {
			t.Errorf("%s: %s, want %s", topic, got, want)
		}
	}
}

func TestTemplatesThatCannotWorkAreRefused(t *testing.T) {
	t.Parallel()
	for part, cfg := range map[string]jetstream.StreamConfig{
		"":                       {Name: "ORDERS"},
		"NoAck":                  {NoAck: true},
		`stream "a.b": the name`: {Name: "a.b"},
	} {
		switch err := CheckStreamTemplate(cfg); {
		case part == "" && err != nil:
			t.Error(err)
		case part != "" && (err == nil || !strings.HasPrefix(err.Error(), "WithStreamConfig: ") || !strings.Contains(err.Error(), part)):
			t.Errorf("%s: %v", part, err)
		}
	}
}

// illegal is what no name of a stream may contain.
const illegal = " \t\r\n\f.*>\\/"

// FuzzNames checks that every topic that passes its check has a stream that the
// server takes, and that captures the topic.
func FuzzNames(f *testing.F) {
	for _, topic := range []string{"orders", "orders.created", "a.*", "a.>", "ü.ö", "a.b/c", "a/b.c", `a\b`, "\ufeffx", strings.Repeat("x", 255)} {
		f.Add(topic)
	}
	f.Fuzz(func(t *testing.T, topic string) {
		if wire.CheckSubscribeTopic(topic) != nil {
			return
		}
		sc, err := new(Rules).StreamConfig(topic)
		if err != nil {
			if !errors.Is(err, fault.ErrInvalidTopic) {
				t.Fatalf("%q: %v", topic, err)
			}
			return
		}
		if strings.ContainsAny(sc.Name, illegal) || len(sc.Name) > wire.MaxName {
			t.Fatalf("%q: stream name %q", topic, sc.Name)
		}
		if !wire.CoversAny(sc.Subjects, topic) {
			t.Fatalf("the stream of %q would not capture it", topic)
		}
	})
}
