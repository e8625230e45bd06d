package consumers_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"go-micro-jetstream/broker/internal/asset"
	"go-micro-jetstream/broker/internal/consumers"
	"go-micro-jetstream/broker/internal/fault"
	"go-micro-jetstream/internal/natstest"
)

// template are the rules of a service with that template.
func template(cfg jetstream.ConsumerConfig) *asset.Rules {
	return &asset.Rules{ConsumerTemplate: &cfg}
}

func (b *bench) config(t *testing.T, stream string) jetstream.ConsumerConfig {
	t.Helper()
	return natstest.ConsumerInfo(t, b.js, stream, "q").Config
}

// edit is what an operator, or a tool, does.
func (b *bench) edit(t *testing.T, stream string, change func(*jetstream.ConsumerConfig)) {
	t.Helper()
	cc := b.config(t, stream)
	change(&cc)
	if _, err := b.js.UpdateConsumer(b.ctx, stream, cc); err != nil {
		t.Fatal(err)
	}
}

// wantLines checks that the log has exactly these lines about consumers since the
// last look.
func (b *bench) wantLines(t *testing.T, want ...string) {
	t.Helper()
	var rest []string
	for _, line := range b.log.Take(`msg="consumer`) {
		if i := slices.IndexFunc(want, func(w string) bool { return strings.Contains(line, w) }); i >= 0 {
			want = slices.Delete(slices.Clone(want), i, i+1)
		} else {
			rest = append(rest, line)
		}
	}
	if len(rest) > 0 || len(want) > 0 {
		t.Errorf("not logged: %q; logged: %q", want, rest)
	}
}

func TestConsumerFollowsItsTemplate(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	old := template(jetstream.ConsumerConfig{AckWait: 5 * time.Second, MaxAckPending: 7, Metadata: map[string]string{"team": "a"}})
	b.bind(t, old, "orders", "q")
	b.bind(t, old, "orders", "q")
	b.wantLines(t)

	now := template(jetstream.ConsumerConfig{MaxDeliver: 4, BackOff: []time.Duration{time.Second, time.Minute}, InactiveThreshold: time.Hour})
	c := b.bind(t, now, "orders", "q")
	if c.Limit != 4 || !c.ByServer || len(c.Config.BackOff) != 2 || c.Config.MaxAckPending != 1000 || c.Config.InactiveThreshold != time.Hour || c.Config.Metadata["team"] != "a" {
		t.Errorf("%+v", c)
	}
	b.wantLines(t, "consumer q of stream ORDERS follows its configuration: AckWait is now 1s, was 5s; MaxDeliver is now 4, was unlimited; BackOff is now [1s 1m0s], was unset; MaxAckPending is now 1000, was 7; InactiveThreshold is now 1h0m0s, was 0s")
	b.bind(t, now, "orders", "q")
	b.wantLines(t)
	c = b.bind(t, new(asset.Rules), "orders", "q")
	if c.Config.AckWait != consumers.DefaultAckWait || c.Limit != 0 || len(c.Config.BackOff) > 0 || c.Config.InactiveThreshold != 0 {
		t.Errorf("%+v", c)
	}
	b.wantLines(t, "AckWait is now 30s, was 1s; MaxDeliver is now unlimited, was 4; BackOff is now unset")
}

func TestConsumerKeepsWhatAnOperatorHasChanged(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.bind(t, template(jetstream.ConsumerConfig{AckWait: 5 * time.Second}), "orders", "q")
	b.edit(t, "ORDERS", func(cc *jetstream.ConsumerConfig) { cc.AckWait, cc.Description = time.Minute, "tuned" })
	now := template(jetstream.ConsumerConfig{AckWait: 9 * time.Second, MaxDeliver: 4})
	if c := b.bind(t, now, "orders", "q"); c.Config.AckWait != time.Minute || c.Limit != 4 || c.Config.Description != "tuned" {
		t.Errorf("%+v", c)
	}
	b.wantLines(t, "consumer q of stream ORDERS was changed by somebody else and is used as it is: AckWait is 1m0s, not 9s", "MaxDeliver is now 4, was unlimited")
	b.bind(t, now, "orders", "q")
	b.wantLines(t, "AckWait is 1m0s, not 9s")
	// When both agree again, the code decides again.
	b.edit(t, "ORDERS", func(cc *jetstream.ConsumerConfig) { cc.AckWait = 9 * time.Second })
	b.bind(t, now, "orders", "q")
	b.wantLines(t)
	b.bind(t, template(jetstream.ConsumerConfig{AckWait: 10 * time.Second, MaxDeliver: 4}), "orders", "q")
	b.wantLines(t, "AckWait is now 10s, was 9s")
	// What the code does not name is the operator's without a word.
	b.edit(t, "ORDERS", func(cc *jetstream.ConsumerConfig) { cc.MaxAckPending = 5 })
	b.bind(t, template(jetstream.ConsumerConfig{AckWait: 10 * time.Second, MaxDeliver: 4}), "orders", "q")
	b.wantLines(t)
	if cc := b.config(t, "ORDERS"); cc.MaxAckPending != 5 {
		t.Errorf("%+v", cc)
	}
}

