package broker_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go-micro.dev/v5/broker"

	jsbroker "go-micro-jetstream/broker"
)

// replyRing is how many reply subjects a publisher uses that waits for each ack.
const replyRing = 128

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

// answer has somebody answer beside the stream.
func (r *replyBench) answer(t *testing.T, f func(*nats.Msg)) {
	t.Helper()
	if _, err := r.nc.Subscribe("orders.created", f); err != nil {
		t.Fatal(err)
	}
	if err := r.nc.Flush(); err != nil {
		t.Fatal(err)
	}
}

// replaceStream puts another stream in the place of ORDERS.
func (r *replyBench) replaceStream(t *testing.T, cfg jetstream.StreamConfig) {
	t.Helper()
	if err := r.js.DeleteStream(testContext(t), "ORDERS"); err != nil {
		t.Fatal(err)
	}
	cfg.Subjects = []string{"orders.>"}
	eventually(t, "the server has put away the former stream's files", func() bool {
		_, err := r.js.CreateStream(testContext(t), cfg)
		return err == nil
	})
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
	for name, c := range map[string]struct {
		late string
		sent int // an ack has the broker look first where the topic is now: nowhere
	}{
		"second ack":             {fmt.Sprintf(`{"stream":"ORDERS","seq":%d}`, replyRing), 1},
		"ack of another stream":  {`{"stream":"EDGE","seq":100000}`, 1},
		"ack of another domain":  {`{"stream":"ORDERS","domain":"edge","seq":100000}`, 1},
		"duplicate":              {`{"stream":"ORDERS","seq":1,"duplicate":true}`, 1},
		"refusal by another one": {`{"error":{"code":503,"err_code":10077,"description":"maximum messages exceeded"}}`, 2},
		"answer of a service":    {"thank you", 2},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newReplyBench(t, startServer(t), jetstream.StreamConfig{})
			// Nobody stores what comes now, and somebody else answers for an earlier
			// publish.
			if err := r.js.DeleteStream(testContext(t), "ORDERS"); err != nil {
				t.Fatal(err)
			}
			r.answer(t, func(m *nats.Msg) {
				if slices.Contains(r.replies, m.Reply) {
					_ = m.Respond([]byte(c.late))
				}
			})
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			defer cancel()
			err := r.Publish("orders.created", message("lost"), broker.PublishContext(ctx))
			wantError(t, err, jsbroker.ErrPublishUnknown, "orders.created")
			wire := r.wire.messages(t)
			if len(wire) != c.sent || wire[0].Reply != r.replies[0] {
				t.Fatalf("%d messages sent, want %d, the first with a reply subject that was used before", len(wire), c.sent)
			}
			for _, again := range wire[1:] {
				if slices.Contains(r.replies, again.Reply) {
					t.Error("sent again with a reply subject that was used before")
				}
				if a, b := wire[0].Header.Get(nats.MsgIdHdr), again.Header.Get(nats.MsgIdHdr); a != b || a == "" {
					t.Errorf("the message was sent with the id %q, then with %q", a, b)
				}
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
	r.answer(t, func(m *nats.Msg) {
		if m.Reply == r.replies[0] {
			updateStream(t, r.js, jetstream.StreamConfig{Name: "ORDERS", Subjects: []string{"orders.>"}})
			_ = m.Respond([]byte("thank you"))
		}
	})
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
	r.replaceStream(t, jetstream.StreamConfig{Name: "ORDERS"})
	const n = 10
	if sent := len(r.publish(t, n)); sent != n+1 {
		t.Errorf("%d publishes were sent %d times", n, sent)
	}
	if stored := streamInfo(t, r.js, "ORDERS").State.Msgs; stored != n || duplicates.Load() != 0 {
		t.Errorf("%d messages stored, %d reported as duplicates", stored, duplicates.Load())
	}
}

func TestWithAUsersIDTheReplySubjectIsNew(t *testing.T) {
	t.Parallel()
	published, onPublished := hookChan[jsbroker.Published]()
	r := newReplyBench(t, startServer(t), jetstream.StreamConfig{}, jsbroker.WithHooks(jsbroker.Hooks{
		Published: func(ctx context.Context, e jsbroker.Published) {
			if e.MessageID == "mine" {
				onPublished(ctx, e)
			}
		},
	}))
	// "duplicate" is a usual answer here, and tells nothing of which message it is
	// about.
	for i := range 2 {
		if sent := r.publish(t, 1, jsbroker.MessageID("mine")); len(sent) != 1 || slices.Contains(r.replies, sent[0]) {
			t.Errorf("publish %d was sent with the reply subjects %q", i, sent)
		}
		if e := receive(t, published); e.Duplicate != (i > 0) || e.Sequence != replyRing+1 {
			t.Errorf("publish %d: event %+v", i, e)
		}
	}
}

func TestNoReplySubjectIsUsedAgainBeforeManyOthers(t *testing.T) {
	t.Parallel()
	r := newReplyBench(t, startServer(t), jetstream.StreamConfig{})
	// While others wait for their answers, fewer rest.
	makeStream(t, r.js, jetstream.StreamConfig{Name: "SILENT", Subjects: []string{"silent"}})
	publish(t, r, "silent", "x")
	updateStream(t, r.js, jetstream.StreamConfig{Name: "SILENT", Subjects: []string{"silent"}, NoAck: true})
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	for range replyRing {
		publish(t, r, "silent", "x", broker.PublishContext(ctx), jsbroker.Async(func(error) {}))
	}
	if sent := r.publish(t, replyRing); len(distinct(sent)) != replyRing {
		t.Errorf("%d publishes have %d reply subjects", replyRing, len(distinct(sent)))
	}
}

func TestWhatAStreamHasAckedOutlivesALookUp(t *testing.T) {
	t.Parallel()
	r := newReplyBench(t, startServer(t), jetstream.StreamConfig{})
	// A publish without an answer has the broker look the stream up again.
	updateStream(t, r.js, jetstream.StreamConfig{Name: "ORDERS", Subjects: []string{"orders.>"}, NoAck: true})
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	err := r.Publish("orders.created", message("x"), broker.PublishContext(ctx))
	wantError(t, err, jsbroker.ErrPublishUnknown, "orders.created")
	updateStream(t, r.js, jetstream.StreamConfig{Name: "ORDERS", Subjects: []string{"orders.>"}})
	lookUps := countRequests(t, r.nc, "$JS.API.STREAM.NAMES")
	subscribe(t, r, "orders.created", ignore)
	if lookUps.seen(t) == 0 {
		t.Fatal("the stream has not been looked up")
	}
	publish(t, r, "in.place.of.the.one.without.an.answer", "x")
	// Now nobody stores anything, and an earlier publish is answered once more.
	if err := r.js.DeleteStream(testContext(t), "ORDERS"); err != nil {
		t.Fatal(err)
	}
	r.answer(t, func(m *nats.Msg) {
		if slices.Contains(r.replies, m.Reply) {
			_ = m.Respond(fmt.Appendf(nil, `{"stream":"ORDERS","seq":%d}`, replyRing))
		}
	})
	ctx, cancel = context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	err = r.Publish("orders.created", message("lost"), broker.PublishContext(ctx))
	wantError(t, err, jsbroker.ErrPublishUnknown, "orders.created")
	if wire := r.wire.messages(t); len(wire) == 0 || !slices.Contains(r.replies, wire[0].Reply) {
		t.Error("not sent with a reply subject that was used before")
	}
}

func TestADoubtfulAnswerAndAStreamWithAShorterWindow(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"ORDERS", "NEW"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := startServer(t)
			p := startProxy(t, s)
			r := newReplyBench(t, s, jetstream.StreamConfig{}, broker.Addrs(p.url()))
			const window = 100 * time.Millisecond // the server's least
			r.replaceStream(t, jetstream.StreamConfig{Name: name, Duplicates: window})
			p.stallAfter("PUB orders.created")
			time.AfterFunc(4*window, p.resume) // when the server has forgotten the id
			err := r.Publish("orders.created", message("once"))
			wantError(t, err, jsbroker.ErrPublishUnknown, "orders.created")
			if n := streamInfo(t, r.js, name).State.Msgs; n != 1 {
				t.Errorf("stored %d times", n)
			}
		})
	}
}

