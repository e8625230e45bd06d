package dashboards_test

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
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
	uids := map[string][]string{}
	for _, d := range readDashboards(t) {
		for _, v := range d.Templating.List {
			uids[d.UID] = append(uids[d.UID], v.Name)
		}
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
		if want := "dashboards/README.md#" + anchor; r.Annotations["runbook"] != want {
			t.Errorf("%s: the runbook is %q, want %q", r.Alert, r.Annotations["runbook"], want)
		}
		if !slices.Contains(sections, anchor) {
			t.Errorf("%s has no section in README.md", r.Alert)
		}
		if err := checkDashboardLink(r.Annotations["dashboard"], uids); err != nil {
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

// checkDashboardLink looks at the dashboard of a link and its variables.
func checkDashboardLink(link string, uids map[string][]string) error {
	path, query, _ := strings.Cut(link, "?")
	variables, ok := uids[strings.TrimPrefix(path, "/d/")]
	if !ok {
		return fmt.Errorf("%q is no dashboard", path)
	}
	for _, m := range regexp.MustCompile(`var-(\w+)=`).FindAllStringSubmatch(query, -1) {
		if !slices.Contains(variables, m[1]) {
			return fmt.Errorf("%s has no variable %q", path, m[1])
		}
		if !strings.Contains(query, "var-"+m[1]+"={{ $labels."+m[1]+" | urlquery }}") {
			return fmt.Errorf("the variable %s is not the label of that name: %s", m[1], query)
		}
	}
	return nil
}

func TestPromtool(t *testing.T) {
	t.Parallel()
	needPrometheus(t)
	promtool(t, "check", "rules", "prometheus/rules.yaml")
	promtool(t, "test", "rules", "prometheus/rules_test.yaml")
}
