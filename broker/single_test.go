package broker_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
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

// replica is a subscriber of orders with the queue q and SingleActive.
type replica struct {
	sub     broker.Subscriber
	broker  broker.Broker
	changes <-chan jsbroker.ActiveChanged
}

func startReplica(t *testing.T, s *server.Server, h broker.Handler, opts ...broker.SubscribeOption) *replica {
	t.Helper()
	return startReplicaWith(t, s, nil, h, opts...)
}

func startReplicaWith(t *testing.T, s *server.Server, options []broker.Option, h broker.Handler, opts ...broker.SubscribeOption) *replica {
	t.Helper()
	changes, onChange := hookChan[jsbroker.ActiveChanged]()
	r := &replica{broker: newBroker(t, s, append(options, jsbroker.WithHooks(jsbroker.Hooks{ActiveChanged: onChange}))...), changes: changes}
	r.sub = subscribe(t, r.broker, "orders", h, append(opts, broker.Queue("q"), jsbroker.SingleActive())...)
	r.await(t, false)
	return r
}

func (r *replica) await(t *testing.T, active bool) {
	t.Helper()
	if e := receive(t, r.changes); e.Active != active || e.Topic != "orders" || e.Queue != "q" {
		t.Errorf("%+v", e)
	}
}

// One of two replicas gets everything. When it ends, the other one gets what it left, at
// once and in order.
func TestSingleActiveHandsOver(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	_, js := natsConn(t, s)
	first, second := make(chan string, 1000), make(chan string, 1000)
	release := make(chan struct{})
	one := startReplica(t, s, func(e broker.Event) error {
		first <- string(e.Message().Body)
		<-release
		return nil
	})
	publish(t, one.broker, "orders", "0")
	one.await(t, true)
	receive(t, first)
	two := startReplica(t, s, func(e broker.Event) error {
		second <- string(e.Message().Body)
		return nil
	})
	const n = 100
	for i := 1; i < n; i++ {
		publish(t, one.broker, "orders", fmt.Sprint(i))
	}
	info := natstest.ConsumerInfo(t, js, "ORDERS", "q")
	if len(info.PriorityGroups) != 1 || info.PriorityGroups[0].PinnedClientID == "" || info.Config.PinnedTTL != 5*time.Second {
		t.Errorf("%+v", info)
	}
	if err := one.sub.Unsubscribe(); err != nil { // the handler still runs, and the replica stays active
		t.Fatal(err)
	}
	close(release)
	one.await(t, false)
	ended := time.Now()
	for i := 1; i < n; i++ {
		if body := receive(t, second); body != fmt.Sprint(i) {
			t.Fatalf("%s is handled, want %d", body, i)
		}
		if i == 1 {
			t.Logf("took over after %v", time.Since(ended))
		}
	}
	two.await(t, true)
	if len(first) > 0 {
		t.Errorf("the first replica handled %d more", len(first))
	}
	eventually(t, "all is acked", func() bool { return streamInfo(t, js, "ORDERS").State.Msgs == 0 })
}

// Replicas at a leaf node share a consumer of the hub.
func TestSingleActiveAtALeafNode(t *testing.T) {
	t.Parallel()
	hub := natstest.StartHub(t)
	leaf := natstest.StartLeaf(t, hub, natstest.LeafAddress(hub), withJetStream("leaf"))
	domain := []broker.Option{jsbroker.WithDomain("hub")}
	got := make(chan string, 1000)
	h := func(e broker.Event) error {
		got <- string(e.Message().Body)
		return nil
	}
	byTopic := jsbroker.OrderBy(func(e broker.Event) string { return e.Topic() })
	one := startReplicaWith(t, leaf.Server, domain, h, byTopic, jsbroker.Concurrency(4))
	next := 0
	handled := func() {
		t.Helper()
		for until := next + 50; next < until; next++ {
			publish(t, one.broker, "orders", fmt.Sprint(next))
		}
		for i := next - 50; i < next; i++ {
			if body := receive(t, got); body != fmt.Sprint(i) {
				t.Fatalf("%s is handled, want %d", body, i)
			}
		}
	}
	handled()
	one.await(t, true)
	two := startReplicaWith(t, leaf.Server, domain, h, byTopic, jsbroker.Concurrency(4))
	three := startReplicaWith(t, hub.Server, domain, h, byTopic, jsbroker.Concurrency(4))
	handled()
	noErr(t, one.sub.Unsubscribe())
	one.await(t, false)
	handled()
	// Whichever of the two is active now, the other one takes over.
	select {
	case <-two.changes:
		two, three = three, two
	case <-three.changes:
	}
	noErr(t, three.sub.Unsubscribe())
	handled()
	two.await(t, true)
	_, js := natsConn(t, hub.Server)
	eventually(t, "all is acked", func() bool { return streamInfo(t, js, "ORDERS").State.Msgs == 0 })
}

