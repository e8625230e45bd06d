// Package module_test holds what stands beside the code to it: README.md and the
// pages of docs/, whose programs compile and run, and whose tables are complete,
// their translation, and api.txt.
package module_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/format"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"go-micro.dev/v5/broker"
	"go-micro.dev/v5/logger"

	jsbroker "go-micro-jetstream/broker"
	"go-micro-jetstream/internal/natstest"
	"go-micro-jetstream/metrics"
)

// programURL is the server in the programs of the pages.
const programURL = "nats://localhost:4222"

// programAddress is where the programs of the pages serve their metrics. In the test each
// takes a port of its own.
const programAddress = "127.0.0.1:2112"

// preamble precedes the code blocks that are not programs. They may use what it
// imports and declares.
const preamble = `package snippet

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go-micro.dev/v5"
	"go-micro.dev/v5/broker"
	"go-micro.dev/v5/client"
	"go-micro.dev/v5/events"
	"go-micro.dev/v5/server"
	"go.opentelemetry.io/otel/propagation"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"

	jsbroker "go-micro-jetstream/broker"
	"go-micro-jetstream/metrics"
	"go-micro-jetstream/tracing"
	"go-micro-jetstream/broker/wrapper"
	"go-micro-jetstream/dashboards/live"
)

var (
	_ = context.Background
	_ = json.Marshal
	_ = errors.Is
	_ events.Stream
	_ = slog.Info
	_ = http.Handle
	_ time.Duration
	_ nats.Option
	_ jetstream.StreamConfig
	_ micro.Option
	_ broker.Option
	_ client.Option
	_ server.Option
	_ propagation.TraceContext
	_ sdktrace.SpanProcessor
	_ trace.Span
	_ jsbroker.Hooks
	_ metrics.Option
	_ tracing.Option
	_ = wrapper.Event
	_ = live.New
)

var (
	ctx     context.Context
	b       broker.Broker
	msg     *broker.Message
	handler broker.Handler
	charge  func(context.Context, *struct{}) error
)

type Order struct{ ID string }

`

// programs are what the programs of the pages do when they run, by a string that
// tells which is which.
var programs = []struct {
	contains string
	topic    string // the test publishes an order to it, if there is one
	output   string // on stdout or stderr
	stop     bool   // it runs until it is told to stop
}{
	{contains: "jsbroker.WithHooks(metrics.New()))", topic: "orders.created", output: "charging order 4711\n", stop: true},
	{contains: "greetings <- string(", output: "got hello, stream\n"},
	{contains: "micro.NewEvent(", output: "printing invoice 4711\n", stop: true},
	{contains: "jsbroker.RetryAfter(", output: "parcels.packed 4711\n"},
	{contains: "http.ListenAndServe(", output: "visitor 4711\n", stop: true},
}

