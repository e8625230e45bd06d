package demo_test

import (
	"encoding/xml"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"
	collectorpb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"

	"go-micro-jetstream/internal/examples/proc"
	"go-micro-jetstream/internal/natstest"
	"go-micro-jetstream/internal/otlptest"
)

// defaultMetricsAddr is where the demo serves /metrics unless told otherwise.
const defaultMetricsAddr = "127.0.0.1:9464"

var binary string

func TestMain(m *testing.M) { os.Exit(proc.Main(m, "demo", &binary)) }

// start runs the demo with /metrics on a free port.
func start(t *testing.T, env []string, args ...string) *proc.Process {
	t.Helper()
	return proc.Start(t, binary, env, append([]string{"-metrics-addr", "127.0.0.1:0"}, args...)...)
}

func mustSucceed(t *testing.T, p *proc.Process) (stdout string) {
	t.Helper()
	code, stdout, stderr := p.Wait()
	if code != 0 || stderr != "" {
		t.Fatalf("exit %d, stderr %q, stdout:\n%s", code, stderr, stdout)
	}
	return stdout
}

func mustFail(t *testing.T, p *proc.Process, text string) (stdout string) {
	t.Helper()
	code, stdout, stderr := p.Wait()
	if code != 1 || !strings.Contains(stderr, text) {
		t.Fatalf("exit %d, stderr %q, want 1 and %q; stdout:\n%s", code, stderr, text, stdout)
	}
	return stdout
}

func mustMatch(t *testing.T, text string, patterns ...string) {
	t.Helper()
	for _, p := range patterns {
		if !regexp.MustCompile("(?m)" + p).MatchString(text) {
			t.Errorf("nothing matches %s in:\n%s", p, text)
		}
	}
}

// Which orders fail is decided by their numbers, so the outcome is known.
func TestEveryOrderIsAccountedFor(t *testing.T) {
	t.Parallel()
	out := mustSucceed(t, start(t, nil, "-n", "300"))
	mustMatch(t, out,
		`^300 published = 299 shipped \+ 1 dead-lettered: every order arrived\.$`,
		`^  missing +0$`,
		`^  failed +\d+  of them, 1 by a panic$`,
		`^    order 107 +payments\.taken, queue shipping, 3 deliveries: no such address$`,
	)
}

func TestTrace(t *testing.T) {
	t.Parallel()
	const timing = ` +\+\d+\.\d+ m?s +\d+\.\d+ m?s`
	// Order 7 fails once: its trace has it all.
	mustMatch(t, mustSucceed(t, start(t, nil, "-n", "10")),
		`^One order through all services, trace [0-9a-f]{32}$`,
		`^  publish orders\.created +orders`+timing+`$`,
		`^  ├─ process orders\.created +payments`+timing+`  failed: card service timed out; again in 1\.\d+ s$`,
		`^  └─ process orders\.created +payments`+timing+`  delivery 2$`,
		`^     └─ publish payments\.taken +payments`+timing+`$`,
		`^        └─ process payments\.taken +shipping`+timing+`$`,
		`^           └─ publish shipping\.sent +shipping`+timing+`$`,
		`^              └─ process shipping\.sent +orders`+timing+`$`,
	)
	// Where none fails, any will do.
	mustMatch(t, mustSucceed(t, start(t, nil, "-n", "3")),
		`^  publish orders\.created +orders`, `^              └─ process shipping\.sent +orders`)
}

