package broker

import (
	"slices"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
)

// TestMessageThatWaitsForOthersIsWritten is about the message of a publisher that runs
// before others that have their answers: the last of those writes it, whether it
// publishes again or not.
func TestMessageThatWaitsForOthersIsWritten(t *testing.T) {
	t.Parallel()
	written := make(chan string, 2*gathered)
	o := &outbox{write: func(m outgoing) { written <- m.msg.Subject }}
	publish := func(subjects ...string) {
		for _, subject := range subjects {
			o.put(outgoing{use{new(reply), 1}, nats.NewMsg(subject)}, &waiter{answer: make(chan answer, 1)})
		}
	}
	expect := func(when string, want ...string) {
		t.Helper()
		var got []string
		for len(written) > 0 {
			got = append(got, <-written)
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: written %q, want %q", when, got, want)
		}
	}

	publish("a")
	expect("nobody returns", "a")
	o.returns()
	o.returns()
	publish("b")
	expect("two return")
	o.returned(false)
	publish("c")
	expect("one returns")
	o.returned(false)
	expect("all have returned", "b", "c")
	publish("d")
	expect("all have returned", "d")

	o.returns()
	many := []string{"1", "2", "3", "4", "5", "6", "7", "8"}[:gathered]
	publish(many[:gathered-1]...)
	expect("one returns")
	publish(many[gathered-1])
	expect("enough have come", many...)
	publish("e")
	o.returned(true)
	if got := <-written; got != "e" { // by somebody else
		t.Errorf("written %q", got)
	}
}

func TestMessagesDoNotWaitWhereOthersDoNotRunSoon(t *testing.T) {
	t.Parallel()
	written := 0
	o := &outbox{write: func(outgoing) { written++ }}
	publish := func() {
		o.put(outgoing{use{new(reply), 1}, nats.NewMsg("orders")}, &waiter{answer: make(chan answer, 1)})
	}
	o.returns()
	publish()
	if written != 0 {
		t.Fatal("it does not wait")
	}
	o.since = o.since.Add(-time.Hour)
	o.returned(false)
	o.returns()
	publish()
	if written != 2 {
		t.Errorf("%d messages were written, and one waits, after one has waited for an hour", written)
	}
}
