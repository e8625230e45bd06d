package consume

import (
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// A pause that is over stays in the configuration of a consumer.
func TestStateOfAPausedConsumer(t *testing.T) {
	until := time.Now().Add(time.Hour)
	info := &jetstream.ConsumerInfo{Paused: true, Config: jetstream.ConsumerConfig{PauseUntil: &until}}
	if got := StateOf(info).PausedUntil; !got.Equal(until) {
		t.Errorf("paused until %v, want %v", got, until)
	}
	info.Paused = false
	if got := StateOf(info).PausedUntil; !got.IsZero() {
		t.Errorf("not paused, but until %v", got)
	}
}
