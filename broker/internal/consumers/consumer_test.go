package consumers_test

import (
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"go-micro-jetstream/broker/internal/asset"
	"go-micro-jetstream/broker/internal/consumers"
)

func TestAckDeadlines(t *testing.T) {
	t.Parallel()
	const s = time.Second
	for name, test := range map[string]struct {
		config  jetstream.ConsumerConfig
		ackWait time.Duration
		n       uint64        // of a delivery
		alive   time.Duration // after which that has not expired
		expired time.Duration // after which it has; 0: never
	}{
		"AckWait":          {jetstream.ConsumerConfig{AckWait: 5 * s}, 5 * s, 7, 5 * s, 5*s + 1},
		"none":             {jetstream.ConsumerConfig{}, consumers.DefaultAckWait, 1, time.Hour, 0},
		"negative":         {jetstream.ConsumerConfig{AckWait: -1}, consumers.DefaultAckWait, 1, time.Hour, 0},
		"too short":        {jetstream.ConsumerConfig{AckWait: 1}, consumers.MinAckWait, 1, 0, 2},
		"BackOff, first":   {jetstream.ConsumerConfig{AckWait: 3 * s, BackOff: []time.Duration{3 * s, 2 * s, 9 * s}}, 2 * s, 1, 3 * s, 4 * s},
		"BackOff, second":  {jetstream.ConsumerConfig{AckWait: 3 * s, BackOff: []time.Duration{3 * s, 2 * s, 9 * s}}, 2 * s, 2, 2 * s, 3 * s},
		"BackOff, beyond":  {jetstream.ConsumerConfig{AckWait: 3 * s, BackOff: []time.Duration{3 * s, 2 * s, 9 * s}}, 2 * s, 8, 9 * s, 10 * s},
		"BackOff with a 0": {jetstream.ConsumerConfig{AckWait: 3 * s, BackOff: []time.Duration{3 * s, 0}}, 3 * s, 2, time.Hour, 0},
	} {
		c := &consumers.Consumer{Config: test.config}
		if got := c.AckWait(); got != test.ackWait {
			t.Errorf("%s: ack wait %v, want %v", name, got, test.ackWait)
		}
		if c.Expired(test.n, test.alive) {
			t.Errorf("%s: expired after %v", name, test.alive)
		}
		if test.expired > 0 && !c.Expired(test.n, test.expired) {
			t.Errorf("%s: not expired after %v", name, test.expired)
		}
	}
}

func TestNakBodies(t *testing.T) {
	t.Parallel()
	plain := &consumers.Consumer{Config: jetstream.ConsumerConfig{AckWait: time.Second}}
	scheduled := &consumers.Consumer{Config: jetstream.ConsumerConfig{AckWait: 100, BackOff: []time.Duration{100, 300, 1000}}}
	for _, test := range []struct {
		c     *consumers.Consumer
		n     uint64
		delay time.Duration
		want  string
	}{
		{plain, 1, 0, "-NAK"},
		{plain, 1, -1, "-NAK"},
		{plain, 3, 500, `-NAK {"delay":500}`},
		{scheduled, 1, 0, "-NAK"},
		{scheduled, 1, 500, `-NAK {"delay":500}`},
		{scheduled, 2, 500, `-NAK {"delay":300}`},
		{scheduled, 2, 200, `-NAK {"delay":0}`}, // not the same as none
		{scheduled, 9, 500, `-NAK {"delay":-400}`},
	} {
		if got := string(test.c.NakBody(test.n, test.delay)); got != test.want {
			t.Errorf("delivery %d of %+v in %v: %s, want %s", test.n, test.c.Config, test.delay, got, test.want)
		}
	}
}

func TestToldIsACopyThatKnowsWhoCounts(t *testing.T) {
	t.Parallel()
	c := &consumers.Consumer{Name: "q", Stream: &asset.Stream{Name: "ORDERS"}}
	info := &jetstream.ConsumerInfo{Config: jetstream.ConsumerConfig{MaxDeliver: 5}, AckFloor: jetstream.SequenceInfo{Stream: 42}}
	byServer := c.Told(info)
	if byServer.Limit != 5 || !byServer.ByServer || byServer.Floor != 42 || byServer.IsLast(4) || !byServer.IsLast(5) {
		t.Errorf("%+v", byServer)
	}
	if c.Limit != 0 || c.ByServer || c.Floor != 0 {
		t.Errorf("the consumer itself is now %+v", c)
	}
	rules := &asset.Rules{ConsumerTemplate: &jetstream.ConsumerConfig{MaxDeliver: 3}, DeadLetter: "dead"}
	info.Config = consumers.ConsumerConfig(rules, "orders")
	byUs := byServer.Told(info)
	if byUs.Limit != 3 || byUs.ByServer || byUs.IsLast(3) {
		t.Errorf("%+v", byUs)
	}
	if got := byUs.Next(); got != "CONSUMER.MSG.NEXT.ORDERS.q" {
		t.Error(got)
	}
}

func TestWhichConsumersGoOnAndWhichReplay(t *testing.T) {
	t.Parallel()
	for policy, goesOn := range map[jetstream.DeliverPolicy]bool{
		jetstream.DeliverAllPolicy:             false,
		jetstream.DeliverByStartTimePolicy:     false,
		jetstream.DeliverNewPolicy:             true,
		jetstream.DeliverLastPolicy:            true,
		jetstream.DeliverLastPerSubjectPolicy:  true,
		jetstream.DeliverByStartSequencePolicy: true,
	} {
		for _, retention := range []jetstream.RetentionPolicy{jetstream.LimitsPolicy, jetstream.InterestPolicy, jetstream.WorkQueuePolicy} {
			c := &consumers.Consumer{Config: jetstream.ConsumerConfig{DeliverPolicy: policy}, Stream: &asset.Stream{Retention: retention}}
			if c.GoesOn() != goesOn {
				t.Errorf("%v goes on: %v", policy, c.GoesOn())
			}
			if want := !goesOn && retention == jetstream.LimitsPolicy; c.Replays() != want {
				t.Errorf("%v on %v replays: %v", policy, retention, c.Replays())
			}
		}
	}
}

func TestTemplatesThatCannotWorkAreRefused(t *testing.T) {
	t.Parallel()
	const s = time.Second
	for part, cfg := range map[string]jetstream.ConsumerConfig{
		"":                          {AckPolicy: jetstream.AckExplicitPolicy, MaxDeliver: 2, BackOff: []time.Duration{s, s}, AckWait: s},
		"Name and Durable":          {Durable: "q"},
		"filter":                    {FilterSubjects: []string{"x"}},
		"AckPolicy":                 {AckPolicy: jetstream.AckAllPolicy},
		"pull consumers":            {DeliverSubject: "x"},
		"priority groups":           {PriorityGroups: []string{"x"}},
		"ReplayPolicy":              {ReplayPolicy: jetstream.ReplayOriginalPolicy},
		"MaxDeliver is -5":          {MaxDeliver: -5},
		"MaxAckPending is -2":       {MaxAckPending: -2},
		"InactiveThreshold is -1s":  {InactiveThreshold: -s},
		"BackOff has 2 entries":     {MaxDeliver: 1, BackOff: []time.Duration{s, s}},
		"AckWait is 1ns":            {AckWait: 1},
		"BackOff is [1s 1ns], want": {BackOff: []time.Duration{s, 1}},
	} {
		switch err := consumers.CheckConsumerTemplate(cfg); {
		case part == "" && err != nil:
			t.Error(err)
		case part != "" && (err == nil || !strings.Contains(err.Error(), part)):
			t.Errorf("%s: %v", part, err)
		}
	}
}
