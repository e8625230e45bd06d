package dashboards_test

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go-micro-jetstream/dashboards"
)

func TestUIDs(t *testing.T) {
	want := map[string]string{
		"overview.json":  dashboards.UIDOverview,
		"consumer.json":  dashboards.UIDConsumer,
		"publisher.json": dashboards.UIDPublisher,
		"slo.json":       dashboards.UIDSLO,
		"flow.json":      dashboards.UIDFlow,
		"server.json":    dashboards.UIDServer,
	}
	for _, d := range readDashboards(t) {
		if d.UID != want[d.file] {
			t.Errorf("%s has the uid %q, want %q", d.file, d.UID, want[d.file])
		}
		delete(want, d.file)
	}
	if len(want) > 0 {
		t.Errorf("no dashboards %v", want)
	}
}

// The rules of grafana/dashboard-linter, and some more.
func TestLint(t *testing.T) {
	for _, d := range readDashboards(t) {
		t.Run(d.file, func(t *testing.T) {
			for _, finding := range lint(d) {
				t.Error(finding)
			}
		})
	}
}

// chosen is the only data source that a dashboard may name.
var chosen = datasource{Type: "prometheus", UID: "${datasource}"}

// units that are in use: of Grafana's value formats.
var units = []string{"short", "percentunit", "s", "mps", "cps", "cpm", "bytes", "Bps"}

func lint(d dashboard) (findings []string) {
	report := func(format string, args ...any) { findings = append(findings, fmt.Sprintf(format, args...)) }

	// uneditable-dashboard: changes would be lost with the next version.
	if d.Editable {
		report("the dashboard is editable")
	}
	if d.Title == "" || d.Description == "" {
		report("the dashboard has no title or no description")
	}
	if len(d.Links) == 0 {
		report("no links to the other dashboards")
	}
	for _, l := range d.Links {
		if !l.IncludeVars || !l.KeepTime || l.Type != "dashboards" || !slices.Contains(d.Tags, l.Tags[0]) {
			report("a link loses variables or time, or does not find the dashboards: %+v", l)
		}
	}

	// template-datasource, template-job, template-instance,
	// template-on-time-change-reload, template-label-promql
	variables := map[string]variable{}
	for _, v := range d.Templating.List {
		variables[v.Name] = v
		switch v.Type {
		case "query":
			if v.Datasource != chosen {
				report("variable %s has the data source %v", v.Name, v.Datasource)
			}
			if v.Refresh != 2 {
				report("variable %s does not follow the time range", v.Name)
			}
			if !v.Multi || !v.IncludeAll {
				report("variable %s does not allow several values and all", v.Name)
			}
			all := ".+"
			if v.Name == "queue" || v.Name == "topic" && d.file == "server.json" { // may be empty
				all = ".*"
			}
			if v.AllValue != all {
				report("variable %s: all is %q, want %q", v.Name, v.AllValue, all)
			}
			if q, ok := v.Query.(map[string]any); !ok || q["query"] != v.Definition {
				report("variable %s: the query differs from its definition", v.Name)
			}
		case "datasource":
			if v.Name != "datasource" || v.Label != "Data source" || v.Query != "prometheus" {
				report("variable %s is not the data source variable", v.Name)
			}
		case "interval":
			if v.Name != "scrape" || !v.Auto || v.AutoCount < 100 || v.AutoMin != "1m" || v.Current.Value != "$__auto_interval_scrape" {
				report("variable %s is not the scrape interval", v.Name)
			}
		case "adhoc": // Grafana adds it to all queries of the data source
			if v.Name != "filters" || v.Datasource != chosen || v.Filters == nil {
				report("variable %s is not that of further labels", v.Name)
			}
		case "custom":
			if len(v.Options) < 2 {
				report("variable %s leaves no choice", v.Name)
			}
		default:
			report("variable %s has the type %q", v.Name, v.Type)
		}
		if v.Label == "" {
			report("variable %s has no label", v.Name)
		}
	}
	for i, name := range []string{"datasource", "job", "instance", "topic", "queue", "scrape", "filters"} {
		if i >= len(d.Templating.List) || d.Templating.List[i].Name != name {
			report("variable %d is not %s", i, name)
		}
	}

	var names []string
	for _, a := range d.Annotations.List {
		names = append(names, a.Name)
		if a.Datasource != chosen {
			report("annotation %s has the data source %v", a.Name, a.Datasource)
		}
		if a.Step != "$scrape" {
			report("annotation %s has the step %q", a.Name, a.Step)
		}
	}
	if !slices.Equal(names, []string{"Reconnects", "Restarts"}) {
		report("annotations %v", names)
	}

	ids := map[int]bool{}
	taken := map[[2]int]string{}
	for _, p := range d.Panels {
		if p.ID == 0 || ids[p.ID] {
			report("%s: the id %d is not unique", p.Title, p.ID)
		}
		ids[p.ID] = true
		for x := range p.GridPos.W {
			for y := range p.GridPos.H {
				at := [2]int{p.GridPos.X + x, p.GridPos.Y + y}
				at[1] += 1000 * p.hidden // each closed row by itself: it opens when it is clicked
				if other, ok := taken[at]; ok || at[0] >= 24 {
					report("%s lies on %q or outside", p.Title, other)
				}
				taken[at] = p.Title
			}
		}
		if p.Type == "row" {
			if p.Title == "" {
				report("a row without a title")
			}
			continue
		}

		// panel-title-description, panel-units, panel-datasource, panel-no-targets
		if p.Title == "" || p.Description == "" {
			report("panel %d %q has no title or no description", p.ID, p.Title)
		}
		if sentences := strings.Count(p.Description, ". ") + 1; sentences < 2 || !strings.HasSuffix(p.Description, ".") {
			report("%s: the description does not say what to do: %q", p.Title, p.Description)
		}
		if !slices.Contains(units, p.FieldConfig.Defaults.Unit) {
			report("%s has the unit %q", p.Title, p.FieldConfig.Defaults.Unit)
		}
		for _, o := range p.FieldConfig.Overrides {
			if o.Matcher.ID == "byName" {
				known := len(p.Targets) > 0 && slices.Contains(groupedBy(p.Targets[0].Expr), o.Matcher.Options) || slices.ContainsFunc(p.Targets, func(t target) bool {
					return t.LegendFormat == o.Matcher.Options || t.LegendFormat == "{{result}}"
				})
				if !known {
					report("%s: an override for %q, which is not there", p.Title, o.Matcher.Options)
				}
			}
			for _, prop := range o.Properties {
				if prop.ID == "unit" && !slices.Contains(units, prop.Value.(string)) {
					report("%s has the unit %q", p.Title, prop.Value)
				}
			}
		}
		if p.Datasource != chosen {
			report("%s has the data source %v", p.Title, p.Datasource)
		}
		if len(p.Targets) == 0 {
			report("%s has no query", p.Title)
		}
		refs := map[string]bool{}
		for i, q := range p.Targets {
			if q.Interval != "$scrape" {
				report("%s %s has the minimum step %q", p.Title, q.RefID, q.Interval)
			}
			// Grafana asks for the exemplars of a histogram only if no query before has it.
			if q.Exemplar && i > 0 {
				report("%s %s: the first query of a panel asks for exemplars, or none", p.Title, q.RefID)
			}
			if q.Datasource != chosen || q.RefID == "" || refs[q.RefID] || q.Range == q.Instant {
				report("%s %s: data source, name or kind of the query", p.Title, q.RefID)
			}
			refs[q.RefID] = true
			if q.LegendFormat == "" {
				report("%s %s has no legend", p.Title, q.RefID)
			}
		}
	}

	for _, u := range d.uses() {
		findings = append(findings, lintQuery(u, variables)...)
	}
	return findings
}

