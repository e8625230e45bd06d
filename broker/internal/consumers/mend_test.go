package consumers_test

import (
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"go-micro-jetstream/broker/internal/asset"
	"go-micro-jetstream/broker/internal/consumers"
	"go-micro-jetstream/broker/internal/fault"
	"go-micro-jetstream/internal/natstest"
)

func TestMendLeavesAGoodConsumerAlone(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	c := b.bind(t, new(asset.Rules), "orders", "q")
	if m := b.mend(t, c, "orders", "q"); m.Another || m.Remade || m.Info == nil || !m.Consumer.Created.Equal(c.Created) {
		t.Errorf("%+v", m)
	}
}

func TestMendMakesADeletedConsumerAgain(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	rules := new(asset.Rules)
	c := b.bind(t, rules, "orders", "q")
	b.deleteConsumer(t, "ORDERS", "q")
	m := b.mend(t, c, "orders", "q")
	if !m.Another || !m.Remade || m.Info != nil || m.Consumer.Name != "q" || m.Consumer.Created.Equal(c.Created) || m.Consumer.Config.DeliverPolicy != jetstream.DeliverAllPolicy {
		t.Errorf("%+v", m)
	}
	b.deleteStream(t, "ORDERS")
	n := b.mend(t, m.Consumer, "orders", "q")
	if !n.Remade || n.Consumer.Stream.Created.Equal(c.Stream.Created) || b.streams.Known("orders") != nil && b.streams.Known("orders").Created.Equal(c.Stream.Created) {
		t.Errorf("%+v", n)
	}
	// A replica that is later finds it.
	if r := b.mend(t, c, "orders", "q"); r.Remade || !r.Another || r.Info == nil || !r.Consumer.Created.Equal(n.Consumer.Created) || !r.Consumer.Stream.Created.Equal(n.Consumer.Stream.Created) {
		t.Errorf("%+v", r)
	}
}

func TestMendGoesOnWhereAConsumerForNewMessagesWas(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	rules := &asset.Rules{StreamTemplate: &jetstream.StreamConfig{}}
	c := b.bind(t, rules, "orders", "")
	resumeAt := func() uint64 { return 7 }
	start := func(c *consumers.Consumer) uint64 {
		t.Helper()
		m, err := b.Mend(b.ctx, rules, c, "orders", "", resumeAt)
		if err != nil {
			t.Fatal(err)
		}
		if m.Consumer.Config.DeliverPolicy != jetstream.DeliverByStartSequencePolicy || m.Consumer.Name != c.Name {
			t.Errorf("%+v", m.Consumer)
		}
		*c = *m.Consumer
		return m.Consumer.Config.OptStartSeq
	}
	b.deleteConsumer(t, "ORDERS", c.Name)
	if got := start(c); got != 7 {
		t.Errorf("begins at %d", got)
	}
	b.deleteConsumer(t, "ORDERS", c.Name)
	resumeAt = func() uint64 { return 1 } // before it began
	if got := start(c); got != 7 {
		t.Errorf("begins at %d", got)
	}
	b.deleteStream(t, "ORDERS")
	resumeAt = func() uint64 { return 9 } // of the former stream
	if got := start(c); got != 1 {
		t.Errorf("begins at %d in another stream", got)
	}
}

// Two replicas make the consumers of a queue again in different orders.
func TestMendMakesWayForAnotherTopicOfTheQueue(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	rules := new(asset.Rules)
	c := b.bind(t, rules, "orders.a", "q")
	other := b.bind(t, rules, "orders.b", "q")
	b.deleteConsumer(t, "ORDERS", c.Name)
	b.deleteConsumer(t, "ORDERS", other.Name)
	another, _ := b.another(t)
	replica, _, err := another.Bind(b.ctx, rules, "orders.b", "q")
	if err != nil || replica.Name != "q" {
		t.Fatalf("%+v: %v", replica, err)
	}
	if m := b.mend(t, c, "orders.a", "q"); !m.Remade || m.Consumer.Name == "q" || m.Consumer.Config.FilterSubject != "orders.a" {
		t.Errorf("%+v", m)
	}
	if m := b.mend(t, other, "orders.b", "q"); m.Consumer.Name != "q" || m.Consumer.Config.FilterSubject != "orders.b" {
		t.Errorf("%+v", m)
	}
}

func TestMendReturnsAConsumerThatCannotServe(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	c := b.bind(t, new(asset.Rules), "orders.a", "q")
	cc := c.Config
	cc.FilterSubject, cc.MaxDeliver = "orders.*", 7
	if _, err := b.js.UpdateConsumer(b.ctx, "ORDERS", cc); err != nil {
		t.Fatal(err)
	}
	m, err := b.Mend(b.ctx, new(asset.Rules), c, "orders.a", "q", nil)
	natstest.WantError(t, err, fault.ErrConsumerConflict, "consumer q of stream ORDERS has been changed and now has the filter orders.*")
	if m.Consumer == nil || m.Consumer.Limit != 7 || m.Another || m.Remade || m.Info != nil {
		t.Errorf("%+v", m)
	}
}

func TestMendWaitsForWhatOthersMade(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.makeStream(t, "THEIRS", "orders")
	b.makeConsumer(t, "THEIRS", jetstream.ConsumerConfig{Durable: "theirs", FilterSubject: "orders"})
	rules, existing := new(asset.Rules), &asset.Rules{NeverCreateStreams: true, NeverCreateConsumers: true}
	theirs, ours := b.bind(t, rules, "orders", "theirs"), b.bind(t, rules, "orders", "ours")
	b.deleteConsumer(t, "THEIRS", "theirs")
	for text, r := range map[string]*asset.Rules{"was not made by this broker": rules, "with WithExistingConsumers": existing} {
		m, err := b.Mend(b.ctx, r, theirs, "orders", "theirs", nil)
		natstest.WantError(t, err, jetstream.ErrConsumerNotFound, "consumer theirs of stream THEIRS is gone", text, "create it again")
		if m != (consumers.Mended{}) {
			t.Errorf("%+v", m)
		}
	}
	b.deleteStream(t, "THEIRS")
	for text, r := range map[string]*asset.Rules{"was not made by this broker": rules, "with WithExistingStreams": {NeverCreateStreams: true}} {
		_, err := b.Mend(b.ctx, r, ours, "orders", "ours", nil)
		natstest.WantError(t, err, fault.ErrStreamNotFound, "stream THEIRS is gone", text, "create it again")
	}
}
