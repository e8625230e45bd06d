package broker_test

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go-micro.dev/v5/broker"

	jsbroker "go-micro-jetstream/broker"
	"go-micro-jetstream/internal/natstest"
)

// unsubscribed waits until a subscription has ended altogether.
func unsubscribed(t testing.TB, sub broker.Subscriber, ended <-chan jsbroker.SubscriptionEnd) {
	t.Helper()
	if err := sub.Unsubscribe(); err != nil {
		t.Fatal(err)
	}
	receive(t, ended)
}

func TestQueueCreatesTheDurableOfThatName(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	_, js := natsConn(t, s)
	b := newBroker(t, s)
	subscribe(t, b, "orders.created", ignore, broker.Queue("order-processor"))
	info := natstest.ConsumerInfo(t, js, "ORDERS", "order-processor")
	cfg := info.Config
	if cfg.Durable != "order-processor" || cfg.FilterSubject != "orders.created" || cfg.AckPolicy != jetstream.AckExplicitPolicy ||
		cfg.AckWait != 30*time.Second || cfg.MaxDeliver != -1 || cfg.InactiveThreshold != 0 || cfg.DeliverPolicy != jetstream.DeliverAllPolicy {
		t.Fatalf("created %+v", cfg)
	}
	if cfg.Metadata["go-micro-jetstream"] == "" {
		t.Errorf("not marked as ours: %v", cfg.Metadata)
	}
}

func TestDurableSurvivesUnsubscribeAndRestart(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	_, js := natsConn(t, s)
	for i := range 3 {
		ended, onEnd := hookChan[jsbroker.SubscriptionEnd]()
		b := newBroker(t, s, jsbroker.WithHooks(jsbroker.Hooks{SubscriptionEnd: onEnd}))
		h, got := collector()
		sub := subscribe(t, b, "orders.created", h, broker.Queue("q"))
		publish(t, b, "orders.created", fmt.Sprint(i))
		for _, want := range []string{fmt.Sprint(i, " while away"), fmt.Sprint(i)} {
			if i == 0 && strings.Contains(want, "away") {
				continue
			}
			if body := receive(t, got); body != want {
				t.Fatalf("got %q, want %q", body, want)
			}
		}
		unsubscribed(t, sub, ended)
		publish(t, b, "orders.created", fmt.Sprint(i+1, " while away"))
		if names := natstest.ConsumerNames(t, js, "ORDERS"); !slices.Equal(names, []string{"q"}) {
			t.Fatalf("consumers after Unsubscribe: %v", names)
		}
		if err := b.Disconnect(); err != nil {
			t.Fatal(err)
		}
		if names := natstest.ConsumerNames(t, js, "ORDERS"); !slices.Equal(names, []string{"q"}) {
			t.Fatalf("consumers after Disconnect: %v", names)
		}
	}
}

// permutations calls f with each order of 0 to n-1.
func permutations(n int, f func([]int)) {
	var permute func(done, left []int)
	permute = func(done, left []int) {
		if len(left) == 0 {
			f(done)
			return
		}
		for i := range left {
			permute(append(slices.Clone(done), left[i]), slices.Delete(slices.Clone(left), i, i+1))
		}
	}
	order := make([]int, n)
	for i := range order {
		order[i] = i
	}
	permute(nil, order)
}

func TestOneQueueOnSeveralTopicsInEveryOrder(t *testing.T) {
	t.Parallel()
	topics := []string{"orders.created", "orders.paid", "orders.shipped.*"}
	subjects := []string{"orders.created", "orders.paid", "orders.shipped.eu"}
	for _, retention := range []jetstream.RetentionPolicy{jetstream.WorkQueuePolicy, jetstream.LimitsPolicy} {
		s := startServer(t)
		_, js := natsConn(t, s)
		template := jsbroker.WithStreamConfig(jetstream.StreamConfig{Retention: retention})
		var filters map[string]string
		got := make(chan string, 1000)
		handler := func(e broker.Event) error {
			got <- e.Topic() + " " + string(e.Message().Body)
			return nil
		}
		round := 0
		permutations(len(topics), func(first []int) {
			// Two replicas, one in each order, after a restart of everything.
			round++
			second := slices.Clone(first)
			slices.Reverse(second)
			replicas := []broker.Broker{newBroker(t, s, template), newBroker(t, s, template)}
			for i := range topics {
				subscribe(t, replicas[0], topics[first[i]], handler, broker.Queue("workers"))
				subscribe(t, replicas[1], topics[second[i]], handler, broker.Queue("workers"))
			}
			want := map[string]int{}
			for n := range 6 {
				subject := subjects[n%len(subjects)]
				body := fmt.Sprintf("%d.%d", round, n)
				publish(t, replicas[n%2], subject, body)
				want[subject+" "+body] = 1
			}
			for range 6 {
				m := receive(t, got)
				want[m]--
				if want[m] != 0 {
					t.Fatalf("round %d: %q came %d times too often", round, m, -want[m])
				}
			}
			for _, b := range replicas {
				if err := b.Disconnect(); err != nil {
					t.Fatal(err)
				}
			}
			now := map[string]string{}
			for _, name := range natstest.ConsumerNames(t, js, "ORDERS") {
				info := natstest.ConsumerInfo(t, js, "ORDERS", name)
				now[name] = info.Config.FilterSubject
				if info.NumPending != 0 || info.NumAckPending != 0 {
					t.Errorf("round %d: consumer %s has %d pending, %d unacked", round, name, info.NumPending, info.NumAckPending)
				}
			}
			if filters == nil {
				filters = now
			}
			if len(now) != len(topics) || now["workers"] == "" || !reflect.DeepEqual(filters, now) {
				t.Fatalf("round %d: filters were %v, are %v", round, filters, now)
			}
		})
		select {
		case m := <-got:
			t.Errorf("%s came twice", m)
		default:
		}
	}
}

