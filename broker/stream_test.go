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

func TestFirstPublishCreatesTheStream(t *testing.T) {
	t.Parallel()
	for topic, want := range map[string]struct {
		name     string
		subjects []string
	}{
		"orders":            {"ORDERS", []string{"orders", "orders.>"}},
		"orders.created":    {"ORDERS", []string{"orders", "orders.>"}},
		"user-events.login": {"USER_EVENTS", []string{"user-events", "user-events.>"}},
		"MixedCase.x":       {"MIXEDCASE", []string{"MixedCase", "MixedCase.>"}},
	} {
		s := startServer(t)
		_, js := natsConn(t, s)
		publish(t, newBroker(t, s), topic, "x")
		cfg := streamInfo(t, js, want.name).Config
		if !slices.Equal(cfg.Subjects, want.subjects) {
			t.Errorf("%s: subjects %v", topic, cfg.Subjects)
		}
		if cfg.Retention != jetstream.WorkQueuePolicy || cfg.Storage != jetstream.FileStorage {
			t.Errorf("%s: retention %v, storage %v", topic, cfg.Retention, cfg.Storage)
		}
		if cfg.Metadata["go-micro-jetstream"] == "" {
			t.Errorf("%s: not marked as ours: %v", topic, cfg.Metadata)
		}
	}
}

func TestFirstSubscribeCreatesTheStream(t *testing.T) {
	t.Parallel()
	for _, topic := range []string{"orders", "orders.created", "orders.*", "orders.>", "orders.*.x"} {
		for _, queue := range []string{"", "q"} {
			s := startServer(t)
			_, js := natsConn(t, s)
			subscribe(t, newBroker(t, s), topic, ignore, broker.Queue(queue))
			if cfg := streamInfo(t, js, "ORDERS").Config; !slices.Equal(cfg.Subjects, []string{"orders", "orders.>"}) {
				t.Errorf("%s: subjects %v", topic, cfg.Subjects)
			}
		}
	}
}

func TestBareTopicAndItsChildrenShareOneStream(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	_, js := natsConn(t, s)
	b := newBroker(t, s)
	h, got := collector()
	subscribe(t, b, "orders", h, broker.Queue("q"))
	publish(t, b, "orders", "bare")
	publish(t, b, "orders.created", "child")
	if body := receive(t, got); body != "bare" {
		t.Fatalf("got %q", body)
	}
	eventually(t, "the child is left", func() bool { return streamInfo(t, js, "ORDERS").State.Msgs == 1 })
}

func TestStreamTemplateIsTakenLiterally(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	_, js := natsConn(t, s)
	template := jetstream.StreamConfig{
		Storage: jetstream.MemoryStorage, MaxMsgs: 1000, MaxBytes: 1 << 20, MaxAge: time.Hour, MaxMsgSize: 4096, MaxConsumers: 7,
		Duplicates: 7 * time.Second, Discard: jetstream.DiscardNew, Replicas: 1, Description: "mine", Compression: jetstream.NoCompression,
		AllowDirect: true, Metadata: map[string]string{"team": "a"},
	}
	b := newBroker(t, s, jsbroker.WithStreamConfig(template))
	publish(t, b, "orders.created", "x")
	cfg := streamInfo(t, js, "ORDERS").Config
	if cfg.Retention != jetstream.LimitsPolicy {
		t.Errorf("retention %v: the zero Retention of a template is Limits", cfg.Retention)
	}
	if cfg.Storage != template.Storage || cfg.MaxMsgs != template.MaxMsgs || cfg.MaxBytes != template.MaxBytes || cfg.MaxAge != template.MaxAge ||
		cfg.MaxMsgSize != template.MaxMsgSize || cfg.MaxConsumers != template.MaxConsumers || cfg.Duplicates != template.Duplicates ||
		cfg.Discard != template.Discard || cfg.Replicas != 1 || cfg.Description != "mine" || !cfg.AllowDirect || cfg.Metadata["team"] != "a" {
		t.Errorf("created %+v", cfg)
	}
	if len(template.Metadata) != 1 {
		t.Errorf("the user's metadata was changed: %v", template.Metadata)
	}
	// Every stream, not only the first.
	publish(t, b, "users.created", "x")
	if cfg := streamInfo(t, js, "USERS").Config; cfg.Duplicates != template.Duplicates || cfg.Retention != jetstream.LimitsPolicy || !slices.Equal(cfg.Subjects, []string{"users", "users.>"}) {
		t.Errorf("created %+v", cfg)
	}
}

