package main

import (
	"io"
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"go-micro.dev/v5/broker"

	jsbroker "go-micro-jetstream/broker"
	"go-micro-jetstream/examples/internal/natsserver"
	"go-micro-jetstream/examples/internal/proc"
)

var binary string

func TestMain(m *testing.M) { os.Exit(proc.Main(m, &binary)) }

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
	nats, err := natsserver.Start()
	if err != nil {
		t.Fatal(err)
	}
	stopped := false
	defer func() {
		if !stopped {
			nats.Stop()
		}
	}()
	p := proc.Start(t, binary, []string{"NATS_URL=" + nats.URL(), "HTTP_ADDR=127.0.0.1:0", "MICRO_REGISTRY=memory"})
	_, url, _ := strings.Cut(p.Await("answering at "), "answering at ")
	await(t, url+"/readyz", http.StatusOK, "ok")

	b := jsbroker.NewBroker(broker.Addrs(nats.URL()))
	if err := b.Connect(); err != nil {
		t.Fatal(err)
	}
	err = b.Publish("orders.created", &broker.Message{Header: map[string]string{"Content-Type": "application/json"}, Body: []byte(`{"id":"4711"}`)})
	if err != nil {
		t.Fatal(err)
	}
	p.Await("charging order 4711")
	await(t, url+"/metrics", http.StatusOK, `micro_broker_handled_total{queue="payments",result="ack",topic="orders.created"} 1`)
	if err := b.Disconnect(); err != nil {
		t.Fatal(err)
	}

	stopped = true
	nats.Stop()
	await(t, url+"/readyz", http.StatusServiceUnavailable, "not connected")
	await(t, url+"/livez", http.StatusOK, "ok")
	p.Signal(syscall.SIGTERM)
	if code, out, stderr := p.Wait(); code != 0 {
		t.Fatalf("exit %d\n%s%s", code, out, stderr)
	}
}
