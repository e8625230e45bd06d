package broker_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go-micro.dev/v5/broker"

	jsbroker "go-micro-jetstream/broker"
)

// replyRing is how many publishes there are between two with the same reply subject.
const replyRing = 256

// replyBench is a broker whose reply subjects have all been used.
type replyBench struct {
	broker.Broker
	nc      *nats.Conn
	js      jetstream.JetStream
	wire    *requests // what is published to orders.created
	replies []string  // in the order of their next use
}

func newReplyBench(t *testing.T, s *server.Server, cfg jetstream.StreamConfig, opts ...broker.Option) *replyBench {
	t.Helper()
	nc, js := natsConn(t, s)
	cfg.Name, cfg.Subjects = "ORDERS", []string{"orders.>"}
	makeStream(t, js, cfg)
	r := &replyBench{Broker: newBroker(t, s, opts...), nc: nc, js: js, wire: countRequests(t, nc, "orders.created")}
	r.replies = r.publish(t, replyRing)
	if n := len(distinct(r.replies)); n != replyRing {
		t.Fatalf("the first %d publishes have %d reply subjects", replyRing, n)
	}
	return r
}

// publish publishes n messages and returns their reply subjects.
func (r *replyBench) publish(t *testing.T, n int, opts ...broker.PublishOption) (replies []string) {
	t.Helper()
	for range n {
		publish(t, r, "orders.created", "x", opts...)
	}
	for _, m := range r.wire.messages(t) {
		replies = append(replies, m.Reply)
	}
	return replies
}

// forge answers a message as somebody would who thinks it is another one.
func (r *replyBench) forge(t *testing.T, to, answer string) {
	t.Helper()
	if err := r.nc.Publish(to, []byte(answer)); err != nil {
		t.Fatal(err)
	}
	if err := r.nc.Flush(); err != nil {
		t.Fatal(err)
	}
}

func distinct(v []string) []string { return slices.Compact(slices.Sorted(slices.Values(v))) }

func TestReplySubjectsAreUsedAgainInTurn(t *testing.T) {
	t.Parallel()
	r := newReplyBench(t, startServer(t), jetstream.StreamConfig{})
	for range 2 {
		if again := r.publish(t, replyRing); !slices.Equal(again, r.replies) {
			t.Fatal("other reply subjects, or in another order")
		}
	}
	if n := streamInfo(t, r.js, "ORDERS").State.Msgs; n != 3*replyRing {
		t.Errorf("%d messages stored", n)
	}
}

func TestAnAnswerToAnEarlierPublishDoesNotCount(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ late, id string }{
		"second ack":             {late: fmt.Sprintf(`{"stream":"ORDERS","seq":%d}`, replyRing)},
		"ack of another stream":  {late: `{"stream":"EDGE","seq":100000}`},
		"ack of another domain":  {late: `{"stream":"ORDERS","domain":"edge","seq":100000}`},
		"duplicate":              {late: `{"stream":"ORDERS","seq":1,"duplicate":true}`},
		"another's duplicate":    {late: `{"stream":"EDGE","seq":1,"duplicate":true}`, id: "mine"},
		"refusal by another one": {late: `{"error":{"code":503,"err_code":10077,"description":"maximum messages exceeded"}}`},
		"answer of a service":    {late: "thank you"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newReplyBench(t, startServer(t), jetstream.StreamConfig{})
			// Nobody stores what comes now, and somebody else answers for an earlier
			// publish.
			if err := r.js.DeleteStream(testContext(t), "ORDERS"); err != nil {
				t.Fatal(err)
			}
			_, err := r.nc.Subscribe("orders.created", func(m *nats.Msg) {
				if slices.Contains(r.replies, m.Reply) {
					_ = m.Respond([]byte(c.late))
				}
			})
			if err != nil {
				t.Fatal(err)
			}
			if err := r.nc.Flush(); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			defer cancel()
			err = r.Publish("orders.created", message("lost"), broker.PublishContext(ctx), jsbroker.MessageID(c.id))
			wantError(t, err, jsbroker.ErrPublishUnknown, "orders.created")
			wire := r.wire.messages(t)
			if len(wire) < 2 || wire[0].Reply != r.replies[0] || slices.Contains(r.replies, wire[1].Reply) {
				t.Fatalf("%d messages sent; want one with a reply subject that was used before, and others without", len(wire))
			}
			if a, b := wire[0].Header.Get(nats.MsgIdHdr), wire[1].Header.Get(nats.MsgIdHdr); a != b || a == "" {
				t.Errorf("the message was sent with the id %q, then with %q", a, b)
			}
		})
	}
}

func TestAfterADoubtfulAnswerTheOutcomeIsUnknown(t *testing.T) {
	t.Parallel()
	r := newReplyBench(t, startServer(t), jetstream.StreamConfig{})
	if err := r.js.DeleteStream(testContext(t), "ORDERS"); err != nil {
		t.Fatal(err)
	}
	if err := r.wire.sub.Unsubscribe(); err != nil {
		t.Fatal(err)
	}
	once, err := r.nc.Subscribe("orders.created", func(m *nats.Msg) { _ = m.Respond([]byte("thank you")) })
	if err != nil {
		t.Fatal(err)
	}
	if err := once.AutoUnsubscribe(1); err != nil {
		t.Fatal(err)
	}
	if err := r.nc.Flush(); err != nil {
		t.Fatal(err)
	}
	// The next try is told at once that there is no stream.
	wantError(t, r.Publish("orders.created", message("x")), jsbroker.ErrPublishUnknown, "ORDERS")
}

