// Package interop_test proves that clients of other languages and go-micro
// services understand each other: what travels are plain NATS messages.
package interop_test

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go-micro.dev/v5/broker"
	"go-micro.dev/v5/client"
	"go-micro.dev/v5/registry"
	"go-micro.dev/v5/server"
	"go.opentelemetry.io/otel/propagation"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	jsbroker "go-micro-jetstream/broker"
	"go-micro-jetstream/internal/natstest"
	"go-micro-jetstream/tracing"
)

const (
	// natsPackage is the npm package, of a version that the script was tried with.
	natsPackage = "nats@2.29.3"
	// patience ends what loads a package, or runs Node, and never ends by itself.
	patience = 2 * time.Minute

	upstreamTrace = "0af7651916cd43dd8448eb211c80319c"
	upstreamSpan  = "b7ad6b7169203331"
)

// lacking skips the test for want of something, but not where all must be there.
func lacking(t *testing.T, format string, args ...any) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatalf(format, args...)
	}
	t.Skipf(format, args...)
}

// installNode returns a directory of Node modules that has the NATS client.
func installNode(t *testing.T) string {
	t.Helper()
	for _, program := range []string{"node", "npm"} {
		if _, err := exec.LookPath(program); err != nil {
			lacking(t, "%v", err)
		}
	}
	dir := t.TempDir()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	out, err := exec.CommandContext(ctx, "npm", "install", "--prefix", dir, "--ignore-scripts", "--no-audit", "--no-fund", natsPackage).CombinedOutput()
	if err != nil {
		lacking(t, "npm install %s: %v\n%s", natsPackage, err, out)
	}
	return filepath.Join(dir, "node_modules")
}

// Order is exported because go-micro asks for that.
type Order struct {
	ID string `json:"id"`
}

func TestNode(t *testing.T) {
	t.Parallel()
	modules := installNode(t)
	noErr := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	url := natstest.Start(t).ClientURL()

	// The service in between: JSON in, JSON out.
	spans := tracetest.NewSpanRecorder()
	quiet := natstest.Quiet()
	b := jsbroker.NewBroker(broker.Addrs(url), broker.Logger(quiet), jsbroker.WithHooks(tracing.New(
		tracing.WithTracerProvider(sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans))),
		tracing.WithPropagator(propagation.TraceContext{}))))
	reg := registry.NewMemoryRegistry()
	c := client.NewClient(client.Broker(b), client.Registry(reg), client.ContentType("application/json"))
	srv := server.NewServer(server.Name("payments"), server.Address("127.0.0.1:0"), server.Broker(b), server.Registry(reg), server.WithLogger(quiet))
	noErr(srv.Subscribe(srv.NewSubscriber("orders.created", func(ctx context.Context, o *Order) error {
		return c.Publish(ctx, c.NewMessage("payments.taken", o))
	}, server.SubscriberQueue("payments"))))
	noErr(srv.Start())

	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	node := exec.CommandContext(ctx, "node", filepath.FromSlash("../../../examples/interop/peer.js"))
	node.Env = append(os.Environ(), "NODE_PATH="+modules, "NATS_URL="+url, "TRACEPARENT=00-"+upstreamTrace+"-"+upstreamSpan+"-01")
	var stderr bytes.Buffer
	node.Stderr = &stderr
	out, err := node.Output()
	noErr(srv.Stop())
	noErr(b.Disconnect()) // all spans have ended
	if err != nil {
		t.Fatalf("node: %v\n%s%s", err, out, &stderr)
	}
	var got struct {
		Subject string
		Body    Order
		Headers map[string][]string
	}
	if err := json.Unmarshal(out, &got); err != nil {
		t.Fatalf("%v in %s", err, out)
	}
	if got.Subject != "payments.taken" || got.Body.ID != "4711" {
		t.Errorf("node got %+v", got)
	}
	chain := map[string]sdktrace.ReadOnlySpan{}
	for _, s := range spans.Ended() {
		chain[s.Name()] = s
	}
	process, publish := chain["process orders.created"], chain["publish payments.taken"]
	if process == nil || publish == nil || len(chain) != 2 {
		t.Fatalf("spans %v", chain)
	}
	if p := process.Parent(); p.TraceID().String() != upstreamTrace || p.SpanID().String() != upstreamSpan {
		t.Errorf("the parent of process is %v %v, want node's", p.TraceID(), p.SpanID())
	}
	for key, want := range map[string]string{
		"traceparent":  "00-" + upstreamTrace + "-" + publish.SpanContext().SpanID().String() + "-01",
		"Content-Type": "application/json",
		"Micro-Topic":  "payments.taken",
		"Tenant":       "a", // go-micro passes metadata on
	} {
		n := 0
		for k := range got.Headers {
			if strings.EqualFold(k, key) {
				n++
			}
		}
		if values := got.Headers[key]; n != 1 || len(values) != 1 || values[0] != want {
			t.Errorf("%s is %q, want %q once; headers %v", key, values, want, got.Headers)
		}
	}
	if id := got.Headers["Nats-Msg-Id"]; len(id) != 1 || id[0] == "order-4711" {
		t.Errorf("the message id is %q", id)
	}
}
