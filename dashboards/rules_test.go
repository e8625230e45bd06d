package dashboards_test

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"go-micro-jetstream/dashboards"
)

// heading makes the anchor of a headline as forges do.
var heading = regexp.MustCompile(`(?m)^#+ (.+)$`)

func anchors(t *testing.T, file string) []string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, m := range heading.FindAllStringSubmatch(string(text), -1) {
		all = append(all, strings.ReplaceAll(strings.ToLower(m[1]), " ", "-"))
	}
	return all
}

// unitTests are the cases in which an alert fires, and those in which it does
// not.
func unitTests(t *testing.T) (fires, silent map[string]int) {
	t.Helper()
	text, err := os.ReadFile("prometheus/rules_test.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var f struct {
		RuleFiles          []string `yaml:"rule_files"`
		EvaluationInterval string   `yaml:"evaluation_interval"`
		Tests              []struct {
			Name, Interval string
			InputSeries    []struct{ Series, Values string } `yaml:"input_series"`
			PromqlExprTest []struct {
				Expr       string
				EvalTime   string `yaml:"eval_time"`
				ExpSamples []struct {
					Labels string
					Value  float64
				} `yaml:"exp_samples"`
			} `yaml:"promql_expr_test"`
		}
	}
	decode(t, string(text), &f)
	fires, silent = map[string]int{}, map[string]int{}
	firing := regexp.MustCompile(`^ALERTS\{alertname="(\w+)", alertstate="firing"\}$`)
	for _, test := range f.Tests {
		for _, e := range test.PromqlExprTest {
			m := firing.FindStringSubmatch(e.Expr)
			switch {
			case m == nil:
				t.Errorf("%s: %s does not ask for an alert", test.Name, e.Expr)
			case len(e.ExpSamples) > 0:
				fires[m[1]]++
			default:
				silent[m[1]]++
			}
		}
	}
	return fires, silent
}

func TestAlerts(t *testing.T) {
	sections := anchors(t, "README.md")
	fires, silent := unitTests(t)
	uids := map[string]dashboard{}
	for _, d := range readDashboards(t) {
		uids[d.UID] = d
	}
	names := map[string]bool{}
	for _, r := range readRules(t) {
		if names[r.name()] {
			t.Errorf("%s is there twice", r.name())
		}
		names[r.name()] = true
		if r.Alert == "" {
			continue
		}
		if fires[r.Alert] == 0 || silent[r.Alert] == 0 {
			t.Errorf("%s: %d unit tests in which it fires, %d in which it does not", r.Alert, fires[r.Alert], silent[r.Alert])
		}
		delete(fires, r.Alert)
		if s := r.Labels["severity"]; s != "critical" && s != "warning" {
			t.Errorf("%s has the severity %q", r.Alert, s)
		}
		for _, name := range []string{"summary", "description", "runbook", "dashboard"} {
			if r.Annotations[name] == "" {
				t.Errorf("%s has no %s", r.Alert, name)
			}
		}
		if !strings.Contains(r.Annotations["summary"], "{{ $labels.job }}") {
			t.Errorf("%s: the summary does not say which job", r.Alert)
		}
		anchor := strings.ToLower(r.Alert)
		if want := runbookBase + "dashboards/README.md#" + anchor; r.Annotations["runbook"] != want {
			t.Errorf("%s: the runbook is %q, want %q", r.Alert, r.Annotations["runbook"], want)
		}
		if !slices.Contains(sections, anchor) {
			t.Errorf("%s has no section in README.md", r.Alert)
		}
		if err := checkDashboardLink(r, readRules(t), uids); err != nil {
			t.Errorf("%s: %v", r.Alert, err)
		}
	}
	for name := range fires {
		t.Errorf("a unit test of %s, which does not exist", name)
	}
	for _, s := range sections {
		if strings.HasPrefix(s, "microbroker") && !slices.ContainsFunc(readRules(t), func(r rule) bool { return strings.ToLower(r.Alert) == s }) {
			t.Errorf("README.md has a section %s, and there is no such alert", s)
		}
	}
}

// What an alert's links begin with: external labels of Prometheus, which are empty where
// they are not set.
const (
	grafanaBase = "{{ $externalLabels.grafana }}"
	runbookBase = "{{ $externalLabels.runbooks }}"
)

var (
	linkVariable = regexp.MustCompile(`var-(\w+)=`)
	linkPanel    = regexp.MustCompile(`^viewPanel=(\d+)&`)
)

