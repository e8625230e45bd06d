package produce_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"go-micro-jetstream/broker/internal/fault"
	"go-micro-jetstream/broker/internal/produce"
	"go-micro-jetstream/broker/internal/wire"
)

func TestPublishReturnsTheAcknowledgement(t *testing.T) {
	t.Parallel()
	b := newBench(t, startServer(t), 1)
	for i := range 3 {
		if got, want := b.store("orders.created", "x"), (wire.PubAck{Stream: "ORDERS", Sequence: uint64(i) + 1}); got != want {
			t.Errorf("%+v, want %+v", got, want)
		}
	}
	m := message("orders.created", "x")
	m.Header = map[string]string{"K": "1"}
	m.Original = nats.Header{"K": {"1", "2"}}
	_, err := b.Publish(b.ctx, m)
	noErr(t, err)
	st, err := b.js.Stream(b.ctx, "ORDERS")
	noErr(t, err)
	got, err := st.GetMsg(b.ctx, 4)
	noErr(t, err)
	if !slices.Equal(got.Header["K"], m.Original["K"]) || got.Header.Get(nats.MsgIdHdr) != m.ID || len(got.Header) != 2 {
		t.Errorf("stored with the headers %v", got.Header)
	}
}

func TestDuplicateIsShownUnlessItIsAnOwnTry(t *testing.T) {
	t.Parallel()
	b := newBench(t, startServer(t), 1)
	m := message("orders.created", "x")
	_, err := b.Publish(b.ctx, m)
	noErr(t, err)
	for _, own := range []bool{true, false} {
		m.OwnID = own
		ack, err := b.Publish(b.ctx, m)
		noErr(t, err)
		if want := (wire.PubAck{Stream: "ORDERS", Sequence: 1, Duplicate: !own}); ack != want {
			t.Errorf("%+v, want %+v", ack, want)
		}
	}
}

func TestWhatCannotBeSentIsRefusedAtOnce(t *testing.T) {
	t.Parallel()
	b := newBench(t, startServer(t), 1)
	b.store("orders.created", "first")
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	for name, test := range map[string]struct {
		ctx    context.Context
		change func(*produce.Message)
		want   error
	}{
		"topic":   {b.ctx, func(m *produce.Message) { m.Topic = "orders.*" }, fault.ErrInvalidTopic},
		"header":  {b.ctx, func(m *produce.Message) { m.Header = map[string]string{"a b": ""} }, fault.ErrInvalidHeader},
		"id":      {b.ctx, func(m *produce.Message) { m.ID = "id " }, fault.ErrInvalidHeader},
		"size":    {b.ctx, func(m *produce.Message) { m.Body = make([]byte, 2<<20) }, fault.ErrMessageTooLarge},
		"context": {ended, func(*produce.Message) {}, context.Canceled},
	} {
		m := message("orders.created", "x")
		test.change(&m)
		_, err := b.Publish(test.ctx, m)
		wantError(t, err, test.want)
		wantNot(t, err, fault.ErrPublishUnknown)
		if err := b.PublishAsync(test.ctx, m, nil); !errors.Is(err, test.want) {
			t.Errorf("%s, async: %v", name, err)
		}
	}
	if n := b.Inside(); n != 0 {
		t.Errorf("%d inside", n)
	}
	if n := b.stored(); n != 1 {
		t.Errorf("%d stored", n)
	}
}

func TestPublishWithoutAConnection(t *testing.T) {
	t.Parallel()
	var none *produce.Publisher
	_, err := none.Publish(context.Background(), message("orders", "x"))
	wantError(t, err, fault.ErrNoConnection)
	wantError(t, none.PublishAsync(context.Background(), message("orders", "x"), nil), fault.ErrNoConnection)
	_, err = none.Publish(context.Background(), message("", "x"))
	wantError(t, err, fault.ErrInvalidTopic)

	b := newBench(t, startServer(t), 1)
	b.store("orders.created", "first")
	b.conn.Close()
	_, err = b.Publish(b.ctx, message("orders.created", "x"))
	wantError(t, err, fault.ErrNotConnected, nats.ErrConnectionClosed)
	wantNot(t, err, fault.ErrPublishUnknown)
	<-b.Shutdown()
	_, err = b.Publish(b.ctx, message("orders.created", "x"))
	wantError(t, err, fault.ErrNoConnection)
}

