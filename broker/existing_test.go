package broker_test

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go-micro.dev/v5/broker"

	jsbroker "go-micro-jetstream/broker"
	"go-micro-jetstream/internal/natstest"
)

func streamNames(t *testing.T, js jetstream.JetStream) (names []string) {
	t.Helper()
	for name := range js.StreamNames(testContext(t)).Name() {
		names = append(names, name)
	}
	return names
}

func TestExistingStreamsAndConsumersNeedNoPermissionToCreate(t *testing.T) {
	t.Parallel()
	s := startServer(t, natstest.Limited(natstest.NoPublish("$JS.API.STREAM.CREATE.>", "$JS.API.STREAM.UPDATE.>", "$JS.API.STREAM.DELETE.>",
		"$JS.API.CONSUMER.CREATE.>", "$JS.API.CONSUMER.DURABLE.CREATE.>", "$JS.API.CONSUMER.DELETE.>")))
	_, js := natsConn(t, s, nats.UserInfo("admin", "admin"))
	natstest.MakeStream(t, js, jetstream.StreamConfig{Name: "SHOP", Subjects: []string{"orders.>"}, Retention: jetstream.WorkQueuePolicy})
	natstest.MakeStream(t, js, jetstream.StreamConfig{Name: "GRAVES", Subjects: []string{"graves"}})
	explicit := jetstream.AckExplicitPolicy
	natstest.MakeConsumer(t, js, "SHOP", jetstream.ConsumerConfig{Durable: "payments", FilterSubject: "orders.created", AckPolicy: explicit, MaxDeliver: 1})
	l := newLedger()
	log := natstest.NewLog()
	b := newBroker(t, s, as("limited:pw", s), l.watch(), broker.Logger(log), jsbroker.WithExistingStreams(), jsbroker.WithExistingConsumers(), jsbroker.WithDeadLetter("graves"))
	subscribe(t, b, "orders.created", func(e broker.Event) error {
		if string(e.Message().Body) == "poison" {
			return errors.New("poison")
		}
		return l.handler(e)
	}, broker.Queue("payments"))

	// A further topic of the queue: the error says what to create.
	_, err := b.Subscribe("orders.paid", l.handler, broker.Queue("payments"))
	const further = "payments-orders_paid-4e1d952c"
	wantError(t, err, jsbroker.ErrConsumerNotFound, "WithExistingConsumers", further, "SHOP", "filter orders.paid", "explicit")
	natstest.MakeConsumer(t, js, "SHOP", jetstream.ConsumerConfig{Durable: further, FilterSubject: "orders.paid", AckPolicy: explicit})
	subscribe(t, b, "orders.paid", l.handler, broker.Queue("payments"))

	l.publish(t, b, "orders.created", 1, 50)
	l.publish(t, b, "orders.paid", 1, 50)
	publish(t, b, "orders.created", "poison")
	l.settle(t)
	eventually(t, "the poison is a dead letter", func() bool { return streamInfo(t, js, "GRAVES").State.Msgs == 1 })
	eventually(t, "all is settled", func() bool { return streamInfo(t, js, "SHOP").State.Msgs == 0 })
	if err := b.Disconnect(); err != nil {
		t.Fatal(err)
	}
	if lines := log.Text(); strings.Contains(lines, "ermission") {
		t.Errorf("logged:\n%s", lines)
	}
	if names := natstest.ConsumerNames(t, js, "SHOP"); !slices.Equal(names, []string{"payments", further}) {
		t.Errorf("consumers %v", names)
	}
}

func TestExistingStreamsAreNotCreatedAndTheErrorNamesTheWayOut(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	_, js := natsConn(t, s)
	b := newBroker(t, s, jsbroker.WithExistingStreams(), jsbroker.WithStreamName(func(topic string) string { return "prod-" + strings.ReplaceAll(topic, ".", "-") }))
	way := []string{"WithExistingStreams", "prod-orders-created", "orders.>"}
	wantError(t, b.Publish("orders.created", message("x")), jsbroker.ErrStreamNotFound, way...)
	_, err := b.Subscribe("orders.created", ignore, broker.Queue("q"))
	wantError(t, err, jsbroker.ErrStreamNotFound, way...)
	if names := streamNames(t, js); len(names) > 0 {
		t.Errorf("there are streams %v", names)
	}
	// As it says, and with a consumer of the broker's own.
	natstest.MakeStream(t, js, jetstream.StreamConfig{Name: "prod-orders-created", Subjects: []string{"orders", "orders.>"}})
	h, got := collector()
	subscribe(t, b, "orders.created", h, broker.Queue("q"))
	publish(t, b, "orders.created", "x")
	receive(t, got)
}