// Each of two queues on a topic has an active replica of its own.
func TestSingleActiveOfTwoQueues(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	active := make(chan string, 100)
	fanOut := jsbroker.WithStreamConfig(jetstream.StreamConfig{Retention: jetstream.InterestPolicy})
	got := map[string]chan string{"q": make(chan string, 1000), "r": make(chan string, 1000)}
	subs := map[string]broker.Subscriber{}
	for _, queue := range []string{"q", "r"} {
		for i := range 2 {
			name := fmt.Sprint(queue, i)
			b := newBroker(t, s, fanOut, jsbroker.WithHooks(jsbroker.Hooks{ActiveChanged: func(_ context.Context, e jsbroker.ActiveChanged) {
				if e.Active {
					active <- name
				}
			}}))
			subs[name] = subscribe(t, b, "orders", func(e broker.Event) error {
				got[queue] <- name + " " + string(e.Message().Body)
				return nil
			}, broker.Queue(queue), jsbroker.SingleActive())
		}
	}
	b := newBroker(t, s, fanOut)
	const n = 30
	round := func(from int, want ...string) {
		t.Helper()
		for i := range n {
			publish(t, b, "orders", fmt.Sprint(from+i))
		}
		for _, name := range want {
			for i := range n {
				if body := receive(t, got[name[:1]]); body != fmt.Sprint(name, " ", from+i) {
					t.Fatalf("%s, want %s %d", body, name, from+i)
				}
			}
		}
	}
	publish(t, b, "orders", "first")
	owners := []string{receive(t, active), receive(t, active)}
	slices.Sort(owners)
	if owners[0][0] != 'q' || owners[1][0] != 'r' {
		t.Fatalf("active: %v", owners)
	}
	receive(t, got["q"])
	receive(t, got["r"])
	round(0, owners...)
	noErr(t, subs[owners[0]].Unsubscribe())
	owners[0] = map[string]string{"q0": "q1", "q1": "q0"}[owners[0]]
	round(n, owners...)
	if name := receive(t, active); name != owners[0] || len(active) > 0 {
		t.Errorf("%s has become active", name)
	}
}

