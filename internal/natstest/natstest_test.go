package natstest_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go-micro.dev/v5/logger"

	"go-micro-jetstream/internal/natstest"
)

func TestMain(m *testing.M) { os.Exit(natstest.Main(m)) }

func TestOnlyTestsImportIt(t *testing.T) {
	t.Parallel()
	cmd := exec.CommandContext(t.Context(), "go", "list", "-f", "{{.ImportPath}}: {{.Imports}}", "./...")
	cmd.Dir = "../.."
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(out)) {
		importer, imports, _ := strings.Cut(line, ": ")
		if strings.Contains(imports, "internal/natstest") {
			t.Errorf("%s imports it", importer)
		}
		if importer == "go-micro-jetstream/internal/natstest" && strings.Contains(imports, "go-micro-jetstream/") {
			t.Errorf("it imports packages whose tests need it: %s", imports)
		}
	}
}

func TestRestartableKeepsItsAddressAndItsData(t *testing.T) {
	t.Parallel()
	s := natstest.StartRestartable(t)
	url := s.ClientURL()
	nc, js := natstest.Connect(t, url, nats.ReconnectWait(0))
	natstest.MakeStream(t, js, jetstream.StreamConfig{Name: "ORDERS", Subjects: []string{"orders.>"}})
	_, err := js.Publish(natstest.Context(t), "orders.created", []byte("x"))
	noErr(t, err)
	s.Stop()
	natstest.Eventually(t, "the client sees it", func() bool { return !nc.IsConnected() })
	s.Options.MaxPayload = 2000
	s.Start(t)
	natstest.Eventually(t, "the client is back", nc.IsConnected)
	if s.ClientURL() != url || nc.MaxPayload() != 2000 {
		t.Errorf("it is at %s now, not %s, with a limit of %d", s.ClientURL(), url, nc.MaxPayload())
	}
	if body := natstest.LastMessage(t, js, "ORDERS", "orders.created").Data; string(body) != "x" {
		t.Errorf("stored %q", body)
	}
}

func TestUsersAndTheirPermissions(t *testing.T) {
	t.Parallel()
	s, reload := natstest.StartReloadable(t, natstest.Limited(natstest.NoPublish("secret")))
	refused := make(chan error, 10)
	limited, _ := natstest.Connect(t, natstest.URL(s, "limited:pw"), nats.ReconnectWait(0),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { refused <- err }))
	admin, _ := natstest.Connect(t, natstest.URL(s, "admin:admin"), nats.ReconnectWait(0))
	got := natstest.Listen(t, admin, "secret", "public")
	for _, subject := range []string{"secret", "public"} {
		noErr(t, limited.Publish(subject, nil))
	}
	if m := natstest.Receive(t, got); m.Subject != "public" {
		t.Errorf("got %s", m.Subject)
	}
	if err := natstest.Receive(t, refused); !errors.Is(err, nats.ErrPermissionViolation) {
		t.Errorf("refused: %v", err)
	}

	reload(natstest.Limited(natstest.NoSubscribe("secret")))
	natstest.Eventually(t, "a subscription is refused", func() bool {
		_, err := limited.SubscribeSync("secret")
		noErr(t, err)
		noErr(t, limited.Flush())
		return len(refused) > 0
	})
	_ = natstest.Await(t, refused, "violation by a subscription", func(err error) bool {
		return strings.Contains(err.Error(), "Subscription")
	})
}

func TestProxy(t *testing.T) {
	t.Parallel()
	s := natstest.Start(t)
	beside, _ := natstest.Connect(t, s.ClientURL())
	p := natstest.StartProxy(t, s)
	back := make(chan struct{}, 10)
	nc, _ := natstest.Connect(t, p.URL(), nats.ReconnectWait(0), nats.ReconnectHandler(func(*nats.Conn) { back <- struct{}{} }))
	requests := natstest.Listen(t, beside, "requests")
	answers := natstest.Listen(t, nc, "answers")
	ask := func(body string) {
		t.Helper()
		noErr(t, nc.Publish("requests", []byte(body)))
	}
	arrives := func(ch <-chan *nats.Msg, body string) {
		t.Helper()
		if m := natstest.Receive(t, ch); string(m.Data) != body {
			t.Errorf("got %s, want %s", m.Data, body)
		}
	}
	answer := func(body string) {
		t.Helper()
		noErr(t, beside.Publish("answers", []byte(body)))
		noErr(t, beside.Flush())
	}

	happened := p.Lose("lost")
	ask("lost")
	natstest.Eventually(t, "a request is lost", happened)
	ask("1")
	arrives(requests, "1")

	p.Stall()
	ask("2")
	natstest.Await(t, requests, "second request", func(m *nats.Msg) bool { return string(m.Data) == "2" })
	answer("2")
	if len(answers) > 0 {
		t.Error("an answer passes while they are held back")
	}
	p.Resume()
	arrives(answers, "2")

	p.StallAfter("3")
	ask("3")
	arrives(requests, "3")
	answer("3")
	if len(answers) > 0 {
		t.Error("an answer passes after the request that is the last")
	}
	p.Resume()
	p.Resume() // harmless
	arrives(answers, "3")

	p.TakeNothing()
	ask("4")
	if len(requests) > 0 {
		t.Error("a request passes")
	}
	p.TakeAgain()
	arrives(requests, "4")

	p.Edit(func(data []byte) []byte { return bytes.ReplaceAll(data, []byte("five"), []byte("FIVE")) })
	answer("five")
	arrives(answers, "FIVE")

	p.Cut()
	natstest.Receive(t, back)
	noErr(t, nc.Flush())
	answer("6")
	arrives(answers, "6")
}