func TestDeadLetterWithoutAStreamKeepsTheOriginal(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	_, js := natsConn(t, s)
	natstest.MakeStream(t, js, jetstream.StreamConfig{Name: "ORDERS", Subjects: []string{"orders"}, Retention: jetstream.WorkQueuePolicy})
	attempts, onDeadLetter := hookChan[jsbroker.DeadLettered]()
	b := newBroker(t, s, jsbroker.WithExistingStreams(), jsbroker.WithDeadLetter("graves"), jsbroker.WithHooks(jsbroker.Hooks{DeadLettered: onDeadLetter}))
	subscribe(t, b, "orders", func(broker.Event) error { return jsbroker.Discard(errors.New("no")) }, broker.Queue("q"))
	publish(t, b, "orders", "x")
	wantError(t, receive(t, attempts).Err, jsbroker.ErrStreamNotFound, "graves", "WithExistingStreams")
	if n := streamInfo(t, js, "ORDERS").State.Msgs; n != 1 {
		t.Fatalf("%d messages are left, want the original", n)
	}
	natstest.MakeStream(t, js, jetstream.StreamConfig{Name: "GRAVES", Subjects: []string{"graves"}})
	for receive(t, attempts).Err != nil {
	}
	eventually(t, "the original is gone", func() bool { return streamInfo(t, js, "ORDERS").State.Msgs == 0 })
}

// The marks of this broker make no difference: a team that takes its streams
// over has them from the broker.
func TestDeletedStreamIsWaitedForWhereOthersOwnIt(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	_, js := natsConn(t, s)
	publish(t, newBroker(t, s), "orders", "before")
	made := streamInfo(t, js, "ORDERS").Config
	l := newLedger()
	failed, onFetchError := hookChan[jsbroker.FetchError]()
	b := newBroker(t, s, l.watch(), jsbroker.WithExistingStreams(), jsbroker.WithHooks(jsbroker.Hooks{FetchError: onFetchError}))
	subscribe(t, b, "orders", l.handler, broker.Queue("q"))
	eventually(t, "the first is handled", func() bool { return l.count() == 1 })
	if err := js.DeleteStream(testContext(t), "ORDERS"); err != nil {
		t.Fatal(err)
	}
	wantError(t, b.Publish("orders", message("x")), jsbroker.ErrStreamNotFound, "orders")
	var err error
	for !errors.Is(err, jsbroker.ErrStreamNotFound) {
		err = receive(t, failed).Err
	}
	wantError(t, err, jsbroker.ErrStreamNotFound, "ORDERS", "WithExistingStreams", "create it again")
	if names := streamNames(t, js); len(names) > 0 {
		t.Fatalf("there are streams %v", names)
	}
	natstest.MakeStream(t, js, made)
	l.publish(t, b, "orders", 1, 20)
	l.settleInAnyOrder(t) // the sequence begins anew
}

func TestDeletedConsumerIsWaitedForWhereOthersOwnIt(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	_, js := natsConn(t, s)
	l := newLedger()
	failed, onFetchError := hookChan[jsbroker.FetchError]()
	_ = subscribe(t, newBroker(t, s), "orders", ignore, broker.Queue("q")).Unsubscribe()
	made := natstest.ConsumerInfo(t, js, "ORDERS", "q").Config // with the mark of this broker
	b := newBroker(t, s, l.watch(), jsbroker.WithExistingConsumers(), jsbroker.WithHooks(jsbroker.Hooks{FetchError: onFetchError}))
	subscribe(t, b, "orders", l.handler, broker.Queue("q"))
	l.publish(t, b, "orders", 1, 20)
	eventually(t, "they are handled and acked", func() bool { return len(l.missing()) == 0 && streamInfo(t, js, "ORDERS").State.Msgs == 0 })
	if err := js.DeleteConsumer(testContext(t), "ORDERS", "q"); err != nil {
		t.Fatal(err)
	}
	l.publish(t, b, "orders", 21, 40)
	var err error
	for err == nil || !strings.Contains(err.Error(), "create it again") {
		err = receive(t, failed).Err
	}
	wantError(t, err, jetstream.ErrConsumerNotFound, "consumer q", "ORDERS", "WithExistingConsumers")
	if names := natstest.ConsumerNames(t, js, "ORDERS"); len(names) > 0 {
		t.Fatalf("there are consumers %v", names)
	}
	natstest.MakeConsumer(t, js, "ORDERS", made)
	l.settle(t)
}

