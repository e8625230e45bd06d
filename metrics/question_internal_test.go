package metrics

import (
	"errors"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
)

func parsed(t *testing.T, q question, text string) *reply {
	t.Helper()
	r, err := q.parse(&nats.Msg{Data: []byte(text)})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// A consumer whose only server is away has no name in the list. The others of its stream
// count all the same.
func TestListWithAConsumerThatNobodyHasIsAnAnswer(t *testing.T) {
	t.Parallel()
	r := parsed(t, consumersFrom("ORDERS", 0), `{"type":"io.nats.jetstream.api.v1.consumer_list_response","total":2,"offset":0,
		"consumers":[{"stream_name":"","name":"","created":"0001-01-01T00:00:00Z"},{"stream_name":"ORDERS","name":"q"}],"missing":["gone"]}`)
	if len(r.Consumers) != 2 || !nameless(r.Consumers[0]) || nameless(r.Consumers[1]) {
		t.Errorf("got %+v", r.Consumers)
	}
	one := consumersFrom("ORDERS", 0)
	_, err := one.parse(&nats.Msg{Data: []byte(`{"type":"io.nats.jetstream.api.v1.consumer_list_response","consumers":[{"stream_name":"BILLS","name":"q"}]}`)})
	if !errors.Is(err, errNoAnswer) {
		t.Errorf("the consumer of another stream: %v", err)
	}
}

// The server answers for the end of a list that has become shorter.
func TestPageBehindTheEndIsAnAnswer(t *testing.T) {
	t.Parallel()
	parsed(t, namesFrom(256), `{"type":"io.nats.jetstream.api.v1.stream_names_response","total":200,"offset":200,"streams":[]}`)
	parsed(t, consumersFrom("ORDERS", 256), `{"type":"io.nats.jetstream.api.v1.consumer_list_response","total":200,"offset":200,"consumers":[]}`)
}

// What is asked for seldom is kept until it is asked for again.
func TestAnswersAreKeptForTwoIntervals(t *testing.T) {
	t.Parallel()
	for interval, want := range map[time.Duration]time.Duration{15 * time.Second: 2 * time.Minute, 5 * time.Minute: 10 * time.Minute} {
		if got := (&Server{interval: interval}).keep(); got != want {
			t.Errorf("interval %v: kept for %v, want %v", interval, got, want)
		}
	}
}
