package asset

import (
	"reflect"
	"slices"
	"testing"

	"github.com/nats-io/nats.go/jetstream"
)

// A field that a later nats.go brings has to be thought about.
func TestEachFieldFollowsOrHasAReasonNotTo(t *testing.T) {
	t.Parallel()
	others := []string{"Name", "Subjects", "Metadata", "FirstSeq", "AllowMsgCounter", "PersistMode", "Mirror", "MirrorDirect", "Sources", "SubjectTransform", "Sealed", "NoAck", "Template"}
	for _, f := range reflect.VisibleFields(reflect.TypeFor[jetstream.StreamConfig]()) {
		if !slices.Contains(others, f.Name) && !slices.Contains(Settings.Fields, f.Name) {
			t.Errorf("%s is in no list", f.Name)
		}
	}
}
