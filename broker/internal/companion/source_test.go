package companion

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"

	"go-micro-jetstream/broker/internal/link"
	"go-micro-jetstream/broker/internal/wire"
	"go-micro-jetstream/internal/natstest"
)

// sourceByName has ORDERS source its companion with a consumer that somebody made.
func (b *bench) sourceByName(t *testing.T) {
	t.Helper()
	_, err := b.js.CreatePushConsumer(natstest.Context(t), "ORDERS-later", jetstream.ConsumerConfig{
		Durable: "theirs", DeliverSubject: "theirs", FilterSubject: wire.DuePattern("ORDERS"),
		AckPolicy: jetstream.AckFlowControlPolicy, FlowControl: true, IdleHeartbeat: time.Second,
	})
	must(t, err)
	sc := natstest.StreamInfo(t, b.js, "ORDERS").Config
	src := *sc.Sources[sourceIn(sc)]
	src.OptStartSeq, src.Consumer = 0, &jetstream.StreamConsumerSource{Name: "theirs", DeliverSubject: "theirs"}
	sc.Sources = nil // or the server would go on with its own consumer
	natstest.UpdateStream(t, b.js, sc)
	sc.Sources = []*jetstream.StreamSource{&src}
	natstest.UpdateStream(t, b.js, sc)
}

// fallDue stores n messages that are due.
func (b *bench) fallDue(t *testing.T, from, n int) {
	t.Helper()
	for i := range n {
		if _, err := b.js.Publish(natstest.Context(t), wire.DueSubject("ORDERS", "orders.a"), fmt.Append(nil, from+i)); err != nil {
			t.Fatal(err)
		}
	}
}

// consumers returns those of the companion by name.
func (b *bench) consumers(t *testing.T) map[string]*jetstream.ConsumerInfo {
	t.Helper()
	infos, err := b.consumersOf(natstest.Context(t), "ORDERS")
	if err != nil {
		t.Fatal(err)
	}
	m := map[string]*jetstream.ConsumerInfo{}
	for _, info := range infos {
		m[info.Name] = info
	}
	return m
}

func (b *bench) source(t *testing.T) *jetstream.StreamSource {
	t.Helper()
	sc := natstest.StreamInfo(t, b.js, "ORDERS").Config
	return sc.Sources[sourceIn(sc)]
}

// stored waits until ORDERS has the messages 0 to n-1, each once and in order.
func (b *bench) stored(t *testing.T, n int) {
	t.Helper()
	natstest.Eventually(t, fmt.Sprint(n, " are stored"), func() bool { return natstest.StreamInfo(t, b.js, "ORDERS").State.LastSeq >= uint64(n) })
	s, err := b.js.Stream(natstest.Context(t), "ORDERS")
	if err != nil {
		t.Fatal(err)
	}
	for i := range n {
		m, err := s.GetMsg(natstest.Context(t), uint64(i+1))
		if err != nil || string(m.Data) != fmt.Sprint(i) {
			t.Fatalf("%v, %v at %d", m, err, i+1)
		}
	}
}

func TestTheConsumerOfSomebodyElseStays(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.sourceByName(t)
	b.place(t)
	if src, cs := b.source(t), b.consumers(t); src.Consumer == nil || cs["theirs"] == nil {
		t.Errorf("%+v, %v", src, cs)
	}
	b.fallDue(t, 0, 10)
	b.stored(t, 10)
}

// What fell due before the stream sources it comes, whatever the stream has stored and
// removed since.
func TestWhatWasDueBeforeTheSourceComes(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	sc := natstest.StreamInfo(t, b.js, "ORDERS").Config
	sc.Sources = nil
	natstest.UpdateStream(t, b.js, sc)
	b.fallDue(t, 0, 1)
	for range 2 {
		if _, err := b.js.Publish(natstest.Context(t), "orders.a", nil); err != nil {
			t.Fatal(err)
		}
	}
	s, err := b.js.Stream(natstest.Context(t), "ORDERS")
	must(t, err)
	must(t, s.DeleteMsg(natstest.Context(t), 1))
	must(t, b.addSource(natstest.Context(t), &sc))
	natstest.Eventually(t, "it comes", func() bool { return natstest.StreamInfo(t, b.js, "ORDERS").State.LastSeq == 3 })
}

// A user who may not see the consumers sends what is delivered later all the same, and is
// refused once.
func TestWhoMayNotSeeTheConsumersIsRefusedOnce(t *testing.T) {
	t.Parallel()
	const list = "$JS.API.CONSUMER.LIST.ORDERS-later"
	b := newBench(t, natstest.Limited(natstest.NoPublish(list)), func(o *server.Options) { o.NoAuthUser = "admin" })
	refused := make(chan error, 10)
	b.dialWith(t, link.Config{Servers: []string{natstest.URL(b.server, "limited:pw")}, Events: link.Events{Refused: func(err error) { refused <- err }}})
	for range 3 {
		b.place(t)
	}
	if err := natstest.Receive(t, refused); !strings.Contains(err.Error(), list) {
		t.Errorf("refused %v", err)
	}
	if n := len(refused); n > 0 {
		t.Errorf("refused %d more times", n)
	}
}

// A source for which the server cannot make a consumer is told, too.
func TestASourceWithoutAConsumerIsLoggedOnce(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.patience = 0
	sc := natstest.StreamInfo(t, b.js, "ORDERS").Config
	src := sc.Sources[0]
	sc.Sources = nil
	natstest.UpdateStream(t, b.js, sc)
	b.fallDue(t, 0, 1)
	for range 3 {
		b.watch(natstest.Context(t), "ORDERS", src)
	}
	if n := b.count("stood still in stream ORDERS-later"); n != 1 {
		t.Errorf("logged %d times", n)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// What is due when a stream is made again may have been delivered before. What still waits
// has not.
func TestAStreamThatIsMadeAgainMayGetWhatIsDueOnceMore(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	ctx := natstest.Context(t)
	again := func() (sources int) {
		sc := jetstream.StreamConfig{Name: "ORDERS", Subjects: []string{"orders.>"}}
		b.AddSource(ctx, &sc)
		return len(sc.Sources)
	}
	if sources, said := again(), b.count("is made again"); sources != 1 || said > 0 {
		t.Errorf("%d sources, %d warnings", sources, said)
	}
	must(t, b.js.DeleteStream(ctx, "ORDERS"))
	b.fallDue(t, 0, 1)
	if sources, said := again(), b.count("is made again"); sources != 1 || said != 1 {
		t.Errorf("%d sources, %d warnings", sources, said)
	}
}