func TestReplicasThatStartTogetherShareTheConsumers(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	_, js := natsConn(t, s)
	var brokers []broker.Broker
	for range 6 {
		// On a Limits stream nothing but the broker's care prevents two consumers.
		brokers = append(brokers, newBroker(t, s, jsbroker.WithStreamConfig(jetstream.StreamConfig{})))
	}
	for round := range 5 {
		// Each round has a stream of its own: a server that makes a stream again right
		// after its deletion may still find the old messages on its disk.
		first, stream := fmt.Sprintf("orders%d", round), fmt.Sprintf("ORDERS%d", round)
		topics := []string{first + ".a", first + ".b", first + ".c"}
		h, got := collector()
		begin := make(chan struct{})
		var wg sync.WaitGroup
		subs := make(chan broker.Subscriber, 100)
		for i, b := range brokers {
			wg.Go(func() {
				<-begin
				for n := range topics {
					topic := topics[(n+i)%len(topics)]
					if i%2 == 1 {
						topic = topics[len(topics)-1-n]
					}
					sub, err := b.Subscribe(topic, h, broker.Queue("q"))
					if err != nil {
						t.Error(err)
						return
					}
					subs <- sub
				}
			})
		}
		close(begin)
		wg.Wait()
		if t.Failed() {
			return
		}
		if names := natstest.ConsumerNames(t, js, stream); len(names) != len(topics) || !slices.Contains(names, "q") {
			t.Fatalf("round %d: consumers %v", round, names)
		}
		for _, topic := range topics {
			publish(t, brokers[0], topic, topic)
		}
		seen := map[string]int{}
		for range topics {
			seen[receive(t, got)]++
		}
		if len(seen) != len(topics) {
			t.Fatalf("round %d: received %v", round, seen)
		}
		close(subs)
		for sub := range subs {
			_ = sub.Unsubscribe()
		}
	}
}

func TestQueuesOfOneNameOnDifferentStreams(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	_, js := natsConn(t, s)
	b := newBroker(t, s)
	h, got := collector()
	for _, topic := range []string{"orders.created", "users.created"} {
		subscribe(t, b, topic, h, broker.Queue("q"))
		publish(t, b, topic, topic)
		if body := receive(t, got); body != topic {
			t.Fatalf("got %q", body)
		}
	}
	natstest.ConsumerInfo(t, js, "ORDERS", "q")
	natstest.ConsumerInfo(t, js, "USERS", "q")
}

func TestTuningOfAnExistingDurableStaysAndIsLogged(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	_, js := natsConn(t, s)
	natstest.MakeStream(t, js, jetstream.StreamConfig{Name: "ORDERS", Subjects: []string{"orders.>"}, Retention: jetstream.WorkQueuePolicy})
	natstest.MakeConsumer(t, js, "ORDERS", jetstream.ConsumerConfig{
		Durable: "q", FilterSubject: "orders.created", AckPolicy: jetstream.AckExplicitPolicy, AckWait: time.Minute, MaxDeliver: 3, MaxAckPending: 7, Description: "tuned",
	})
	before := natstest.ConsumerInfo(t, js, "ORDERS", "q").Config
	log := natstest.NewLog()
	b := newBroker(t, s, broker.Logger(log), jsbroker.WithConsumerConfig(jetstream.ConsumerConfig{AckPolicy: jetstream.AckExplicitPolicy, AckWait: 5 * time.Second, MaxDeliver: 9}))
	h, got := collector()
	subscribe(t, b, "orders.created", h, broker.Queue("q"))
	publish(t, b, "orders.created", "x")
	receive(t, got)
	if after := natstest.ConsumerInfo(t, js, "ORDERS", "q").Config; !reflect.DeepEqual(before, after) {
		t.Errorf("it was changed:\nbefore %+v\nafter  %+v", before, after)
	}
	lines := log.Text()
	for _, part := range []string{"consumer q", "ORDERS", "AckWait is 1m0s, not 5s", "MaxDeliver is 3, not 9"} {
		if !strings.Contains(lines, part) {
			t.Errorf("the log does not say %q:\n%s", part, lines)
		}
	}
	if strings.Contains(lines, "MaxAckPending is") {
		t.Errorf("the log reports what was not asked for:\n%s", lines)
	}
}

