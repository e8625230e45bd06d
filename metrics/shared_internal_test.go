package metrics

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"go-micro.dev/v5/broker"

	jsbroker "go-micro-jetstream/broker"
	"go-micro-jetstream/internal/natstest"
)

// What arrives on the shared subject need not be the answer to this connection, and what
// arrives in its inbox is. The broker draws conclusions from the latter only.
func TestOnlyOwnAnswersAreOwn(t *testing.T) {
	t.Parallel()
	srv := natstest.Start(t)
	_, admin := natstest.Connect(t, srv.ClientURL())
	natstest.MakeStream(t, admin, jetstream.StreamConfig{Name: "ORDERS", Subjects: []string{"orders"}})
	b := jsbroker.NewBroker(broker.Addrs(srv.ClientURL()), broker.Logger(natstest.Quiet()))
	if err := b.Connect(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Disconnect() })
	for _, c := range []struct {
		name      string
		subject   string
		overheard bool
	}{{"alone", "", false}, {"shared", "metrics.server", true}} {
		s, err := NewServer(b)
		if err != nil {
			t.Fatal(err)
		}
		s.shared.subject = c.subject
		q := &inquiry{server: s, before: &serverState{}}
		for _, stream := range []string{"ORDERS", "ORDERS", "PARCELS"} { // asked, kept, and an error
			var overheard bool
			err := jsbroker.JetStream(natstest.Context(t), b, "", func(ctx context.Context, js jetstream.JetStream) (err error) {
				one := aboutStream(stream, "")
				_, overheard, err = q.answer(ctx, js, &one)
				return err
			})
			if (stream == "ORDERS") != (err == nil) || err != nil && !errors.Is(err, jetstream.ErrStreamNotFound) {
				t.Errorf("%s, %s: %v", c.name, stream, err)
			}
			if overheard != c.overheard {
				t.Errorf("%s, %s: overheard is %v", c.name, stream, overheard)
			}
		}
	}
}

// Answers that there is no room for are not kept. Who waits for one gets it nevertheless.
func TestAnswerThatIsNotKept(t *testing.T) {
	t.Parallel()
	srv := natstest.Start(t)
	_, admin := natstest.Connect(t, srv.ClientURL())
	natstest.MakeStream(t, admin, jetstream.StreamConfig{Name: "ORDERS", Subjects: []string{"orders"}})
	natstest.MakeConsumer(t, admin, "ORDERS", jetstream.ConsumerConfig{Durable: "q"})
	b := jsbroker.NewBroker(broker.Addrs(srv.ClientURL()), broker.Logger(natstest.Quiet()))
	if err := b.Connect(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Disconnect() })
	var replicas []*Server
	for range 2 {
		s, err := NewServer(b, ServerShared("metrics.server"), ServerInterval(time.Second))
		if err != nil {
			t.Fatal(err)
		}
		s.shared.room = 1
		replicas = append(replicas, s)
	}
	one, token := aboutStream("ORDERS", ""), ""
	if err := jsbroker.JetStream(natstest.Context(t), b, "", func(_ context.Context, js jetstream.JetStream) error {
		token = one.token(js)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	for n := range 3 {
		if _, err := admin.Publish(natstest.Context(t), "orders", nil); err != nil {
			t.Fatal(err)
		}
		for _, s := range replicas {
			natstest.Eventually(t, "the answer", func() bool {
				s.begin()
				state := s.state()
				return state.complete && len(state.streams) == 1 && state.streams[0].info.State.Msgs == uint64(n)+1 && len(state.streams[0].consumers) == 1
			})
			if kept, _, _ := s.shared.latest(token, &one, time.Time{}); kept != nil {
				t.Errorf("%d bytes are kept", kept.size)
			}
		}
	}
}