// While the stream recognises a second copy, a publish whose answer is lost sends one,
// with the same id and another reply subject.
func TestInterruptedPublishIsSentAgain(t *testing.T) {
	t.Parallel()
	b := newBench(t, startServer(t), 1)
	speak := b.silence(2 * time.Minute)
	sent := b.listen("orders.created")
	done := make(told, 1)
	sync := b.publishing(b.ctx, message("orders.created", "sync"))
	noErr(t, b.PublishAsync(b.ctx, message("orders.created", "async"), done))
	first := map[string]*nats.Msg{}
	for range 2 {
		m := receive(t, sent)
		first[string(m.Data)] = m
	}
	eventually(t, "both are stored", func() bool { return b.stored() == 3 })
	speak()
	b.Interrupt()
	for range 2 {
		again := receive(t, sent)
		m := first[string(again.Data)]
		if m == nil || again.Header.Get(nats.MsgIdHdr) != m.Header.Get(nats.MsgIdHdr) || again.Reply == m.Reply {
			t.Errorf("%+v was sent, and then %+v", m, again)
		}
		delete(first, string(again.Data))
	}
	for _, got := range []result{receive(t, sync), receive(t, done)} {
		if noErr(t, got.err); got.ack.Duplicate {
			t.Error("an own try is shown as a duplicate")
		}
	}
	if n := b.stored(); n != 3 {
		t.Errorf("%d stored", n)
	}
}

func TestInterruptedPublishIsUnknownWhereItIsForgotten(t *testing.T) {
	t.Parallel()
	b := newBench(t, startServer(t), 1)
	b.silence(100 * time.Millisecond)
	done := make(told, 1)
	sync := b.publishing(b.ctx, message("orders.created", "sync"))
	noErr(t, b.PublishAsync(b.ctx, message("orders.created", "async"), done))
	eventually(t, "both are stored", func() bool { return b.stored() == 3 })
	b.Interrupt()
	for _, got := range []result{receive(t, sync), receive(t, done)} {
		wantError(t, got.err, fault.ErrPublishUnknown)
		if !strings.Contains(got.err.Error(), "lost while waiting for the answer") {
			t.Error(got.err)
		}
	}
	if n := b.stored(); n != 3 {
		t.Errorf("%d stored", n)
	}
}

func TestEachPublishEndsAtItsDeadline(t *testing.T) {
	t.Parallel()
	b := newBench(t, startServer(t), 10)
	b.silence(2 * time.Minute)
	ended := make(chan time.Duration, 3)
	// The earliest deadline is neither the first nor the last to be waited for.
	begin := time.Now()
	for _, limit := range []time.Duration{1200 * time.Millisecond, 600 * time.Millisecond, 1800 * time.Millisecond} {
		deadline := begin.Add(limit)
		ctx, cancel := context.WithDeadline(b.ctx, deadline)
		err := b.PublishAsync(ctx, message("orders.created", "x"), doneFunc(func(_ wire.PubAck, err error) {
			if !errors.Is(err, fault.ErrPublishUnknown) || !errors.Is(err, context.DeadlineExceeded) || time.Now().Before(deadline) {
				t.Errorf("%v before the deadline: %v", time.Until(deadline), err)
			}
			ended <- limit
		}))
		cancel() // means nothing any more
		noErr(t, err)
	}
	for _, want := range []time.Duration{600 * time.Millisecond, 1200 * time.Millisecond, 1800 * time.Millisecond} {
		if got := receive(t, ended); got != want {
			t.Errorf("ended at %v, want %v", got, want)
		}
	}
}

func TestCancelledPublishIsUnknown(t *testing.T) {
	t.Parallel()
	b := newBench(t, startServer(t), 1)
	b.silence(2 * time.Minute)
	ctx, cancel := context.WithCancel(b.ctx)
	got := b.publishing(ctx, message("orders.created", "x"))
	eventually(t, "it is stored", func() bool { return b.stored() == 2 })
	cancel()
	wantError(t, receive(t, got).err, fault.ErrPublishUnknown, context.Canceled)
}

// A try without an answer ends long before the publish.
func TestUnansweredPublishIsSentAgain(t *testing.T) {
	t.Parallel()
	b := newBench(t, startServer(t), 1)
	speak := b.silence(2 * time.Minute)
	got := b.publishing(b.ctx, message("orders.created", "x"))
	eventually(t, "it is stored", func() bool { return b.stored() == 2 })
	speak()
	noErr(t, receive(t, got).err)
	if n := b.stored(); n != 2 {
		t.Errorf("%d stored", n)
	}
}

func TestRefusalByTheServer(t *testing.T) {
	t.Parallel()
	s := startServer(t, func(o *server.Options) {
		o.Users = []*server.User{
			{Username: "admin", Password: "admin"},
			{Username: "limited", Password: "pw", Permissions: &server.Permissions{Publish: &server.SubjectPermission{Deny: []string{"orders.secret"}}}},
		}
	})
	b := newBench(t, s, 10, nats.UserInfo("limited", "pw"))
	b.silence(2 * time.Minute)
	other := b.publishing(b.ctx, message("orders.created", "permitted"))
	eventually(t, "it is stored", func() bool { return b.stored() == 2 })
	_, err := b.Publish(b.ctx, message("orders.secret", "x"))
	wantError(t, err, fault.ErrPermission, nats.ErrPermissionViolation)
	wantNot(t, err, fault.ErrPublishUnknown)
	const n = 5
	done := make(told, n)
	for range n {
		noErr(t, b.PublishAsync(b.ctx, message("orders.secret", "x"), done))
	}
	for range n {
		err := receive(t, done).err
		wantError(t, err, fault.ErrPermission)
		wantNot(t, err, fault.ErrPublishUnknown)
	}
	if len(other) > 0 {
		t.Error("a violation has ended another publish")
	}
}