func TestLimitThatWithDeadLetterLeftBehindGoesToTheServerOrIsLogged(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	_, js := natsConn(t, s)
	limit := jsbroker.WithConsumerConfig(jetstream.ConsumerConfig{MaxDeliver: 2})
	for _, tt := range []struct {
		name    string
		options []broker.Option
		logged  bool
	}{
		{"the one who makes it", []broker.Option{limit, jsbroker.WithDeadLetter("graves")}, false},
		{"another like that", []broker.Option{limit, jsbroker.WithDeadLetter("graves")}, false},
		{"one whose consumers are others'", []broker.Option{jsbroker.WithExistingConsumers()}, true},
		{"one without a dead-letter topic", []broker.Option{limit}, false},
	} {
		log := natstest.NewLog()
		b := newBroker(t, s, append(tt.options, broker.Logger(log))...)
		subscribe(t, b, "orders", ignore, broker.Queue("q"))
		if lines := log.With("its limit of 2 deliveries"); len(lines) > 0 != tt.logged {
			t.Errorf("%s: the log says %v", tt.name, log.Lines())
		}
		noErr(t, b.Disconnect())
	}
	if cc := natstest.ConsumerInfo(t, js, "ORDERS", "q").Config; cc.MaxDeliver != 2 {
		t.Errorf("MaxDeliver is %d", cc.MaxDeliver)
	}
	log := natstest.NewLog()
	exhausted, onExhausted := hookChan[jsbroker.Exhausted]()
	b := newBroker(t, s, limit, broker.Logger(log), jsbroker.WithHooks(jsbroker.Hooks{Exhausted: onExhausted}))
	subscribe(t, b, "orders", func(broker.Event) error { return jsbroker.RetryAfter(0, errors.New("no")) }, broker.Queue("q"))
	if lines := log.With("is used as it is"); len(lines) > 0 {
		t.Errorf("the log says %v", lines)
	}
	publish(t, b, "orders", "x")
	receive(t, exhausted)
}

func TestConsumersThatCannotServeAreConflicts(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	_, js := natsConn(t, s)
	natstest.MakeStream(t, js, jetstream.StreamConfig{Name: "ORDERS", Subjects: []string{"orders.>"}})
	explicit := jetstream.AckExplicitPolicy
	b := newBroker(t, s, jsbroker.WithDeadLetter("graves"))
	for _, c := range []struct {
		cfg   jetstream.ConsumerConfig
		parts []string
	}{
		{jetstream.ConsumerConfig{Durable: "other", FilterSubject: "orders.paid", AckPolicy: explicit}, []string{"orders.paid"}},
		{jetstream.ConsumerConfig{Durable: "wider", FilterSubject: "orders.*", AckPolicy: explicit}, []string{"orders.*"}},
		{jetstream.ConsumerConfig{Durable: "several", FilterSubjects: []string{"orders.created", "orders.paid"}, AckPolicy: explicit}, []string{"orders.created, orders.paid"}},
		{jetstream.ConsumerConfig{Durable: "everything", AckPolicy: explicit}, []string{">"}},
		{jetstream.ConsumerConfig{Durable: "push", FilterSubject: "orders.created", AckPolicy: explicit, DeliverSubject: "to.somebody"}, []string{"push consumer", "pull"}},
		{jetstream.ConsumerConfig{Durable: "acknone", FilterSubject: "orders.created", AckPolicy: jetstream.AckNonePolicy}, []string{"ack policy", "explicit"}},
		{jetstream.ConsumerConfig{Durable: "ackall", FilterSubject: "orders.created", AckPolicy: jetstream.AckAllPolicy}, []string{"ack policy", "explicit"}},
		{jetstream.ConsumerConfig{Durable: "groups", FilterSubject: "orders.created", AckPolicy: explicit, PriorityPolicy: jetstream.PriorityPolicyOverflow, PriorityGroups: []string{"g"}}, []string{"priority"}},
		{jetstream.ConsumerConfig{Durable: "headers", FilterSubject: "orders.created", AckPolicy: explicit, HeadersOnly: true}, []string{"headers only", "WithDeadLetter"}},
	} {
		queue := c.cfg.Durable
		natstest.MakeConsumer(t, js, "ORDERS", c.cfg)
		before := natstest.ConsumerNames(t, js, "ORDERS")
		_, err := b.Subscribe("orders.created", ignore, broker.Queue(queue))
		wantError(t, err, jsbroker.ErrConsumerConflict, append(c.parts, "ORDERS", queue, "orders.created")...)
		if after := natstest.ConsumerNames(t, js, "ORDERS"); !slices.Equal(before, after) {
			t.Errorf("%s: consumers are now %v", queue, after)
		}
	}
}

