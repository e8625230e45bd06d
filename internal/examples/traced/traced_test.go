package traced_test

import (
	"encoding/hex"
	"fmt"
	"maps"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/nats-io/nats.go/jetstream"
	collectorpb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"

	"go-micro-jetstream/internal/examples/proc"
	"go-micro-jetstream/internal/natstest"
	"go-micro-jetstream/internal/otlptest"
)

var binary string

func TestMain(m *testing.M) { os.Exit(proc.Main(m, "traced", &binary)) }

// spansOf returns the spans of all requests by service and name. No two have the same.
func spansOf(requests []*collectorpb.ExportTraceServiceRequest) (map[string]*tracepb.Span, error) {
	spans := map[string]*tracepb.Span{}
	for _, request := range requests {
		for _, rs := range request.ResourceSpans {
			service := ""
			for _, a := range rs.Resource.Attributes {
				if a.Key == "service.name" {
					service = a.Value.GetStringValue()
				}
			}
			for _, ss := range rs.ScopeSpans {
				for _, s := range ss.Spans {
					key := service + ": " + s.Name
					if spans[key] != nil {
						return nil, fmt.Errorf("a second span %q", key)
					}
					spans[key] = s
				}
			}
		}
	}
	return spans, nil
}

func TestOneTraceThroughThreeProcesses(t *testing.T) {
	t.Parallel()
	c := new(otlptest.Collector[*collectorpb.ExportTraceServiceRequest])
	srv := httptest.NewServer(c)
	defer srv.Close()
	code, out, stderr := proc.Start(t, binary, []string{"OTEL_EXPORTER_OTLP_ENDPOINT=" + srv.URL}).Wait()
	requests, err := c.Requests()
	if code != 0 || err != nil {
		t.Fatalf("exit %d, collector %v\n%s%s", code, err, out, stderr)
	}
	spans, err := spansOf(requests)
	if err != nil {
		t.Fatal(err)
	}
	var parent, id []byte
	chain := []string{
		"orders: publish orders.created", "payments: process orders.created",
		"payments: publish payments.taken", "shipping: process payments.taken",
		"shipping: publish shipping.sent", "orders: process shipping.sent",
	}
	for _, key := range chain {
		s := spans[key]
		if s == nil {
			t.Fatalf("no span %q among %q", key, slices.Sorted(maps.Keys(spans)))
		}
		if id == nil {
			id = s.TraceId
		}
		if string(s.ParentSpanId) != string(parent) || string(s.TraceId) != string(id) {
			t.Errorf("%q is in trace %x below %x, want %x below %x", key, s.TraceId, s.ParentSpanId, id, parent)
		}
		parent = s.SpanId
	}
	if len(spans) != len(chain) {
		t.Errorf("%d spans, want %d", len(spans), len(chain))
	}
	if !strings.Contains(out, "http://localhost:16686/trace/"+hex.EncodeToString(id)+"\n") {
		t.Errorf("the trace is not named in\n%s", out)
	}
}

// startServer starts a server, and makes a stream on it.
func startServer(t *testing.T, cfg jetstream.StreamConfig) (url string, js jetstream.JetStream) {
	t.Helper()
	url = natstest.Start(t).ClientURL()
	_, js = natstest.Connect(t, url)
	natstest.MakeStream(t, js, cfg)
	return url, js
}

// mustFail waits until all three processes have ended: each of them keeps their
// stdout open.
func mustFail(t *testing.T, p *proc.Process, text string) {
	t.Helper()
	if code, out, stderr := p.Wait(); code != 1 || !strings.Contains(stderr, text) {
		t.Errorf("exit %d, want 1 and %q\n%s%s", code, text, out, stderr)
	}
}

// Somebody else has a stream of the name that the broker would give its own.
func TestAFailureEndsAllProcesses(t *testing.T) {
	t.Parallel()
	url, _ := startServer(t, jetstream.StreamConfig{Name: "ORDERS", Subjects: []string{"other.>"}})
	mustFail(t, proc.Start(t, binary, []string{"NATS_URL=" + url}), `publish to "orders.created": stream does not cover the topic`)
}

// The order waits for a payment that nobody takes.
func TestSIGTERMEndsAllProcesses(t *testing.T) {
	t.Parallel()
	url, js := startServer(t, jetstream.StreamConfig{Name: "ORDERS", Subjects: []string{"orders.*"}, Retention: jetstream.WorkQueuePolicy})
	// A WorkQueue stream has one queue for a subject.
	other, err := js.CreateConsumer(t.Context(), "ORDERS", jetstream.ConsumerConfig{Durable: "other", AckPolicy: jetstream.AckExplicitPolicy})
	if err != nil {
		t.Fatal(err)
	}
	p := proc.Start(t, binary, []string{"NATS_URL=" + url})
	if _, err := other.Next(jetstream.FetchMaxWait(proc.Patience)); err != nil {
		t.Fatal(err)
	}
	p.Signal(syscall.SIGTERM)
	mustFail(t, p, "") // of what depends on whether the publish has returned
}

// What is no service of this program starts none, and no server.
func TestOtherNamesAreRefused(t *testing.T) {
	t.Parallel()
	for _, arg := range []string{"-h", "foo"} {
		dir := t.TempDir()
		code, out, stderr := proc.Start(t, binary, []string{"TMPDIR=" + dir}, arg).Wait()
		left, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		if code != 2 || !strings.Contains(stderr, "usage: traced ") || len(left) > 0 {
			t.Errorf("%s: exit %d, %v left in the temporary directory\n%s%s", arg, code, left, out, stderr)
		}
	}
}
