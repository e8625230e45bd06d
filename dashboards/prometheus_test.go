package dashboards_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"go-micro-jetstream/dashboards"
	"go-micro-jetstream/internal/natstest"
)

// needPrometheus skips the test where there is no Prometheus, unless it must
// not be skipped.
func needPrometheus(t *testing.T) {
	t.Helper()
	for _, tool := range []string{"prometheus", "promtool"} {
		if _, err := exec.LookPath(tool); err != nil {
			if os.Getenv("CI") == "true" || os.Getenv("REQUIRE_PROMETHEUS") == "1" {
				t.Fatalf("%v: install Debian's package prometheus", err)
			}
			t.Skipf("%v: the queries were not run; Debian's package prometheus has it", err)
		}
	}
}

func promtool(t *testing.T, args ...string) {
	t.Helper()
	if out, err := exec.Command("promtool", args...).CombinedOutput(); err != nil {
		t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// exporter serves /metrics and tells of each scrape.
type exporter struct {
	*httptest.Server
	scrapes chan struct{}
}

func newExporter(t *testing.T, s *shop) *exporter {
	e := &exporter{scrapes: make(chan struct{})}
	metrics := promhttp.HandlerFor(s.reg, promhttp.HandlerOpts{EnableOpenMetrics: true})
	e.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case e.scrapes <- struct{}{}:
		default: // nobody waits
		}
		metrics.ServeHTTP(w, r)
	}))
	t.Cleanup(e.Close)
	return e
}

// await waits until what is counted now is stored: a scrape begins when the one
// before is.
func (e *exporter) await(t *testing.T) {
	t.Helper()
	for range 2 {
		select {
		case <-e.scrapes:
		case <-time.After(natstest.Patience):
			t.Fatal("Prometheus does not scrape")
		}
	}
}

// prom is a running Prometheus.
type prom struct{ url string }

var listening = regexp.MustCompile(`Listening on.*address=(\S+)`)

// startPrometheus scrapes the target every second and evaluates the rules.
func startPrometheus(t *testing.T, target string, features ...string) *prom {
	t.Helper()
	dir := t.TempDir()
	// All groups every second.
	rules := filepath.Join(dir, "rules.yaml")
	text := regexp.MustCompile(`(?m)^    interval: .*\n`).ReplaceAllString(dashboards.Rules(), "")
	if err := os.WriteFile(rules, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return runPrometheus(t, fmt.Sprintf(`
global: {scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s}
rule_files: [%q]
scrape_configs: [{job_name: shop, static_configs: [{targets: [%q]}]}]
`, rules, target), filepath.Join(dir, "data"), features...)
}

// runPrometheus starts one with this configuration and these data.
func runPrometheus(t *testing.T, config, data string, features ...string) *prom {
	t.Helper()
	file := filepath.Join(t.TempDir(), "prometheus.yaml")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	// Stopped by the cleanup.
	cmd := exec.Command("prometheus", "--config.file="+file, "--storage.tsdb.path="+data,
		"--web.listen-address=127.0.0.1:0", "--enable-feature="+strings.Join(append(features, "exemplar-storage"), ","))
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	addr := make(chan string, 1)
	ended := make(chan string)
	go func() {
		var all bytes.Buffer
		var at string
		for lines := bufio.NewScanner(io.TeeReader(stderr, &all)); lines.Scan(); {
			if m := listening.FindStringSubmatch(lines.Text()); m != nil {
				at = m[1]
			}
			if strings.Contains(lines.Text(), "Server is ready") {
				addr <- at
			}
		}
		ended <- all.String()
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		var log string
		select {
		case log = <-ended:
		case <-time.After(natstest.Patience):
			_ = cmd.Process.Kill()
			log = <-ended
		}
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("Prometheus said:\n%s", log)
		}
	})
	select {
	case a := <-addr:
		return &prom{url: "http://" + a}
	case log := <-ended:
		go func() { ended <- log }()
		t.Fatal("Prometheus does not start")
	case <-time.After(natstest.Patience):
		t.Fatal("Prometheus does not listen")
	}
	return nil
}