// checkDashboardLink looks at the panel of an alert's link, and at its variables: they
// are the labels of the alert that the dashboard has a variable for.
func checkDashboardLink(r rule, rules []rule, uids map[string]dashboard) error {
	path, query, _ := strings.Cut(r.Annotations["dashboard"], "?")
	d, ok := uids[strings.TrimPrefix(path, grafanaBase+"/d/")]
	if !ok {
		return fmt.Errorf("%q is no dashboard", path)
	}
	m := linkPanel.FindStringSubmatch(query)
	if m == nil && !shownAnywhere(uids, metricsOf(rules, r.Expr)) {
		return nil // there is no panel to show
	}
	if m == nil {
		return fmt.Errorf("the link names no panel: %s", query)
	}
	at := slices.IndexFunc(d.Panels, func(p panel) bool { return strconv.Itoa(p.ID) == m[1] && p.Type != "row" })
	if at < 0 {
		return fmt.Errorf("%s has no panel %s", path, m[1])
	}
	if shown, meant := metricsOf(nil, d.Panels[at].exprs()...), metricsOf(rules, r.Expr); !slices.ContainsFunc(meant, func(name string) bool { return slices.Contains(shown, name) }) && !slices.Contains(meant, "up") {
		return fmt.Errorf("the panel %q shows %v, and the alert is about %v", d.Panels[at].Title, shown, meant)
	}
	for _, m := range linkVariable.FindAllStringSubmatch(query, -1) {
		if !slices.ContainsFunc(d.Templating.List, func(v variable) bool { return v.Name == m[1] }) {
			return fmt.Errorf("%s has no variable %q", path, m[1])
		}
	}
	for _, v := range []string{"job", "instance", "topic", "queue"} {
		value := "{{ $labels." + v + " | urlquery }}"
		if v == "queue" { // an empty choice would not last
			value = "{{ or $labels.queue `(no queue)?` | urlquery }}"
		}
		has := slices.Contains(templateLabels(r.Annotations["summary"]), v)
		if set := strings.Contains(query, "var-"+v+"="+value); set != strings.Contains(query, "var-"+v+"=") || has && !set {
			return fmt.Errorf("the variable %s is not %s: %s", v, value, query)
		}
	}
	return nil
}

// shownAnywhere reports whether a panel shows one of the metrics.
func shownAnywhere(uids map[string]dashboard, metrics []string) bool {
	for _, d := range uids {
		for _, p := range d.Panels {
			if slices.ContainsFunc(metricsOf(nil, p.exprs()...), func(name string) bool {
				return slices.Contains(metrics, name) && name != "micro_broker_connected" && name != "micro_broker_subscription_info"
			}) {
				return true
			}
		}
	}
	return false
}

func templateLabels(text string) (labels []string) {
	for _, m := range templateLabel.FindAllStringSubmatch(text, -1) {
		labels = append(labels, m[1])
	}
	return labels
}

func (p panel) exprs() (all []string) {
	for _, q := range p.Targets {
		all = append(all, q.Expr)
	}
	return all
}

// metricsOf are the metrics that expressions name, those of the broker, also through
// recording rules.
func metricsOf(rules []rule, exprs ...string) (names []string) {
	for _, expr := range exprs {
		p, err := parse(expr)
		if err != nil {
			continue
		}
		for _, s := range p.selectors {
			recorded := slices.IndexFunc(rules, func(r rule) bool { return r.Record == s.metric })
			if recorded >= 0 {
				names = append(names, metricsOf(rules, rules[recorded].Expr)...)
			} else {
				names = append(names, s.metric)
			}
		}
	}
	return names
}

// Each unit test runs with the rule that it asks for, and with what that is made of. All
// rules in each of them would take promtool twenty times as long, and show no more.
func TestPromtool(t *testing.T) {
	t.Parallel()
	needPrometheus(t)
	promtool(t, "check", "rules", "prometheus/rules.yaml")
	text, err := os.ReadFile("prometheus/rules_test.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var all map[string]any
	decode(t, string(text), &all)
	if files := fmt.Sprint(all["rule_files"]); files != "[rules.yaml]" {
		t.Fatalf("the unit tests are of the rules %s", files)
	}
	dir := t.TempDir()
	write := func(name string, content any) string {
		file := filepath.Join(dir, name)
		text, err := yaml.Marshal(content)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, text, 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	args := []string{"test", "rules"}
	asked := regexp.MustCompile(`alertname="(\w+)"`)
	for i, test := range all["tests"].([]any) {
		one := maps.Clone(all)
		one["tests"] = []any{test}
		one["rule_files"] = []string{fmt.Sprintf("rules-%d.yaml", i)}
		var names []string
		for _, e := range test.(map[string]any)["promql_expr_test"].([]any) {
			names = append(names, asked.FindStringSubmatch(e.(map[string]any)["expr"].(string))[1])
		}
		write(fmt.Sprintf("rules-%d.yaml", i), rulesFor(t, names))
		args = append(args, write(fmt.Sprintf("test-%d.yaml", i), one))
	}
	promtool(t, args...)
}

// rulesFor is the rule file with no more than these alerts and the rules whose results
// they use.
func rulesFor(t *testing.T, alerts []string) map[string]any {
	t.Helper()
	needed := map[string]bool{}
	var need func(name string)
	need = func(name string) {
		for _, r := range readRules(t) {
			if r.name() != name || needed[name] {
				continue
			}
			needed[name] = true
			p, err := parse(r.Expr)
			if err != nil {
				t.Fatal(err)
			}
			for _, s := range p.selectors {
				names, err := s.names()
				if err != nil {
					t.Fatal(err)
				}
				for _, n := range names {
					need(n)
				}
			}
		}
	}
	for _, a := range alerts {
		need(a)
	}
	var file map[string]any
	decode(t, dashboards.Rules(), &file)
	var groups []any
	for _, g := range file["groups"].([]any) {
		group := g.(map[string]any)
		group["rules"] = slices.DeleteFunc(group["rules"].([]any), func(r any) bool {
			one := r.(map[string]any)
			record, _ := one["record"].(string)
			alert, _ := one["alert"].(string)
			return !needed[record+alert]
		})
		if len(group["rules"].([]any)) > 0 {
			groups = append(groups, group)
		}
	}
	file["groups"] = groups
	return file
}
