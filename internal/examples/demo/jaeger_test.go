package demo_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"go-micro-jetstream/internal/examples/proc"
)

// jaeger is a Jaeger all-in-one with its store in memory.
type jaeger struct {
	otlp  string // where spans go to
	query string // the API that its own pages use
	ended <-chan struct{}
	log   *bytes.Buffer // to be read when it has ended
}

// startJaeger starts the program and waits until it says that it is ready.
func startJaeger(t *testing.T, program string) *jaeger {
	t.Helper()
	ports := freePorts(t, 4)
	admin := "http://" + ports[3]
	ctx, stop := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, program,
		"--collector.otlp.http.host-port="+ports[0],
		"--query.http-server.host-port="+ports[1],
		"--query.grpc-server.host-port="+ports[2], // must be another, and so not 0
		"--admin.http.host-port="+ports[3],
		// Nobody asks there.
		"--collector.otlp.grpc.host-port=127.0.0.1:0",
		"--collector.http-server.host-port=127.0.0.1:0",
		"--collector.grpc-server.host-port=127.0.0.1:0",
	)
	cmd.Env = append(slices.DeleteFunc(os.Environ(), func(v string) bool {
		return strings.HasPrefix(v, "OTEL_")
	}), "SPAN_STORAGE_TYPE=memory")
	log := &bytes.Buffer{}
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		stop()
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		_ = cmd.Wait()
		close(ended)
	}()
	t.Cleanup(func() {
		stop()
		<-ended
	})
	j := &jaeger{otlp: "http://" + ports[0], query: "http://" + ports[1], ended: ended, log: log}
	j.poll(t, "ready", func() error { return get(admin+"/", nil) })
	return j
}

// freePorts returns addresses at which nobody listens at the moment.
func freePorts(t *testing.T, n int) []string {
	t.Helper()
	var addrs []string
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = l.Close() }() // not before there are all
		addrs = append(addrs, l.Addr().String())
	}
	return addrs
}

// poll asks until the answer is no error any more.
func (j *jaeger) poll(t *testing.T, what string, ask func() error) {
	t.Helper()
	again := time.NewTicker(50 * time.Millisecond)
	defer again.Stop()
	for patience := time.After(proc.Patience); ; {
		err := ask()
		if err == nil {
			return
		}
		select {
		case <-again.C:
		case <-j.ended:
			t.Fatalf("%s: Jaeger has ended:\n%s", what, j.log)
		case <-patience:
			t.Fatalf("%s: %v", what, err)
		}
	}
}

// get reads the JSON at an address into a value, if there is one.
func get(address string, into any) error {
	client := http.Client{Timeout: proc.Patience}
	resp, err := client.Get(address)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s: %s", address, resp.Status, body)
	}
	if into == nil {
		return nil
	}
	return json.Unmarshal(body, into)
}

// traces asks the query API.
func (j *jaeger) traces(path string) ([]jaegerTrace, error) {
	var answer struct{ Data []jaegerTrace }
	err := get(j.query+path, &answer)
	return answer.Data, err
}

// jaegerTrace is what the query API tells about a trace, in part.
type jaegerTrace struct {
	TraceID   string
	Processes map[string]struct{ ServiceName string }
	Spans     []jaegerSpan
}

type jaegerSpan struct {
	SpanID, OperationName, ProcessID string
	References                       []struct{ RefType, TraceID, SpanID string }
	Tags                             []struct {
		Key   string
		Value any
	}
	Warnings []string
}

func (s jaegerSpan) tag(key string) any {
	for _, t := range s.Tags {
		if t.Key == key {
			return t.Value
		}
	}
	return nil
}