// The servers of the stream and of the consumer end while two replicas share it. Another
// server leads then, and messages still come in order.
func TestSingleActiveOnACluster(t *testing.T) {
	if testing.Short() {
		t.Skip("elections take their time: up to a minute")
	}
	t.Parallel()
	c := natstest.StartCluster(t)
	const n = 600
	var (
		mu    sync.Mutex
		first []string // bodies in the order in which they were handled for the first time
		seen  = map[string]bool{}
	)
	h := func(e broker.Event) error {
		mu.Lock()
		defer mu.Unlock()
		if body := string(e.Message().Body); !seen[body] {
			seen[body] = true
			first = append(first, body)
		}
		return nil
	}
	count := func() int {
		mu.Lock()
		defer mu.Unlock()
		return len(first)
	}
	node := func(i int) broker.Broker {
		return newBroker(t, c.Nodes[i].Server, broker.Addrs(c.URLs()...),
			jsbroker.WithStreamConfig(jetstream.StreamConfig{Replicas: 3, Retention: jetstream.WorkQueuePolicy}),
			jsbroker.WithNATSOptions(nats.ReconnectWait(10*time.Millisecond)))
	}
	for i := range 2 {
		subscribe(t, node(i), "orders", h, broker.Queue("q"), jsbroker.SingleActive())
	}
	publisher, next := node(2), 0
	handled := func(until int) {
		t.Helper()
		for ; next < until; next++ {
			ctx, cancel := context.WithTimeout(t.Context(), natstest.Patience)
			noErr(t, publisher.Publish("orders", message(fmt.Sprint(next)), broker.PublishContext(ctx)))
			cancel()
		}
		eventually(t, fmt.Sprint(until, " are handled"), func() bool { return count() >= until })
	}
	handled(n / 3)
	c.Bounce(t, c.ConsumerLeader(t, "ORDERS", "q"), func() { handled(2 * n / 3) })
	c.Bounce(t, c.StreamLeader(t, "ORDERS"), func() { handled(n) })
	for i, body := range first {
		if body != fmt.Sprint(i) {
			t.Fatalf("%s is handled as number %d", body, i)
		}
	}
}

// The active replica is killed with kill -9. The other one goes on in seconds, though
// AckWait is longer, nothing is lost, and keys keep their order.
func TestSingleActiveSurvivesAKill(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	_, js := natsConn(t, s)
	const keys, n = 20, 100
	publish(t, newBroker(t, s), "orders", "0/0") // creates the stream
	p := startDoomed(t, doomed{URL: s.ClientURL(), Handlers: 10})
	p.await(t, "done 0/0")
	l := newKeyLog()
	standby := startReplica(t, s, l.handler(func(e broker.Event) error {
		time.Sleep(rand.N(time.Millisecond))
		if jsbroker.NumDelivered(e) == 1 && rand.N(10) == 0 {
			return jsbroker.RetryAfter(rand.N(20*time.Millisecond), errors.New("not yet"))
		}
		return nil
	}), jsbroker.OrderBy(byKey), jsbroker.Concurrency(10))
	storeAll(t, js, "orders", keyed(keys, n)[1:]...)
	last := map[string]int{} // of the one that is killed, by key
	for done := 1; done < keys*n/4; done++ {
		key, _, _ := strings.Cut(strings.TrimPrefix(p.await(t, "done "), "done "), "/")
		last[key]++
	}
	p.kill()
	killed := time.Now()
	for line := range p.lines {
		if body, ok := strings.CutPrefix(line, "done "); ok {
			key, _, _ := strings.Cut(body, "/")
			last[key]++
		}
	}
	last["0"]++ // the first one
	receive(t, l.done)
	took := time.Since(killed)
	t.Logf("went on after %v", took)
	if took > 20*time.Second {
		t.Errorf("went on after %v only", took)
	}
	eventually(t, "all is acked", func() bool { return streamInfo(t, js, "ORDERS").State.Msgs == 0 })
	standby.await(t, true)
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, f := range l.faults {
		t.Error(f)
	}
	for k := range keys {
		key := fmt.Sprint(k)
		bodies := l.ended[key]
		if len(bodies) == 0 {
			if last[key] != n {
				t.Errorf("key %s: nothing after %d", key, last[key])
			}
			continue
		}
		// The last one that was done may not have been acked.
		if first := number(bodies[0]); first > last[key] || first < last[key]-2 {
			t.Errorf("key %s: goes on with %d after %d", key, first, last[key])
		}
		for i := range bodies {
			if number(bodies[i]) != number(bodies[0])+i {
				t.Errorf("key %s: %v", key, bodies)
				break
			}
		}
		if number(bodies[len(bodies)-1]) != n-1 {
			t.Errorf("key %s: ends with %s", key, bodies[len(bodies)-1])
		}
	}
}