func TestReplicasOfTheTemplateReachTheServer(t *testing.T) {
	t.Parallel()
	// A single server cannot have replicas: that it says so shows that it was asked.
	b := newBroker(t, startServer(t), jsbroker.WithStreamConfig(jetstream.StreamConfig{Replicas: 3}))
	err := b.Publish("orders", message("x"))
	if err == nil || !strings.Contains(err.Error(), "replicas > 1") || !strings.Contains(err.Error(), "ORDERS") {
		t.Fatalf("got %v", err)
	}
}

func TestDuplicatesWindowOfTheTemplateIsHonoured(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	_, js := natsConn(t, s)
	b := newBroker(t, s, jsbroker.WithStreamConfig(jetstream.StreamConfig{Duplicates: 100 * time.Millisecond}))
	publish(t, b, "orders", "x", jsbroker.MessageID("id"))
	eventually(t, "the id is forgotten", func() bool {
		publish(t, b, "orders", "x", jsbroker.MessageID("id"))
		return streamInfo(t, js, "ORDERS").State.Msgs == 2
	})
}

func TestStreamTemplateWithNameAndSubjects(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	_, js := natsConn(t, s)
	b := newBroker(t, s, jsbroker.WithStreamConfig(jetstream.StreamConfig{Name: "EVENTS", Subjects: []string{"orders.>", "users.>"}}))
	publish(t, b, "orders.created", "x")
	publish(t, b, "users.created", "x")
	if n := streamInfo(t, js, "EVENTS").State.Msgs; n != 2 {
		t.Fatalf("%d messages", n)
	}
	wantError(t, b.Publish("other", message("x")), jsbroker.ErrStreamMismatch, "other", "orders.>, users.>")
	_, err := b.Subscribe("orders", ignore)
	wantError(t, err, jsbroker.ErrStreamMismatch, "orders")
}

func TestStreamTemplateIsTheBrokersOwn(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	_, js := natsConn(t, s)
	subjects := []string{"orders.>"}
	b := newBroker(t, s, jsbroker.WithStreamConfig(jetstream.StreamConfig{Name: "S", Subjects: subjects}))
	subjects[0] = "other.>"
	publish(t, b, "orders.x", "x")
	if got := streamInfo(t, js, "S").Config.Subjects; !slices.Equal(got, []string{"orders.>"}) {
		t.Errorf("the stream has the subjects %v", got)
	}
}

// A stream over the client's inboxes would store every ack.
func TestStreamOverTheInboxesIsRefused(t *testing.T) {
	t.Parallel()
	b := newBroker(t, startServer(t), jsbroker.WithNATSOptions(nats.CustomInboxPrefix("shop.inbox")))
	wantError(t, b.Publish("shop.orders", message("x")), jsbroker.ErrInvalidTopic, "shop.inbox.>", "CustomInboxPrefix")
	publish(t, b, "orders", "x")
}

func TestWithStreamNameReplacesTheRule(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	_, js := natsConn(t, s)
	b := newBroker(t, s, jsbroker.WithStreamName(func(topic string) string { return "shop-" + strings.Split(topic, ".")[0] }))
	publish(t, b, "orders.created", "x")
	if cfg := streamInfo(t, js, "shop-orders").Config; !slices.Equal(cfg.Subjects, []string{"orders", "orders.>"}) {
		t.Errorf("subjects %v", cfg.Subjects)
	}
	bad := newBroker(t, s, jsbroker.WithStreamName(func(string) string { return "a.b" }))
	wantError(t, bad.Publish("users", message("x")), jsbroker.ErrInvalidTopic, "users", "a.b", "WithStreamName")
}

