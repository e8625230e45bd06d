package consumers

import (
	"reflect"
	"slices"
	"testing"

	"go-micro-jetstream/broker/internal/asset"

	"github.com/nats-io/nats.go/jetstream"
)

// A field that a later nats.go brings has to be thought about.
func TestEachFieldFollowsOrHasAReasonNotTo(t *testing.T) {
	t.Parallel()
	others := []string{
		"Name", "Durable", "FilterSubject", "FilterSubjects", "Metadata", "PriorityPolicy", "PriorityGroups", "PinnedTTL", "PauseUntil",
		"AckPolicy", "ReplayPolicy", "RateLimit", "DeliverSubject", "DeliverGroup", "FlowControl", "IdleHeartbeat",
	}
	for _, f := range reflect.VisibleFields(reflect.TypeFor[jetstream.ConsumerConfig]()) {
		if !slices.Contains(others, f.Name) && !slices.Contains(settingsOn(new(asset.Stream)).Fields, f.Name) {
			t.Errorf("%s is in no list", f.Name)
		}
	}
}