// Everything is in the hands of the one that is killed, and nothing new comes.
func TestSingleActiveTakesOverWhatIsInHand(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	for i := range 5 {
		publish(t, newBroker(t, s), "orders", fmt.Sprintf("a/%d", i))
	}
	p := startDoomed(t, doomed{URL: s.ClientURL(), Handlers: 2, Hang: true})
	p.await(t, "started a/0")
	l := newKeyLog()
	startReplica(t, s, l.handler(ignore), jsbroker.OrderBy(byKey), jsbroker.Concurrency(2))
	p.kill()
	killed := time.Now()
	for i := range 5 {
		if body := receive(t, l.done); body != fmt.Sprintf("a/%d", i) {
			t.Errorf("%s is handled, want a/%d", body, i)
		}
	}
	if took := time.Since(killed); took > 20*time.Second { // AckWait is 30 s
		t.Errorf("took over after %v", took)
	} else {
		t.Logf("took over after %v", took)
	}
}

func TestSingleActiveIsCheckedBeforeAnythingIsSent(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	_, js := natsConn(t, s)
	b := newBroker(t, s)
	_, err := b.Subscribe("orders", ignore, jsbroker.SingleActive())
	wantError(t, err, jsbroker.ErrInvalidConfig, "SingleActive", "broker.Queue")
	p := natstest.StartProxy(t, s)
	p.Edit(func(data []byte) []byte {
		return bytes.Replace(data, []byte(`"version":"`+server.VERSION), []byte(`"version":"2.10.29`), 1)
	})
	old, err := connectTo(t, broker.Addrs(p.URL()))
	noErr(t, err)
	_, err = old.Subscribe("orders", ignore, broker.Queue("q"), jsbroker.SingleActive())
	wantError(t, err, jsbroker.ErrUnsupported, "SingleActive", "2.11", "2.10.29")
	if _, err := js.Consumer(testContext(t), "ORDERS", "q"); !errors.Is(err, jetstream.ErrConsumerNotFound) { // the stream was there
		t.Errorf("the consumer: %v", err)
	}
}

// A consumer of the broker follows the code, and one of others is not changed.
func TestSingleActiveAndConsumersThatExist(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	_, js := natsConn(t, s)
	b := newBroker(t, s)
	policy := func(name string) jetstream.PriorityPolicy {
		return natstest.ConsumerInfo(t, js, "ORDERS", name).Config.PriorityPolicy
	}
	for _, want := range []struct {
		opts   []broker.SubscribeOption
		policy jetstream.PriorityPolicy
	}{
		{nil, jetstream.PriorityPolicyNone},
		{[]broker.SubscribeOption{jsbroker.SingleActive()}, jetstream.PriorityPolicyPinned},
		{nil, jetstream.PriorityPolicyNone},
	} {
		h, got := collector()
		sub := subscribe(t, b, "orders", h, append(want.opts, broker.Queue("ours"))...)
		if p := policy("ours"); p != want.policy {
			t.Errorf("the policy is %v, want %v", p, want.policy)
		}
		publish(t, b, "orders", "x")
		receive(t, got)
		_ = sub.Unsubscribe()
	}
	if err := js.DeleteConsumer(testContext(t), "ORDERS", "ours"); err != nil {
		t.Fatal(err)
	}
	natstest.MakeConsumer(t, js, "ORDERS", jetstream.ConsumerConfig{Durable: "theirs", FilterSubject: "orders", AckPolicy: jetstream.AckExplicitPolicy})
	_, err := b.Subscribe("orders", ignore, broker.Queue("theirs"), jsbroker.SingleActive())
	wantError(t, err, jsbroker.ErrConsumerConflict, "pinned_client")
	if err := js.DeleteConsumer(testContext(t), "ORDERS", "theirs"); err != nil {
		t.Fatal(err)
	}
	natstest.MakeConsumer(t, js, "ORDERS", jetstream.ConsumerConfig{
		Durable: "pinned", FilterSubject: "orders", AckPolicy: jetstream.AckExplicitPolicy,
		PriorityPolicy: jetstream.PriorityPolicyPinned, PriorityGroups: []string{"mine"}, PinnedTTL: time.Minute,
	})
	_, err = b.Subscribe("orders", ignore, broker.Queue("pinned"))
	wantError(t, err, jsbroker.ErrConsumerConflict, "SingleActive")
	h, got := collector()
	subscribe(t, b, "orders", h, broker.Queue("pinned"), jsbroker.SingleActive())
	publish(t, b, "orders", "x")
	receive(t, got)
	if cfg := natstest.ConsumerInfo(t, js, "ORDERS", "pinned").Config; cfg.PinnedTTL != time.Minute || len(cfg.Metadata["go-micro-jetstream"]) > 0 {
		t.Errorf("%+v", cfg)
	}
}

