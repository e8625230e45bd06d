package tracing_test

import (
	"context"
	"errors"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"

	jsbroker "go-micro-jetstream/broker"
)

// what is a set of facts about spans, such as "process attribute error.type error".
type what map[string]bool

// TestDocumentation holds the tables of the package documentation to what the
// hooks emit, in both directions.
func TestDocumentation(t *testing.T) {
	t.Parallel()
	emitted, documented := emittedFacts(t), documentedFacts(t)
	for _, fact := range slices.Sorted(maps.Keys(emitted)) {
		if !documented[fact] {
			t.Errorf("emitted, but not documented: %s", fact)
		}
	}
	for _, fact := range slices.Sorted(maps.Keys(documented)) {
		if !emitted[fact] {
			t.Errorf("documented, but not emitted: %s", fact)
		}
	}
}

// The runs that the conditions in the tables are about. A condition holds if the
// attribute is there in exactly these runs.
var publishConditions = map[string][]string{
	"success": {"success"},
	"error":   {"error"},
	"always":  {"success", "error"},
}

var processConditions = map[string][]string{
	"wildcard": {"wildcard"},
	"queue":    {"success", "error", "wildcard", "nak"},
	"present":  {"success", "error", "wildcard", "nak"},
	"nak":      {"nak"},
	"error":    {"error", "nak"},
	"always":   {"success", "error", "wildcard", "nak", "bare"},
}

func emittedFacts(t *testing.T) what {
	b := setup(t)
	b.connect("nats://nats.example:4222")
	facts := make(what)

	publishes := make(map[string][]string)
	for run, end := range map[string]jsbroker.Published{
		"success": {Stream: "ORDERS", Sequence: 7},
		"error":   {Err: errors.New("x"), Reason: "other"},
	} {
		ctx := b.hooks.PublishStart(context.Background(), jsbroker.PublishStart{Topic: "a", MessageID: "m", Header: map[string]string{}})
		b.hooks.Published(ctx, end)
		facts.span(b.last())
		for k := range attributes(b.last().Attributes()) {
			publishes[k] = append(publishes[k], run)
		}
	}
	facts.attributes("publish", publishes, publishConditions)

	processes := make(map[string][]string)
	bare, wildcard := delivery(), delivery()
	bare.Queue, bare.MessageID = "", ""
	wildcard.Topic = "orders.*"
	for run, d := range map[string]struct {
		jsbroker.Delivery
		end jsbroker.Handled
	}{
		"success":  {delivery(), jsbroker.Handled{Result: jsbroker.ResultAck}},
		"error":    {delivery(), jsbroker.Handled{Result: jsbroker.ResultTerm, Err: errors.New("x")}},
		"nak":      {delivery(), jsbroker.Handled{Result: jsbroker.ResultNak, Err: errors.New("x")}},
		"wildcard": {wildcard, jsbroker.Handled{Result: jsbroker.ResultAck}},
		"bare":     {bare, jsbroker.Handled{Result: jsbroker.ResultAck}},
	} {
		b.run(d.Delivery, d.end)
		facts.span(b.last())
		for k := range attributes(b.last().Attributes()) {
			processes[k] = append(processes[k], run)
		}
	}
	facts.attributes("process", processes, processConditions)

	p := &jsbroker.PanicError{Value: "boom", Stack: []byte("stack")}
	b.run(delivery(), jsbroker.Handled{Result: jsbroker.ResultNak, Err: p}, func(ctx context.Context) {
		b.hooks.Panicked(ctx, jsbroker.Panicked{Err: p})
		b.hooks.DeadLettered(ctx, jsbroker.DeadLettered{DeadLetterTopic: "dead", Err: errors.New("x")})
		b.hooks.Exhausted(ctx, jsbroker.Exhausted{})
	})
	events := b.last().Events()
	again := delivery()
	again.NumDelivered, again.StoredAt = 2, time.Now()
	b.hooks.Settled(context.Background(), jsbroker.Settled{Delivery: again, Result: jsbroker.ResultNak, Returned: true})
	b.run(again, jsbroker.Handled{Result: jsbroker.ResultNak, Snoozed: true})
	for _, e := range append(events, b.last().Events()...) {
		if len(e.Attributes) == 0 {
			facts["event "+e.Name+" -"] = true
		}
		for _, a := range e.Attributes {
			facts["event "+e.Name+" "+string(a.Key)] = true
		}
	}
	return facts
}

