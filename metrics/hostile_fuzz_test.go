package metrics_test

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/prometheus/client_golang/prometheus"
	"go-micro.dev/v5/broker"

	jsbroker "go-micro-jetstream/broker"
	"go-micro-jetstream/internal/natstest"
	"go-micro-jetstream/metrics"
)

// oneWord leaves out what would end a word on the wire.
func oneWord(s string, most int) string {
	s = strings.Map(func(r rune) rune {
		if strings.ContainsRune(" \t\r\n\x7f", r) {
			return -1
		}
		return r
	}, s)
	return s[:min(len(s), most)]
}

// Whatever a raw message consists of, the proper one after it is handled.
func FuzzRawMessage(f *testing.F) {
	seeds := &hostile{r: rand.New(rand.NewPCG(1, 1))}
	for range 20 {
		f.Add("x", "_INBOX.x", []byte(seeds.headers()), []byte("body"))
	}
	f.Add("\x00", "$JS.ACK", []byte("NATS/1.0 409 Consumer Deleted\r\nNats-Pending-Messages: -1\r\n\r\n"), []byte{})
	f.Add("", "", []byte("NATS/1.0\r\nStatus: 404\r\n\r\n"), []byte{})
	s := natstest.Start(f, func(o *server.Options) { o.MaxPayload = 1 << 19 })
	b := jsbroker.NewBroker(broker.Addrs(s.ClientURL()), broker.Logger(natstest.Quiet()), jsbroker.WithDeadLetter("dead"),
		jsbroker.WithHooks(metrics.New(metrics.WithRegisterer(prometheus.NewRegistry()))))
	if err := b.Connect(); err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = b.Disconnect() })
	handled := make(chan string, 100)
	var inbox atomic.Pointer[string]
	_, err := b.Subscribe("orders.>", func(e broker.Event) error {
		if body := string(e.Message().Body); strings.HasPrefix(body, "good ") {
			handled <- body
			return nil
		}
		return jsbroker.Discard(fmt.Errorf("%q", e.Message().Body))
	}, broker.Queue("q"))
	if err != nil {
		f.Fatal(err)
	}
	nc, _ := natstest.Connect(f, s.ClientURL())
	requests := natstest.Listen(f, nc, "$JS.API.CONSUMER.MSG.NEXT.>")
	go func() {
		for m := range requests {
			inbox.Store(&m.Reply)
		}
	}()
	raw := &hostile{address: s.Addr().String()}
	f.Cleanup(func() {
		if raw.conn != nil {
			_ = raw.conn.Close()
		}
	})
	n := 0
	f.Fuzz(func(t *testing.T, token, reply string, headers, body []byte) {
		reply = oneWord(reply, 200)
		if strings.HasPrefix(reply, "$") && !strings.HasPrefix(reply, "$JS.ACK") {
			reply = "" // the server itself would answer to its API
		}
		headers, body = headers[:min(len(headers), 1<<16)], body[:min(len(body), 1<<16)]
		subjects := []string{"orders." + oneWord(token, 900)}
		if to := inbox.Load(); to != nil {
			subjects = append(subjects, *to)
		}
		for _, subject := range subjects {
			raw.write(fmt.Appendf(nil, "HPUB %s %s %d %d\r\n%s%s\r\n", subject, reply, len(headers), len(headers)+len(body), headers, body))
		}
		n++
		want := fmt.Sprint("good ", n)
		if err := b.Publish("orders.good", &broker.Message{Body: []byte(want)}); err != nil {
			t.Fatal(err)
		}
		if got := natstest.Receive(t, handled); got != want {
			t.Errorf("handled %q, want %q", got, want)
		}
	})
}