// What a run draws, and the picture in the documentation.
func TestTracePicture(t *testing.T) {
	t.Parallel()
	drawn := filepath.Join(t.TempDir(), "trace.svg")
	out := mustSucceed(t, start(t, nil, "-n", "10", "-trace-svg", drawn))
	if !strings.Contains(svgText(t, drawn), regexp.MustCompile(`trace [0-9a-f]{32}`).FindString(out)) {
		t.Error("the picture is not of the trace that was printed")
	}
	for _, file := range []string{drawn, "../../../dashboards/trace.svg"} {
		text := svgText(t, file)
		mustMatch(t, text,
			`^publish orders\.created\n[\d.]+ m?s$`,
			`^process orders\.created\n[\d.]+ m?s · failed: card service timed out; again in 1\.\d+ s$`,
			`^process orders\.created\n[\d.]+ m?s · delivery 2$`,
			`^publish payments\.taken\n[\d.]+ m?s$`,
			`^process payments\.taken\n[\d.]+ m?s$`,
			`^publish shipping\.sent\n[\d.]+ m?s$`,
			`^process shipping\.sent\n[\d.]+ m?s$`,
			`^orders\npayments\nshipping$`,
			`^\+1\.\d+ s$`, // where the second try begins, after the pause that is cut out
		)
		if n := strings.Count(text, "publish ") + strings.Count(text, "process "); n != 7 {
			t.Errorf("%s shows %d spans, want 7", file, n)
		}
	}
	mustFail(t, start(t, nil, "-n", "3", "-trace-svg", filepath.Join(t.TempDir(), "no", "trace.svg")), "no such file")
}

// svgText returns the texts of a picture, a line each, if it is well-formed.
func svgText(t *testing.T, file string) string {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	var text strings.Builder
	for d := xml.NewDecoder(f); ; {
		switch token, err := d.Token(); token := token.(type) {
		case nil:
			if !errors.Is(err, io.EOF) {
				t.Fatalf("%s: %v", file, err)
			}
			return text.String()
		case xml.CharData:
			if s := strings.TrimSpace(string(token)); s != "" {
				text.WriteString(s + "\n")
			}
		case xml.StartElement:
			if text.Len() == 0 && (token.Name.Local != "svg" && token.Name.Local != "title") {
				t.Fatalf("%s begins with %s", file, token.Name.Local)
			}
		}
	}
}

// The metrics of the contract.
var metricNames = strings.Fields(`
	published_total publish_errors_total publish_duration_seconds fetched_total fetch_errors_total
	backoffs_total backoff_seconds handled_total handler_errors_total handler_panics_total
	handler_duration_seconds redelivered_total dead_lettered_total delivery_lag_seconds in_flight
	pending active_subscriptions connected reconnects_total`)

func TestMetricsAndInterrupt(t *testing.T) {
	t.Parallel()
	p := start(t, nil, "-rate", "200")
	url := strings.Fields(p.Await("metrics  "))[1]
	// By then every service has published, handled and failed.
	p.Await("One order through all services")

	text := scrape(t, url, "text/plain")
	for _, name := range metricNames {
		mustMatch(t, text, `^# TYPE micro_broker_`+name+` `, `^micro_broker_`+name+`(_bucket)?\{`)
	}
	mustMatch(t, text,
		`^micro_broker_handled_total\{queue="payments",result="ack",topic="orders\.created"\} [1-9]`,
		`^micro_broker_handled_total\{queue="shipping",result="ack",topic="payments\.taken"\} [1-9]`,
		`^micro_broker_handled_total\{queue="orders",result="ack",topic="shipping\.sent"\} [1-9]`,
		`^micro_broker_handler_errors_total\{queue="payments",topic="orders\.created"\} [1-9]`,
		`^micro_broker_handler_panics_total\{queue="orders",topic="shipping\.sent"\} [1-9]`,
		`^micro_broker_active_subscriptions\{queue="orders",topic="dead-letters\.orders"\} 1$`,
		`^micro_broker_connected\{broker="demo-orders"\} 1$`,
		`^micro_broker_connected\{broker="demo-payments"\} 1$`,
		`^micro_broker_connected\{broker="demo-shipping"\} 1$`,
	)
	mustMatch(t, scrape(t, url, "application/openmetrics-text; version=1.0.0"),
		`^micro_broker_handler_duration_seconds_bucket\{.*\} \d+ # \{trace_id="[0-9a-f]{32}"\}`)
	mustMatch(t, scrape(t, strings.TrimSuffix(url, "/metrics")+"/live?format=json", "application/json"),
		`"client": "demo-payments"`, `"topic": "orders\.created"`, `"error": "card service timed out"`)

	// A scrape takes what the server has answered until then, hence several.
	natstest.Eventually(t, "the server has said what is in the streams", func() bool {
		text = scrape(t, url, "text/plain")
		return strings.Contains(text, "\nmicro_broker_stream_messages{")
	})
	mustMatch(t, text, `^micro_broker_stream_messages\{stream="ORDERS"\} \d`, `^micro_broker_server_up 1$`)

	p.Signal(os.Interrupt)
	out := mustSucceed(t, p)
	mustMatch(t, out, `^\d+ published = \d+ shipped \+ \d+ dead-lettered: every order arrived\.$`, `^  missing +0$`)
}