func TestDeliverPolicyIsAWarningWithTheRecipe(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	rules := template(jetstream.ConsumerConfig{})
	rules.StreamTemplate = &jetstream.StreamConfig{}
	b.bind(t, rules, "orders", "q")
	later := *rules
	later.ConsumerTemplate = &jetstream.ConsumerConfig{DeliverPolicy: jetstream.DeliverNewPolicy, AckWait: time.Minute}
	if c := b.bind(t, &later, "orders", "q"); c.Config.DeliverPolicy != jetstream.DeliverAllPolicy || c.Config.AckWait != time.Minute {
		t.Errorf("%+v", c)
	}
	b.wantLines(t, "the server cannot change this: DeliverPolicy is all, not new; take another queue, or stop all subscribers and delete it (nats consumer rm ORDERS q)", "AckWait is now 1m0s, was 30s")
	// One that was made again, and begins elsewhere for that reason, is no difference.
	b.deleteConsumer(t, "ORDERS", "q")
	c := b.bind(t, &later, "orders", "q")
	b.deleteConsumer(t, "ORDERS", "q")
	if m := b.mend(t, c, "orders", "q"); m.Consumer.Config.DeliverPolicy != jetstream.DeliverByStartSequencePolicy {
		t.Errorf("%+v", m)
	}
	b.bind(t, &later, "orders", "q")
	b.wantLines(t)
}

func TestLimitOfDeliveriesMovesBetweenServerAndBroker(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	plain := template(jetstream.ConsumerConfig{MaxDeliver: 5})
	dead := template(jetstream.ConsumerConfig{MaxDeliver: 3})
	dead.DeadLetter = "graves"
	b.bind(t, new(asset.Rules), "orders", "q")
	if c := b.bind(t, dead, "orders", "q"); c.Limit != 3 || c.ByServer {
		t.Errorf("%+v", c)
	}
	b.wantLines(t, "MaxDeliver is now 3 (counted by the broker), was unlimited")
	if c := b.bind(t, plain, "orders", "q"); c.Limit != 5 || !c.ByServer {
		t.Errorf("%+v", c)
	}
	b.wantLines(t, "MaxDeliver is now 5, was 3 (counted by the broker)")
	if c := b.bind(t, dead, "orders", "q"); c.Limit != 3 || c.ByServer {
		t.Errorf("%+v", c)
	}
	b.wantLines(t, "MaxDeliver is now 3 (counted by the broker), was 5")
	b.edit(t, "ORDERS", func(cc *jetstream.ConsumerConfig) { cc.MaxDeliver = 9 })
	if c := b.bind(t, dead, "orders", "q"); c.Limit != 9 || !c.ByServer {
		t.Errorf("%+v", c)
	}
	b.wantLines(t, "was changed by somebody else and is used as it is: MaxDeliver is 9, not 3 (counted by the broker)")
}

// The limit is the code's also where the consumer is others', or a tool has rewritten
// it without the metadata of the broker.
func TestBrokerCountsByItsOwnConfiguration(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.makeStream(t, "THEIRS", "orders")
	b.makeConsumer(t, "THEIRS", jetstream.ConsumerConfig{Durable: "q", FilterSubject: "orders"})
	rules := template(jetstream.ConsumerConfig{MaxDeliver: 3})
	rules.DeadLetter = "graves"
	if c := b.bind(t, rules, "orders", "q"); c.Limit != 3 || c.ByServer || c.Ours {
		t.Errorf("%+v", c)
	}
	c := b.bind(t, rules, "users", "q")
	b.edit(t, "USERS", func(cc *jetstream.ConsumerConfig) { cc.Metadata = nil })
	info, err := b.Info(b.ctx, c)
	if err != nil {
		t.Fatal(err)
	}
	told := c.Told(info)
	if told.Limit != 3 || told.ByServer {
		t.Errorf("%+v", told)
	}
	if texts := told.Changes(c); len(texts) != 1 || !strings.Contains(texts[0], "consumer q of stream USERS was rewritten without the metadata of the broker") {
		t.Errorf("%q", texts)
	}
	b.wantLines(t)
	// It is made again with the mark, as the subscription's own.
	b.deleteConsumer(t, "USERS", "q")
	m, err := b.Mend(b.ctx, rules, told, "users", "q", func() uint64 { return 1 })
	if err != nil || !m.Consumer.Ours || m.Consumer.Limit != 3 {
		t.Errorf("%+v: %v", m, err)
	}
}

