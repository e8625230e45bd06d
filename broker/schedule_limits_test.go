package broker_test

import (
	"context"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go-micro.dev/v5/broker"

	jsbroker "go-micro-jetstream/broker"
	"go-micro-jetstream/internal/natstest"
)

// Tests of limits and settings of a stream that could keep out, or remove, what waits
// for it.

// A message that the stream refused once it is due would hold up all those behind it.
func TestTheSizeLimitIsNotLoweredWhileMessagesWait(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	_, js := natsConn(t, s)
	first := newBroker(t, s, jsbroker.WithStreamConfig(jetstream.StreamConfig{MaxMsgSize: 10_000}))
	publish(t, first, "orders.a", string(make([]byte, 6000)), jsbroker.DeliverAfter(3*time.Second))
	lower := func() (broker.Broker, *natstest.Log) {
		log := natstest.NewLog()
		return newBroker(t, s, broker.Logger(log), jsbroker.WithStreamConfig(jetstream.StreamConfig{MaxMsgSize: 5000, MaxMsgs: 1000})), log
	}
	b, log := lower()
	h, got := stamper()
	subscribe(t, b, "orders.>", h, broker.Queue("q"))
	if sc := streamInfo(t, js, "ORDERS").Config; sc.MaxMsgSize != 10_000 || sc.MaxMsgs != 1000 {
		t.Errorf("MaxMsgSize %d, MaxMsgs %d", sc.MaxMsgSize, sc.MaxMsgs)
	}
	if lines := log.With("MaxMsgSize is 10000, not 5000"); len(lines) != 1 {
		t.Errorf("logged: %s", log.Text())
	}
	publish(t, b, "orders.a", "small", jsbroker.DeliverAfter(3*time.Second))
	for _, size := range []int{6000, len("small")} {
		if r := receive(t, got); len(r.body) != size {
			t.Fatalf("got %d bytes, want %d", len(r.body), size)
		}
	}
	// When nothing waits any more, the limit follows the code.
	eventually(t, "nothing waits", func() bool { return streamInfo(t, js, "ORDERS-later").State.Msgs == 0 })
	b, log = lower()
	subscribe(t, b, "orders.>", h, broker.Queue("q"))
	if sc := streamInfo(t, js, "ORDERS").Config; sc.MaxMsgSize != 5000 {
		t.Errorf("MaxMsgSize %d: %s", sc.MaxMsgSize, log.Text())
	}
}

// What is stored under another subject than the topic's cannot wait: the subject mapping
// does not apply to what comes when it is due.
func TestNothingWaitsForATopicThatAMappingLeadsElsewhere(t *testing.T) {
	t.Parallel()
	s := natstest.StartConfigured(t, `mappings: {"orders.*": "stored.$1"}`)
	_, js := natsConn(t, s)
	b := newBroker(t, s)
	h, got := stamper()
	subscribe(t, b, "stored.>", h, broker.Queue("q")) // makes the stream
	wantError(t, b.Publish("orders.a", message("x"), jsbroker.DeliverAfter(time.Second)), jsbroker.ErrUnsupported, "mapping", "STORED", "stored.>")
	publish(t, b, "orders.a", "passed", jsbroker.DeliverAfter(-time.Second))
	if r := receive(t, got); r.body != "passed" || r.topic != "stored.a" {
		t.Errorf("got %+v", r)
	}
	publish(t, b, "stored.a", "later", jsbroker.DeliverAfter(time.Second))
	if r := receive(t, got); r.body != "later" || r.topic != "stored.a" {
		t.Errorf("got %+v", r)
	}
	if n := streamInfo(t, js, "STORED-later").State.LastSeq; n > 2 { // the schedule, and what was due
		t.Errorf("%d messages were stored there", n)
	}
}

