// Package docs_test runs the code of docs/how-to.md.
package docs_test

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"go-micro.dev/v5/broker"

	jsbroker "go-micro-jetstream/broker"
	"go-micro-jetstream/internal/natstest"
)

func TestMain(m *testing.M) { os.Exit(natstest.Main(m)) }

// task is what the code of a task may use, as the beginning of the page says.
type task struct {
	url     string
	b       broker.Broker
	ctx     context.Context
	js      jetstream.JetStream
	msg     *broker.Message
	got     chan string // what handler has got
	handler broker.Handler
}

// begin starts a server and connects a broker with these options to it.
func begin(t *testing.T, opts ...broker.Option) task {
	t.Helper()
	url := natstest.Start(t).ClientURL()
	_, js := natstest.Connect(t, url)
	got := make(chan string, 100)
	return task{
		url: url,
		b:   connect(t, jsbroker.NewBroker(append([]broker.Option{broker.Addrs(url)}, opts...)...)),
		ctx: natstest.Context(t),
		js:  js,
		msg: &broker.Message{Body: []byte("4711")},
		got: got,
		handler: func(e broker.Event) error {
			got <- string(e.Message().Body)
			return nil
		},
	}
}

// connect connects a broker until the end of the test.
func connect(t *testing.T, b broker.Broker) broker.Broker {
	t.Helper()
	if err := b.Init(broker.Logger(natstest.Quiet())); err != nil {
		t.Fatal(err)
	}
	if err := b.Connect(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Disconnect() })
	return b
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// text is a piece of code without its indentation.
func text(code string) string {
	lines := strings.Split(strings.TrimSpace(code), "\n")
	for i := range lines {
		lines[i] = strings.TrimSpace(lines[i])
	}
	return "\n" + strings.Join(lines, "\n") + "\n"
}

var goBlock = regexp.MustCompile("(?s)\n```go\n(.*?)\n```")

// TestEveryTaskIsTested: each task of the page has a test, whose comment is its heading,
// and the test has its Go code, line by line.
func TestEveryTaskIsTested(t *testing.T) {
	page, err := os.ReadFile("how-to.md")
	must(t, err)
	files, err := filepath.Glob("*_test.go")
	must(t, err)
	source := ""
	for _, file := range files {
		src, err := os.ReadFile(file)
		must(t, err)
		source += string(src)
	}
	tasks := strings.Split(string(page), "\n## ")[1:]
	for _, task := range tasks {
		heading, rest, _ := strings.Cut(task, "\n")
		_, test, ok := strings.Cut(source, "\n// "+heading+"\nfunc Test")
		if !ok {
			t.Errorf("no test has the comment %q", heading)
			continue
		}
		test, _, _ = strings.Cut(test, "\nfunc Test")
		for _, code := range goBlock.FindAllStringSubmatch(rest, -1) {
			if !strings.Contains(text(test), text(code[1])) {
				t.Errorf("the test of %q has not this code of the page:\n%s", heading, code[1])
			}
		}
		if n := strings.Count(rest, "\n"); n > 50 {
			t.Errorf("%q has %d lines; a task is a screen at most", heading, n)
		}
	}
}

// Deliver a message later
func TestDeliverLater(t *testing.T) {
	with := begin(t)
	b, ctx, msg := with.b, with.ctx, with.msg
	waiting := func() uint64 { return natstest.StreamInfo(t, with.js, "REMINDERS-later").State.Msgs }
	func() {
		err := b.Publish("reminders.due", msg, jsbroker.DeliverAfter(24*time.Hour), jsbroker.MessageID("reminder-4711"))
		must(t, err)
	}()
	if n := waiting(); n != 1 {
		t.Fatalf("%d messages wait, want 1", n)
	}
	err := jsbroker.CancelDelivery(ctx, b, "reminders.due", "reminder-4711")
	if errors.Is(err, jsbroker.ErrNotScheduled) {
		slog.Info("too late: it is delivered, or due just now")
	}
	must(t, err)
	if n := waiting(); n != 0 {
		t.Fatalf("%d messages wait, want none", n)
	}
}

// Give a message a time to live
func TestTimeToLive(t *testing.T) {
	with := begin(t)
	b, msg := with.b, with.msg
	err := b.Publish("codes.sent", msg, jsbroker.TTL(10*time.Minute))
	must(t, err)
	if ttl := natstest.LastMessage(t, with.js, "CODES", "codes.sent").Header.Get("Nats-TTL"); ttl != "10m0s" && ttl != "600s" && ttl != "600" {
		t.Fatalf("the time to live is %q", ttl)
	}
}
