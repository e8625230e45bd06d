package dashboards_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"go-micro-jetstream/dashboards"
)

// rendered is an alert that fires, with its texts as an operator gets them.
type rendered struct{ labels, annotations map[string]string }

var (
	// What promtool says of an alert that it was told not to expect.
	unexpected = regexp.MustCompile(`(?m)^\s+Labels:(\{.*\})\s*\n\s+Annotations:(\{.*\}),?$`)
	pair       = regexp.MustCompile(`(\w+)=("(?:[^"\\]|\\.)*")`)
)

// pairs reads labels as Prometheus writes them.
func pairs(text string) map[string]string {
	all := map[string]string{}
	for _, m := range pair.FindAllStringSubmatch(text, -1) {
		all[m[1]], _ = strconv.Unquote(m[2])
	}
	return all
}

// fired returns the alerts in what promtool says when it was told to expect none.
func fired(output string) (all []rendered) {
	for _, m := range unexpected.FindAllStringSubmatch(output, -1) {
		all = append(all, rendered{pairs(m[1]), pairs(m[2])})
	}
	return all
}

var (
	// What to do begins with one of these.
	advice = regexp.MustCompile(`(?i)\b(add|check|compare|discard|find|fix|get|give|let|look|mend|open|permit|raise|read|remove|restart|see|set|start|take)\b`)
	// A label that is missing leaves a gap.
	gap = regexp.MustCompile(` ([,.:;)]|$)|  |\( `)
)

// checkTexts looks at what an operator reads: the texts name everything that the alert
// knows of, nothing is missing in them, and they say what to do.
func checkTexts(t *testing.T, all []rendered) {
	t.Helper()
	sections := anchors(t, "README.md")
	for _, r := range all {
		name := r.labels["alertname"]
		said := r.annotations["summary"] + " " + r.annotations["description"]
		for label, value := range r.labels {
			if label != "alertname" && label != "severity" && label != "namespace" && !strings.Contains(said, value) {
				t.Errorf("%s does not name the %s %q: %s", name, label, value, said)
			}
		}
		for what, text := range r.annotations {
			if text == "" || strings.Contains(text, "no value") || strings.Contains(text, "<error") {
				t.Errorf("%s: %s: %q", name, what, text)
			}
		}
		for _, what := range []string{"summary", "description"} {
			if m := gap.FindString(r.annotations[what]); m != "" {
				t.Errorf("%s: something is missing at %q: %s", name, m, r.annotations[what])
			}
		}
		if !advice.MatchString(r.annotations["description"]) {
			t.Errorf("%s does not say what to do: %s", name, r.annotations["description"])
		}
		if _, anchor, _ := strings.Cut(r.annotations["runbook"], "dashboards/README.md#"); !slices.Contains(sections, anchor) {
			t.Errorf("%s: there is no runbook %s", name, r.annotations["runbook"])
		}
		if link := r.annotations["dashboard"]; strings.Contains(link+"&", "=&") || !strings.Contains(link, "/d/micro-broker-") {
			t.Errorf("%s: the link leaves a variable empty: %s", name, link)
		}
	}
}

// firingTest is a unit test in which an alert fires.
type firingTest struct {
	alert, at string
	series    string // of metrics, in YAML
}

// firingTests returns the first of them for each alert, and what stands before them all.
func firingTests(t *testing.T) (head string, all []firingTest) {
	t.Helper()
	text, err := os.ReadFile("prometheus/rules_test.yaml")
	if err != nil {
		t.Fatal(err)
	}
	fires := regexp.MustCompile(`ALERTS\{alertname="(\w+)", alertstate="firing"\}\n +eval_time: (\S+)\n +exp_samples:\n`)
	head, tests, _ := strings.Cut(string(text), "\ntests:\n")
	done := map[string]bool{}
	for _, test := range strings.SplitAfter(tests, "\n\n") {
		m := fires.FindStringSubmatch(test)
		if m == nil || done[m[1]] {
			continue
		}
		done[m[1]] = true
		series, _, _ := strings.Cut(test, "    promql_expr_test:\n")
		all = append(all, firingTest{m[1], m[2], series})
	}
	return head + "\ntests:\n", all
}