func TestMendAppliesNothing(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	c := b.bind(t, template(jetstream.ConsumerConfig{AckWait: 5 * time.Second}), "orders", "q")
	later := template(jetstream.ConsumerConfig{AckWait: 9 * time.Second})
	if _, err := b.Mend(b.ctx, later, c, "orders", "q", nil); err != nil {
		t.Fatal(err)
	}
	if cc := b.config(t, "ORDERS"); cc.AckWait != 5*time.Second {
		t.Errorf("%+v", cc)
	}
	b.wantLines(t)
}

func TestConsumersThatDeliverHeadersOnly(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.makeStream(t, "THEIRS", "orders")
	b.makeConsumer(t, "THEIRS", jetstream.ConsumerConfig{Durable: "q", FilterSubject: "orders", HeadersOnly: true})
	_, _, err := b.Bind(b.ctx, new(asset.Rules), "orders", "q")
	natstest.WantError(t, err, fault.ErrConsumerConflict, "consumer q of stream THEIRS delivers headers only", "HeadersOnly in WithConsumerConfig")
	headersOnly := template(jetstream.ConsumerConfig{HeadersOnly: true})
	b.bind(t, headersOnly, "orders", "q")
	b.wantLines(t)
	b.bind(t, &asset.Rules{NeverCreateConsumers: true}, "orders", "q")
	b.wantLines(t, "consumer q of stream THEIRS delivers headers only: handlers get empty bodies")
	// One of ours follows the code.
	c := b.bind(t, headersOnly, "users", "q")
	_, err = b.Mend(b.ctx, new(asset.Rules), c, "users", "q", nil)
	natstest.WantError(t, err, fault.ErrConsumerConflict, "headers only")
	rules := &asset.Rules{DeadLetter: "graves"}
	if c := b.bind(t, rules, "users", "q"); c.Config.HeadersOnly {
		t.Errorf("%+v", c)
	}
	b.wantLines(t, "HeadersOnly is now false, was true")
	b.edit(t, "USERS", func(cc *jetstream.ConsumerConfig) { cc.HeadersOnly = true })
	_, _, err = b.Bind(b.ctx, rules, "users", "q")
	natstest.WantError(t, err, fault.ErrConsumerConflict, "headers only", "WithDeadLetter")
}

func TestPausedConsumerIsAWarning(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	c := b.bind(t, new(asset.Rules), "orders", "q")
	until := time.Now().Add(time.Hour)
	if _, err := b.js.PauseConsumer(b.ctx, "ORDERS", "q", until); err != nil {
		t.Fatal(err)
	}
	paused := "is paused and delivers nothing until " + until.UTC().Format("2006-01-02T15:04")
	now := b.bind(t, new(asset.Rules), "orders", "q")
	b.wantLines(t, paused)
	if texts := now.Changes(c); len(texts) != 1 || !strings.Contains(texts[0], paused) {
		t.Errorf("%q", texts)
	}
	if texts := now.Changes(now); len(texts) > 0 {
		t.Errorf("%q", texts)
	}
	if _, err := b.js.ResumeConsumer(b.ctx, "ORDERS", "q"); err != nil {
		t.Fatal(err)
	}
	b.bind(t, new(asset.Rules), "orders", "q")
	b.wantLines(t)
}

func TestChangeThatTheServerRefusesIsLogged(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.bind(t, new(asset.Rules), "orders", "q")
	c := b.bind(t, template(jetstream.ConsumerConfig{Replicas: 3}), "orders", "q") // of a single server
	if c.Name != "q" || c.Config.Replicas == 3 {
		t.Errorf("%+v", c)
	}
	b.wantLines(t, "consumer q of stream ORDERS cannot follow its configuration and is used as it is: Replicas is 0, not 3: ")
}

func TestChangesKeepToTheLimitsOfTheStream(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	rules := template(jetstream.ConsumerConfig{MaxAckPending: 50})
	rules.StreamTemplate = &jetstream.StreamConfig{ConsumerLimits: jetstream.StreamConsumerLimits{MaxAckPending: 100, InactiveThreshold: time.Hour}}
	b.bind(t, rules, "orders", "q")
	later := *rules
	later.ConsumerTemplate = &jetstream.ConsumerConfig{MaxAckPending: 5000}
	if c := b.bind(t, &later, "orders", "q"); c.Config.MaxAckPending != 100 || c.Config.InactiveThreshold != time.Hour {
		t.Errorf("%+v", c)
	}
	b.wantLines(t, "MaxAckPending is now 100, was 50")
	b.bind(t, &later, "orders", "q")
	b.wantLines(t)
}
