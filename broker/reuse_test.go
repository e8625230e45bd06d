package broker_test

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go-micro.dev/v5/broker"

	jsbroker "go-micro-jetstream/broker"
	"go-micro-jetstream/internal/natstest"
)

// distinctMessage is one whose every part tells which it is. How many headers it has
// differs from one to the next.
func distinctMessage(publisher, i int) *broker.Message {
	m := &broker.Message{Header: map[string]string{}}
	for j := range (publisher + 7*i) % 40 {
		m.Header[fmt.Sprintf("Key-%d-%d-%d", publisher, i, j)] = fmt.Sprintf("%d-%d-%d", publisher, i, j)
	}
	if i%3 == 0 {
		m.Header["traceparent"] = fmt.Sprintf("%d-%d", publisher, i)
	}
	m.Body = []byte(fmt.Sprintf("%d %d ", publisher, i) + strings.Repeat("x", (publisher+i)%300))
	return m
}

// Publishes use the memory of those before them. Each message arrives as it was, once,
// although the connection is lost again and again, some are invalid, and some callers
// do not wait.
func TestNoMessageGetsPartsOfAnother(t *testing.T) {
	t.Parallel()
	const publishers, each, cuts = 8, 400, 6
	s := startServer(t)
	_, js := natsConn(t, s)
	natstest.MakeStream(t, js, jetstream.StreamConfig{Name: "ORDERS", Subjects: []string{"orders.>"}})
	p := natstest.StartProxy(t, s)
	b := newBroker(t, s, broker.Addrs(p.URL()), jsbroker.WithAsyncWindow(64), jsbroker.WithNATSOptions(nats.ReconnectWait(10*time.Millisecond)))

	var ended atomic.Int64
	var mu sync.Mutex
	stored, unknown := map[string]bool{}, map[string]bool{}
	result := func(body []byte, err error) {
		mu.Lock()
		switch {
		case err == nil:
			stored[string(body)] = true
		case errors.Is(err, jsbroker.ErrPublishUnknown):
			unknown[string(body)] = true
		}
		mu.Unlock()
		if n := ended.Add(1); n%(publishers*each/cuts) == 0 {
			p.Cut()
		}
	}
	var all sync.WaitGroup
	for publisher := range publishers {
		all.Go(func() {
			for i := range each {
				m := distinctMessage(publisher, i)
				if i%10 == 9 {
					bad := distinctMessage(publisher, i)
					bad.Header["bad key"] = "x"
					wantError(t, b.Publish("orders.created", bad), jsbroker.ErrInvalidHeader)
				}
				if publisher%2 == 0 {
					result(m.Body, b.Publish("orders.created", m))
					continue
				}
				all.Add(1)
				err := b.Publish("orders.created", m, jsbroker.Async(func(err error) {
					result(m.Body, err)
					all.Done()
				}))
				if err != nil {
					result(m.Body, err)
					all.Done()
				}
			}
		})
	}
	all.Wait()

	st, err := js.Stream(testContext(t), "ORDERS")
	if err != nil {
		t.Fatal(err)
	}
	arrived := map[string]int{}
	for seq := uint64(1); seq <= st.CachedInfo().State.LastSeq; seq++ {
		got, err := st.GetMsg(testContext(t), seq)
		if err != nil {
			t.Fatal(err)
		}
		var publisher, i int
		if _, err := fmt.Sscanf(string(got.Data), "%d %d ", &publisher, &i); err != nil {
			t.Fatalf("message %d has the body %q", seq, got.Data)
		}
		want := distinctMessage(publisher, i)
		if string(got.Data) != string(want.Body) {
			t.Errorf("message %d has the body %q", seq, got.Data)
		}
		arrived[string(got.Data)]++
		if len(got.Header) != len(want.Header)+1 { // its id
			t.Errorf("message %d of publisher %d has %d headers, not %d and an id", i, publisher, len(got.Header), len(want.Header))
		}
		for k, v := range want.Header {
			if values := got.Header[k]; len(values) != 1 || values[0] != v {
				t.Errorf("message %d of publisher %d has %s: %q", i, publisher, k, values)
			}
		}
	}
	if len(stored)+len(unknown) != publishers*each {
		t.Errorf("%d stored and %d unknown of %d", len(stored), len(unknown), publishers*each)
	}
	for body, n := range arrived {
		if n > 1 || !stored[body] && !unknown[body] {
			t.Errorf("%.10s stored %d times", body, n)
		}
	}
	for body := range stored {
		if arrived[body] == 0 {
			t.Errorf("%.10s was acknowledged and is not there", body)
		}
	}
}