func TestADoubtfulAnswerToAStoredMessageIsNoDuplicate(t *testing.T) {
	t.Parallel()
	published, onPublished := hookChan[jsbroker.Published]()
	r := newReplyBench(t, startServer(t), jetstream.StreamConfig{}, jsbroker.WithHooks(jsbroker.Hooks{
		Published: func(ctx context.Context, e jsbroker.Published) {
			if e.Size > 1 {
				onPublished(ctx, e)
			}
		},
	}))
	// The server answers once the message is stored, which others do not wait for:
	// a stream that acknowledges nothing leaves that to them alone.
	updateStream(t, r.js, jetstream.StreamConfig{Name: "ORDERS", Subjects: []string{"orders.>"}, NoAck: true})
	_, err := r.nc.Subscribe("orders.created", func(m *nats.Msg) {
		if m.Reply == r.replies[0] {
			updateStream(t, r.js, jetstream.StreamConfig{Name: "ORDERS", Subjects: []string{"orders.>"}})
			_ = m.Respond([]byte("thank you"))
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := r.nc.Flush(); err != nil {
		t.Fatal(err)
	}
	publish(t, r, "orders.created", "once")
	if e := receive(t, published); e.Err != nil || e.Duplicate || e.Sequence != replyRing+1 {
		t.Errorf("event %+v", e)
	}
	if n := streamInfo(t, r.js, "ORDERS").State.Msgs; n != replyRing+1 {
		t.Errorf("%d messages stored", n)
	}
}

func TestWhereThereAreSecondAnswersNoReplySubjectIsUsedAgain(t *testing.T) {
	t.Parallel()
	r := newReplyBench(t, startServer(t), jetstream.StreamConfig{})
	r.forge(t, r.replies[replyRing/2], `{"stream":"EDGE","seq":7}`)
	r.publish(t, 1) // its own answer comes after that
	fresh := r.publish(t, 2*replyRing)
	if n := len(distinct(append(fresh, r.replies...))); n != 3*replyRing {
		t.Errorf("%d publishes have %d reply subjects", 3*replyRing, n)
	}
}

func TestAStreamThatBeginsAgainCostsOneMoreMessage(t *testing.T) {
	t.Parallel()
	var duplicates atomic.Int64
	r := newReplyBench(t, startServer(t), jetstream.StreamConfig{}, jsbroker.WithHooks(jsbroker.Hooks{
		Published: func(_ context.Context, e jsbroker.Published) {
			if e.Duplicate {
				duplicates.Add(1)
			}
		},
	}))
	if err := r.js.DeleteStream(testContext(t), "ORDERS"); err != nil {
		t.Fatal(err)
	}
	makeStream(t, r.js, jetstream.StreamConfig{Name: "ORDERS", Subjects: []string{"orders.>"}})
	const n = 10
	if sent := len(r.publish(t, n)); sent != n+1 {
		t.Errorf("%d publishes were sent %d times", n, sent)
	}
	if stored := streamInfo(t, r.js, "ORDERS").State.Msgs; stored != n || duplicates.Load() != 0 {
		t.Errorf("%d messages stored, %d reported as duplicates", stored, duplicates.Load())
	}
}

func TestDuplicatesWithAReplySubjectThatWasUsedBefore(t *testing.T) {
	t.Parallel()
	published, onPublished := hookChan[jsbroker.Published]()
	r := newReplyBench(t, startServer(t), jetstream.StreamConfig{}, jsbroker.WithHooks(jsbroker.Hooks{
		Published: func(ctx context.Context, e jsbroker.Published) {
			if e.MessageID == "mine" {
				onPublished(ctx, e)
			}
		},
	}))
	for i := range 2 {
		sent := r.publish(t, 1, jsbroker.MessageID("mine"))
		if !slices.Equal(sent, r.replies[i:i+1]) {
			t.Errorf("publish %d was sent with the reply subjects %q", i, sent)
		}
		if e := receive(t, published); e.Duplicate != (i > 0) || e.Sequence != replyRing+1 {
			t.Errorf("publish %d: event %+v", i, e)
		}
	}
}

func TestRefusalWithAReplySubjectThatWasUsedBefore(t *testing.T) {
	t.Parallel()
	r := newReplyBench(t, startServer(t), jetstream.StreamConfig{MaxMsgs: replyRing, Discard: jetstream.DiscardNew})
	err := r.Publish("orders.created", message("x"))
	wantError(t, err, jsbroker.ErrStreamFull, "ORDERS")
	if errors.Is(err, jsbroker.ErrPublishUnknown) {
		t.Errorf("the stream has refused it, and yet: %v", err)
	}
	// Asked again, as another stream might have answered for an earlier publish.
	if wire := r.wire.messages(t); len(wire) != 2 || wire[0].Reply != r.replies[0] {
		t.Errorf("sent %d times", len(wire))
	}
}
