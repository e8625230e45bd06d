package consumers_test

import (
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"go-micro-jetstream/broker/internal/asset"
	"go-micro-jetstream/broker/internal/consumers"
	"go-micro-jetstream/broker/internal/fault"
	"go-micro-jetstream/internal/natstest"
)

func TestTopicsOfAQueueHaveAConsumerEach(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	rules := new(asset.Rules)
	first := b.bind(t, rules, "orders.a", "q")
	if first.Name != "q" || first.Ephemeral || !first.Ours || first.Stream != b.streams.Known("orders.a") || first.Config.AckWait != consumers.DefaultAckWait {
		t.Errorf("%+v", first)
	}
	second := b.bind(t, rules, "orders.b", "q")
	if second.Name == "q" || !strings.HasPrefix(second.Name, "q-orders_b-") {
		t.Errorf("the second is %s", second.Name)
	}
	if again := b.bind(t, rules, "orders.b", "q"); again.Name != second.Name || !again.Created.Equal(second.Created) {
		t.Errorf("%s is made again, as %s", second.Name, again.Name)
	}
	b.deleteConsumer(t, "ORDERS", "q")
	if again := b.bind(t, rules, "orders.b", "q"); again.Name != second.Name { // though the first name is free
		t.Errorf("%s is now %s", second.Name, again.Name)
	}
	_, _, err := b.Bind(b.ctx, rules, "orders.b", "")
	natstest.WantError(t, err, fault.ErrWorkQueueConflict, "consumer "+second.Name+" (orders.b) overlaps orders.b, so a subscriber without a queue cannot consume it")
	if names := b.consumers(t, "ORDERS"); len(names) != 1 {
		t.Errorf("consumers %v", names)
	}
}

func TestConsumersOfOthers(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.makeStream(t, "THEIRS", "orders.>")
	b.makeConsumer(t, "THEIRS", jetstream.ConsumerConfig{Durable: "q", FilterSubject: "orders.a", AckWait: time.Minute})
	rules := &asset.Rules{ConsumerTemplate: &jetstream.ConsumerConfig{AckWait: time.Second}}
	if c := b.bind(t, rules, "orders.a", "q"); c.Ours || c.Config.AckWait != time.Minute {
		t.Errorf("%+v", c)
	}
	if lines := b.log.Take("consumer q of stream THEIRS exists and is used as it is: AckWait is 1m0s, not 1s"); len(lines) != 1 || !strings.Contains(lines[0], "topic=orders.a queue=q stream=THEIRS consumer=q") {
		t.Errorf("logged %q", lines)
	}
	_, _, err := b.Bind(b.ctx, rules, "orders.b", "q")
	natstest.WantError(t, err, fault.ErrConsumerConflict, "consumer q of stream THEIRS was not made by this broker and has the filter orders.a")
	_, _, err = b.Bind(b.ctx, &asset.Rules{NeverCreateConsumers: true}, "orders.b", "other")
	natstest.WantError(t, err, fault.ErrConsumerNotFound, "create the pull consumer other on stream THEIRS, with the filter orders.b")
}

func TestBindFindsTheStreamAgainThatWasDeleted(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	first := b.bind(t, new(asset.Rules), "orders", "q")
	b.deleteStream(t, "ORDERS")
	if again := b.bind(t, new(asset.Rules), "orders", "q"); again.Name != "q" || again.Stream.Created.Equal(first.Stream.Created) {
		t.Errorf("%+v", again)
	}
}

func TestConsumerWithoutAQueueIsDeleted(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	rules := &asset.Rules{StreamTemplate: &jetstream.StreamConfig{Retention: jetstream.InterestPolicy}}
	durable := b.bind(t, rules, "orders", "q")
	one, other := b.bind(t, rules, "orders", ""), b.bind(t, rules, "orders", "")
	if one.Name == other.Name || !one.Ephemeral || !one.GoesOn() || one.Config.InactiveThreshold != consumers.InactiveThreshold {
		t.Errorf("%+v", one)
	}
	for _, c := range []*consumers.Consumer{durable, one, one} { // one is gone the second time
		if err := b.Delete(b.ctx, c); err != nil {
			t.Error(err)
		}
	}
	b.DeleteUnheard(durable)
	b.DeleteUnheard(other)
	if _, err := b.Info(b.ctx, durable); err != nil { // asked on the same connection: the server is through with these
		t.Error(err)
	}
	if names := b.consumers(t, "ORDERS"); len(names) != 1 || names[0] != "q" {
		t.Errorf("consumers %v", names)
	}
}
