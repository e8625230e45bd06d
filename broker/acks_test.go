package broker

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
)

// TestAnotherMessagesAnswerBeforeThisOneIsWritten is about the moment in which a
// publisher has left its message to one that is at writing, whom the network holds
// up.
func TestAnotherMessagesAnswerBeforeThisOneIsWritten(t *testing.T) {
	for name, early := range map[string]string{"of a stranger": "thank you", "of another stream of the name": `{"stream":"ORDERS","seq":1000}`} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			testAnswerBeforeMessageIsWritten(t, early)
		})
	}
}

func testAnswerBeforeMessageIsWritten(t *testing.T, early string) {
	a := newAcks()
	written := make(chan string)
	a.outbox.write = func(m outgoing) {
		m.use.begins()
		written <- m.msg.Reply
		m.use.wrote()
	}
	orders := &stream{name: "ORDERS", acked: a.ackedBy("ORDERS")}
	const again = "reply subject of the next try"
	publish := func() <-chan answer {
		got := make(chan answer, 1)
		go func() {
			m := nats.NewMsg("orders")
			result := a.request(context.Background(), m, orders, time.Now().Add(time.Minute), true, a.now())
			m.Reply = again
			got <- result
		}()
		return got
	}
	sequence := 0
	ack := func(reply string) {
		sequence++
		a.receive(&nats.Msg{Subject: reply, Data: fmt.Appendf(nil, `{"stream":"ORDERS","seq":%d}`, sequence)})
	}
	var all []<-chan answer
	for range minResting + 1 { // at a time, so that two can be used again at a time
		all = append(all, publish())
	}
	var replies []string
	for range all {
		replies = append(replies, <-written)
	}
	for _, reply := range replies {
		ack(reply)
	}
	for _, got := range all {
		if result := <-got; !result.plain() {
			t.Fatalf("%+v", result)
		}
	}

	waiting := func(i int) bool {
		a.mu.Lock()
		defer a.mu.Unlock()
		id, _ := parseUint(strings.TrimPrefix(replies[i], a.replies.prefix))
		return a.replies.byID[id].waiter != nil
	}
	writes := publish()
	until(func() bool { return waiting(0) })
	leaves := publish()
	until(func() bool { return waiting(1) })
	a.receive(&nats.Msg{Subject: replies[1], Data: []byte(early)})
	if result := <-leaves; !result.doubtful && !errors.Is(result.err, errDoubtful) {
		t.Fatalf("%+v", result)
	}
	sequence = 1000 // acknowledged by now, perhaps
	next := publish()
	for range 2 {
		reply := <-written
		if reply == replies[1] || reply == again {
			t.Fatal("a message that its publisher has taken back was written")
		}
		ack(reply)
	}
	if one, other := <-writes, <-next; !one.plain() || !other.plain() {
		t.Errorf("%+v, %+v", one, other)
	}
	a.close()
}

// until waits for what nothing tells of.
func until(so func() bool) {
	for !so() {
		time.Sleep(time.Millisecond)
	}
}

// TestMessageInTheOutboxIsNotSent is about a message that waits there for a publisher
// that returns: an answer is not its own, and with the connection it is not lost.
func TestMessageInTheOutboxIsNotSent(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		meets func(a *acks, reply string)
		want  error
	}{
		"another's answer": {func(a *acks, reply string) {
			a.receive(&nats.Msg{Subject: reply, Data: []byte(`{"stream":"ORDERS","seq":1000}`)})
		}, errDoubtful},
		"a lost connection": {func(a *acks, _ string) { a.interrupt() }, errConnectionLost},
		"its deadline": {func(a *acks, _ string) {
			a.failAll(context.DeadlineExceeded, func(*waiter) bool { return true })
		}, errConnectionLost},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := newAcks()
			defer a.close()
			a.outbox.write = func(outgoing) { t.Error("it was written") }
			orders := &stream{name: "ORDERS", acked: a.ackedBy("ORDERS")}
			a.outbox.returns() // somebody
			m, got := nats.NewMsg("orders"), make(chan answer, 1)
			go func() {
				got <- a.request(context.Background(), m, orders, time.Now().Add(time.Minute), false, a.now())
			}()
			until(func() bool {
				a.outbox.mu.Lock()
				defer a.outbox.mu.Unlock()
				return len(a.outbox.queue) == 1
			})
			test.meets(a, a.replies.prefix+"1")
			result := <-got
			if result.doubtful {
				result.err = errDoubtful
			}
			if !errors.Is(result.err, test.want) {
				t.Errorf("%+v, want %v", result, test.want)
			}
			a.outbox.returned(false)
		})
	}
}

func TestRefusedRequestIsNotThatOfANameThatItBeginsWith(t *testing.T) {
	t.Parallel()
	call := &apiCall{name: "CONSUMER.CREATE.ORDERS.workers"}
	for subject, want := range map[string]bool{
		"$JS.API.CONSUMER.CREATE.ORDERS.workers":                                  true,
		"$JS.API.CONSUMER.CREATE.ORDERS.workers.orders.created":                   true, // with the filter
		"$JS.API.CONSUMER.CREATE.ORDERS.workers-orders_paid-4a5854b8.orders.paid": false,
		"$JS.API.CONSUMER.INFO.ORDERS.workers":                                    false,
		"orders.CONSUMER.CREATE.ORDERS.workers":                                   false,
		"":                                                                        false,
	} {
		violation := fmt.Errorf(`nats: permissions violation: Permissions Violation for Publish to %q`, subject)
		if refused, _ := refusedSubject(violation, publishViolation); call.sentTo(refused) != want {
			t.Errorf("%q: %v", subject, !want)
		}
	}
}