func TestExistingConsumersAreNotCreatedAndTheErrorSaysWhatToCreate(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	_, js := natsConn(t, s)
	b := newBroker(t, s, jsbroker.WithExistingConsumers())
	_, err := b.Subscribe("orders", ignore)
	wantError(t, err, jsbroker.ErrInvalidConfig, "without a queue", "WithExistingConsumers", "name a queue")
	_, err = b.Subscribe("orders", ignore, broker.Queue("q"))
	wantError(t, err, jsbroker.ErrStreamNotFound, "WithExistingConsumers", "ORDERS")
	if names := streamNames(t, js); len(names) > 0 {
		t.Errorf("Subscribe has created %v, where no consumer can be", names)
	}
	publish(t, b, "orders", "x") // streams are another matter
	_, err = b.Subscribe("orders", ignore, broker.Queue("q"))
	wantError(t, err, jsbroker.ErrConsumerNotFound, "WithExistingConsumers", "consumer q ", "ORDERS", "filter orders", "explicit")
	if r := jsbroker.Reason(err); r != "consumer_not_found" {
		t.Errorf("the reason is %q", r)
	}
	// One that is there and cannot serve.
	natstest.MakeConsumer(t, js, "ORDERS", jetstream.ConsumerConfig{Durable: "q", FilterSubject: "orders", AckPolicy: jetstream.AckExplicitPolicy, PriorityPolicy: jetstream.PriorityPolicyOverflow, PriorityGroups: []string{"g"}})
	_, err = b.Subscribe("orders", ignore, broker.Queue("q"))
	wantError(t, err, jsbroker.ErrConsumerConflict, "priority")
	if names := natstest.ConsumerNames(t, js, "ORDERS"); !slices.Equal(names, []string{"q"}) {
		t.Errorf("consumers %v", names)
	}
}

func TestDeliveriesOfAConsumerOfOthersAreCountedByItsMetadata(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	_, js := natsConn(t, s)
	natstest.MakeStream(t, js, jetstream.StreamConfig{Name: "ORDERS", Subjects: []string{"orders"}, Retention: jetstream.WorkQueuePolicy})
	natstest.MakeConsumer(t, js, "ORDERS", jetstream.ConsumerConfig{Durable: "q", FilterSubject: "orders", AckPolicy: jetstream.AckExplicitPolicy,
		Metadata: map[string]string{"go-micro-jetstream-max-deliver": "2"}})
	b := newBroker(t, s, jsbroker.WithExistingConsumers(), jsbroker.WithDeadLetter("graves"))
	deliveries := make(chan uint64, 10)
	subscribe(t, b, "orders", func(e broker.Event) error {
		deliveries <- jsbroker.NumDelivered(e)
		return jsbroker.RetryAfter(0, errors.New("no"))
	}, broker.Queue("q"))
	publish(t, b, "orders", "x")
	for _, want := range []uint64{1, 2} {
		if n := receive(t, deliveries); n != want {
			t.Errorf("delivery %d, want %d", n, want)
		}
	}
	eventually(t, "it is a dead letter", func() bool { return streamInfo(t, js, "ORDERS").State.Msgs == 0 })
	if h := natstest.LastMessage(t, js, "GRAVES", "graves").Header; h.Get("Micro-Dead-Letter-Deliveries") != "2" {
		t.Errorf("dead letter %v", h)
	}
}

// A server that does not wait for an ack all the same heeds it.
func TestMessagesWithoutADeadlineAreHandled(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	_, js := natsConn(t, s)
	natstest.MakeStream(t, js, jetstream.StreamConfig{Name: "ORDERS", Subjects: []string{"orders"}, Retention: jetstream.WorkQueuePolicy})
	natstest.MakeConsumer(t, js, "ORDERS", jetstream.ConsumerConfig{Durable: "q", FilterSubject: "orders", AckPolicy: jetstream.AckExplicitPolicy,
		BackOff: []time.Duration{0, 500 * time.Millisecond, 5 * time.Second}})
	b := newBroker(t, s, jsbroker.WithExistingConsumers())
	h, got := collector()
	subscribe(t, b, "orders", h, broker.Queue("q"))
	publish(t, b, "orders", "x")
	receive(t, got)
	eventually(t, "it is acked", func() bool { return streamInfo(t, js, "ORDERS").State.Msgs == 0 })
}

func TestTemplatesAndExistingExcludeEachOther(t *testing.T) {
	t.Parallel()
	for part, opts := range map[string][]broker.Option{
		"WithStreamConfig":   {jsbroker.WithExistingStreams(), jsbroker.WithStreamConfig(jetstream.StreamConfig{})},
		"WithConsumerConfig": {jsbroker.WithConsumerConfig(jetstream.ConsumerConfig{}), jsbroker.WithExistingConsumers()},
	} {
		_, err := connectTo(t, append(opts, broker.Addrs("127.0.0.1:1"))...)
		wantError(t, err, jsbroker.ErrInvalidConfig, part, "WithExisting", "leave one of them out")
		b := jsbroker.NewBroker(quiet(), opts[0])
		wantError(t, b.Init(opts[1]), jsbroker.ErrInvalidConfig, part)
	}
}
