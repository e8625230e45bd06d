package companion

import (
	"context"
	"fmt"
	"testing"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"

	"go-micro-jetstream/broker/internal/wire"
	"go-micro-jetstream/internal/natstest"
)

// sourceFormer has ORDERS source its companion as earlier versions did.
func (b *bench) sourceFormer(t *testing.T, ours bool) {
	t.Helper()
	ctx := natstest.Context(t)
	must(t, b.makeFormer(ctx, "ORDERS"))
	if !ours {
		c, err := b.js.PushConsumer(ctx, "ORDERS-later", "ORDERS")
		must(t, err)
		cc := c.CachedInfo().Config
		must(t, b.js.DeleteConsumer(ctx, "ORDERS-later", "ORDERS"))
		cc.Metadata = nil
		_, err = b.js.CreatePushConsumer(ctx, "ORDERS-later", cc)
		must(t, err)
	}
	sc := natstest.StreamInfo(t, b.js, "ORDERS").Config
	src := *sc.Sources[sourceIn(sc)]
	src.OptStartSeq, src.Consumer = 0, formerConsumer("ORDERS")
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

func TestTheConsumerOfAnEarlierVersionIsReplaced(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.sourceFormer(t, true)
	done := make(chan struct{})
	go func() { // while they fall due
		defer close(done)
		b.fallDue(t, 0, 600)
	}()
	natstest.Eventually(t, "some have come", func() bool { return natstest.StreamInfo(t, b.js, "ORDERS").State.LastSeq > 100 })
	b.place(t)
	<-done
	b.stored(t, 600)
	if src := b.source(t); src.Consumer != nil || src.OptStartSeq != 1 {
		t.Errorf("%+v", src)
	}
	b.place(t)
	if n, cs := b.count("in place of one of an earlier version"), b.consumers(t); n != 1 || len(cs) != 1 || cs["ORDERS"] != nil {
		t.Errorf("logged %d times; %v", n, cs)
	}
	natstest.Eventually(t, "nothing more is on its way", func() bool {
		for _, info := range b.consumers(t) {
			if info.NumPending+uint64(info.NumAckPending) > 0 {
				return false
			}
		}
		return true
	})
	if n := natstest.StreamInfo(t, b.js, "ORDERS").State.LastSeq; n != 600 {
		t.Errorf("%d messages", n)
	}
}

// Another process may have ended in the middle of that, or somebody may have deleted it.
func TestAFormerConsumerThatIsGoneIsReplaced(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.sourceFormer(t, true)
	must(t, b.deleteFormer(natstest.Context(t), "ORDERS"))
	b.fallDue(t, 0, 10)
	b.place(t)
	if src := b.source(t); src.Consumer != nil {
		t.Errorf("%+v", src)
	}
	b.stored(t, 10)
}

func TestTheConsumerOfSomebodyElseStays(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.sourceFormer(t, false)
	b.place(t)
	if src, cs := b.source(t), b.consumers(t); src.Consumer == nil || cs["ORDERS"] == nil {
		t.Errorf("%+v, %v", src, cs)
	}
	b.fallDue(t, 0, 10)
	b.stored(t, 10)
}

// What cannot be replaced stays as it is, and that is said once.
func TestAConsumerThatCannotBeReplacedStays(t *testing.T) {
	t.Parallel()
	for _, denied := range []string{"STREAM.UPDATE.ORDERS", "CONSUMER.PAUSE.ORDERS-later.ORDERS", "CONSUMER.DELETE.ORDERS-later.ORDERS", "CONSUMER.LIST.ORDERS-later"} {
		t.Run(denied, func(t *testing.T) {
			t.Parallel()
			b := newBench(t, natstest.Limited(natstest.NoPublish("$JS.API."+denied)), func(o *server.Options) { o.NoAuthUser = "admin" })
			b.sourceFormer(t, true)
			b.dial(t, natstest.URL(b.server, "limited:pw"))
			for range 2 {
				b.place(t)
			}
			if n := b.count("could not replace it"); n != 1 {
				t.Errorf("said %d times", n)
			}
			if src := b.source(t); src.Consumer == nil {
				t.Errorf("%+v", src)
			}
			b.fallDue(t, 0, 10)
			b.stored(t, 10)
		})
	}
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
	must(t, b.sourceCompanion(natstest.Context(t), &sc, -1))
	natstest.Eventually(t, "it comes", func() bool { return natstest.StreamInfo(t, b.js, "ORDERS").State.LastSeq == 3 })
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
		must(t, b.watch(context.Background(), "ORDERS", src, nil))
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
