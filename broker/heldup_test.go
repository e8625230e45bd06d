package broker_test

import (
	"context"
	"strings"
	"sync"
	"testing"

	"go-micro.dev/v5/broker"

	jsbroker "go-micro-jetstream/broker"
	"go-micro-jetstream/internal/natstest"
)

// Code of the user that fetching waits for, and that does not return, is named by Health
// and by the log. A handler that runs for as long is well.
func TestHealthNamesWhatHoldsUpFetching(t *testing.T) {
	t.Parallel()
	srv := startServer(t)
	log, release := natstest.NewLog(), make(chan struct{})
	open := sync.OnceFunc(func() { close(release) })
	b := newBroker(t, srv, broker.Logger(log), jsbroker.WithHooks(jsbroker.Hooks{
		Fetched: func(_ context.Context, e jsbroker.Fetched) {
			if e.Topic == "orders" {
				<-release
			}
		},
	}))
	t.Cleanup(open)
	began := make(chan struct{})
	subscribe(t, b, "slow", func(broker.Event) error { close(began); <-release; return nil }, broker.Queue("slow"))
	publish(t, b, "slow", "x")
	receive(t, began)
	subscribe(t, b, "orders", ignore, broker.Queue("q"), jsbroker.Concurrency(4))
	subscribe(t, b, "keys", ignore, broker.Queue("k"), jsbroker.Concurrency(4), jsbroker.OrderBy(func(broker.Event) string {
		<-release
		return ""
	}))
	publish(t, b, "orders", "x")
	publish(t, b, "keys", "x")
	noErr(t, jsbroker.Health(testContext(t), b))

	parts := []string{`"orders" with queue "q" fetches nothing more: the hook Fetched has not returned for `, `"keys" with queue "k" fetches nothing more: the key function of OrderBy has not returned for `}
	var err error
	eventually(t, "Health names both", func() bool {
		err = jsbroker.Health(testContext(t), b)
		return err != nil && strings.Contains(err.Error(), parts[0]) && strings.Contains(err.Error(), parts[1])
	})
	if strings.Contains(err.Error(), "slow") {
		t.Errorf("a handler that runs is trouble: %v", err)
	}
	lines := []string{"nothing more is fetched: the hook Fetched has not returned for ", "nothing more is fetched: the key function of OrderBy has not returned for "}
	eventually(t, "the log names both", func() bool { return len(log.With(lines[0])) > 0 && len(log.With(lines[1])) > 0 })
	open()
	eventually(t, "fetching goes on", func() bool {
		return jsbroker.Health(testContext(t), b) == nil && len(log.With("fetching goes on: what it waited for has returned")) == 2
	})
	for _, line := range lines {
		if n := len(log.With(line)); n != 1 {
			t.Errorf("the log says %d times %q", n, line)
		}
	}
}