// groupedBy are the labels that a query sums by.
func groupedBy(expr string) (labels []string) {
	p, err := parse(expr)
	if err != nil || len(p.selectors) == 0 {
		return nil
	}
	for _, call := range p.selectors[0].calls {
		labels = append(labels, call.by...)
	}
	return labels
}

// lintQuery has the rules target-promql, target-rate-interval, target-job,
// target-instance and target-counter-agg.
func lintQuery(u use, variables map[string]variable) (findings []string) {
	report := func(format string, args ...any) {
		findings = append(findings, u.where+": "+fmt.Sprintf(format, args...))
	}
	p, err := parse(u.expr)
	if err != nil {
		report("%v: %s", err, u.expr)
		return findings
	}
	for _, name := range p.variables {
		if _, ok := variables[name]; !ok && name != "__rate_interval" && name != "__range" {
			report("there is no variable %q", name)
		}
	}
	for _, s := range p.selectors {
		for _, name := range []string{"job", "instance"} {
			if !slices.Contains(s.matchers, matcher{name, "=~", "$" + name}) {
				report(`%s lacks %s=~"$%s"`, s.text, name, name)
			}
		}
		for _, m := range s.matchers {
			// A queue is a regular expression already: see grafana_test.go.
			if m.label == "queue" && m.value != "${queue:pipe}" {
				report("%s matches %q", s.text, m.value)
			}
		}
		call := s.within()
		rates := []string{"rate", "irate", "increase"}
		for _, suffix := range []string{"_total", "_count", "_sum", "_bucket"} {
			if strings.HasSuffix(s.metric, suffix) && (!slices.Contains(rates, call) || s.rng == "") {
				report("the counter %s is not in rate or increase", s.metric)
			}
		}
		if (call == "rate" || call == "irate") && s.rng != "$__rate_interval" {
			report("%s of %q: use $__rate_interval", call, s.rng)
		}
	}
	return findings
}

