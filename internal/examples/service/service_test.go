package service_test

import (
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"go-micro.dev/v5/broker"

	jsbroker "go-micro-jetstream/broker"
	"go-micro-jetstream/internal/examples/proc"
	"go-micro-jetstream/internal/natstest"
)

var binary string

func TestMain(m *testing.M) { os.Exit(proc.Main(m, "service", &binary)) }

// await asks until the answer has this status and holds this text.
func await(t *testing.T, url string, status int, text string) {
	t.Helper()
	for deadline := time.Now().Add(proc.Patience); ; time.Sleep(10 * time.Millisecond) {
		r, err := http.Get(url)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(r.Body)
		_ = r.Body.Close()
		if r.StatusCode == status && strings.Contains(string(body), text) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s answers %d %s, want %d and %q", url, r.StatusCode, body, status, text)
		}
	}
}

func TestService(t *testing.T) {
	t.Parallel()
	nats := natstest.StartRestartable(t)
	p := proc.Start(t, binary, []string{"NATS_URL=" + nats.ClientURL(), "HTTP_ADDR=127.0.0.1:0", "MICRO_REGISTRY=memory"})
	_, url, _ := strings.Cut(p.Await("answering at "), "answering at ")
	await(t, url+"/readyz", http.StatusOK, "")

	b := jsbroker.NewBroker(broker.Addrs(nats.ClientURL()))
	if err := b.Connect(); err != nil {
		t.Fatal(err)
	}
	err := b.Publish("orders.created", &broker.Message{Header: map[string]string{"Content-Type": "application/json"}, Body: []byte(`{"id":"4711"}`)})
	if err != nil {
		t.Fatal(err)
	}
	p.Await("charging order 4711")
	await(t, url+"/live", http.StatusOK, "<html")
	await(t, url+"/live?format=json", http.StatusOK, `"orders.created"`)
	await(t, url+"/metrics", http.StatusOK, `micro_broker_handled_total{queue="payments",result="ack",topic="orders.created"} 1`)
	if err := b.Disconnect(); err != nil {
		t.Fatal(err)
	}

	// An outage that loses all data: alive, and ready again when it is over.
	nats.Stop()
	await(t, url+"/readyz", http.StatusServiceUnavailable, "connection")
	await(t, url+"/livez", http.StatusOK, "")
	nats.Options.StoreDir = t.TempDir()
	nats.Start(t)
	await(t, url+"/readyz", http.StatusOK, "")
	p.Signal(syscall.SIGTERM)
	if code, out, stderr := p.Wait(); code != 0 {
		t.Fatalf("exit %d\n%s%s", code, out, stderr)
	}
}

// go-micro starts a service that cannot subscribe: it lives, and is not ready.
func TestServiceWithoutItsSubscriptionIsNotReady(t *testing.T) {
	t.Parallel()
	nats := natstest.Start(t)
	b := jsbroker.NewBroker(broker.Addrs(nats.ClientURL()))
	if err := b.Connect(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = b.Disconnect() }()
	// A WorkQueue stream has one queue for a subject.
	if _, err := b.Subscribe("orders.created", func(broker.Event) error { return nil }, broker.Queue("other")); err != nil {
		t.Fatal(err)
	}
	p := proc.Start(t, binary, []string{"NATS_URL=" + nats.ClientURL(), "HTTP_ADDR=127.0.0.1:0", "MICRO_REGISTRY=memory"})
	_, url, _ := strings.Cut(p.Await("answering at "), "answering at ")
	await(t, url+"/metrics", http.StatusOK, `micro_broker_subscribe_errors_total{reason="workqueue_conflict",topic="orders.created"} 1`)
	await(t, url+"/livez", http.StatusOK, "")
	await(t, url+"/readyz", http.StatusServiceUnavailable, "no subscription")
}

// Whoever asks for help gets no server.
func TestHelpLeavesNothing(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	code, out, stderr := proc.Start(t, binary, []string{"TMPDIR=" + dir}, "-h").Wait()
	left, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if code != 0 || !strings.Contains(out, "--broker_address") || len(left) > 0 {
		t.Errorf("exit %d, %v left in the temporary directory\n%s%s", code, left, out, stderr)
	}
}

// A service that cannot start says why, and takes its server's directory along.
func TestServiceWhosePortIsTakenLeavesNothing(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	dir := t.TempDir()
	code, out, stderr := proc.Start(t, binary, []string{"TMPDIR=" + dir, "HTTP_ADDR=" + l.Addr().String(), "MICRO_REGISTRY=memory"}).Wait()
	left, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if code != 1 || !strings.Contains(stderr, "address already in use") || len(left) > 0 {
		t.Errorf("exit %d, %v left in the temporary directory\n%s%s", code, left, out, stderr)
	}
}