// pages returns the pages that the tests hold to the code: the README, the shelf in
// docs/, and the list of examples. Their translations are compared with them by
// TestTheTranslation.
func pages(t *testing.T) []string {
	t.Helper()
	all, err := filepath.Glob("docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	return append([]string{"README.md", "examples/README.md"}, all...)
}

func read(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// shelf returns all pages as one text.
func shelf(t *testing.T) string {
	t.Helper()
	text := ""
	for _, page := range pages(t) {
		text += read(t, page) + "\n"
	}
	return text
}

// block is a code block of a page.
type block struct {
	file string
	line int
	lang string
	text string
}

func (b block) isProgram() bool { return strings.HasPrefix(b.text, "package ") }

func blocks(t *testing.T, file string) []block {
	t.Helper()
	var all []block
	var open *block
	for i, line := range strings.Split(read(t, file), "\n") {
		lang, fence := strings.CutPrefix(strings.TrimSpace(line), "```")
		switch {
		case fence && open == nil:
			open = &block{file: file, line: i + 1, lang: lang}
		case fence:
			all = append(all, *open)
			open = nil
		case open != nil:
			open.text += line + "\n"
		}
	}
	if open != nil {
		t.Fatalf("%s:%d: the block does not end", file, open.line)
	}
	return all
}

// blocksOf returns the blocks of all pages in one language.
func blocksOf(t *testing.T, lang string) []block {
	t.Helper()
	var of []block
	for _, page := range pages(t) {
		for _, b := range blocks(t, page) {
			if b.lang == lang {
				of = append(of, b)
			}
		}
	}
	if len(of) == 0 {
		t.Fatalf("no page has %s blocks", lang)
	}
	return of
}

// source makes a Go file of a block: a program is one, declarations follow the
// preamble, and statements become the body of a function.
func (b block) source() (string, error) {
	at := fmt.Sprintf("//line %s:%d\n", b.file, b.line+1)
	if b.isProgram() {
		return at + b.text, nil
	}
	if _, err := parser.ParseFile(token.NewFileSet(), "", "package p\n"+b.text, 0); err == nil {
		return preamble + at + b.text, nil
	}
	body := "package p\nfunc _() {\n" + b.text + "\n}\n"
	f, err := parser.ParseFile(token.NewFileSet(), "", body, 0)
	if err != nil {
		return "", err
	}
	uses := ""
	for _, stmt := range f.Decls[0].(*ast.FuncDecl).Body.List {
		if a, ok := stmt.(*ast.AssignStmt); ok && a.Tok == token.DEFINE {
			for _, name := range a.Lhs {
				uses += "\n_ = " + name.(*ast.Ident).Name
			}
		}
	}
	return preamble + "func _() {\n" + at + b.text + uses + "\n}\n", nil
}

// build compiles all Go blocks with one command, in a directory of the module
// that is not there. It returns the directory of the executables, by number of
// the block.
func build(t *testing.T, url string) (dir string, code []block) {
	t.Helper()
	dir = t.TempDir()
	root, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	// docs/howto_test.go compiles and runs the code of docs/how-to.md.
	code = slices.DeleteFunc(blocksOf(t, "go"), func(b block) bool { return b.file == "docs/how-to.md" })
	overlay := struct{ Replace map[string]string }{map[string]string{}}
	args := []string{"-mod=readonly"}
	add := func(pkg, src string) {
		file := filepath.Join(dir, pkg+".go")
		if err := os.WriteFile(file, []byte(src), 0o600); err != nil {
			t.Fatal(err)
		}
		overlay.Replace[filepath.Join(root, "docs-blocks", pkg, "main.go")] = file
		args = append(args, "./docs-blocks/"+pkg)
	}
	// With a directory for -o, go build ignores what is not a program: so one
	// program imports the other blocks.
	all := "package main\n\n"
	for i, b := range code {
		src, err := b.source()
		if err != nil {
			t.Fatalf("%s:%d: %v", b.file, b.line, err)
		}
		pkg := fmt.Sprintf("block%d", i)
		add(pkg, strings.NewReplacer(programURL, url, programAddress, "127.0.0.1:0").Replace(src))
		if !b.isProgram() {
			all += fmt.Sprintf("import _ %q\n", "go-micro-jetstream/docs-blocks/"+pkg)
		}
	}
	add("all", all+"\nfunc main() {}\n")
	list, err := json.Marshal(overlay)
	if err != nil {
		t.Fatal(err)
	}
	listFile := filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(listFile, list, 0o600); err != nil {
		t.Fatal(err)
	}
	args = append([]string{"build", "-overlay", listFile, "-o", dir + string(filepath.Separator)}, args...)
	if out, err := exec.Command("go", args...).CombinedOutput(); err != nil {
		t.Fatalf("the Go code of a page does not compile: %v\n%s", err, out)
	}
	return dir, code
}

func TestTheCodeCompilesAndTheProgramsRun(t *testing.T) {
	url := natstest.Start(t).ClientURL()
	dir, code := build(t, url)
	ran := 0
	for i, b := range code {
		if !b.isProgram() {
			continue
		}
		for _, p := range programs {
			if !strings.Contains(b.text, p.contains) {
				continue
			}
			ran++
			t.Run(fmt.Sprintf("%s line %d", b.file, b.line), func(t *testing.T) {
				if p.topic != "" {
					publishOrder(t, url, p.topic)
				}
				run(t, filepath.Join(dir, fmt.Sprintf("block%d", i)), p.output, p.stop)
			})
			break
		}
	}
	if ran != len(programs) {
		t.Errorf("%d programs were run, want %d", ran, len(programs))
	}
	t.Run("what they leave behind", func(t *testing.T) { deadLettersAfterwards(t, url) })
}

func connected(t *testing.T, b broker.Broker) broker.Broker {
	t.Helper()
	if err := b.Connect(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Disconnect() })
	return b
}

func quiet() broker.Option { return broker.Logger(natstest.Quiet()) }

func newBroker(t *testing.T, url string, opts ...broker.Option) broker.Broker {
	t.Helper()
	return connected(t, jsbroker.NewBroker(append([]broker.Option{broker.Addrs(url), quiet()}, opts...)...))
}

// publishOrder does what another service would do.
func publishOrder(t *testing.T, url, topic string) {
	t.Helper()
	m := &broker.Message{Header: map[string]string{"Content-Type": "application/json"}, Body: []byte(`{"ID":"4711"}`)}
	if err := newBroker(t, url).Publish(topic, m); err != nil {
		t.Fatal(err)
	}
}

// The programs leave durable consumers on the server. They are in the way of nobody: a
// service that then uses the same topics and queues, or its own, gets its own settings.
func deadLettersAfterwards(t *testing.T, url string) {
	for topic, queue := range map[string]string{"orders.created": "payments", "greetings.sent": "readers", "invoices.written": "billing"} {
		letters := "dead-letters." + queue
		b := newBroker(t, url, jsbroker.WithDeadLetter(letters), jsbroker.WithConsumerConfig(jetstream.ConsumerConfig{MaxDeliver: 1}))
		if _, err := b.Subscribe(topic, func(broker.Event) error { return errors.New("no") }, broker.Queue(queue)); err != nil {
			t.Fatal(err)
		}
		got := make(chan string, 1)
		if _, err := b.Subscribe(letters, func(e broker.Event) error { got <- string(e.Message().Body); return nil }, broker.Queue("letters")); err != nil {
			t.Fatal(err)
		}
		if err := b.Publish(topic, &broker.Message{Body: []byte(queue)}); err != nil {
			t.Fatal(err)
		}
		if letter := natstest.Receive(t, got); letter != queue {
			t.Errorf("the dead letter of %s is %q", topic, letter)
		}
	}
}

// run runs a program until it ends, or has printed the output and is stopped.
func run(t *testing.T, program, output string, stop bool) {
	if runtime.GOOS == "windows" && stop {
		t.Skip("no SIGTERM")
	}
	ctx, cancel := context.WithTimeout(context.Background(), natstest.Patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, program)
	// The default registry multicasts; the test must not need a network.
	cmd.Env = append(os.Environ(), "MICRO_REGISTRY=memory")
	printed := &watched{want: output, found: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = printed, printed
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	if stop {
		select {
		case <-printed.found:
			_ = cmd.Process.Signal(syscall.SIGTERM)
		case err := <-ended:
			t.Fatalf("it has ended: %v\n%s", err, printed)
		}
	}
	err := <-ended
	var exit *exec.ExitError
	if stop && errors.As(err, &exit) && exit.Sys().(syscall.WaitStatus).Signal() == syscall.SIGTERM {
		err = nil // a program without signal handling
	}
	if err != nil || !strings.Contains(printed.String(), output) {
		t.Fatalf("want the output %q: %v\n%s", output, err, printed)
	}
}

// watched is an output that says when a text has come.
type watched struct {
	mu    sync.Mutex
	buf   bytes.Buffer
	want  string
	found chan struct{}
	once  sync.Once
}

func (w *watched) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	n, err := w.buf.Write(p)
	if strings.Contains(w.buf.String(), w.want) {
		w.once.Do(func() { close(w.found) })
	}
	return n, err
}

func (w *watched) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.buf.String()
}