// foreignStreams capture orders.created under names and with settings of the
// user's own.
var foreignStreams = []jetstream.StreamConfig{
	{Name: "LEGACY", Subjects: []string{"orders.>"}, MaxMsgs: 5000, Retention: jetstream.InterestPolicy},
	{Name: "EXACT", Subjects: []string{"orders.created"}, Storage: jetstream.MemoryStorage},
	{Name: "ORDERS", Subjects: []string{"orders.*", "users.*"}, Duplicates: time.Second, Description: "mine"},
	{Name: "BY_VERB", Subjects: []string{"orders.*", "shop.*.created"}},
	{Name: "MANY", Subjects: []string{"a", "b.>", "orders.created", "c.*"}, Retention: jetstream.WorkQueuePolicy},
}

func TestStreamOfTheUserIsUsedAndNeverChanged(t *testing.T) {
	t.Parallel()
	for _, cfg := range foreignStreams {
		s := startServer(t)
		_, js := natsConn(t, s)
		before := natstest.MakeStream(t, js, cfg).Config
		b := newBroker(t, s, jsbroker.WithStreamConfig(jetstream.StreamConfig{MaxMsgs: 1, Duplicates: time.Minute, Retention: jetstream.WorkQueuePolicy}))
		h, got := collector()
		sub := subscribe(t, b, "orders.created", h, broker.Queue("q"))
		publish(t, b, "orders.created", "x")
		if body := receive(t, got); body != "x" {
			t.Errorf("%s: got %q", cfg.Name, body)
		}
		_ = sub.Unsubscribe()
		if after := streamInfo(t, js, cfg.Name).Config; !reflect.DeepEqual(before, after) {
			t.Errorf("%s was changed:\nbefore %+v\nafter  %+v", cfg.Name, before, after)
		}
		var names []string
		for name := range js.StreamNames(testContext(t)).Name() {
			names = append(names, name)
		}
		if len(names) != 1 {
			t.Errorf("%s: streams are now %v", cfg.Name, names)
		}
	}
}

func TestStreamOfThatNameWithOtherSubjectsIsAMismatch(t *testing.T) {
	t.Parallel()
	for _, subjects := range [][]string{{"something.else"}, {"orders.>"}, {"Orders", "Orders.>"}, {"order.>", "orders.created.>"}} {
		s := startServer(t)
		_, js := natsConn(t, s)
		before := natstest.MakeStream(t, js, jetstream.StreamConfig{Name: "ORDERS", Subjects: subjects}).Config
		b := newBroker(t, s)
		topic := "orders"
		err := b.Publish(topic, message("x"))
		wantError(t, err, jsbroker.ErrStreamMismatch, `"orders"`, "ORDERS", strings.Join(subjects, ", "), "WithStreamName")
		_, err = b.Subscribe(topic, ignore, broker.Queue("q"))
		wantError(t, err, jsbroker.ErrStreamMismatch, `"orders"`, "ORDERS", strings.Join(subjects, ", "), "WithStreamName")
		if after := streamInfo(t, js, "ORDERS").Config; !reflect.DeepEqual(before, after) {
			t.Errorf("it was changed: %+v", after)
		}
		if names := natstest.ConsumerNames(t, js, "ORDERS"); len(names) != 0 {
			t.Errorf("left behind: %v", names)
		}
	}
}

func TestOverlapWithAStreamOfTheUserNamesIt(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	_, js := natsConn(t, s)
	before := natstest.MakeStream(t, js, jetstream.StreamConfig{Name: "LEGACY", Subjects: []string{"orders.legacy.>"}}).Config
	b := newBroker(t, s)
	wantError(t, b.Publish("orders.created", message("x")), jsbroker.ErrStreamMismatch, "orders.created", "LEGACY", "ORDERS", "WithStreamConfig")
	_, err := b.Subscribe("orders.created", ignore, broker.Queue("q"))
	wantError(t, err, jsbroker.ErrStreamMismatch, "orders.created", "LEGACY")
	if after := streamInfo(t, js, "LEGACY").Config; !reflect.DeepEqual(before, after) {
		t.Errorf("it was changed: %+v", after)
	}
	// The way out that the error names.
	b = newBroker(t, s, jsbroker.WithStreamConfig(jetstream.StreamConfig{Subjects: []string{"orders.created"}}))
	publish(t, b, "orders.created", "x")
}