func scrape(t *testing.T, url, accept string) string {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Accept", accept)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s, %v:\n%s", url, resp.Status, err, body)
	}
	return string(body)
}

// SIGTERM before the orders are all out: those that are have to arrive.
func TestTerminated(t *testing.T) {
	t.Parallel()
	p := start(t, nil, "-n", "1000000")
	p.Await("One order through all services")
	p.Signal(syscall.SIGTERM)
	mustMatch(t, mustSucceed(t, p), `^\d{2,5} published = \d+ shipped \+ \d+ dead-lettered: every order arrived\.$`)
}

// A second signal does not wait.
func TestInterruptedTwice(t *testing.T) {
	t.Parallel()
	p := start(t, nil, "-n", "107")
	p.Await("One order through all services") // after a second
	p.Signal(os.Interrupt)
	p.Await("Stopping; ") // order 107 is a dead letter after three
	p.Signal(os.Interrupt)
	if code, out, _ := p.Wait(); code == 0 { // on a machine that is too slow
		mustMatch(t, out, `every order arrived\.$`)
		return
	}
	mustMatch(t, mustFail(t, p, "stopped before"), `^\d+ published != \d+ shipped \+ 0 dead-lettered: NOT every order arrived\.$`, `^  missing +[1-9]\d* +orders? \d`)
}

func TestTimeout(t *testing.T) {
	t.Parallel()
	// Order 7 comes again after a second at the earliest.
	mustFail(t, start(t, nil, "-n", "10", "-timeout", "900ms"), "timed out")
}

func TestUsage(t *testing.T) {
	t.Parallel()
	if code, _, stderr := start(t, nil, "-n", "-1").Wait(); code != 2 || !strings.Contains(stderr, "Usage") {
		t.Errorf("exit %d, stderr %q", code, stderr)
	}
}

// An address that the user asked for is used or refused; the default gives way.
func TestMetricsAddressTaken(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	mustFail(t, start(t, nil, "-n", "1", "-metrics-addr", l.Addr().String()), l.Addr().String()+" is taken")

	if l, err := net.Listen("tcp", defaultMetricsAddr); err == nil {
		defer func() { _ = l.Close() }()
	} // else somebody has it, which is as good
	mustMatch(t, mustSucceed(t, proc.Start(t, binary, nil, "-n", "1")),
		`^  metrics +http://127\.0\.0\.1:\d+/metrics \(`+regexp.QuoteMeta(defaultMetricsAddr)+` is taken\)$`)
}

// serviceOf returns the name of the service that has sent spans.
func serviceOf(rs *tracepb.ResourceSpans) (name string) {
	for _, a := range rs.Resource.Attributes {
		if a.Key == "service.name" {
			name = a.Value.GetStringValue()
		}
	}
	return name
}