// edges counts the spans by what they are and what they are children of. A
// parent that is not there (yet) is an error.
func (tr jaegerTrace) edges() (map[string]int, error) {
	names := map[string]string{}
	for _, s := range tr.Spans {
		names[s.SpanID] = fmt.Sprintf("%s: %v %s", tr.Processes[s.ProcessID].ServiceName, s.tag("span.kind"), s.OperationName)
	}
	edges := map[string]int{}
	for _, s := range tr.Spans {
		for _, w := range s.Warnings {
			// Jaeger expects children to end before their parents, and takes a
			// message that is handled after it was published for two clocks.
			if !strings.HasPrefix(w, "clock skew adjustment disabled") {
				return nil, fmt.Errorf("span %s: Jaeger warns: %s", names[s.SpanID], w)
			}
		}
		if len(s.References) == 0 {
			edges[names[s.SpanID]]++
			continue
		}
		ref := s.References[0]
		parent, ok := names[ref.SpanID]
		if !ok || len(s.References) > 1 || ref.RefType != "CHILD_OF" || ref.TraceID != tr.TraceID {
			return nil, fmt.Errorf("span %s: references %+v", names[s.SpanID], s.References)
		}
		edges[parent+" > "+names[s.SpanID]]++
	}
	return edges, nil
}

// paid are the edges that every order has. Deliveries that fail repeat edges and
// add none.
const paid = `orders: producer publish orders.created
orders: producer publish orders.created > payments: consumer process orders.created
payments: consumer process orders.created > payments: producer publish payments.taken
payments: producer publish payments.taken > shipping: consumer process payments.taken
`

const shipped = paid + `shipping: consumer process payments.taken > shipping: producer publish shipping.sent
shipping: producer publish shipping.sent > orders: consumer process shipping.sent`

const deadLettered = paid + `shipping: consumer process payments.taken > shipping: producer publish dead-letters.orders
shipping: producer publish dead-letters.orders > orders: consumer process dead-letters.orders`

// What the services export to a real Jaeger comes back from it as one trace to
// an order, found by the name of each service. The test is not parallel, so that
// nothing else in this program takes the ports that it has found free.
func TestJaeger(t *testing.T) {
	program := os.Getenv("JAEGER")
	if program == "" {
		t.Skip("no Jaeger: bash examples/stack/build-jaeger.sh /tmp/jaeger, then test with JAEGER=/tmp/jaeger")
	}
	const orders = 200 // of which 107 is the only one to end as a dead letter
	j := startJaeger(t, program)
	out := mustSucceed(t, start(t, []string{"OTEL_EXPORTER_OTLP_ENDPOINT=" + j.otlp}, "-n", fmt.Sprint(orders)))

	for _, service := range []string{"orders", "payments", "shipping"} {
		search := "/api/traces?" + url.Values{"service": {service}, "limit": {fmt.Sprint(2 * orders)}}.Encode()
		// The demo has exported all when it ends. Jaeger stores a little later.
		j.poll(t, "traces of "+service, func() error {
			traces, err := j.traces(search)
			if err != nil {
				return err
			}
			found := map[string]int{}
			for _, tr := range traces {
				edges, err := tr.edges()
				if err != nil {
					return fmt.Errorf("trace %s: %w", tr.TraceID, err)
				}
				found[strings.Join(slices.Sorted(maps.Keys(edges)), "\n")]++
			}
			if want := map[string]int{shipped: orders - 1, deadLettered: 1}; !maps.Equal(found, want) {
				return fmt.Errorf("traces by what they consist of: %v, want %v", found, want)
			}
			return nil
		})
	}

	// The trace that the demo shows is the one of that id, with the delivery
	// that failed and the one after it.
	id := regexp.MustCompile(`One order through all services, trace ([0-9a-f]{32})`).FindStringSubmatch(out)
	if id == nil {
		t.Fatalf("no trace id in:\n%s", out)
	}
	traces, err := j.traces("/api/traces/" + id[1])
	if err != nil || len(traces) != 1 {
		t.Fatalf("%d traces, %v", len(traces), err)
	}
	var failed []any
	for _, s := range traces[0].Spans {
		if s.OperationName == "process "+"orders.created" {
			failed = append(failed, s.tag("error"))
		}
	}
	if len(failed) < 2 || !slices.Contains(failed, any(true)) || !slices.Contains(failed, nil) {
		t.Errorf("the deliveries of %s have the error tags %v, want true and none", "orders.created", failed)
	}
}