func TestADoubtfulAnswerAndAStreamThatTakesNothingNow(t *testing.T) {
	t.Parallel()
	r := newReplyBench(t, startServer(t), jetstream.StreamConfig{})
	updateStream(t, r.js, jetstream.StreamConfig{Name: "ORDERS", Subjects: []string{"orders.>"}, NoAck: true})
	r.answer(t, func(m *nats.Msg) {
		if m.Reply == r.replies[0] {
			eventually(t, "the message is stored", func() bool { return streamInfo(t, r.js, "ORDERS").State.Msgs == replyRing+1 })
			updateStream(t, r.js, jetstream.StreamConfig{Name: "ORDERS", Subjects: []string{"orders.>"}, Sealed: true})
			_ = m.Respond([]byte("thank you"))
		}
	})
	// A sealed stream does not look whether it has the message.
	wantError(t, r.Publish("orders.created", message("once")), jsbroker.ErrPublishUnknown, "ORDERS")
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

// What depends on the message alone was so the first time, too.
func TestRefusalOfTheMessageItselfAfterADoubtfulOneIsCertain(t *testing.T) {
	t.Parallel()
	for name, m := range map[string]*broker.Message{
		"body":   message(strings.Repeat("x", 2000)),
		"header": {Header: map[string]string{"K": strings.Repeat("v", 70<<10)}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newReplyBench(t, startServer(t), jetstream.StreamConfig{MaxMsgSize: 1000})
			err := r.Publish("orders.created", m)
			wantError(t, err, jsbroker.ErrMessageTooLarge)
			if errors.Is(err, jsbroker.ErrPublishUnknown) {
				t.Errorf("it was refused for certain, and yet: %v", err)
			}
		})
	}
}