func TestConsumerOfTheUserWithTheRightFilterIsUsed(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	_, js := natsConn(t, s)
	natstest.MakeStream(t, js, jetstream.StreamConfig{Name: "ORDERS", Subjects: []string{"orders.created"}})
	for _, cfg := range []jetstream.ConsumerConfig{
		{Durable: "single", FilterSubject: "orders.created"},
		{Durable: "list", FilterSubjects: []string{"orders.created"}},
		{Durable: "unfiltered"}, // all of a stream with this subject only
	} {
		cfg.AckPolicy = jetstream.AckExplicitPolicy
		natstest.MakeConsumer(t, js, "ORDERS", cfg)
		b := newBroker(t, s)
		h, got := collector()
		publish(t, b, "orders.created", cfg.Durable)
		subscribe(t, b, "orders.created", h, broker.Queue(cfg.Durable))
		for receive(t, got) != cfg.Durable {
		}
	}
	if names := natstest.ConsumerNames(t, js, "ORDERS"); len(names) != 3 {
		t.Errorf("consumers %v", names)
	}
}

func TestSecondConsumerOnAWorkQueueIsAConflictThatNamesTheWayOut(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	_, js := natsConn(t, s)
	b := newBroker(t, s)
	subscribe(t, b, "orders.created", ignore, broker.Queue("first"))
	subscribe(t, b, "orders.paid", ignore)
	inTheWay := natstest.ConsumerNames(t, js, "ORDERS")
	for _, c := range []struct {
		topic, queue string
		parts        []string
	}{
		{"orders.created", "second", []string{"consumer first", "queue second"}},
		{"orders.created", "", []string{"consumer first", "without a queue"}},
		{"orders.paid", "", []string{"consumer queueless-orders_paid-", "without a queue"}},
		{"orders.paid", "second", []string{"consumer queueless-orders_paid-", "queue second"}},
		{"orders.*", "second", []string{"consumer first", "consumer queueless-orders_paid-"}},
		{"orders.*", "first", []string{"consumer first"}},
	} {
		_, err := b.Subscribe(c.topic, ignore, broker.Queue(c.queue))
		wantError(t, err, jsbroker.ErrWorkQueueConflict, append(c.parts, "ORDERS", c.topic, "share one queue and topic", "Interest or Limits")...)
		if reason := jsbroker.Reason(err); reason != "workqueue_conflict" {
			t.Errorf("reason %q", reason)
		}
	}
	if names := natstest.ConsumerNames(t, js, "ORDERS"); !slices.Equal(names, inTheWay) {
		t.Errorf("consumers were %v, are %v", inTheWay, names)
	}
	// Shared, it works.
	subscribe(t, b, "orders.created", ignore, broker.Queue("first"))
	subscribe(t, newBroker(t, s), "orders.created", ignore, broker.Queue("first"))
}

func TestInterestAndLimitsStreamsFanOut(t *testing.T) {
	t.Parallel()
	for _, retention := range []jetstream.RetentionPolicy{jetstream.InterestPolicy, jetstream.LimitsPolicy} {
		b := newBroker(t, startServer(t), jsbroker.WithStreamConfig(jetstream.StreamConfig{Retention: retention}))
		var all []<-chan string
		for _, queue := range []string{"a", "b", "", ""} {
			h, got := collector()
			subscribe(t, b, "orders.created", h, broker.Queue(queue))
			all = append(all, got)
		}
		publish(t, b, "orders.created", "x")
		for i, got := range all {
			if body := receive(t, got); body != "x" {
				t.Errorf("%v: subscriber %d got %q", retention, i, body)
			}
		}
	}
}