func TestTheCodeIsFormatted(t *testing.T) {
	for _, b := range blocksOf(t, "go") {
		formatted, err := format.Source([]byte(b.text))
		if err != nil {
			t.Errorf("%s:%d: %v", b.file, b.line, err)
		} else if string(formatted) != b.text {
			t.Errorf("%s:%d: gofmt would write\n%s", b.file, b.line, formatted)
		}
	}
}

func TestTheCommandsAreThere(t *testing.T) {
	commands := ""
	for _, b := range blocksOf(t, "sh") {
		commands += "\n" + b.text
	}
	for _, command := range []string{"go run ./examples/demo", "go test ./...", "go run github.com/nats-io/nats-server/v2@v" + server.VERSION} {
		if !strings.Contains(commands, "\n"+command) {
			t.Errorf("no shell block has %q", command)
		}
	}
}

// declarations parses a package of this module.
func declarations(t *testing.T, dir string) []ast.Decl {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	var all []ast.Decl
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, f.Decls...)
	}
	return all
}

// TestEveryExportedFunctionIsMentioned: on a page of docs/, where options and functions
// have a row each. The README is for those who do not know yet what they look for.
func TestEveryExportedFunctionIsMentioned(t *testing.T) {
	text := read(t, "docs/options.md")
	for _, pkg := range []struct{ dir, prefix string }{
		{"broker", ""}, {"metrics", "metrics."}, {"tracing", "tracing."}, {"broker/wrapper", "wrapper."},
		{"broker/brokertest", "brokertest."}, {"dashboards", "dashboards."}, {"dashboards/live", "live."},
	} {
		found := 0
		for _, decl := range declarations(t, pkg.dir) {
			f, ok := decl.(*ast.FuncDecl)
			if !ok || f.Recv != nil || !f.Name.IsExported() {
				continue
			}
			found++
			if !strings.Contains(text, "`"+pkg.prefix+f.Name.Name+"(") {
				t.Errorf("docs/options.md has no row for %s%s(...) of %s", pkg.prefix, f.Name.Name, pkg.dir)
			}
		}
		if found == 0 {
			t.Errorf("%s exports no functions?", pkg.dir)
		}
	}
}