// The active replica is cut off with messages in hand. It starts no other handler once
// the server may have given its place to the other replica.
func TestSingleActiveStartsNothingWithoutItsPin(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	_, js := natsConn(t, s)
	p := natstest.StartProxy(t, s)
	const n = 100
	slow := func(started chan<- time.Time) broker.Handler {
		return func(broker.Event) error {
			started <- time.Now()
			time.Sleep(50 * time.Millisecond)
			return nil
		}
	}
	first, second := make(chan time.Time, 2*n), make(chan time.Time, 2*n)
	subscribe(t, newBroker(t, s, broker.Addrs(p.URL())), "orders", slow(first), broker.Queue("q"), jsbroker.SingleActive())
	other := newBroker(t, s)
	storeAll(t, js, "orders", slices.Repeat([]string{"x"}, n)...)
	receive(t, first)
	subscribe(t, other, "orders", slow(second), broker.Queue("q"), jsbroker.SingleActive())
	p.Sever()
	took := receive(t, second)
	eventually(t, "all is acked", func() bool { return streamInfo(t, js, "ORDERS").State.Msgs == 0 })
	for len(first) > 0 {
		if late := (<-first).Sub(took); late > 0 {
			t.Errorf("the first replica starts a handler %v after the other one became active", late)
		}
	}
}

// The active replica is cut off while its messages fill MaxAckPending. The other one goes
// on in seconds all the same, though AckWait is longer.
func TestSingleActiveTakesOverAFullConsumer(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	_, js := natsConn(t, s)
	p := natstest.StartProxy(t, s)
	settings := jsbroker.ConsumerConfig(jetstream.ConsumerConfig{MaxAckPending: 5, AckWait: time.Minute})
	release := make(chan struct{})
	started := make(chan string, 20)
	subscribe(t, newBroker(t, s, broker.Addrs(p.URL())), "orders", func(e broker.Event) error {
		started <- string(e.Message().Body)
		<-release
		return nil
	}, broker.Queue("q"), jsbroker.SingleActive(), settings)
	t.Cleanup(func() { close(release) })
	other := newBroker(t, s)
	for i := range 20 {
		publish(t, other, "orders", fmt.Sprint(i))
	}
	receive(t, started)
	h, got := collector()
	subscribe(t, other, "orders", h, broker.Queue("q"), jsbroker.SingleActive(), settings)
	eventually(t, "MaxAckPending is reached", func() bool { return natstest.ConsumerInfo(t, js, "ORDERS", "q").NumAckPending == 5 })
	p.Sever()
	for i := range 20 {
		if body := receive(t, got); body != fmt.Sprint(i) {
			t.Fatalf("%s is handled, want %d", body, i)
		}
	}
}

