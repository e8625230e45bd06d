package broker_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"
	"go-micro.dev/v5/broker"

	jsbroker "go-micro-jetstream/broker"
	"go-micro-jetstream/internal/natstest"
)

// What others choose is cut in the log: subjects, message ids, trace ids and the texts of
// errors.
func TestLogLinesAreBounded(t *testing.T) {
	t.Parallel()
	const long = 60_000
	for name, tt := range map[string]struct {
		message *nats.Msg
		fails   error
	}{
		"message id": {&nats.Msg{Header: nats.Header{"Nats-Msg-Id": {strings.Repeat("i", long)}}}, errors.New("no")},
		"subject":    {&nats.Msg{Subject: "orders." + strings.Repeat("s", 2000)}, errors.New("no")},
		"trace id":   {&nats.Msg{Header: nats.Header{"traceparent": {"00-<script>alert(1)</script>01234567-0123456789abcdef-01"}}}, errors.New("no")},
		"error":      {&nats.Msg{}, errors.New(strings.Repeat("e", 1<<20))},
		"panic":      {&nats.Msg{}, nil},
		"discarded":  {&nats.Msg{}, jsbroker.Discard(errors.New(strings.Repeat("d", 1<<20)))},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := startServer(t)
			_, js := natsConn(t, s)
			log := natstest.NewLog()
			settled, onSettled := hookChan[jsbroker.Settled]()
			b := newBroker(t, s, broker.Logger(log), jsbroker.WithDeadLetter("dead"), jsbroker.WithHooks(jsbroker.Hooks{Settled: onSettled}))
			subscribe(t, b, "orders.>", func(broker.Event) error {
				if tt.fails == nil {
					panic(strings.Repeat("p", 1<<20))
				}
				return tt.fails
			}, broker.Queue("q"))
			m := *tt.message
			if m.Subject == "" {
				m.Subject = "orders.x"
			}
			_, err := js.PublishMsg(testContext(t), &m)
			noErr(t, err)
			receive(t, settled)
			total := 0
			for _, l := range log.Lines() {
				total += len(l.Text)
				for k, v := range l.Fields {
					n := len(fmt.Sprint(v))
					total += n
					if n > 1100 {
						t.Errorf("field %s has %d bytes", k, n)
					}
					if k == "trace_id" {
						t.Errorf("trace id %v", v)
					}
				}
				if len(l.Text) > 33<<10 {
					t.Errorf("a line of %d bytes", len(l.Text))
				}
			}
			if total > 200<<10 {
				t.Errorf("%d bytes in all", total)
			}
		})
	}
}
