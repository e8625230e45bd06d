package natstest

import (
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Connect returns a plain NATS client and JetStream on it: what users do beside
// the broker. The client is closed with the test.
func Connect(t testing.TB, url string, opts ...nats.Option) (*nats.Conn, jetstream.JetStream) {
	t.Helper()
	nc, err := nats.Connect(url, opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	return nc, js
}

// Listen returns what is sent to these subjects from now on. The channel holds a
// thousand messages; what comes while it is full is dropped.
func Listen(t testing.TB, nc *nats.Conn, subjects ...string) <-chan *nats.Msg {
	t.Helper()
	ch := make(chan *nats.Msg, 1000)
	for _, subject := range subjects {
		if _, err := nc.ChanSubscribe(subject, ch); err != nil {
			t.Fatal(err)
		}
	}
	flush(t, nc)
	return ch
}

// Requests are the messages that clients send to a subject.
type Requests struct {
	nc  *nats.Conn
	sub *nats.Subscription
}

// CountRequests counts what clients send to a subject, such as those of
// JetStream's API, from now on.
func CountRequests(t testing.TB, nc *nats.Conn, subject string) *Requests {
	t.Helper()
	sub, err := nc.SubscribeSync(subject)
	if err != nil {
		t.Fatal(err)
	}
	flush(t, nc)
	return &Requests{nc: nc, sub: sub}
}

// Seen returns how many have come since the last call of Seen or Messages.
func (r *Requests) Seen(t testing.TB) int {
	t.Helper()
	return len(r.Messages(t))
}

// Messages returns those that have come since the last call of Seen or Messages.
func (r *Requests) Messages(t testing.TB) (all []*nats.Msg) {
	t.Helper()
	flush(t, r.nc)
	for {
		m, err := r.sub.NextMsg(time.Millisecond)
		if err != nil {
			return all
		}
		all = append(all, m)
	}
}

// Stop ends the count.
func (r *Requests) Stop(t testing.TB) {
	t.Helper()
	if err := r.sub.Unsubscribe(); err != nil {
		t.Fatal(err)
	}
}

// flush waits until the server has seen all that the client has sent, and the
// client all that the server had for it before.
func flush(t testing.TB, nc *nats.Conn) {
	t.Helper()
	if err := nc.FlushTimeout(Patience); err != nil {
		t.Fatal(err)
	}
}
