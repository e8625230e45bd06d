package broker_test

import (
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"go-micro.dev/v5/broker"

	jsbroker "go-micro-jetstream/broker"
	"go-micro-jetstream/internal/natstest"
)

func TestConsumerConfigOfASubscriptionWins(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	_, js := natsConn(t, s)
	b := newBroker(t, s, jsbroker.WithConsumerConfig(jetstream.ConsumerConfig{AckWait: time.Minute, MaxAckPending: 7}))
	cfg := jetstream.ConsumerConfig{BackOff: []time.Duration{time.Second, 2 * time.Second}, MaxDeliver: 5, Metadata: map[string]string{"team": "a"}}
	own := jsbroker.ConsumerConfig(cfg)
	cfg.BackOff[0], cfg.Metadata["team"] = time.Hour, "b"

	var all sync.WaitGroup
	for _, queue := range []string{"one", "two"} { // the option can be shared
		all.Go(func() { subscribe(t, b, queue, ignore, broker.Queue(queue), own, jsbroker.Concurrency(2)) })
	}
	subscribe(t, b, "rest", ignore, broker.Queue("rest"))
	all.Wait()
	for _, queue := range []string{"one", "two"} {
		got := natstest.ConsumerInfo(t, js, map[string]string{"one": "ONE", "two": "TWO"}[queue], queue).Config
		if !slices.Equal(got.BackOff, []time.Duration{time.Second, 2 * time.Second}) || got.MaxDeliver != 5 || got.MaxAckPending == 7 || got.Metadata["team"] != "a" {
			t.Errorf("%s: %+v", queue, got)
		}
	}
	if got := natstest.ConsumerInfo(t, js, "REST", "rest").Config; got.AckWait != time.Minute || got.MaxAckPending != 7 || len(got.BackOff) > 0 {
		t.Errorf("rest: %+v", got)
	}
}

func TestConsumerConfigOfASubscriptionIsChecked(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	_, js := natsConn(t, s)
	for _, c := range []struct {
		options []broker.Option
		cfg     jetstream.ConsumerConfig
		parts   []string
	}{
		{nil, jetstream.ConsumerConfig{AckPolicy: jetstream.AckNonePolicy}, []string{"ConsumerConfig: AckPolicy must be explicit"}},
		{nil, jetstream.ConsumerConfig{AckWait: 30}, []string{"ConsumerConfig: AckWait is 30ns, want at least 10ms"}},
		{[]broker.Option{jsbroker.WithExistingConsumers()}, jetstream.ConsumerConfig{}, []string{"ConsumerConfig", "WithExistingConsumers", "leave one of them out"}},
		{[]broker.Option{jsbroker.WithDeadLetter("graves")}, jetstream.ConsumerConfig{HeadersOnly: true}, []string{"ConsumerConfig", "WithDeadLetter", "HeadersOnly"}},
	} {
		b := newBroker(t, s, c.options...)
		_, err := b.Subscribe("orders", ignore, broker.Queue("q"), jsbroker.ConsumerConfig(c.cfg))
		wantError(t, err, jsbroker.ErrInvalidConfig, c.parts...)
	}
	if names := streamNames(t, js); len(names) > 0 {
		t.Errorf("there are streams %v", names)
	}
}