func TestSubscribeToMoreThanAStreamCapturesNamesTheStreams(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	_, js := natsConn(t, s)
	natstest.MakeStream(t, js, jetstream.StreamConfig{Name: "A", Subjects: []string{"orders.created"}})
	natstest.MakeStream(t, js, jetstream.StreamConfig{Name: "B", Subjects: []string{"orders.paid"}})
	b := newBroker(t, s)
	for _, topic := range []string{"orders.*", "orders.>"} {
		_, err := b.Subscribe(topic, ignore, broker.Queue("q"))
		wantError(t, err, jsbroker.ErrStreamMismatch, topic, "A, B")
	}
	for _, name := range []string{"A", "B"} {
		if names := natstest.ConsumerNames(t, js, name); len(names) != 0 {
			t.Errorf("left behind in %s: %v", name, names)
		}
	}
	for _, topic := range []string{"orders.created", "orders.paid"} {
		h, got := collector()
		subscribe(t, b, topic, h, broker.Queue("q"))
		publish(t, b, topic, topic)
		if body := receive(t, got); body != topic {
			t.Errorf("got %q", body)
		}
	}
}

func TestTwoFirstTokensWithOneStreamName(t *testing.T) {
	t.Parallel()
	b := newBroker(t, startServer(t))
	publish(t, b, "user-events.login", "x")
	for _, topic := range []string{"user_events.login", "User-Events.login", "USER_EVENTS"} {
		wantError(t, b.Publish(topic, message("x")), jsbroker.ErrStreamMismatch, topic, "USER_EVENTS", "user-events, user-events.>", "WithStreamName")
		_, err := b.Subscribe(topic, ignore)
		wantError(t, err, jsbroker.ErrStreamMismatch, topic, "USER_EVENTS")
	}
	publish(t, b, "user-events.logout", "x")
}

func TestStreamThatDoesNotAcknowledgeIsRefused(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	_, js := natsConn(t, s)
	natstest.MakeStream(t, js, jetstream.StreamConfig{Name: "NOACK", Subjects: []string{"orders"}, NoAck: true})
	wantError(t, newBroker(t, s).Publish("orders", message("x")), jsbroker.ErrInvalidConfig, "NOACK", "NoAck")
}

func TestSubscribeToATopicThatItsStreamStoresUnderAnotherSubject(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		source, destination, topic, published string
		arrives                               bool
	}{
		"all":                       {"", "stored.>", "orders.a", "orders.a", false},
		"the topic":                 {"orders.*", "stored.$1", "orders.a", "orders.a", false},
		"the pattern":               {"orders.>", "stored.orders.>", "orders.>", "orders.a", false},
		"into partitions":           {"orders.*", "orders.{{partition(3,1)}}.$1", "orders.a", "orders.a", false},
		"partitions of the pattern": {"orders.*", "orders.{{partition(3,1)}}.$1", "orders.>", "orders.a", true},
		"a partition itself":        {"orders.*", "orders.{{partition(1,1)}}.$1", "orders.0.a", "orders.a", true},
		"split within the pattern":  {"orders.*", "orders.{{Split(1,-)}}", "orders.>", "orders.a-b-c", true},
		"what it is split into":     {"orders.*", "orders.{{Split(1,-)}}", "orders.*.b.*", "orders.a-b-c", true},
		"another topic":             {"orders.b", "stored.b", "orders.a", "orders.a", true},
		"a part of the pattern":     {"orders.b", "stored.b", "orders.*", "orders.a", true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := startServer(t)
			_, js := natsConn(t, s)
			config := jetstream.StreamConfig{Name: "SHOP", Subjects: []string{"orders.>"},
				SubjectTransform: &jetstream.SubjectTransformConfig{Source: tt.source, Destination: tt.destination}}
			natstest.MakeStream(t, js, config)
			b := newBroker(t, s)
			h, got := collector()
			_, err := b.Subscribe(tt.topic, h, broker.Queue("q"))
			if !tt.arrives {
				wantError(t, err, jsbroker.ErrStreamMismatch, tt.topic, "SHOP", "subject transform", tt.destination)
				if names := natstest.ConsumerNames(t, js, "SHOP"); len(names) > 0 {
					t.Errorf("consumers %v are left behind", names)
				}
				// Its owner wants the messages so, and may change that.
				publish(t, b, tt.published, "stored")
				config.SubjectTransform = nil
				natstest.UpdateStream(t, js, config)
				eventually(t, "it is noticed", func() bool {
					_, err = b.Subscribe(tt.topic, h, broker.Queue("q"))
					return err == nil
				})
				publish(t, b, tt.published, "x")
				receive(t, got)
				return
			}
			noErr(t, err)
			publish(t, b, tt.published, "x")
			receive(t, got)
		})
	}
}

