package broker_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"go-micro.dev/v5/broker"

	jsbroker "go-micro-jetstream/broker"
	"go-micro-jetstream/internal/natstest"
)

// With the defaults, which take some seconds to notice.
func TestReplicaThatHangsGivesBackWhatWaits(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("takes up to 30 seconds")
	}
	const n = 1200
	for _, where := range []string{"handler", "hook"} {
		t.Run(where, func(t *testing.T) {
			t.Parallel()
			s := startServer(t)
			hangs, release := make(chan struct{}), make(chan struct{})
			hang := func(at, body string) {
				if at == where && body == "hang" {
					close(hangs)
					<-release
				}
			}
			settled, onSettled := hookChan[jsbroker.Settled]()
			log := natstest.NewLog()
			stuck := newBroker(t, s, broker.Logger(log), jsbroker.WithHooks(jsbroker.Hooks{
				Settled: onSettled,
				HandleStart: func(ctx context.Context, e jsbroker.HandleStart) context.Context {
					hang("hook", e.MessageID)
					return ctx
				},
			}))
			t.Cleanup(func() { close(release) })
			for i := range n {
				body := fmt.Sprint(i)
				if i == n/3 {
					body = "hang"
				}
				publish(t, stuck, "orders", body, jsbroker.MessageID(body))
			}
			subscribe(t, stuck, "orders", func(e broker.Event) error {
				hang("handler", string(e.Message().Body))
				return nil
			}, broker.Queue("q"))
			receive(t, hangs)
			h, got := collector()
			subscribe(t, newBroker(t, s), "orders", h, broker.Queue("q"))
			for acked := 0; acked < n/3; { // before the one that hangs
				if receive(t, settled).Result == jsbroker.ResultAck {
					acked++
				}
			}
			for range n - 1 - n/3 {
				if body := receive(t, got); body == "hang" {
					t.Error("the message of the handler that hangs went to the other replica")
				}
			}
			if !strings.Contains(log.Text(), "messages back that waited here") {
				t.Error("the log has no line about it")
			}
		})
	}
}
