package broker_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"go-micro.dev/v5/broker"
	"go-micro.dev/v5/logger"

	jsbroker "go-micro-jetstream/broker"
	"go-micro-jetstream/internal/natstest"
)

func TestLineAboutAFailureSaysWhatComesNext(t *testing.T) {
	t.Parallel()
	no := errors.New("no")
	for name, test := range map[string]struct {
		handler broker.Handler
		opts    []broker.Option
		want    string
		last    bool // the failure is that of the last delivery
	}{
		"again later":      {func(broker.Event) error { return jsbroker.RetryAfter(2*time.Second, no) }, nil, "handler failed: no; next: again in 2s", false},
		"again soon":       {func(broker.Event) error { return jsbroker.RetryAfter(1500*time.Microsecond, no) }, nil, "handler failed: no; next: again in 1.5ms", false},
		"again at once":    {func(broker.Event) error { return jsbroker.RetryAfter(0, no) }, nil, "handler failed: no; next: again at once", false},
		"growing delay":    {func(broker.Event) error { return no }, nil, "handler failed: no; next: again in 1", false}, // 1s to 1.1s
		"a panic":          {func(broker.Event) error { panic("ouch") }, nil, "handler panicked: ouch; next: again in 1", false},
		"discarded":        {func(broker.Event) error { return jsbroker.Discard(no) }, nil, "handler failed: no", false},
		"acked and failed": {func(e broker.Event) error { _ = e.Ack(); return no }, nil, "handler failed: no; the message was acknowledged before", false},
		"a dead letter": {func(broker.Event) error { return no },
			[]broker.Option{jsbroker.WithDeadLetter("graves")}, "handler failed: no; next: dead letter", true},
		"a discarded dead letter": {func(broker.Event) error { return jsbroker.Discard(no) },
			[]broker.Option{jsbroker.WithDeadLetter("graves")}, "handler failed: no; next: dead letter", false},
		"kept": {func(broker.Event) error { return no }, nil, "handler failed: no; next: nothing, it is kept in the stream", true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			log := natstest.NewLog()
			b := newBroker(t, startServer(t), append(test.opts, broker.Logger(log),
				jsbroker.WithConsumerConfig(jetstream.ConsumerConfig{MaxDeliver: 2}))...)
			subscribe(t, b, "orders", func(e broker.Event) error {
				if test.last && jsbroker.NumDelivered(e) == 1 {
					return jsbroker.RetryAfter(1100*time.Millisecond, errors.New("first")) // lines are a second apart
				}
				return test.handler(e)
			}, broker.Queue("q"))
			publish(t, b, "orders", "x")
			eventually(t, "the log says "+test.want, func() bool { return len(log.With(test.want)) > 0 })
			if line := log.With(test.want)[0]; line.Level != logger.ErrorLevel {
				t.Errorf("level %v", line.Level)
			}
			if name == "discarded" && len(log.With("next:")) > 0 {
				t.Errorf("logged:\n%s", log.Text())
			}
		})
	}
}

func TestEachDeadLetterIsOneLine(t *testing.T) {
	t.Parallel()
	const n = 50
	log := natstest.NewLog()
	s := startServer(t)
	_, js := natsConn(t, s)
	b := newBroker(t, s, broker.Logger(log), jsbroker.WithClientName("payments-1"), jsbroker.WithDeadLetter("graves"),
		jsbroker.WithConsumerConfig(jetstream.ConsumerConfig{MaxDeliver: 1}))
	subscribe(t, b, "orders.*", func(e broker.Event) error {
		if string(e.Message().Body) == "panics" {
			panic("ouch")
		}
		return errors.New("limit\r\nexceeded")
	}, broker.Queue("q"))
	for i := range n {
		header := map[string]string{"traceparent": fmt.Sprintf("00-%032x-b7ad6b7169203331-01", i+1)}
		noErr(t, b.Publish("orders.created", &broker.Message{Header: header, Body: []byte("x")}, jsbroker.MessageID(fmt.Sprint("order-", i))))
	}
	publish(t, b, "orders.paid", "panics", jsbroker.MessageID("panics"))
	eventually(t, "all are dead letters", func() bool { return streamInfo(t, js, "ORDERS").State.Msgs == 0 })
	lines := log.With("dead letter stored in graves: ")
	if len(lines) != n+1 {
		t.Fatalf("%d lines, want %d:\n%s", len(lines), n+1, log.Text())
	}
	wantLine(t, log, logger.WarnLevel, "dead letter stored in graves: limit  exceeded", map[string]any{
		"client": "payments-1", "topic": "orders.*", "queue": "q", "stream": "ORDERS", "consumer": "q",
		"subject": "orders.created", "sequence": "1", "deliveries": "1", "message_id": "order-0", "trace_id": fmt.Sprintf("%032x", 1),
		"dead_letter_topic": "graves", "reason": "limit  exceeded",
	})
	wantLine(t, log, logger.WarnLevel, "dead letter stored in graves: handler panicked: ouch", map[string]any{
		"client": "payments-1", "topic": "orders.*", "queue": "q", "stream": "ORDERS", "consumer": "q",
		"subject": "orders.paid", "sequence": fmt.Sprint(n + 1), "deliveries": "1", "message_id": "panics",
		"dead_letter_topic": "graves", "reason": "handler panicked: ouch",
	})
}