func TestExport(t *testing.T) {
	t.Parallel()
	c := &otlptest.Collector[*collectorpb.ExportTraceServiceRequest]{Path: "/v1/traces"}
	srv := httptest.NewServer(c)
	defer srv.Close()
	mustSucceed(t, start(t, []string{"OTEL_EXPORTER_OTLP_ENDPOINT=" + srv.URL}, "-n", "20"))

	requests, err := c.Requests()
	if err != nil {
		t.Fatal(err)
	}
	spans, traces := 0, map[string]map[string]bool{} // by trace id: the services in it
	for _, request := range requests {
		for _, rs := range request.ResourceSpans {
			for _, ss := range rs.ScopeSpans {
				for _, s := range ss.Spans {
					spans++
					id := string(s.TraceId)
					if traces[id] == nil {
						traces[id] = map[string]bool{}
					}
					traces[id][serviceOf(rs)] = true
				}
			}
		}
	}
	// Six spans to an order; order 7 and order 13 have one delivery more.
	if len(traces) != 20 || spans < 20*6+2 {
		t.Errorf("%d traces with %d spans, want 20 with 122 or more", len(traces), spans)
	}
	for id, services := range traces {
		if !services["orders"] || !services["payments"] || !services["shipping"] || len(services) != 3 {
			t.Errorf("trace %x spans %v", id, services)
		}
	}
}

// A collector that is down is said once, and is no fault of the orders.
func TestExportFails(t *testing.T) {
	t.Parallel()
	srv := httptest.NewServer(http.NotFoundHandler())
	defer srv.Close()
	code, stdout, stderr := start(t, []string{"OTEL_EXPORTER_OTLP_ENDPOINT=" + srv.URL}, "-n", "20").Wait()
	if code != 0 || strings.Count(stderr, "spans could not be exported") != 1 {
		t.Errorf("exit %d, stderr %q, stdout:\n%s", code, stderr, stdout)
	}
}

// On a server of the user's, the demo clears away what it has made itself, and
// nothing else.
func TestExternalServer(t *testing.T) {
	t.Parallel()
	s := natstest.Start(t, func(o *server.Options) { o.Username, o.Password = "tester", "s3cret" })
	url := natstest.URL(s, "tester:s3cret")
	env := []string{"NATS_URL=" + url}
	for range 2 {
		out := mustSucceed(t, start(t, env, "-n", "20"))
		mustMatch(t, out, `^20 published = 20 shipped \+ 0 dead-lettered: every order arrived\.$`, `^  server +`+regexp.QuoteMeta(s.ClientURL())+`$`)
		if strings.Contains(out, "s3cret") {
			t.Errorf("the password is shown:\n%s", out)
		}
	}

	running := start(t, env, "-rate", "10")
	running.Await("time   published")
	mustFail(t, start(t, env, "-n", "20"), "another demo is running")
	running.Signal(os.Interrupt)
	mustSucceed(t, running)

	_, js := natstest.Connect(t, url)
	if err := js.DeleteStream(t.Context(), "PAYMENTS"); err != nil {
		t.Fatal(err)
	}
	natstest.MakeStream(t, js, jetstream.StreamConfig{Name: "MONEY", Subjects: []string{"payments.*"}})
	mustFail(t, start(t, env, "-n", "20"), "stream MONEY")
	for _, name := range []string{"ORDERS", "MONEY"} {
		if _, err := js.Stream(t.Context(), name); err != nil {
			t.Errorf("stream %s: %v", name, err)
		}
	}
}

// Of two demos that begin at the same time on one server at most one goes on.
func TestTwoAtOnce(t *testing.T) {
	t.Parallel()
	s := natstest.Start(t)
	env := []string{"NATS_URL=" + s.ClientURL()}
	for _, p := range []*proc.Process{start(t, env, "-n", "50"), start(t, env, "-n", "50")} {
		if code, out, stderr := p.Wait(); code != 0 && !strings.Contains(stderr, "another demo is running") {
			t.Errorf("exit %d, stderr %q, stdout:\n%s", code, stderr, out)
		}
	}
	mustSucceed(t, start(t, env, "-n", "50")) // neither has left anything
}

func TestNoServer(t *testing.T) {
	t.Parallel()
	mustFail(t, start(t, []string{"NATS_URL=nats://tester:s3cret@127.0.0.1:1"}, "-n", "1"), "no NATS server answers at nats://127.0.0.1:1")
	s := natstest.Start(t, func(o *server.Options) { o.JetStream = false })
	mustFail(t, start(t, []string{"NATS_URL=" + s.ClientURL()}, "-n", "1"), "JetStream")
}