// expectNone is the test in YAML, told to expect no alert: promtool then prints those
// that fire.
func (f firingTest) expectNone() string {
	return f.series + fmt.Sprintf("    alert_rule_test: [{alertname: %s, eval_time: %s, exp_alerts: []}]\n", f.alert, f.at)
}

// render returns the alerts that fire in tests that expect none.
func render(t *testing.T, tests string) (all []rendered, out string) {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{"rules.yaml": dashboards.Rules(), "test.yaml": tests} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	output, _ := exec.Command("promtool", "test", "rules", filepath.Join(dir, "test.yaml")).CombinedOutput()
	return fired(string(output)), string(output)
}

// The texts of every alert, as they are where a unit test has it fire, with a queue and
// without, and with the external labels that make addresses of its links.
func TestAlertTexts(t *testing.T) {
	t.Parallel()
	needPrometheus(t)
	tests, firing := firingTests(t)
	for _, f := range firing {
		tests += f.expectNone() + "    external_labels: {grafana: 'https://grafana.example.com', runbooks: 'https://git.example.com/broker/'}\n"
		tests += strings.ReplaceAll(f.expectNone(), `queue="billing"`, `queue=""`)
	}
	all, out := render(t, tests)
	checkTexts(t, all)
	for _, r := range readRules(t) {
		if r.Alert != "" && !slices.ContainsFunc(all, func(a rendered) bool { return a.labels["alertname"] == r.Alert }) {
			t.Errorf("%s does not fire:\n%s", r.Alert, out)
		}
		if r.Alert != "" && !slices.ContainsFunc(all, func(a rendered) bool {
			return a.labels["alertname"] == r.Alert && strings.HasPrefix(a.annotations["dashboard"], "https://grafana.example.com/d/micro-broker-") &&
				a.annotations["runbook"] == "https://git.example.com/broker/dashboards/README.md#"+strings.ToLower(r.Alert)
		}) {
			t.Errorf("%s has no addresses as links where the external labels are set", r.Alert)
		}
	}
}

// Two environments under one job have the same incident. A text that asks Prometheus for
// more names the instances of its own environment.
func TestAlertTextsNameTheirOwnEnvironment(t *testing.T) {
	t.Parallel()
	needPrometheus(t)
	tests, firing := firingTests(t)
	asking := 0
	for _, f := range firing {
		if !slices.ContainsFunc(readRules(t), func(r rule) bool {
			return r.Alert == f.alert && strings.Contains(r.Annotations["description"], "| query")
		}) {
			continue
		}
		asking++
		name, series, _ := strings.Cut(f.series, "    input_series:\n")
		for _, label := range environments {
			in := func(environment string) string {
				moved := strings.ReplaceAll(series, `job="`, label+`="`+environment+`", job="`)
				return strings.ReplaceAll(moved, `instance="`, `instance="in-`+environment+`-`)
			}
			f.series = name + "    input_series:\n" + strings.TrimRight(in("prod"), "\n") + "\n" + in("test")
			tests += f.expectNone()
		}
	}
	all, out := render(t, tests)
	named := 0
	for _, r := range all {
		own := r.labels["namespace"] + r.labels["cluster"] + r.labels["env"]
		said := r.annotations["summary"] + " " + r.annotations["description"]
		if own != "prod" && own != "test" {
			t.Errorf("%s is of environment %q", r.labels["alertname"], own)
		}
		if strings.Contains(said, "in-"+map[string]string{"prod": "test", "test": "prod"}[own]) {
			t.Errorf("%s of %s: %s", r.labels["alertname"], own, said)
		}
		if strings.Contains(said, "in-"+own) {
			named++
		}
	}
	if asking == 0 || len(all) != 2*3*asking || named < len(all)/2 {
		t.Errorf("%d alerts of %d rules, of which %d name instances:\n%s", len(all), asking, named, out)
	}
}