// TestEveryExportedNameIsMentioned: types, constants and variables, on any page of docs/.
func TestEveryExportedNameIsMentioned(t *testing.T) {
	spans := strings.Join(regexp.MustCompile("`[^`\n]+`").FindAllString(shelf(t), -1), " ")
	for _, m := range regexp.MustCompile(`(?m)^(?:type|const|var) ([A-Z]\w*) [^,\n]*$`).FindAllStringSubmatch(read(t, golden), -1) {
		if name := m[1]; !strings.HasSuffix(name, "Option") && !regexp.MustCompile(`\b`+name+`\b`).MatchString(spans) {
			t.Errorf("no page of docs/ mentions `%s`", name)
		}
	}
}

// rows returns the first cells, of one code span each, of the table whose
// header begins with these cells, and the other cells.
func rows(t *testing.T, header string) map[string][]string {
	t.Helper()
	table := map[string][]string{}
	in := false
	for line := range strings.SplitSeq(shelf(t), "\n") {
		switch {
		case strings.HasPrefix(line, header):
			in = true
		case !strings.HasPrefix(line, "|"):
			in = false
		case in && !strings.HasPrefix(line, "| ---"):
			cells := strings.Split(strings.Trim(line, "|"), "|")
			for i := range cells {
				cells[i] = strings.TrimSpace(cells[i])
			}
			table[strings.Trim(cells[0], "`")] = cells[1:]
		}
	}
	if len(table) == 0 {
		t.Fatalf("no page has a table that begins with %q", header)
	}
	return table
}

// TestEveryRowIsThereOnce: a merge that keeps both sides of a table may keep a row
// twice, or put it behind the text that follows the table.
func TestEveryRowIsThereOnce(t *testing.T) {
	for _, page := range []string{"docs/options.md", "docs/errors.md", "docs/observability.md"} {
		seen := map[string]bool{}
		table := false
		for i, text := range strings.Split(read(t, page), "\n") {
			if !strings.HasPrefix(text, "|") {
				table = false
				continue
			}
			if strings.HasPrefix(text, "| ---") {
				table = true
			}
			cell, _, _ := strings.Cut(strings.TrimPrefix(text, "| "), " |")
			switch {
			case !strings.HasPrefix(cell, "`"):
			case !table:
				t.Errorf("%s:%d: the row of %s is in no table", page, i+1, cell)
			case seen[cell]:
				t.Errorf("%s:%d: a second row of %s", page, i+1, cell)
			}
			seen[cell] = true
		}
	}
}

// same reports the difference between what a table of docs/ has and what the code
// has.
func same(t *testing.T, what string, inDocs, inCode []string) {
	t.Helper()
	for _, s := range inCode {
		if !slices.Contains(inDocs, s) {
			t.Errorf("%s %s is in no table of docs/", what, s)
		}
	}
	for _, s := range inDocs {
		if !slices.Contains(inCode, s) {
			t.Errorf("%s %s is in a table of docs/, and not in the code", what, s)
		}
	}
}

func keys[V any](m map[string]V) []string {
	var ks []string
	for k := range m {
		ks = append(ks, k)
	}
	return ks
}

