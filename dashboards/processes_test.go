package dashboards_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"go-micro.dev/v5/broker"

	"go-micro-jetstream/internal/examples/proc"
	"go-micro-jetstream/internal/natstest"
)

// scraped returns the metrics of another process.
func scraped(url string) prometheus.Gatherer {
	return prometheus.GathererFunc(func() (all []*dto.MetricFamily, err error) {
		resp, err := http.Get(url)
		if err != nil {
			return nil, err
		}
		defer func() { _ = resp.Body.Close() }()
		parser := expfmt.NewTextParser(model.UTF8Validation)
		families, err := parser.TextToMetricFamilies(resp.Body)
		if err != nil {
			return nil, err
		}
		for _, f := range families {
			all = append(all, f)
		}
		return all, nil
	})
}

// serviceOf is the server of a service that runs as a process of its own: this test
// binary, started again.
const serviceOf = "INCIDENTS_SERVICE_OF"

// TestService is the service. It is no test.
func TestService(t *testing.T) {
	url := os.Getenv(serviceOf)
	if url == "" {
		t.Skip("this is what another test starts")
	}
	b, reg := connectReplica(t, url)
	reg.MustRegister(collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	if _, err := b.Subscribe("orders", succeed, broker.Queue("billing")); err != nil {
		t.Fatal(err)
	}
	scrapes := httptest.NewServer(promhttp.HandlerFor(reg, promhttp.HandlerOpts{}))
	ends := make(chan os.Signal, 1)
	signal.Notify(ends, syscall.SIGTERM)
	fmt.Println("serving", scrapes.URL)
	<-ends
	if err := b.Disconnect(); err != nil {
		t.Fatal(err)
	}
	scrapes.Close()
}

// run adds a replica that is a process of its own.
func (s *site) run(t *testing.T) *process {
	t.Helper()
	p := proc.Start(t, os.Args[0], []string{serviceOf + "=" + s.srv.ClientURL()}, "-test.run=^TestService$")
	r := &replica{Gatherer: scraped(strings.Fields(p.Await("serving "))[1])}
	s.replicas = append(s.replicas, r)
	return &process{p, r}
}

// process is a replica with a process of its own.
type process struct {
	*proc.Process
	replica *replica
}

// end ends it with this signal, and waits for that.
func (p *process) end(s os.Signal) {
	p.Signal(s)
	p.Wait()
	p.replica.Gatherer = nil
}

// Each process is replaced by one of the new version, one after the other, and the
// server is restarted in between.
func playDeploy(t *testing.T) *site {
	s := openSite(t, 1) // publishes
	a, b := s.run(t), s.run(t)
	// some has both of them handle messages.
	some := func(of ...*process) map[string]sample {
		for {
			s.publish(t, "orders", "x", 10)
			all := s.now(t)
			if !slices.ContainsFunc(of, func(p *process) bool {
				return all[fmt.Sprintf(`micro_broker_handled_total{job="shop", instance="replica-%d", queue="billing", result="ack", topic="orders"}`, slices.Index(s.replicas, p.replica))].value < 10
			}) {
				return all
			}
		}
	}
	s.before = some(a, b)
	c := s.run(t)
	a.end(syscall.SIGTERM)
	s.srv.Stop()
	s.srv.Start(t)
	s.await(t, "micro_broker_reconnects_total", atLeast(1), `"replica-0"`)
	d := s.run(t)
	b.end(syscall.SIGTERM)
	s.calm(t)
	s.begun = some(c, d)
	s.going = some(c, d)
	return s
}

// The process is killed as for want of memory, and started again under its old name.
func playCrashes(t *testing.T) *site {
	s := openSite(t, 0)
	crash := func() map[string]sample {
		s.replicas = nil
		p := s.run(t)
		all := s.await(t, "micro_broker_server_up", atLeast(1))
		p.end(os.Kill)
		return all
	}
	s.before, s.begun, s.going = crash(), crash(), crash()
	s.grows = []string{"process_start_time_seconds"}
	return s
}

// The demo makes a few orders fail, and one handler panic, with its first orders. What
// goes on afterwards is healthy, although the demo and its server are restarted.
func playDemo(t *testing.T) *site {
	if testing.Short() {
		t.Skip("this builds the demo")
	}
	binary := filepath.Join(t.TempDir(), "demo")
	if out, err := exec.Command("go", "build", "-o", binary, "go-micro-jetstream/examples/demo").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	s := &site{srv: natstest.StartRestartable(t)}
	run := func() *process {
		p := proc.Start(t, binary, []string{"NATS_URL=" + s.srv.ClientURL()}, "-rate", "50", "-metrics-addr", "127.0.0.1:0")
		r := &replica{Gatherer: scraped(strings.Fields(p.Await("metrics  "))[1])}
		s.replicas = []*replica{r}
		// The order that panics has arrived.
		s.handled(t, 20, `queue="orders"`, `topic="shipping.sent"`, `"ack"`)
		return &process{p, r}
	}
	p := run()
	s.earlier = s.handled(t, 30, `queue="orders"`, `topic="shipping.sent"`, `"ack"`)
	s.before = s.handled(t, 60, `queue="orders"`, `topic="shipping.sent"`, `"ack"`)
	p.end(os.Interrupt)
	run()
	s.srv.Stop()
	s.srv.Start(t)
	s.await(t, "micro_broker_reconnects_total", atLeast(1))
	s.calm(t)
	s.begun = s.handled(t, 40, `queue="orders"`, `topic="shipping.sent"`, `"ack"`)
	s.going = s.handled(t, 70, `queue="orders"`, `topic="shipping.sent"`, `"ack"`)
	s.ended = []string{alert("MicroBrokerHandlerPanics", `topic="shipping.sent"`, `queue="orders"`)}
	return s
}