func TestManyBrokersCreateOneStreamAtATime(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	_, js := natsConn(t, s)
	const n = 20
	begin := make(chan struct{})
	var wg sync.WaitGroup
	for i := range n {
		// Half of them with a template of another version of the service.
		var opts []broker.Option
		if i%2 == 1 {
			opts = append(opts, jsbroker.WithStreamConfig(jetstream.StreamConfig{Retention: jetstream.WorkQueuePolicy, MaxMsgs: 1000}))
		}
		b := newBroker(t, s, opts...)
		wg.Go(func() {
			<-begin
			if err := b.Publish(fmt.Sprintf("orders.p%d", i), message("x")); err != nil {
				t.Error(err)
			}
			if _, err := b.Subscribe("orders.created", ignore, broker.Queue("q")); err != nil {
				t.Error(err)
			}
		})
	}
	close(begin)
	wg.Wait()
	if msgs := streamInfo(t, js, "ORDERS").State.Msgs; msgs != n {
		t.Errorf("%d messages stored, want %d", msgs, n)
	}
	if names := natstest.ConsumerNames(t, js, "ORDERS"); !slices.Equal(names, []string{"q"}) {
		t.Errorf("consumers %v", names)
	}
}

func TestDeletedStreamOfOursIsMadeAgainByTheNextPublish(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	nc, js := natsConn(t, s)
	b := newBroker(t, s, jsbroker.WithStreamConfig(jetstream.StreamConfig{MaxMsgs: 77}))
	for round := range 3 {
		publish(t, b, "orders.created", "x")
		if info := streamInfo(t, js, "ORDERS"); info.Config.MaxMsgs != 77 || info.State.Msgs != 1 {
			t.Fatalf("round %d: %+v", round, info)
		}
		if err := js.DeleteStream(testContext(t), "ORDERS"); err != nil {
			t.Fatal(err)
		}
	}
	// A wiretap answers for the subject, so that nobody is told that it has no
	// responders.
	if _, err := nc.SubscribeSync("orders.>"); err != nil {
		t.Fatal(err)
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	publish(t, b, "orders.created", "x", broker.PublishContext(testContext(t)))
	if n := streamInfo(t, js, "ORDERS").State.Msgs; n != 1 {
		t.Fatalf("%d messages", n)
	}
	// Publishers with little time each fail, but do not go on failing for ever.
	if err := js.DeleteStream(testContext(t), "ORDERS"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a publish with a short deadline succeeds", func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
		defer cancel()
		return b.Publish("orders.created", message("x"), broker.PublishContext(ctx)) == nil
	})
}

func TestDeletedStreamOfOursIsMadeAgainBySubscribe(t *testing.T) {
	t.Parallel()
	for _, queue := range []string{"", "q"} {
		s := startServer(t)
		_, js := natsConn(t, s)
		b := newBroker(t, s)
		publish(t, b, "orders", "lost")
		if err := js.DeleteStream(testContext(t), "ORDERS"); err != nil {
			t.Fatal(err)
		}
		h, got := collector()
		subscribe(t, b, "orders", h, broker.Queue(queue))
		publish(t, b, "orders", "x")
		if body := receive(t, got); body != "x" {
			t.Fatalf("got %q", body)
		}
	}
}