// A stream of others that holds its schedules itself keeps them only as long as its limits
// let it.
func TestNothingWaitsWhereTheStreamsLimitsWouldRemoveIt(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	_, js := natsConn(t, s)
	b := newBroker(t, s)
	theirs := func(name string, limit jetstream.StreamConfig) {
		limit.Name, limit.Subjects = strings.ToUpper(name), []string{name + ".>", "_later." + strings.ToUpper(name) + ".>"}
		limit.AllowMsgSchedules, limit.AllowRollup, limit.AllowMsgTTL = true, true, true
		natstest.MakeStream(t, js, limit)
	}
	theirs("aged", jetstream.StreamConfig{MaxAge: time.Hour})
	theirs("few", jetstream.StreamConfig{MaxMsgs: 10})
	theirs("small", jetstream.StreamConfig{MaxBytes: 1 << 20})
	wantError(t, b.Publish("aged.a", message("x"), jsbroker.DeliverAfter(time.Hour)), jsbroker.ErrUnsupported, "AGED", "keep it for 59m0s", "MaxAge")
	for _, topic := range []string{"few.a", "small.a"} {
		wantError(t, b.Publish(topic, message("x"), jsbroker.DeliverAfter(time.Second)), jsbroker.ErrUnsupported, strings.ToUpper(topic[:3]), "MaxMsgs or MaxBytes")
	}
	for _, name := range []string{"AGED", "FEW", "SMALL"} {
		if n := streamInfo(t, js, name).State.LastSeq; n != 0 {
			t.Errorf("%s has stored %d messages", name, n)
		}
	}
	h, got := stamper()
	subscribe(t, b, "aged.>", h, broker.Queue("q"))
	publish(t, b, "aged.a", "x", jsbroker.DeliverAfter(time.Second))
	if r := receive(t, got); r.body != "x" {
		t.Errorf("got %+v", r)
	}
	publish(t, b, "few.a", "passed", jsbroker.DeliverAfter(-time.Second))
	if n := streamInfo(t, js, "FEW").State.Msgs; n != 1 {
		t.Errorf("%d messages", n)
	}
}

// A stream of this module holds schedules itself if it began with an older server.
func TestNoLimitIsSetThatWouldRemoveWhatWaits(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	_, js := natsConn(t, s)
	natstest.MakeStream(t, js, jetstream.StreamConfig{
		Name: "ORDERS", Subjects: []string{"orders", "orders.>", "_later.ORDERS.>"}, Metadata: map[string]string{"go-micro-jetstream": "1"},
		AllowMsgSchedules: true, AllowRollup: true, AllowMsgTTL: true, MaxAge: 2 * time.Hour,
	})
	limited := func() broker.Broker {
		return newBroker(t, s, jsbroker.WithStreamConfig(jetstream.StreamConfig{MaxAge: 2 * time.Hour, MaxMsgs: 1, MaxBytes: 1 << 20, MaxMsgSize: 1000, MaxMsgsPerSubject: 100}))
	}
	publish(t, newBroker(t, s), "orders.a", "x", jsbroker.DeliverAfter(3*time.Second))
	h, got := stamper()
	subscribe(t, limited(), "orders.>", h, broker.Queue("q"))
	if sc := streamInfo(t, js, "ORDERS").Config; sc.MaxMsgs > 0 || sc.MaxBytes > 0 || sc.MaxMsgSize > 0 || sc.MaxMsgsPerSubject != 100 {
		t.Errorf("%+v", sc)
	}
	if r := receive(t, got); r.body != "x" {
		t.Errorf("got %+v", r)
	}
	eventually(t, "nothing waits", func() bool { return streamInfo(t, js, "ORDERS").State.NumSubjects == 1 })
	subscribe(t, limited(), "orders.>", h, broker.Queue("q"))
	if sc := streamInfo(t, js, "ORDERS").Config; sc.MaxMsgs != 1 || sc.MaxBytes != 1<<20 || sc.MaxMsgSize != 1000 {
		t.Errorf("%+v", sc)
	}
}

// A replica that lags, or a missing permission for direct gets, must not make a message
// look as if it did not wait.
func TestCancelDeliveryAsksTheLeader(t *testing.T) {
	t.Parallel()
	s := startServer(t, natstest.Limited(natstest.NoPublish("$JS.API.DIRECT.GET.>", "$JS.API.STREAM.MSG.GET.BILLS-later")))
	_, js := natstest.Connect(t, natstest.URL(s, "admin:admin"))
	natstest.MakeStream(t, js, jetstream.StreamConfig{
		Name: "OPEN", Subjects: []string{"orders.>", "_later.OPEN.>"}, AllowMsgSchedules: true, AllowRollup: true, AllowMsgTTL: true, AllowDirect: true,
	})
	at := func(user string) broker.Broker {
		b := jsbroker.NewBroker(broker.Addrs(natstest.URL(s, user)), quiet())
		noErr(t, b.Connect())
		t.Cleanup(func() { _ = b.Disconnect() })
		return b
	}
	b, ctx := at("limited:pw"), testContext(t)
	publish(t, b, "orders.a", "x", jsbroker.DeliverAfter(time.Hour), jsbroker.MessageID("1"))
	noErr(t, jsbroker.CancelDelivery(ctx, b, "orders.a", "1"))
	wantError(t, jsbroker.CancelDelivery(ctx, b, "orders.a", "1"), jsbroker.ErrNotScheduled)
	publish(t, at("admin:admin"), "bills.a", "x", jsbroker.DeliverAfter(time.Hour), jsbroker.MessageID("1"))
	wantError(t, jsbroker.CancelDelivery(ctx, b, "bills.a", "1"), jsbroker.ErrPermission, "STREAM.MSG.GET.BILLS-later")
}