func TestQueuelessSubscriberHasAConsumerThatOutlivesTheBackoff(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	_, js := natsConn(t, s)
	b := newBroker(t, s)
	subscribe(t, b, "orders.created", ignore)
	names := natstest.ConsumerNames(t, js, "ORDERS")
	if len(names) != 1 {
		t.Fatalf("consumers %v", names)
	}
	cfg := natstest.ConsumerInfo(t, js, "ORDERS", names[0]).Config
	if cfg.Durable != "" || cfg.InactiveThreshold <= 30*time.Second || cfg.FilterSubject != "orders.created" || cfg.AckPolicy != jetstream.AckExplicitPolicy {
		t.Fatalf("created %+v", cfg)
	}
}

func TestQueuelessConsumerIsDeletedSoThatSubscribeWorksAgainAtOnce(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	_, js := natsConn(t, s)
	ended, onEnd := hookChan[jsbroker.SubscriptionEnd]()
	b := newBroker(t, s, jsbroker.WithHooks(jsbroker.Hooks{SubscriptionEnd: onEnd}))
	for i := range 20 {
		h, got := collector()
		sub := subscribe(t, b, "orders.created", h)
		for n := range 3 {
			body := fmt.Sprintf("%d.%d", i, n)
			publish(t, b, "orders.created", body)
			// Whatever came before is acked: it must not come back.
			if g := receive(t, got); g != body {
				t.Fatalf("got %q, want %q", g, body)
			}
		}
		unsubscribed(t, sub, ended)
		if names := natstest.ConsumerNames(t, js, "ORDERS"); len(names) != 0 {
			t.Fatalf("left behind: %v", names)
		}
	}
	// The end of the connection is an end, too.
	subscribe(t, b, "orders.created", ignore)
	if err := b.Disconnect(); err != nil {
		t.Fatal(err)
	}
	if names := natstest.ConsumerNames(t, js, "ORDERS"); len(names) != 0 {
		t.Fatalf("left behind by Disconnect: %v", names)
	}
}

func TestQueuelessConsumerIsDeletedAfterAnUnsubscribeInAnOutage(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	_, js := natsConn(t, s)
	p := natstest.StartProxy(t, s)
	states, onState := hookChan[jsbroker.ConnectionChanged]()
	b := newBroker(t, s, broker.Addrs(p.URL()), jsbroker.WithHooks(jsbroker.Hooks{ConnectionChanged: onState}),
		jsbroker.WithNATSOptions(nats.ReconnectWait(10*time.Millisecond)))
	sub := subscribe(t, b, "orders", ignore)
	p.Stall() // so that it cannot come back yet
	p.Cut()
	for receive(t, states).State != jsbroker.StateDisconnected {
	}
	if err := sub.Unsubscribe(); err != nil {
		t.Fatal(err)
	}
	p.Resume()
	eventually(t, "the consumer is gone", func() bool { return len(natstest.ConsumerNames(t, js, "ORDERS")) == 0 })
}