func TestDeletedStreamOfTheUserIsNotReplaced(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	_, js := natsConn(t, s)
	cfg := jetstream.StreamConfig{Name: "LEGACY", Subjects: []string{"orders.>"}}
	natstest.MakeStream(t, js, cfg)
	b := newBroker(t, s)
	publish(t, b, "orders.created", "x")
	if err := js.DeleteStream(testContext(t), "LEGACY"); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		atOnce(t, "to say so", func() {
			wantError(t, b.Publish("orders.created", message("x")), jsbroker.ErrStreamNotFound, "orders.created", "LEGACY", "create it again")
			_, err := b.Subscribe("orders.created", ignore, broker.Queue("q"))
			wantError(t, err, jsbroker.ErrStreamNotFound, "LEGACY")
		})
	}
	// Nor by way of a topic that it did not capture: ours would overlap with it
	// and keep its owner from making it again.
	wantError(t, b.Publish("orders", message("x")), jsbroker.ErrStreamNotFound, "LEGACY")
	for name := range js.StreamNames(testContext(t)).Name() {
		t.Errorf("there is a stream %s now", name)
	}
	natstest.MakeStream(t, js, cfg)
	publish(t, b, "orders.created", "again")
}

func TestChangedStreamOfTheUserIsNoticed(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	_, js := natsConn(t, s)
	natstest.MakeStream(t, js, jetstream.StreamConfig{Name: "ORDERS", Subjects: []string{"orders.>"}})
	b := newBroker(t, s)
	publish(t, b, "orders.created", "x")
	// Its owner moves the topic to another stream.
	natstest.UpdateStream(t, js, jetstream.StreamConfig{Name: "ORDERS", Subjects: []string{"orders.paid"}})
	err := b.Publish("orders.created", message("x"))
	wantError(t, err, jsbroker.ErrStreamMismatch, "ORDERS", "orders.paid")
	natstest.MakeStream(t, js, jetstream.StreamConfig{Name: "NEW", Subjects: []string{"orders.created"}})
	publish(t, b, "orders.created", "x")
	if n := streamInfo(t, js, "NEW").State.Msgs; n != 1 {
		t.Fatalf("%d messages", n)
	}
	publish(t, b, "orders.paid", "x")
	if n := streamInfo(t, js, "ORDERS").State.Msgs; n != 2 {
		t.Fatalf("%d messages", n)
	}
}

func TestSubscribeFollowsATopicThatHasMovedToAnotherStream(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	_, js := natsConn(t, s)
	cfg := jetstream.StreamConfig{Name: "ALL", Subjects: []string{"orders.a", "orders.b"}}
	natstest.MakeStream(t, js, cfg)
	b := newBroker(t, s)
	publish(t, b, "orders.b", "before")
	cfg.Subjects = []string{"orders.a"}
	natstest.UpdateStream(t, js, cfg)
	natstest.MakeStream(t, js, jetstream.StreamConfig{Name: "B", Subjects: []string{"orders.b"}})
	publish(t, b, "orders.b", "after") // whose ack tells
	h, got := collector()
	subscribe(t, b, "orders.b", h, broker.Queue("q"))
	if body := receive(t, got); body != "after" {
		t.Errorf("got %q", body)
	}
}

// Who does not publish asks, once what is known is a second old.
func TestSubscribeAsksWhetherTheStreamIsStillAsItWas(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	_, js := natsConn(t, s)
	cfg := jetstream.StreamConfig{Name: "ALL", Subjects: []string{"orders.a", "orders.b"}}
	natstest.MakeStream(t, js, cfg)
	b := newBroker(t, s)
	subscribe(t, b, "orders.a", ignore, broker.Queue("q"))
	cfg.Subjects = []string{"orders.a"}
	natstest.UpdateStream(t, js, cfg)
	natstest.MakeStream(t, js, jetstream.StreamConfig{Name: "B", Subjects: []string{"orders.b"}})
	eventually(t, "the new stream has the consumer", func() bool {
		if err := subscribe(t, b, "orders.b", ignore, broker.Queue("q")).Unsubscribe(); err != nil {
			t.Fatal(err)
		}
		return len(natstest.ConsumerNames(t, js, "B")) == 1
	})
}