func TestRefusalByTheStream(t *testing.T) {
	t.Parallel()
	b := newBench(t, startServer(t), 1)
	_, err := b.js.CreateStream(b.ctx, jetstream.StreamConfig{Name: "ORDERS", Subjects: []string{"orders.>"}, MaxMsgs: 1, MaxMsgSize: 1000, Discard: jetstream.DiscardNew})
	noErr(t, err)
	_, err = b.Publish(b.ctx, message("orders.created", strings.Repeat("x", 2000)))
	wantError(t, err, fault.ErrMessageTooLarge)
	wantNot(t, err, fault.ErrPublishUnknown)
	b.store("orders.created", "x")
	_, err = b.Publish(b.ctx, message("orders.created", "y"))
	wantError(t, err, fault.ErrStreamFull)
	wantNot(t, err, fault.ErrPublishUnknown)
}

// A stream that is gone is looked up, and made again.
func TestPublishToADeletedStream(t *testing.T) {
	t.Parallel()
	b := newBench(t, startServer(t), 1)
	b.store("orders.created", "first")
	noErr(t, b.js.DeleteStream(b.ctx, "ORDERS"))
	if ack := b.store("orders.created", "x"); ack != (wire.PubAck{Stream: "ORDERS", Sequence: 1}) {
		t.Errorf("%+v", ack)
	}
}

// A topic that moves to another stream is stored there, and that one is looked up.
func TestPublishToAnotherStream(t *testing.T) {
	t.Parallel()
	b := newBench(t, startServer(t), 1)
	b.store("orders.created", "first")
	noErr(t, b.js.DeleteStream(b.ctx, "ORDERS"))
	_, err := b.js.CreateStream(b.ctx, jetstream.StreamConfig{Name: "MOVED", Subjects: []string{"orders.>"}})
	noErr(t, err)
	lookUps := b.listen("$JS.API.STREAM.NAMES")
	for i := range 3 {
		if ack := b.store("orders.created", "x"); ack != (wire.PubAck{Stream: "MOVED", Sequence: uint64(i) + 1}) {
			t.Errorf("%+v", ack)
		}
	}
	noErr(t, b.nc.Flush())
	if n := len(lookUps); n != 1 {
		t.Errorf("%d look-ups", n)
	}
}

// Publishes use the memory of those before them, while connections come and go. Each
// message is stored as it was, and once.
func TestNothingIsLostOrRepeatedWhileConnectionsComeAndGo(t *testing.T) {
	t.Parallel()
	const publishers, each = 6, 200
	b := newBench(t, startServer(t), 16)
	b.store("orders.created", "first")
	r := &results{b: b, every: publishers * each / 20, stored: map[string]bool{}, unknown: map[string]bool{}}
	var all sync.WaitGroup
	for publisher := range publishers {
		all.Go(func() {
			for i := range each {
				m := message("orders.created", fmt.Sprintf("%d-%d-", publisher, i)+strings.Repeat("x", i))
				m.Header = map[string]string{"Body": string(m.Body)}
				if publisher%2 == 0 {
					_, err := b.Publish(b.ctx, m)
					r.add(m.Body, err)
					continue
				}
				all.Add(1)
				err := b.PublishAsync(b.ctx, m, doneFunc(func(_ wire.PubAck, err error) {
					r.add(m.Body, err)
					all.Done()
				}))
				if err != nil {
					r.add(m.Body, err)
					all.Done()
				}
			}
		})
	}
	all.Wait()
	r.check()
}

// results are those of publishes, by the body. The connection is lost after some.
type results struct {
	b     *bench
	every int

	mu              sync.Mutex
	stored, unknown map[string]bool
}

func (r *results) add(body []byte, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case err == nil:
		r.stored[string(body)] = true
	case errors.Is(err, fault.ErrPublishUnknown):
		r.unknown[string(body)] = true
	default:
		r.b.t.Error(err)
	}
	if (len(r.stored)+len(r.unknown))%r.every == 0 {
		if err := r.b.conn.NATS().ForceReconnect(); err != nil {
			r.b.t.Error(err)
		}
	}
}

// check compares them with the stream.
func (r *results) check() {
	t := r.b.t
	st, err := r.b.js.Stream(r.b.ctx, "ORDERS")
	noErr(t, err)
	arrived := map[string]bool{}
	for seq := uint64(2); seq <= st.CachedInfo().State.LastSeq; seq++ {
		m, err := st.GetMsg(r.b.ctx, seq)
		noErr(t, err)
		body := string(m.Data)
		if arrived[body] || !r.stored[body] && !r.unknown[body] || m.Header.Get("Body") != body {
			t.Errorf("message %d: stored before: %v; headers %v", seq, arrived[body], m.Header)
		}
		arrived[body] = true
	}
	for body := range r.stored {
		if !arrived[body] {
			t.Errorf("%.10s was acknowledged and is not stored", body)
		}
	}
}
