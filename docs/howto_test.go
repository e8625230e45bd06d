// Package docs_test runs the code of docs/how-to.md.
package docs_test

import (
	"context"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/nats-io/nats-server/v2/server"
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
	// One of the pages asks for more than the disk may have left.
	url := natstest.Start(t, func(o *server.Options) { o.JetStreamMaxStore = 1 << 40 }).ClientURL()
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

var (
	goBlock  = regexp.MustCompile("(?s)\n```go\n(.*?)\n```")
	taskTest = regexp.MustCompile(`\n// [^\n]+\nfunc Test`)
)

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
		code := goBlock.FindAllStringSubmatch(rest, -1)
		_, test, ok := strings.Cut(source, "\n// "+heading+"\nfunc Test")
		if !ok {
			if strings.Contains(rest, "```") {
				t.Errorf("no test has the comment %q", heading)
			}
			continue
		}
		if next := taskTest.FindStringIndex(test); next != nil {
			test = test[:next[0]]
		}
		for _, c := range code {
			if !strings.Contains(text(test), text(c[1])) {
				t.Errorf("the test of %q has not this code of the page:\n%s", heading, c[1])
			}
		}
		if n := strings.Count(rest, "\n"); n > 50 {
			t.Errorf("%q has %d lines; a task is a screen at most", heading, n)
		}
	}
}

// fromPage returns the code of a language in a task of the page.
func fromPage(t *testing.T, heading, lang string) string {
	t.Helper()
	page, err := os.ReadFile("how-to.md")
	must(t, err)
	_, task, _ := strings.Cut(string(page), "\n## "+heading+"\n")
	_, code, ok := strings.Cut(task, "\n```"+lang+"\n")
	code, _, _ = strings.Cut(code, "\n```")
	if !ok {
		t.Fatalf("%q has no %s", heading, lang)
	}
	return code
}