func TestQueuelessIdleUnsubscribeIsOverWhenItReturns(t *testing.T) {
	t.Parallel()
	b := newBroker(t, startServer(t))
	for range 20 {
		sub := subscribe(t, b, "orders.created", ignore)
		if err := sub.Unsubscribe(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestConsumerTemplateReachesTheServer(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	_, js := natsConn(t, s)
	metadata := map[string]string{"team": "a"}
	b := newBroker(t, s, jsbroker.WithConsumerConfig(jetstream.ConsumerConfig{
		AckPolicy: jetstream.AckExplicitPolicy, AckWait: 7 * time.Second, MaxDeliver: 5, MaxAckPending: 11, Description: "mine", InactiveThreshold: time.Hour, Metadata: metadata,
	}))
	subscribe(t, b, "orders.created", ignore, broker.Queue("q"))
	subscribe(t, b, "users.created", ignore)
	durable := natstest.ConsumerInfo(t, js, "ORDERS", "q").Config
	ephemeral := natstest.ConsumerInfo(t, js, "USERS", natstest.ConsumerNames(t, js, "USERS")[0]).Config
	for _, cfg := range []jetstream.ConsumerConfig{durable, ephemeral} {
		if cfg.AckWait != 7*time.Second || cfg.MaxDeliver != 5 || cfg.MaxAckPending != 11 || cfg.Description != "mine" || cfg.InactiveThreshold != time.Hour || cfg.Metadata["team"] != "a" {
			t.Errorf("created %+v", cfg)
		}
	}
	if len(metadata) != 1 {
		t.Errorf("the user's metadata was changed: %v", metadata)
	}
	backoff := []time.Duration{time.Second, 5 * time.Second}
	b = newBroker(t, s, jsbroker.WithConsumerConfig(jetstream.ConsumerConfig{AckPolicy: jetstream.AckExplicitPolicy, BackOff: backoff, MaxDeliver: 3}))
	subscribe(t, b, "orders.paid", ignore, broker.Queue("slow"))
	if cfg := natstest.ConsumerInfo(t, js, "ORDERS", "slow").Config; !slices.Equal(cfg.BackOff, backoff) {
		t.Errorf("BackOff %v", cfg.BackOff)
	}
}

func TestWildcardSubscription(t *testing.T) {
	t.Parallel()
	for pattern, matches := range map[string]map[string]bool{
		"orders.*":         {"orders.created": true, "orders.paid": true, "orders": false, "orders.eu.paid": false},
		"orders.>":         {"orders.created": true, "orders.eu.paid": true, "orders": false},
		"orders.*.paid":    {"orders.eu.paid": true, "orders.created": false},
		"orders.*.paid.>":  {"orders.eu.paid.twice": true, "orders.eu.paid": false},
		"orders.created.x": {"orders.created.x": true, "orders.created": false},
	} {
		b := newBroker(t, startServer(t))
		topics := make(chan string, 10)
		sub := subscribe(t, b, pattern, func(e broker.Event) error {
			topics <- e.Topic()
			return nil
		}, broker.Queue("q"))
		if sub.Topic() != pattern || sub.Options().Queue != "q" || !sub.Options().AutoAck {
			t.Errorf("subscriber of %q with %+v", sub.Topic(), sub.Options())
		}
		want := map[string]bool{}
		for topic, match := range matches {
			publish(t, b, topic, "x")
			if match {
				want[topic] = true
			}
		}
		for len(want) > 0 {
			topic := receive(t, topics)
			if !want[topic] {
				t.Errorf("%s: got %s", pattern, topic)
			}
			delete(want, topic)
		}
	}
}

func TestIllegalQueuesAreRefusedBeforeAnythingIsSent(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	nc, _ := natsConn(t, s)
	b := newBroker(t, s)
	count := natstest.CountRequests(t, nc, "$JS.API.>")
	for _, queue := range []string{" ", "a b", "a.b", ".", "a*", ">", "a>b", "a/b", `a\b`, "a\tb", "a\r\nb", "a\x00", "\u2028", "bad\xff", strings.Repeat("x", 256), strings.Repeat("ü", 128)} {
		_, err := b.Subscribe("orders", ignore, broker.Queue(queue))
		wantError(t, err, jsbroker.ErrInvalidQueue, "orders")
		if len(err.Error()) > 600 {
			t.Errorf("an error of %d bytes floods the log", len(err.Error()))
		}
	}
	if n := count.Seen(t); n != 0 {
		t.Errorf("%d requests to the server", n)
	}
	for _, queue := range []string{"a", "order-processor", "A_b-1", "größe", "日本", "$x", "a:b@c", strings.Repeat("x", 255)} {
		for _, topic := range []string{"orders.a", "orders.b." + strings.Repeat("y", 200)} {
			sub := subscribe(t, b, topic, ignore, broker.Queue(queue))
			s.JetStreamEnabled()
			deleteConsumers(t, s, "ORDERS", sub)
		}
	}
}

// deleteConsumers ends a subscription and removes all consumers of a stream.
func deleteConsumers(t *testing.T, s *server.Server, stream string, sub broker.Subscriber) {
	t.Helper()
	_ = sub.Unsubscribe()
	nc, js := natsConn(t, s)
	defer nc.Close()
	for _, name := range natstest.ConsumerNames(t, js, stream) {
		if err := js.DeleteConsumer(testContext(t), stream, name); err != nil {
			t.Fatal(err)
		}
	}
}

func TestNilHandlerIsAnError(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	nc, _ := natsConn(t, s)
	b := newBroker(t, s)
	count := natstest.CountRequests(t, nc, "$JS.API.>")
	_, err := b.Subscribe("orders", nil, broker.Queue("q"))
	wantError(t, err, jsbroker.ErrInvalidHandler, "orders", "q")
	for _, n := range []int{0, -1} {
		_, err = b.Subscribe("orders", ignore, jsbroker.Concurrency(n))
		wantError(t, err, jsbroker.ErrInvalidConfig, "Concurrency")
	}
	if n := count.Seen(t); n != 0 {
		t.Errorf("%d requests to the server", n)
	}
}

func TestSubscribeWithoutConnection(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	failed, onFail := hookChan[jsbroker.SubscribeFailed]()
	b := jsbroker.NewBroker(broker.Addrs(s.ClientURL()), quiet(), jsbroker.WithHooks(jsbroker.Hooks{SubscribeFailed: onFail}))
	_, err := b.Subscribe("orders", ignore, broker.Queue("q"))
	wantError(t, err, jsbroker.ErrNotConnected, "orders", "q")
	if e := receive(t, failed); e.Topic != "orders" || e.Queue != "q" || e.Reason != "not_connected" || !errors.Is(e.Err, jsbroker.ErrNotConnected) {
		t.Errorf("event %+v", e)
	}
	if err := b.Connect(); err != nil {
		t.Fatal(err)
	}
	subscribe(t, b, "orders", ignore, broker.Queue("q"))
	if err := b.Disconnect(); err != nil {
		t.Fatal(err)
	}
	_, err = b.Subscribe("orders", ignore, broker.Queue("q"))
	wantError(t, err, jsbroker.ErrNotConnected)
}

func TestSubscribeOptionsWithNilAndForeignOnes(t *testing.T) {
	t.Parallel()
	b := newBroker(t, startServer(t))
	ctx := context.WithValue(context.Background(), contextKey{}, "mine")
	values := make(chan any, 10)
	handler := func(e broker.Event) error {
		values <- jsbroker.EventContext(e).Value(contextKey{})
		return nil
	}
	foreign := func(o *broker.SubscribeOptions) {
		c := o.Context
		if c == nil {
			c = context.Background()
		}
		type another struct{}
		o.Context = context.WithValue(c, another{}, 1)
	}
	for i, opts := range [][]broker.SubscribeOption{
		{broker.SubscribeContext(ctx), jsbroker.Concurrency(2), nil},
		{jsbroker.Concurrency(2), broker.SubscribeContext(ctx)},
		{broker.SubscribeContext(ctx), foreign, jsbroker.Concurrency(1)},
	} {
		topic := fmt.Sprintf("orders.%d", i)
		subscribe(t, b, topic, handler, append(opts, broker.Queue("q"))...)
		publish(t, b, topic, "x")
		if v := receive(t, values); v != "mine" {
			t.Errorf("options %d: the handler's context has %v", i, v)
		}
	}
	subscribe(t, b, "orders.nil", handler, broker.SubscribeContext(nilContext))
	publish(t, b, "orders.nil", "x")
	if v := receive(t, values); v != nil {
		t.Errorf("the handler's context has %v", v)
	}
}

func TestSubscribeWithAnEndedContextLeavesNothing(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	_, js := natsConn(t, s)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, err := newBroker(t, s).Subscribe("orders", ignore, broker.SubscribeContext(ctx))
	wantError(t, err, context.Canceled, "orders", "SubscribeContext")
	if _, err := js.Stream(testContext(t), "ORDERS"); !errors.Is(err, jetstream.ErrStreamNotFound) {
		t.Errorf("a stream was created: %v", err)
	}
}

// subscriptionsOf counts the NATS subscriptions of all clients of a name.
func subscriptionsOf(t testing.TB, s *server.Server, client string) int {
	t.Helper()
	conns, err := s.Connz(nil)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, c := range conns.Conns {
		if c.Name == client {
			n += int(c.NumSubs)
		}
	}
	return n
}

func TestFailedSubscribeLeavesNothingBehindAndCanBeTriedAgain(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	_, js := natsConn(t, s)
	failed, onFail := hookChan[jsbroker.SubscribeFailed]()
	b := newBroker(t, s, jsbroker.WithClientName("mine"), jsbroker.WithHooks(jsbroker.Hooks{SubscribeFailed: onFail}))
	// The client's inbox for answers is a subscription, too: have it first.
	publish(t, b, "orders.created", "x")
	subsBefore := subscriptionsOf(t, s, "mine")

	natstest.MakeConsumer(t, js, "ORDERS", jetstream.ConsumerConfig{Durable: "theirs", FilterSubject: "orders.created", AckPolicy: jetstream.AckExplicitPolicy})
	for range 5 {
		for _, queue := range []string{"", "q"} {
			_, err := b.Subscribe("orders.created", ignore, broker.Queue(queue))
			wantError(t, err, jsbroker.ErrWorkQueueConflict, "consumer theirs")
			if e := receive(t, failed); e.Reason != "workqueue_conflict" || e.Queue != queue {
				t.Errorf("event %+v", e)
			}
		}
	}
	if names := natstest.ConsumerNames(t, js, "ORDERS"); !slices.Equal(names, []string{"theirs"}) {
		t.Errorf("consumers %v", names)
	}
	if n := subscriptionsOf(t, s, "mine"); n != subsBefore {
		t.Errorf("%d NATS subscriptions, were %d", n, subsBefore)
	}
	if err := js.DeleteConsumer(testContext(t), "ORDERS", "theirs"); err != nil {
		t.Fatal(err)
	}
	h, got := collector()
	sub := subscribe(t, b, "orders.created", h, broker.Queue("q"))
	if body := receive(t, got); body != "x" {
		t.Fatalf("got %q", body)
	}
	_ = sub.Unsubscribe()
	eventually(t, "the subscriptions are gone", func() bool { return subscriptionsOf(t, s, "mine") == subsBefore })
}

func TestSubscribeWithoutPermissionSaysSoAtOnce(t *testing.T) {
	t.Parallel()
	for denied, part := range map[string]string{
		"$JS.API.CONSUMER.CREATE.>": "$JS.API.CONSUMER.CREATE.ORDERS.q",
		"$JS.API.CONSUMER.INFO.>":   "$JS.API.CONSUMER.INFO.ORDERS.q",
		"$JS.API.STREAM.NAMES":      "$JS.API.STREAM.NAMES",
	} {
		s := startServer(t, natstest.Limited(natstest.NoPublish(denied)))
		publish(t, newBroker(t, s, as("admin:admin", s)), "orders.created", "x")
		b := newBroker(t, s, as("limited:pw", s))
		atOnce(t, "to say that "+denied+" is denied", func() {
			_, err := b.Subscribe("orders.created", ignore, broker.Queue("q"))
			wantError(t, err, jsbroker.ErrPermission, "orders.created", "Permissions Violation", part)
		})
	}
}

func TestSubscribeDuringAnOutageLeavesNothingBehind(t *testing.T) {
	t.Parallel()
	s := natstest.StartRestartable(t)
	states, onState := hookChan[jsbroker.ConnectionChanged]()
	b := newBroker(t, s.Server, jsbroker.WithHooks(jsbroker.Hooks{ConnectionChanged: onState}))
	publish(t, b, "orders.created", "x") // so that the stream is known
	s.Stop()
	for receive(t, states).State != jsbroker.StateDisconnected {
	}
	ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
	defer cancel()
	atOnce(t, "a Subscribe with a deadline of 200ms", func() {
		_, err := b.Subscribe("orders.created", ignore, broker.SubscribeContext(ctx))
		wantError(t, err, jsbroker.ErrNotConnected, "orders.created")
	})
	// What was not done must not be done later: a consumer that nobody knows
	// of would block the next Subscribe.
	s.Start(t)
	for receive(t, states).State != jsbroker.StateReconnected {
	}
	h, got := collector()
	subscribe(t, b, "orders.created", h)
	if body := receive(t, got); body != "x" {
		t.Fatalf("got %q", body)
	}
}

func TestSubscribeAsksAgainWhatNobodyAnswers(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	p := natstest.StartProxy(t, s)
	publish(t, newBroker(t, s), "orders.created", "x")
	for _, question := range []string{"$JS.API.STREAM.NAMES", "$JS.API.STREAM.INFO.", "$JS.API.CONSUMER.INFO."} {
		b := newBroker(t, s, broker.Addrs(p.URL()))
		asked := p.Lose(question)
		subscribe(t, b, "orders.created", ignore, broker.Queue("q"))
		if !asked() {
			t.Errorf("%s was not asked", question)
		}
	}
}

func TestSubscribeThatGotNoAnswerLeavesNothingBehind(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	_, js := natsConn(t, s)
	p := natstest.StartProxy(t, s)
	b := newBroker(t, s, broker.Addrs(p.URL()))
	publish(t, b, "orders.created", "x")
	p.StallAfter("$JS.API.CONSUMER.CREATE.")
	ctx, cancel := context.WithCancel(context.Background())
	result := make(chan error, 1)
	go func() {
		_, err := b.Subscribe("orders.created", ignore, broker.SubscribeContext(ctx))
		result <- err
	}()
	eventually(t, "the consumer is created", func() bool { return len(natstest.ConsumerNames(t, js, "ORDERS")) == 1 })
	cancel()
	wantError(t, receive(t, result), context.Canceled, "orders.created")
	p.Resume()
	eventually(t, "the consumer is gone", func() bool { return len(natstest.ConsumerNames(t, js, "ORDERS")) == 0 })
	subscribe(t, b, "orders.created", ignore)
}

func TestStoppedSubscriberIsNotTheLastWord(t *testing.T) {
	t.Parallel()
	// The same subscription, ended and started again, as rolling deploys do.
	s := startServer(t)
	ended, onEnd := hookChan[jsbroker.SubscriptionEnd]()
	b := newBroker(t, s, jsbroker.WithHooks(jsbroker.Hooks{SubscriptionEnd: onEnd}))
	for i := range 5 {
		h, got := collector()
		sub := subscribe(t, b, "orders.created", h, broker.Queue("q"))
		publish(t, b, "orders.created", fmt.Sprint(i))
		if body := receive(t, got); body != fmt.Sprint(i) {
			t.Fatalf("got %q, want %d", body, i)
		}
		unsubscribed(t, sub, ended)
		if err := sub.Unsubscribe(); err != nil {
			t.Fatal(err)
		}
	}
}