// get asks the API. The data goes to into.
func (p *prom) get(path string, params url.Values, into any) error {
	resp, err := http.Get(p.url + "/api/v1/" + path + "?" + params.Encode())
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	var answer struct {
		Status, Error string
		Data          json.RawMessage
	}
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		return fmt.Errorf("%s: %w", resp.Status, err)
	}
	if answer.Status != "success" {
		return errors.New(answer.Error)
	}
	return json.Unmarshal(answer.Data, into)
}

// series is one of a result, with its finite values.
type series struct {
	labels  map[string]string
	finite  []float64
	strange int // NaN and infinite ones
}

func (p *prom) query(instant bool, expr string) ([]series, error) {
	now := time.Now()
	path, params := "query", url.Values{"query": {expr}, "time": {unix(now)}}
	if !instant {
		path, params = "query_range", url.Values{"query": {expr}, "start": {unix(now.Add(-30 * time.Second))}, "end": {unix(now)}, "step": {"1"}}
	}
	return p.ask(path, params)
}

// ask runs a query: of one moment, or of a time range.
func (p *prom) ask(path string, params url.Values) ([]series, error) {
	var data struct {
		Result []struct {
			Metric map[string]string
			Value  [2]any
			Values [][2]any
		}
	}
	if err := p.get(path, params, &data); err != nil {
		return nil, err
	}
	var all []series
	for _, r := range data.Result {
		if path == "query" {
			r.Values = [][2]any{r.Value}
		}
		s := series{labels: r.Metric}
		for _, v := range r.Values {
			if f, err := strconv.ParseFloat(v[1].(string), 64); err == nil && !math.IsNaN(f) && !math.IsInf(f, 0) {
				s.finite = append(s.finite, f)
			} else {
				s.strange++
			}
		}
		all = append(all, s)
	}
	return all, nil
}

func unix(t time.Time) string { return strconv.FormatFloat(float64(t.UnixMilli())/1000, 'f', 3, 64) }

// fill replaces the variables as Grafana does.
func fill(expr string, values map[string]string) string {
	return variableInText.ReplaceAllStringFunc(expr, func(v string) string {
		name := variableInText.FindStringSubmatch(v)[1]
		if value, ok := values[name]; ok {
			return value
		}
		return v
	})
}