func (w what) span(s sdktrace.ReadOnlySpan) {
	name, _, _ := strings.Cut(s.Name(), " ")
	w["span "+name+" <topic> "+strings.ToUpper(s.SpanKind().String())] = true
}

func (w what) attributes(operation string, seen map[string][]string, conditions map[string][]string) {
	for k, runs := range seen {
		slices.Sort(runs)
		matched := ""
		for condition, in := range conditions {
			in = slices.Sorted(slices.Values(in))
			// queue and present hold in the same runs: the name decides.
			ambiguous := condition == "queue" && !strings.Contains(k, "group") || condition == "present" && strings.Contains(k, "group")
			if slices.Equal(runs, in) && !ambiguous {
				matched = condition
			}
		}
		if matched == "always" && (strings.HasPrefix(k, "server.") || k == "messaging.client.id") {
			matched = "known" // as it is in all these runs
		}
		w[operation+" attribute "+k+" "+matched] = true
	}
}

var (
	spanRow      = regexp.MustCompile(`^\t((?:publish|process) <topic>)\s+([A-Z]+)\s`)
	attributeRow = regexp.MustCompile(`^\t([a-z_]+(?:\.[a-z_]+)+)\s+([a-z-]+)\s+([a-z-]+)\s`)
	eventRow     = regexp.MustCompile(`^\t([a-z_]+)\s+([a-z_]+(?:\.[a-z_]+)+|-)\s`)
)

func documentedFacts(t *testing.T) what {
	f, err := parser.ParseFile(token.NewFileSet(), "doc.go", nil, parser.ParseComments|parser.PackageClauseOnly)
	noErr(t, err)
	facts := make(what)
	for line := range strings.Lines(f.Doc.Text()) {
		if m := spanRow.FindStringSubmatch(line); m != nil {
			facts["span "+m[1]+" "+m[2]] = true
		} else if m := attributeRow.FindStringSubmatch(line); m != nil {
			for i, operation := range []string{"publish", "process"} {
				if m[2+i] != "-" {
					facts[operation+" attribute "+m[1]+" "+m[2+i]] = true
				}
			}
		} else if m := eventRow.FindStringSubmatch(line); m != nil {
			facts["event "+m[1]+" "+m[2]] = true
		}
	}
	return facts
}

// The package is a library: the OpenTelemetry API, one version of the
// conventions, no SDK, and nothing of the other plugins.
func TestImports(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("*.go")
	noErr(t, err)
	conventions := make(map[string]bool)
	for _, file := range files {
		f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ImportsOnly)
		noErr(t, err)
		for _, spec := range f.Imports {
			if path := strings.Trim(spec.Path.Value, `"`); strings.Contains(path, "/semconv/") {
				conventions[path] = true
			}
		}
	}
	if len(conventions) != 1 {
		t.Errorf("versions of the conventions: %v", slices.Collect(maps.Keys(conventions)))
	}
	for version := range conventions {
		doc, err := os.ReadFile("doc.go")
		noErr(t, err)
		if v := strings.TrimPrefix(filepath.Base(version), "v"); !strings.Contains(string(doc), "version "+v) {
			t.Errorf("doc.go does not name version %s of the conventions", v)
		}
	}

	out, err := exec.Command("go", "list", "-deps", ".").Output()
	noErr(t, err)
	for dep := range strings.Lines(string(out)) {
		dep = strings.TrimSpace(dep)
		for _, forbidden := range []string{
			"go.opentelemetry.io/otel/sdk", "github.com/prometheus/client_golang", "go-micro-jetstream/metrics", "testing",
		} {
			if dep == forbidden || strings.HasPrefix(dep, forbidden+"/") {
				t.Errorf("imports %s", dep)
			}
		}
	}
}