func TestCountRequests(t *testing.T) {
	t.Parallel()
	nc, js := natstest.Connect(t, natstest.Start(t).ClientURL())
	r := natstest.CountRequests(t, nc, "$JS.API.STREAM.>")
	natstest.MakeStream(t, js, jetstream.StreamConfig{Name: "ORDERS", Subjects: []string{"orders.>"}})
	natstest.UpdateStream(t, js, jetstream.StreamConfig{Name: "ORDERS", Subjects: []string{"orders.>"}, MaxMsgs: 7})
	if all := r.Messages(t); len(all) != 2 || all[0].Subject != "$JS.API.STREAM.CREATE.ORDERS" {
		t.Errorf("%d requests", len(all))
	}
	if info := natstest.StreamInfo(t, js, "ORDERS"); info.Config.MaxMsgs != 7 {
		t.Errorf("stream %+v", info.Config)
	}
	if n := r.Seen(t); n != 2 { // to look it up, and to ask again
		t.Errorf("%d requests for information", n)
	}
	r.Stop(t)

	natstest.MakeConsumer(t, js, "ORDERS", jetstream.ConsumerConfig{Durable: "pull"})
	natstest.MakeConsumer(t, js, "ORDERS", jetstream.ConsumerConfig{Durable: "Push", DeliverSubject: "somewhere"})
	if names := natstest.ConsumerNames(t, js, "ORDERS"); len(names) != 2 || names[0] != "Push" || names[1] != "pull" {
		t.Errorf("consumers %v", names)
	}
	if info := natstest.ConsumerInfo(t, js, "ORDERS", "pull"); info.Config.Durable != "pull" {
		t.Errorf("consumer %+v", info.Config)
	}
}

func TestClusterSurvivesTheLossOfALeader(t *testing.T) {
	if testing.Short() {
		t.Skip("elections take their time")
	}
	t.Parallel()
	c := natstest.StartCluster(t)
	_, js := natstest.Connect(t, strings.Join(c.URLs(), ","), nats.ReconnectWait(0))
	natstest.MakeStream(t, js, jetstream.StreamConfig{Name: "ORDERS", Subjects: []string{"orders.>"}, Replicas: 3})
	natstest.MakeConsumer(t, js, "ORDERS", jetstream.ConsumerConfig{Durable: "q"})
	stored := 0
	goesOn := func() {
		t.Helper()
		natstest.Eventually(t, "a message is stored", func() bool {
			ctx, cancel := context.WithTimeout(natstest.Context(t), time.Second)
			defer cancel()
			_, err := js.Publish(ctx, "orders.created", nil)
			return err == nil
		})
		stored++
	}
	goesOn()
	c.Bounce(t, c.StreamLeader(t, "ORDERS"), goesOn)
	c.Bounce(t, c.ConsumerLeader(t, "ORDERS", "q"), goesOn)
	leader := c.Leader(t)
	c.Bounce(t, c.Node(t, "node that does not lead", func(s *server.Server) bool { return s != leader.Server }), goesOn)
	if n := natstest.StreamInfo(t, js, "ORDERS").State.Msgs; n < uint64(stored) {
		t.Errorf("%d messages are left of %d", n, stored)
	}
}

func TestLog(t *testing.T) {
	t.Parallel()
	log := natstest.NewLog()
	var general logger.Logger = log
	broker := general.Fields(map[string]any{"broker": 1})
	broker.Fields(map[string]any{"topic": "orders"}).Logf(logger.WarnLevel, "%d failures", 3)
	broker.Log(logger.DebugLevel, "all is ", "well")
	if lines := log.Lines(); len(lines) != 2 || lines[0].String() != "warn 3 failures map[broker:1 topic:orders]" || len(lines[1].Fields) != 1 {
		t.Errorf("lines %v", lines)
	}
	if lines := log.With("is well"); len(lines) != 1 || lines[0].Level != logger.DebugLevel {
		t.Errorf("with a text: %v", lines)
	}
	if lines := log.AtLeast(logger.InfoLevel); len(lines) != 1 || lines[0].Level != logger.WarnLevel {
		t.Errorf("warnings: %v", lines)
	}
	if text := log.Text(); !strings.HasSuffix(text, "\ndebug all is well map[broker:1]\n") {
		t.Errorf("text:\n%s", text)
	}
	natstest.Quiet().Log(logger.ErrorLevel, "nobody sees this")
}

func TestGoroutines(t *testing.T) {
	// Not parallel: it looks at all goroutines of the process.
	s := natstest.Start(t)
	p := natstest.StartProxy(t, s)
	if left := natstest.Goroutines(); len(left) > 0 {
		t.Fatalf("before a client is connected: %s", strings.Join(left, "\n\n"))
	}
	nc, _ := natstest.Connect(t, p.URL())
	if left := natstest.Goroutines(); len(left) == 0 {
		t.Error("none, and a client runs")
	}
	nc.Close()
	natstest.Eventually(t, "the client's goroutines are gone", func() bool { return len(natstest.Goroutines()) == 0 })
}

func noErr(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