func TestStreamIsLookedUpOnceNotPerMessageNorPerTopic(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	nc, _ := natsConn(t, s)
	b := newBroker(t, s)
	count := natstest.CountRequests(t, nc, "$JS.API.>")
	publish(t, b, "orders.first", "x")
	if n := count.Seen(t); n == 0 || n > 4 {
		t.Errorf("%d requests to create a stream", n)
	}
	for i := range 300 {
		publish(t, b, fmt.Sprintf("orders.id-%d.event", i), "x")
	}
	publish(t, b, "orders", "x")
	if n := count.Seen(t); n != 0 {
		t.Errorf("%d requests for 301 topics of a known stream", n)
	}
	// A stream that is known by publishing is known to Subscribe, too, which asks now
	// and then whether it is still as it was.
	streams := natstest.CountRequests(t, nc, "$JS.API.STREAM.>")
	begin := time.Now()
	for i := range 10 {
		subscribe(t, b, fmt.Sprintf("orders.id-%d.event", i), ignore, broker.Queue("q"))
	}
	if n, most := streams.Seen(t), 1+int(time.Since(begin)/time.Second); n > most {
		t.Errorf("%d requests about the stream for 10 subscriptions, want at most %d", n, most)
	}
}

func TestManyPublishersLookTheStreamUpOnce(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	nc, _ := natsConn(t, s)
	b := newBroker(t, s)
	count := natstest.CountRequests(t, nc, "$JS.API.STREAM.>")
	var wg sync.WaitGroup
	for i := range 30 {
		wg.Go(func() {
			if err := b.Publish(fmt.Sprintf("orders.%d", i), message("x")); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := count.Seen(t); n > 4 { // names, two looks for a stream that has them all the same, create
		t.Errorf("%d requests", n)
	}
}

func TestWithoutJetStreamConnectSaysWhatToSwitchOn(t *testing.T) {
	t.Parallel()
	off := startServer(t, func(o *server.Options) { o.JetStream = false })
	noAccount := startServer(t, func(o *server.Options) {
		acc := server.NewAccount("A")
		o.Accounts = []*server.Account{acc}
		o.Users = []*server.User{{Username: "u", Password: "p", Account: acc}}
	})
	for name, b := range map[string]broker.Broker{
		"server":  jsbroker.NewBroker(broker.Addrs(off.ClientURL()), quiet()),
		"account": jsbroker.NewBroker(as("u:p", noAccount), quiet()),
	} {
		var err error
		atOnce(t, name, func() { err = b.Connect() })
		wantError(t, err, jsbroker.ErrJetStreamUnavailable, "-js", "account")
		if errors.Is(err, jsbroker.ErrStreamNotFound) {
			t.Errorf("%s: %v", name, err)
		}
		wantError(t, b.Publish("orders", message("x")), jsbroker.ErrNotConnected)
	}
	for _, s := range []*server.Server{off, noAccount} {
		eventually(t, "no connection is left", func() bool { return s.NumClients() == 0 })
	}
}

func TestPublishWaitsForTheStreamsLookUpNoLongerThanItsDeadline(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	p := natstest.StartProxy(t, s)
	b := newBroker(t, s, broker.Addrs(p.URL()))
	p.Stall()
	var wg sync.WaitGroup
	for i := range 3 {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
			defer cancel()
			atOnce(t, "a Publish with a deadline of 200ms", func() {
				err := b.Publish(fmt.Sprintf("orders.%d", i), message("x"), broker.PublishContext(ctx))
				if !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, jsbroker.ErrPublishUnknown) {
					t.Errorf("nothing was sent yet, and the error is %v", err)
				}
			})
		})
	}
	wg.Wait()
	p.Resume()
	publish(t, b, "orders.4", "x")
}