// A rolling deploy, or a rollback, whose code no longer asks for SingleActive. The
// replica that still does leaves everything to the new one, and pauses as it says.
func TestSingleActiveTakenOutLeavesNothingBehind(t *testing.T) {
	for name, wasActive := range map[string]bool{"active": true, "standing by": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := startServer(t)
			_, js := natsConn(t, s)
			type failure struct {
				jsbroker.Backoff
				at time.Time
			}
			failures := make(chan failure, 100)
			onFailure := func(_ context.Context, b jsbroker.Backoff) { failures <- failure{b, time.Now()} }
			started, release := make(chan string, 10), make(chan struct{})
			former := newBroker(t, s, jsbroker.WithHooks(jsbroker.Hooks{Backoff: onFailure}))
			subscribe(t, former, "orders", func(e broker.Event) error {
				started <- string(e.Message().Body)
				<-release
				return nil
			}, broker.Queue("q"), jsbroker.SingleActive())
			t.Cleanup(func() { close(release) })
			if wasActive {
				publish(t, former, "orders", "first")
				receive(t, started)
				publish(t, former, "orders", "in hand")
				eventually(t, "a message waits in hand", func() bool { return natstest.ConsumerInfo(t, js, "ORDERS", "q").NumAckPending == 2 })
			}
			h, got := collector()
			next := newBroker(t, s)
			subscribe(t, next, "orders", h, broker.Queue("q"))
			want := map[string]bool{}
			for i := range 20 {
				publish(t, next, "orders", fmt.Sprint(i))
				want[fmt.Sprint(i)] = true
			}
			if wasActive {
				want["in hand"] = true
			}
			changed := time.Now()
			for len(want) > 0 {
				delete(want, receive(t, got))
			}
			if took := time.Since(changed); took > 15*time.Second { // AckWait is 30 s
				t.Errorf("the new replica has everything after %v", took)
			}
			if len(started) > 0 {
				t.Errorf("the former replica has started %s", <-started)
			}
			if !wasActive { // its worker fetches
				third := natstest.Await(t, failures, "the third failure", func(f failure) bool { return f.Attempt == 3 })
				fourth := receive(t, failures)
				if waited := fourth.at.Sub(third.at); waited < third.Delay/2 {
					t.Errorf("the next try comes after %v, and %v was announced", waited, third.Delay)
				}
				wantError(t, jsbroker.Health(testContext(t), former), jsbroker.ErrConsumerConflict)
			}
		})
	}
}

// A rolling deploy whose code asks for SingleActive. What the old replica works on stays
// there, though AckWait is long: the new one waits for it.
func TestSingleActiveAddedLeavesAloneWhatRuns(t *testing.T) {
	for name, more := range map[string]int{"nothing new comes": 0, "more comes": 5} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := startServer(t)
			nc, js := natsConn(t, s)
			cfg := jsbroker.WithConsumerConfig(jetstream.ConsumerConfig{AckWait: 5 * time.Minute})
			began, release := make(chan string, 100), make(chan struct{})
			end := sync.OnceFunc(func() { close(release) })
			t.Cleanup(end)
			old := newBroker(t, s, cfg)
			subscribe(t, old, "orders", func(e broker.Event) error {
				began <- string(e.Message().Body)
				<-release
				return nil
			}, broker.Queue("q"))
			publish(t, old, "orders", "slow")
			receive(t, began)
			startReplicaWith(t, s, []broker.Option{cfg}, func(e broker.Event) error {
				began <- string(e.Message().Body)
				return nil
			})
			looks := natstest.CountRequests(t, nc, "$JS.API.CONSUMER.INFO.ORDERS.q")
			acks := natstest.CountRequests(t, nc, "$JS.ACK.>")
			for i := range more {
				publish(t, old, "orders", fmt.Sprint(i))
			}
			seen := 0
			eventually(t, "the new replica has looked what is unsettled", func() bool {
				seen += looks.Seen(t)
				return seen >= 3
			})
			if len(began) > 0 {
				t.Errorf("%s has begun while the old replica works", <-began)
			}
			for _, m := range acks.Messages(t) {
				if bytes.HasPrefix(m.Data, []byte("-NAK")) {
					t.Errorf("the nak %s", m.Subject)
				}
			}
			end()
			want := map[string]bool{}
			for i := range more {
				want[fmt.Sprint(i)] = true
			}
			for range more {
				if body := receive(t, began); !want[body] {
					t.Errorf("%s begins again", body)
				} else {
					delete(want, body)
				}
			}
			eventually(t, "all is acked", func() bool { return streamInfo(t, js, "ORDERS").State.Msgs == 0 })
			if len(began) > 0 {
				t.Errorf("%s begins again", <-began)
			}
		})
	}
}
