package asset

import (
	"errors"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"go-micro-jetstream/broker/internal/fault"
)

func TestTransforms(t *testing.T) {
	t.Parallel()
	for destination, want := range map[string]string{
		"new.>":                      "new.>",
		"new.$1.x":                   "new.*.x",
		"new.{{wildcard(1)}}":        "new.*",
		"{{partition(3,1)}}.x":       "*.x",
		"new.{{Split(1,-)}}.x":       "new.>",
		"new.{{SliceFromLeft(1,2)}}": "new.>",
	} {
		if got := Transformed(destination); got != want {
			t.Errorf("%s: %s, want %s", destination, got, want)
		}
	}
	for _, c := range []struct {
		source, destination, topic string
		fine                       bool
	}{
		{"", "", "orders.a", true},
		{"", "new.>", "orders.a", false},
		{"orders.*", "new.$1", "orders.a", false},
		{"orders.*", "orders.new.$1", "orders.>", true},
		{"other.*", "new.$1", "orders.a", true},
	} {
		s := &Stream{Name: "S", Transform: jetstream.SubjectTransformConfig{Source: c.source, Destination: c.destination}}
		if err := s.CheckTransform(c.topic); (err == nil) != c.fine || err != nil && !errors.Is(err, fault.ErrStreamMismatch) {
			t.Errorf("%s to %s on %s: %v", c.source, c.destination, c.topic, err)
		}
	}
}
