package link

import (
	"testing"

	"go-micro-jetstream/broker/internal/client"
)

func TestCallKnowsItsSubject(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, subject string
		want          bool
	}{
		{"STREAM.INFO.A", "$JS.API.STREAM.INFO.A", true},
		{"CONSUMER.CREATE.A", "$JS.API.CONSUMER.CREATE.A.consumer.filter", true},
		{"STREAM.INFO.A", "$JS.API.STREAM.INFO.AB", false},
		{"STREAM.INFO.A", "$JS.API.STREAM.INFO", false},
		{"INFO", "INFO", false},
		{"INFO", "", false},
	} {
		if got := (&call{subject: client.DefaultPrefix + tt.name}).sentTo(tt.subject); got != tt.want {
			t.Errorf("%s may be sent to %q: %v", tt.name, tt.subject, got)
		}
	}
}