// Every query of the dashboards and every rule, in a real Prometheus that
// scrapes a live broker.
func TestPrometheus(t *testing.T) {
	t.Parallel()
	needPrometheus(t)
	s := openShop(t)
	exported := newExporter(t, s)
	p := startPrometheus(t, exported.Listener.Addr().String())

	// rate() needs to see the series twice, with something in between.
	exported.await(t)
	s.round(t)
	exported.await(t)
	s.round(t)
	s.outage(t)
	exported.await(t)

	instance := exported.Listener.Addr().String()
	selections := map[string]map[string]string{
		"all": {
			"job": ".+", "instance": ".+", "topic": ".+", "queue": ".*", "stream": ".+",
		},
		"some": { // several values are alternatives, and escaped
			"job": "shop", "instance": regexp.QuoteMeta(instance), "queue": "billing|guard|(no queue)?", "stream": "VAULT|ORDERS|DEAD",
			"topic": `(` + regexp.QuoteMeta(ordersPattern) + `|` + regexp.QuoteMeta(ordersTopic) + `|vault)`,
		},
	}
	for _, values := range selections {
		for name, value := range values {
			values[name] = strings.ReplaceAll(value, `\`, `\\`) // within a string of PromQL
		}
		values["__rate_interval"], values["__range"] = "5m", "1h"
	}

	queries, exemplars := 0, 0
	for name, selection := range selections {
		for _, d := range readDashboards(t) {
			for _, u := range d.uses() {
				for _, values := range u.choices(selection) {
					expr := fill(u.expr, values)
					queries++
					if problem := p.checkAgain(u, expr); problem != "" {
						t.Errorf("%s (%s): %s: %s", u.where, name, problem, expr)
					}
					if u.target.Exemplar {
						exemplars++
						if err := p.checkExemplars(expr); err != nil {
							t.Errorf("%s (%s): %v: %s", u.where, name, err, expr)
						}
					}
				}
			}
			for _, u := range d.variableUses(t) {
				queries++
				if u.target.Instant {
					if problem := p.checkAgain(u, fill(u.expr, selection)); problem != "" {
						t.Errorf("%s (%s): %s", u.where, name, problem)
					}
					continue
				}
				var found []string
				err := p.get("label/"+u.legend[0]+"/values", url.Values{"match[]": {fill(u.expr, selection)}}, &found)
				if err != nil || len(found) == 0 {
					t.Errorf("%s (%s): %d values, %v", u.where, name, len(found), err)
				}
			}
		}
	}
	t.Logf("%d queries, %d of them for exemplars, too", queries, exemplars)

	// The negative control: a metric that does not exist.
	u := use{target: target{Instant: true}, expr: `sum(rate(micro_broker_handled_totals[1m]))`}
	if p.check(u, u.expr) == "" {
		t.Error("a query of a metric that does not exist is fine")
	}
	if p.checkExemplars(u.expr) == nil {
		t.Error("a metric that does not exist has exemplars")
	}

	t.Run("rules", func(t *testing.T) { p.checkRules(t) })
}

// Where native histograms are scraped and nothing is set for the classic ones,
// the alert on failed publishes still has its data: it counts calls by counters.
func TestPublishErrorsWithNativeHistograms(t *testing.T) {
	t.Parallel()
	needPrometheus(t)
	s := openShop(t)
	exported := newExporter(t, s)
	p := startPrometheus(t, exported.Listener.Addr().String(), "native-histograms")
	exported.await(t)
	s.round(t)
	exported.await(t)
	s.round(t)
	exported.await(t)

	const histogram = "micro_broker_publish_duration_seconds"
	if result, err := p.query(true, "count("+histogram+")"); err != nil {
		t.Fatal(err)
	} else if len(result) == 0 {
		t.Skip("this Prometheus scrapes no native histograms for that flag")
	}
	for _, suffix := range []string{"_bucket", "_count"} { // as README.md says
		if result, err := p.query(true, histogram+suffix); err != nil || len(result) > 0 {
			t.Errorf("%d series of %s%s, %v", len(result), histogram, suffix, err)
		}
	}
	for _, r := range readRules(t) {
		if r.Record != "job_topic:micro_broker_publish_errors:ratio_rate5m" {
			continue
		}
		if problem := p.check(use{target: target{Instant: true}}, "("+r.Expr+") > 0"); problem != "" {
			t.Errorf("rule %s: %s", r.Record, problem)
		}
		return
	}
	t.Error("the rule is gone")
}

// Each call counts once, as published or as an error: what the share of failed
// publishes is of.
func TestPublishCallsArePublishedOrErrors(t *testing.T) {
	t.Parallel()
	s := openShop(t)
	s.round(t)
	families, err := s.reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	calls, ended := map[string]float64{}, map[string]float64{}
	for _, f := range families {
		for _, m := range f.Metric {
			for _, l := range m.Label {
				switch {
				case l.GetName() != "topic":
				case f.GetName() == "micro_broker_publish_duration_seconds":
					calls[l.GetValue()] += float64(m.Histogram.GetSampleCount())
				case f.GetName() == "micro_broker_published_total", f.GetName() == "micro_broker_publish_errors_total":
					ended[l.GetValue()] += m.Counter.GetValue()
				}
			}
		}
	}
	if calls[ordersTopic] < 7 || !maps.Equal(calls, ended) {
		t.Errorf("calls by topic: %v; published or failed: %v", calls, ended)
	}
}

// choices are the selection with each value of the dashboard's own variables.
func (u use) choices(selection map[string]string) (all []map[string]string) {
	all = []map[string]string{selection}
	for name, options := range u.values {
		if !slices.ContainsFunc(variableInText.FindAllStringSubmatch(u.expr, -1), func(m []string) bool { return m[1] == name }) {
			continue
		}
		var more []map[string]string
		for _, values := range all {
			for _, o := range options {
				with := map[string]string{name: o}
				maps.Copy(with, values)
				more = append(more, with)
			}
		}
		all = more
	}
	return all
}

// checkAgain is check for a query that should have data: a scrape that a busy machine
// fails takes all gauges away until the next one.
func (p *prom) checkAgain(u use, expr string) (problem string) {
	for deadline := time.Now().Add(natstest.Patience); ; time.Sleep(time.Second) {
		if problem = p.check(u, expr); problem != "no data" || !u.target.Instant || time.Now().After(deadline) {
			return problem
		}
	}
}

// check runs a query and says what is wrong with the result.
func (p *prom) check(u use, expr string) string {
	result, err := p.query(u.target.Instant, expr)
	if err != nil {
		return err.Error()
	}
	found, legend := 0, slices.Clone(u.legend)
	for _, s := range result {
		found += len(s.finite)
		if u.target.Instant && s.strange > 0 {
			return "a value that is no number would be shown"
		}
		// A subscription without a queue has no such label.
		legend = slices.DeleteFunc(legend, func(l string) bool { return s.labels[l] != "" })
	}
	switch {
	case found == 0:
		return "no data"
	case len(legend) > 0:
		return fmt.Sprintf("no series has the labels %v", legend)
	}
	return ""
}

var traceID = regexp.MustCompile(`^[0-9a-f]{32}$`)

func (p *prom) checkExemplars(expr string) error {
	now := time.Now()
	var found []struct {
		Exemplars []struct{ Labels map[string]string }
	}
	err := p.get("query_exemplars", url.Values{"query": {expr}, "start": {unix(now.Add(-10 * time.Minute))}, "end": {unix(now)}}, &found)
	if err != nil {
		return err
	}
	n := 0
	for _, s := range found {
		for _, e := range s.Exemplars {
			if !traceID.MatchString(e.Labels["trace_id"]) {
				return fmt.Errorf("an exemplar with the labels %v", e.Labels)
			}
			n++
		}
	}
	if n == 0 {
		return errors.New("no exemplars")
	}
	return nil
}

// checkRules looks at what Prometheus has made of the rules.
func (p *prom) checkRules(t *testing.T) {
	// Their evaluation is not announced: ask until all have run.
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(natstest.Patience)
	for waiting := true; waiting; {
		var data struct {
			Groups []struct {
				Rules []struct{ Name, Health, LastError string }
			}
		}
		if err := p.get("rules", nil, &data); err != nil {
			t.Fatal(err)
		}
		waiting = false
		for _, g := range data.Groups {
			for _, r := range g.Rules {
				if r.LastError != "" {
					t.Fatalf("rule %s: %s", r.Name, r.LastError)
				}
				waiting = waiting || r.Health != "ok"
			}
		}
		if !waiting {
			break
		}
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("not all rules are evaluated: %+v", data)
		}
	}
	for _, r := range readRules(t) {
		if r.Record != "" {
			if problem := p.check(use{target: target{Instant: true}}, r.Record+" >= 0"); problem != "" {
				t.Errorf("rule %s: %s", r.Record, problem)
			}
			continue
		}
		// Most alerts are silent, as they should be. What they look at exists.
		parsed, err := parse(r.Expr)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range parsed.selectors {
			if problem := p.check(use{}, s.text); problem != "" {
				t.Errorf("rule %s: %s: %s", r.Alert, s.text, problem)
			}
		}
	}

	// Those that do not wait fire: a panic, a dead letter and the rest have just
	// happened.
	var data struct {
		Alerts []struct {
			State               string
			Labels, Annotations map[string]string
		}
	}
	if err := p.get("alerts", nil, &data); err != nil {
		t.Fatal(err)
	}
	firing := map[string]bool{}
	for _, a := range data.Alerts {
		firing[a.Labels["alertname"]] = a.State == "firing"
		for name, text := range a.Annotations {
			if strings.Contains(text, "no value") || strings.Contains(text, "error") && strings.Contains(text, "template") {
				t.Errorf("%s: %s: %s", a.Labels["alertname"], name, text)
			}
		}
	}
	for _, name := range []string{"MicroBrokerHandlerPanics", "MicroBrokerDeadLetters", "MicroBrokerMessagesStuck", "MicroBrokerSubscribeErrors"} {
		if !firing[name] {
			t.Errorf("%s does not fire", name)
		}
	}
}