func TestTheSentinels(t *testing.T) {
	var sentinels []string
	for _, decl := range declarations(t, "broker") {
		if g, ok := decl.(*ast.GenDecl); ok && g.Tok == token.VAR {
			for _, spec := range g.Specs {
				for _, name := range spec.(*ast.ValueSpec).Names {
					if strings.HasPrefix(name.Name, "Err") {
						sentinels = append(sentinels, name.Name)
					}
				}
			}
		}
	}
	same(t, "the sentinel", keys(rows(t, "| Sentinel |")), sentinels)
}

func TestTheHooks(t *testing.T) {
	var fields []string
	for _, f := range reflect.VisibleFields(reflect.TypeFor[jsbroker.Hooks]()) {
		fields = append(fields, f.Name)
	}
	same(t, "the hook", keys(rows(t, "| Field | Fires |")), fields)
}

// registry keeps what is registered.
type registry struct{ collectors []prometheus.Collector }

func (r *registry) Register(c prometheus.Collector) error {
	r.collectors = append(r.collectors, c)
	return nil
}
func (r *registry) MustRegister(...prometheus.Collector) {}
func (r *registry) Unregister(prometheus.Collector) bool { return false }

func TestTheMetrics(t *testing.T) {
	reg := &registry{}
	if err := metrics.New(metrics.WithRegisterer(reg)).Err; err != nil {
		t.Fatal(err)
	}
	server, err := metrics.NewServer(jsbroker.NewBroker())
	if err != nil {
		t.Fatal(err)
	}
	reg.collectors = append(reg.collectors, server)
	descriptions := make(chan *prometheus.Desc)
	go func() {
		defer close(descriptions)
		for _, c := range reg.collectors {
			c.Describe(descriptions)
		}
	}()
	parts := regexp.MustCompile(`fqName: "([^"]+)".*variableLabels: \{([^}]*)\}`)
	live := map[string]string{} // labels by name
	for d := range descriptions {
		m := parts.FindStringSubmatch(d.String())
		if m == nil {
			t.Fatalf("unexpected form: %s", d)
		}
		live[m[1]] = strings.ReplaceAll(m[2], ",", ", ")
	}
	table := rows(t, "| Name | Type | Labels |")
	same(t, "the metric", keys(table), keys(live))
	for name, cells := range table {
		if cells[1] != live[name] {
			t.Errorf("%s has the labels %q in docs/observability.md, and %q in the code", name, cells[1], live[name])
		}
	}

	// The package documentation has the same metrics, of the same types.
	doc, err := os.ReadFile("metrics/doc.go")
	if err != nil {
		t.Fatal(err)
	}
	documented := map[string]string{}
	for _, m := range regexp.MustCompile(`(?m)^//\t(micro_broker_\w+)\{[^}]*\}\s+(\w+)`).FindAllStringSubmatch(string(doc), -1) {
		documented[m[1]] = m[2]
	}
	same(t, "the documented metric", keys(table), keys(documented))
	for name, cells := range table {
		if cells[0] != documented[name] {
			t.Errorf("%s is a %s in docs/observability.md, and a %s in metrics/doc.go", name, cells[0], documented[name])
		}
	}

	// Elsewhere in the text, no metric that is not.
	for _, name := range regexp.MustCompile(`micro_broker_\w+`).FindAllString(shelf(t), -1) {
		if _, ok := live[name]; !ok {
			t.Errorf("a page mentions %s, which does not exist", name)
		}
	}
}

func TestTheSpans(t *testing.T) {
	doc, err := os.ReadFile("tracing/doc.go")
	if err != nil {
		t.Fatal(err)
	}
	// Tests of tracing hold its documentation to the spans.
	_, list, ok := strings.Cut(string(doc), "// # Attributes\n")
	list, _, ok2 := strings.Cut(list, "// # ")
	if !ok || !ok2 {
		t.Fatal("tracing/doc.go has no section Attributes")
	}
	documented := map[string][]string{}
	columns := regexp.MustCompile(`\s{2,}`)
	for _, m := range regexp.MustCompile(`(?m)^//\t(.+)$`).FindAllStringSubmatch(list, -1) {
		if c := columns.Split(m[1], -1); c[0] != "attribute" {
			documented[c[0]] = c[1:]
		}
	}
	table := rows(t, "| Attribute | publish | process |")
	same(t, "the attribute", keys(table), keys(documented))
	for name, cells := range table {
		if want := documented[name]; len(want) >= 2 && !slices.Equal(cells[:2], want[:2]) {
			t.Errorf("%s is on %q in docs/observability.md, and on %q in tracing/doc.go", name, cells[:2], want[:2])
		}
	}
	for _, span := range keys(rows(t, "| Span | Kind |")) {
		if !strings.Contains(string(doc), "//\t"+span+" ") {
			t.Errorf("the span %s is not in tracing/doc.go", span)
		}
	}
}

