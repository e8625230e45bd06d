package broker_test

import (
	"strings"
	"testing"

	"github.com/nats-io/nats.go/jetstream"
	"go-micro.dev/v5/broker"
	"go-micro.dev/v5/codec/json"

	jsbroker "go-micro-jetstream/broker"
	"go-micro-jetstream/internal/natstest"
)

// An option that does less than its user may think says so.
func TestOptionsThatDoLessThanTheySayAreInTheLog(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	limit := jsbroker.WithConsumerConfig(jetstream.ConsumerConfig{MaxDeliver: 3})
	for name, tt := range map[string]struct {
		opts []broker.Option
		line string
		want bool
	}{
		"codec":                    {[]broker.Option{broker.Codec(json.Marshaler{})}, "broker.Codec is ignored", true},
		"no codec":                 {nil, "broker.Codec is ignored", false},
		"dead letters, no limit":   {[]broker.Option{jsbroker.WithDeadLetter("dead")}, "without MaxDeliver", true},
		"dead letters and a limit": {[]broker.Option{jsbroker.WithDeadLetter("dead"), limit}, "without MaxDeliver", false},
		"no dead letters":          {nil, "without MaxDeliver", false},
		"letters that replace each other": {[]broker.Option{jsbroker.WithDeadLetter("dead"), jsbroker.WithStreamConfig(jetstream.StreamConfig{MaxMsgsPerSubject: 1})},
			"all dead letters have the one subject dead", true},
		"messages that do": {[]broker.Option{jsbroker.WithStreamConfig(jetstream.StreamConfig{MaxMsgsPerSubject: 1})}, "all dead letters", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			log := natstest.NewLog()
			b := newBroker(t, s, append(tt.opts, broker.Logger(log))...)
			subscribe(t, b, strings.NewReplacer(" ", "", ",", "").Replace(name)+".x", ignore, broker.Queue("q"))
			if said := strings.Contains(log.Text(), tt.line); said != tt.want {
				t.Errorf("said: %v\n%s", said, log.Text())
			}
		})
	}
}