// The first try may have been stored where messages wait, which its stream does not know.
func TestAMessageThatMayWaitIsNotStoredInItsStreamAsWell(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	nc, js := natsConn(t, s)
	theirs := jetstream.StreamConfig{Name: "THEIRS", Subjects: []string{"orders.>"}, Sources: []*jetstream.StreamSource{
		{Name: "THEIRS-later", SubjectTransforms: []jetstream.SubjectTransformConfig{{Source: "_due.THEIRS.>", Destination: ">"}}},
	}}
	natstest.MakeStream(t, js, jetstream.StreamConfig{Name: "THEIRS-later", Subjects: []string{"_later.THEIRS.>", "_due.THEIRS.>"}, Retention: jetstream.WorkQueuePolicy, AllowMsgSchedules: true, AllowRollup: true, AllowMsgTTL: true})
	natstest.MakeStream(t, js, theirs)
	tries, err := nc.SubscribeSync("_later.THEIRS.>")
	noErr(t, err)
	lookUps, err := nc.SubscribeSync("$JS.API.STREAM.NAMES")
	noErr(t, err)
	noErr(t, nc.Flush())
	p := natstest.StartProxy(t, s)
	b := jsbroker.NewBroker(broker.Addrs(p.URL()), quiet())
	noErr(t, b.Connect())
	t.Cleanup(func() { _ = b.Disconnect() })
	next := func(sub *nats.Subscription) {
		t.Helper()
		_, err := sub.NextMsg(natstest.Patience)
		noErr(t, err)
	}
	publish(t, b, "orders.a", "first", jsbroker.DeliverAfter(time.Hour))
	noErr(t, nc.Flush())
	for _, sub := range []*nats.Subscription{tries, lookUps} { // a slow server is asked again
		next(sub)
		for n, _, _ := sub.Pending(); n > 0; n-- {
			next(sub)
		}
	}
	p.Forget(false, true)
	done := make(chan error, 1)
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), natstest.Patience)
		defer cancel()
		done <- b.Publish("orders.a", message("x"), jsbroker.DeliverAfter(time.Second), broker.PublishContext(ctx))
	}()
	next(tries)
	theirs.Sources = nil
	natstest.UpdateStream(t, js, theirs)
	next(tries)
	next(lookUps) // nobody has answered twice
	p.Cut()
	wantError(t, receive(t, done), jsbroker.ErrPublishUnknown)
	if n := streamInfo(t, js, "THEIRS").State.LastSeq; n != 0 {
		t.Errorf("%d messages were stored in the stream, too", n)
	}
}

// Replicas that start together change the stream at the same time: some add its source,
// others the settings of the code and the flag for a time to live.
func TestReplicasThatStartTogetherLoseNothingThatWaits(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	_, js := natsConn(t, s)
	publish(t, newBroker(t, s), "orders.a", "makes the stream")
	h, got := stamper()
	var all sync.WaitGroup
	for i := range 8 {
		plain := newBroker(t, s)
		changed := newBroker(t, s, jsbroker.WithStreamConfig(jetstream.StreamConfig{Retention: jetstream.WorkQueuePolicy, MaxMsgs: 1000}))
		all.Go(func() { publish(t, plain, "orders.a", strconv.Itoa(i), jsbroker.DeliverAfter(time.Second)) })
		all.Go(func() { publish(t, plain, "orders.a", "kept", jsbroker.TTL(time.Hour)) })
		all.Go(func() { subscribe(t, changed, "orders.>", h, broker.Queue("q")) })
	}
	all.Wait()
	left := 17
	for ; left > 0; left-- {
		receive(t, got)
	}
	if sc := streamInfo(t, js, "ORDERS").Config; len(sc.Sources) != 1 || !sc.AllowMsgTTL {
		t.Errorf("%+v", sc)
	}
}