func TestTheDeadLetterHeaders(t *testing.T) {
	src, err := os.ReadFile("broker/internal/deadletter/letter.go")
	if err != nil {
		t.Fatal(err)
	}
	var headers []string
	for _, m := range regexp.MustCompile(`"(Micro-Dead-Letter-\w+)"`).FindAllStringSubmatch(string(src), -1) {
		headers = append(headers, m[1])
	}
	same(t, "the header", keys(rows(t, "| Header |")), headers)
}

var punctuation = regexp.MustCompile(`[^\p{L}\p{M}\p{N}\p{Pc} -]`)

// anchor is what GitHub makes of a heading.
func anchor(heading string) string {
	return strings.ReplaceAll(punctuation.ReplaceAllString(strings.ToLower(heading), ""), " ", "-")
}

var link = regexp.MustCompile(`\]\(([^)\s]+)\)`)

// TestTheLinks follows the links of all pages of the module, also of the translations.
func TestTheLinks(t *testing.T) {
	all, err := filepath.Glob("docs/zh-TW/*.md")
	if err != nil {
		t.Fatal(err)
	}
	all = append(all, pages(t)...)
	all = append(all, "README.zh-TW.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "DESIGN.md", "dashboards/README.md", "examples/stack/README.md")
	for _, page := range all {
		for _, m := range link.FindAllStringSubmatch(read(t, page), -1) {
			if strings.Contains(m[1], "://") {
				continue
			}
			file, anchor, isAnchor := strings.Cut(m[1], "#")
			target := page
			if file != "" {
				target = filepath.Join(filepath.Dir(page), file)
			}
			if _, err := os.Stat(target); err != nil {
				t.Errorf("%s: link to %s: %v", page, m[1], err)
			} else if isAnchor && !slices.Contains(headings(t, target), anchor) {
				t.Errorf("%s: there is no heading for %s", page, m[1])
			}
		}
	}
}

// What the pages name as proof exists: [TestX](file) is a function of the file.
func TestTheTests(t *testing.T) {
	named := regexp.MustCompile(`\[((?:Test|Fuzz|Benchmark)[A-Z]\w*)\]\(([^)]+)\)`)
	found := 0
	for _, page := range pages(t) {
		for _, m := range named.FindAllStringSubmatch(read(t, page), -1) {
			found++
			file := filepath.Join(filepath.Dir(page), m[2])
			if src, err := os.ReadFile(file); err != nil {
				t.Error(err)
			} else if !strings.Contains(string(src), "\nfunc "+m[1]+"(") {
				t.Errorf("%s: %s has no %s", page, file, m[1])
			}
		}
	}
	if found == 0 {
		t.Fatal("no page names a test")
	}
	// And each row of these tables has one, or says why not.
	for _, header := range []string{"| Promise | Test |", "| The crash hits | Afterwards | Test |"} {
		for row, cells := range rows(t, header) {
			if proof := cells[len(cells)-1]; !strings.Contains(proof, "[Test") && !strings.HasPrefix(proof, "none: ") {
				t.Errorf("%q has no test", row)
			}
		}
	}
}

// The server configurations that promise durability are valid, and keep it.
func TestTheServerConfigurations(t *testing.T) {
	file := filepath.Join(t.TempDir(), "nats.conf")
	for _, b := range blocksOf(t, "text") {
		if strings.HasPrefix(b.text, "jetstream {") {
			if err := os.WriteFile(file, []byte(b.text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, file := range []string{file, "examples/stack/nats.conf"} {
		o, err := server.ProcessConfigFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if !o.JetStream || !o.SyncAlways {
			t.Errorf("%s: JetStream %v, sync always %v", file, o.JetStream, o.SyncAlways)
		}
	}
}

// TestTheShelf: each page of docs/ is in the README's table, and begins with whom it is
// for.
func TestTheShelf(t *testing.T) {
	for _, page := range pages(t)[1:] {
		if !strings.Contains(read(t, "README.md"), "("+page+")") {
			t.Errorf("README.md has no link to %s", page)
		}
		if lines := strings.SplitN(read(t, page), "\n", 4); !strings.HasPrefix(lines[2], "For ") {
			t.Errorf("%s does not begin with whom it is for: %q", page, lines[2])
		}
	}
	if lines := strings.Count(read(t, "README.md"), "\n"); lines > 170 {
		t.Errorf("README.md has %d lines; it is the first page, not the shelf", lines)
	}
}

// The permissions in docs/operations.md are enough for everything that it says.
func TestThePermissions(t *testing.T) {
	var conf string
	for _, b := range blocksOf(t, "text") {
		if strings.HasPrefix(b.text, "permissions:") {
			conf = b.text
		}
	}
	if conf == "" {
		t.Fatal("no page has permissions")
	}
	file := filepath.Join(t.TempDir(), "nats.conf")
	conf = "accounts: { A: { jetstream: enabled, users: [\n{ user: admin, password: x }\n{ user: shop, password: x,\n" + conf + "}\n] } }\n"
	if err := os.WriteFile(file, []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	o, err := server.ProcessConfigFile(file)
	if err != nil {
		t.Fatal(err)
	}
	s := startServer(t, o)
	log := natstest.NewLog()
	b := jsbroker.NewBroker(broker.Addrs(strings.Replace(s.ClientURL(), "://", "://shop:x@", 1)), broker.Logger(log))
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(b.Connect())
	defer func() { _ = b.Disconnect() }()
	got := make(chan string, 10)
	h := func(e broker.Event) error {
		got <- string(e.Message().Body)
		return nil
	}
	_, err = b.Subscribe("orders.created", h, broker.Queue("payments"))
	must(err)
	_, err = b.Subscribe("orders.paid", h, broker.Queue("payments"))
	must(err)
	alone, err := b.Subscribe("orders.sent", h)
	must(err)
	if _, err := b.Subscribe("orders.sent", h); !errors.Is(err, jsbroker.ErrWorkQueueConflict) || !strings.Contains(err.Error(), "consumer queueless-") {
		t.Fatalf("a second subscriber: %v", err)
	}
	for _, topic := range []string{"orders.created", "orders.paid", "orders.sent"} {
		must(b.Publish(topic, &broker.Message{Body: []byte(topic)}))
		if body := natstest.Receive(t, got); body != topic {
			t.Fatalf("got %s, want %s", body, topic)
		}
	}
	must(alone.Unsubscribe())
	must(b.Disconnect())
	// The one warning is about a subscriber without a queue, which keeps others out.
	if lines := log.AtLeast(logger.WarnLevel); len(lines) != 1 || !strings.Contains(lines[0].Text, "name a queue") {
		t.Errorf("logged: %v", lines)
	}

	_, js := natstest.Connect(t, s.ClientURL(), nats.UserInfo("admin", "x"))
	natstest.Eventually(t, "no message and two consumers are left", func() bool {
		state := natstest.StreamInfo(t, js, "ORDERS").State
		return state.Msgs == 0 && state.Consumers == 2
	})

	// The example of a durable's name in docs/streams-and-consumers.md is the real one.
	for _, name := range natstest.ConsumerNames(t, js, "ORDERS") {
		if !strings.Contains(shelf(t), "durable `"+name+"`") {
			t.Errorf("no page has the consumer %s", name)
		}
	}

	// And without one of them the error says so.
	b = jsbroker.NewBroker(broker.Addrs(strings.Replace(s.ClientURL(), "://", "://shop:x@", 1)), broker.Logger(log))
	must(b.Connect())
	defer func() { _ = b.Disconnect() }()
	if err := b.Publish("payments.taken", &broker.Message{}); !errors.Is(err, jsbroker.ErrPermission) {
		t.Fatalf("publish without permission: %v", err)
	}
}

// startServer runs a nats-server with what a configuration says about users.
func startServer(t *testing.T, o *server.Options) *server.Server {
	t.Helper()
	o.Host, o.Port, o.JetStream, o.StoreDir, o.NoSigs, o.NoLog = "127.0.0.1", server.RANDOM_PORT, true, t.TempDir(), true, true
	return natstest.Run(t, o)
}