// What an operator looks at first is on the first screen of a small laptop, 1440 by 900:
// 19 units of the grid are above the fold. What is nearly always zero is below, in rows
// that are closed.
func TestLayout(t *testing.T) {
	const fold = 19
	rare := regexp.MustCompile(`(_errors|exhausted|dead_lettered|dead_letter_errors|skipped|returned|redelivered|duplicates|backoffs)_total`)
	for _, d := range readDashboards(t) {
		closed := false
		for i, p := range d.Panels {
			if p.Type == "row" {
				if closed && !p.Collapsed {
					t.Errorf("%s: the row %s is open below a closed one", d.file, p.Title)
				}
				closed = closed || p.Collapsed
				if p.Collapsed == (len(p.Panels) == 0) {
					t.Errorf("%s: the row %s is closed: %v, with %d panels", d.file, p.Title, p.Collapsed, len(p.Panels))
				}
				continue
			}
			if i == 1 && (p.Type != "stat" || d.Panels[0].Type != "row") {
				t.Errorf("%s begins with %s", d.file, p.Title)
			}
			if p.Type == "stat" && p.GridPos.Y+p.GridPos.H > 5 {
				t.Errorf("%s: %s is too far down", d.file, p.Title)
			}
			if p.Type != "timeseries" || p.hidden != 0 || i < 2 {
				continue
			}
			if !slices.ContainsFunc(p.Targets, func(q target) bool { return !rare.MatchString(q.Expr) || strings.Contains(q.Expr, " / ") }) {
				t.Errorf("%s: %s is nearly always zero, and shown", d.file, p.Title)
			}
		}
		// The table is directly below the single values.
		first := slices.IndexFunc(d.Panels, func(p panel) bool { return p.Type != "row" && p.Type != "stat" })
		if p := d.Panels[first]; d.file != "consumer.json" && (p.Type != "table" || p.GridPos.Y+p.GridPos.H > fold) {
			t.Errorf("%s: the first panel below the single values is %s, down to %d", d.file, p.Title, p.GridPos.Y+p.GridPos.H)
		}
		if !slices.ContainsFunc(d.Panels, func(p panel) bool { return p.Type == "row" && p.Title == "By replica" }) && d.file != "slo.json" {
			t.Errorf("%s has no row by replica", d.file)
		}
	}
}

// The linter finds what it is there for.
func TestLintFinds(t *testing.T) {
	variables := map[string]variable{"job": {}, "instance": {}}
	const sel = `{job=~"$job", instance=~"$instance"}`
	for expr, want := range map[string]string{
		`sum(rate(x_total` + sel + `[$__rate_interval]))`:        "",
		`sum(increase(x_total` + sel + `[1h]))`:                  "",
		`sum(rate(x_total` + sel + `[5m]))`:                      "use $__rate_interval",
		`sum(x_total` + sel + `)`:                                "not in rate",
		`sum(rate(x_total{job=~"$job"}[$__rate_interval]))`:      `instance=~"$instance"`,
		`sum(rate(x_total{job="shop"}[$__rate_interval]))`:       `job=~"$job"`,
		`sum(x` + sel[:len(sel)-1] + `, topic=~"$topic"})`:       `no variable "topic"`,
		`sum(rate(x_total` + sel + `[$__rate_interval])`:         "too many",
		`frobnicate(x` + sel + `)`:                               "not a known function",
		`sum(rate(x_total` + sel + `[$__rate_interval])) by (y)`: "by belongs",
	} {
		got := strings.Join(lintQuery(use{expr: expr}, variables), "; ")
		if want == "" && got != "" || !strings.Contains(got, want) {
			t.Errorf("%s: %q, want %q", expr, got, want)
		}
	}
	for _, d := range readDashboards(t) {
		d.Panels[1].Description = ""
		d.Panels[1].FieldConfig.Defaults.Unit = "furlong"
		d.Panels[1].Targets[0].LegendFormat = ""
		d.Panels[1].Datasource.UID = "abc123"
		if got := lint(d); len(got) != 5 {
			t.Errorf("%s: five mistakes, %d findings: %q", d.file, len(got), got)
		}
	}
}
