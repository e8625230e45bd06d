package dashboards_test

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"go.yaml.in/yaml/v3"

	"go-micro-jetstream/dashboards"
)

// The dashboards as a reader of the JSON sees them, without the generator.
type dashboard struct {
	file string

	UID         string
	Title       string
	Description string
	Tags        []string
	Editable    bool
	Links       []struct {
		Type                  string
		Tags                  []string
		IncludeVars, KeepTime bool
	}
	Annotations struct{ List []annotation }
	Templating  struct{ List []variable }
	Panels      []panel
}

type annotation struct {
	Name       string
	Datasource datasource
	Expr       string
	TextFormat string
	Step       string
}

type variable struct {
	Name, Label, Type string
	Datasource        datasource
	Query             any
	Definition        string
	Refresh           int
	Multi, IncludeAll bool
	AllValue          string
	Regex             string
	Auto              bool
	AutoCount         int    `json:"auto_count"`
	AutoMin           string `json:"auto_min"`
	Current           struct{ Value any }
	Options           []struct{ Text, Value string }
	Filters           []struct{ Key, Operator, Value string }
}

type panel struct {
	ID                       int
	Type, Title, Description string
	Datasource               datasource
	GridPos                  struct{ H, W, X, Y int }
	Targets                  []target
	Collapsed                bool    // a row
	Panels                   []panel // of a collapsed row
	hidden                   int     // the id of the collapsed row that it is in
	FieldConfig              struct {
		Defaults  struct{ Unit string }
		Overrides []struct {
			Matcher    struct{ ID, Options string }
			Properties []struct {
				ID    string
				Value any
			}
		}
	}
}

type target struct {
	RefID        string
	Datasource   datasource
	Expr         string
	LegendFormat string
	Interval     string
	Format       string
	Range        bool
	Instant      bool
	Exemplar     bool
}

type datasource struct{ Type, UID string }

// readDashboards returns all dashboards. What is in them is not to be changed: they are
// read once.
func readDashboards(t *testing.T) []dashboard {
	t.Helper()
	all, err := decodedDashboards()
	if err != nil {
		t.Fatal(err)
	}
	return slices.Clone(all)
}

var decodedDashboards = sync.OnceValues(func() (all []dashboard, err error) {
	files, err := fs.Glob(dashboards.Grafana(), "*.json")
	if err != nil || len(files) == 0 {
		return nil, fmt.Errorf("no dashboards: %w", err)
	}
	for _, f := range files {
		text, err := fs.ReadFile(dashboards.Grafana(), f)
		if err != nil {
			return nil, err
		}
		d := dashboard{file: f}
		if err := json.Unmarshal(text, &d); err != nil {
			return nil, fmt.Errorf("%s: %w", f, err)
		}
		var panels []panel
		for _, p := range d.Panels {
			panels = append(panels, p)
			for _, inside := range p.Panels {
				inside.hidden = p.ID
				panels = append(panels, inside)
			}
		}
		d.Panels = panels
		all = append(all, d)
	}
	return all, nil
})

// variable returns the one of that name.
func (d *dashboard) variable(t *testing.T, name string) variable {
	t.Helper()
	for _, v := range d.Templating.List {
		if v.Name == name {
			return v
		}
	}
	t.Fatalf("%s has no variable %s", d.file, name)
	return variable{}
}

// all are the values of the variables where nobody has chosen.
func (d *dashboard) all() map[string]string {
	values := map[string]string{}
	for _, v := range d.Templating.List {
		if v.AllValue != "" {
			values[v.Name] = v.AllValue
		}
	}
	return values
}

// use is one place that names metrics.
type use struct {
	where  string
	expr   string
	legend []string            // labels that the result must have
	level  []string            // labels that every series in it must have there
	values map[string][]string // of the dashboard's own variables
	target target              // of a panel
	width  int                 // of the panel, in units of the grid
}

var legendLabel = regexp.MustCompile(`\{\{\s*([a-zA-Z_]+)\s*\}\}`)

func labelsIn(format string) (labels []string) {
	for _, m := range legendLabel.FindAllStringSubmatch(format, -1) {
		labels = append(labels, m[1])
	}
	return labels
}

// uses are the queries of the panels and annotations.
func (d *dashboard) uses() (uses []use) {
	values := map[string][]string{}
	for _, v := range d.Templating.List {
		if v.Type == "interval" {
			continue // no query has it, only the minimum step
		}
		for _, o := range v.Options {
			values[v.Name] = append(values[v.Name], o.Value)
		}
	}
	for _, p := range d.Panels {
		for _, q := range p.Targets {
			uses = append(uses, use{where: d.file + ": " + p.Title + " " + q.RefID, expr: q.Expr, legend: labelsIn(q.LegendFormat), values: values, target: q, width: p.GridPos.W})
		}
	}
	for _, a := range d.Annotations.List {
		uses = append(uses, use{where: d.file + ": annotation " + a.Name, expr: a.Expr, legend: labelsIn(a.TextFormat), target: target{Range: true, Interval: a.Step}, width: 24})
	}
	return uses
}

var (
	labelValues = regexp.MustCompile(`^label_values\((.+), ([a-z_]+)\)$`)
	queryResult = regexp.MustCompile(`^query_result\((.+)\)$`)
	labelOf     = regexp.MustCompile(`^/([a-z_]+)="\(\[\^"]\+\)"/$`)
)

// variableUses are the queries of the variables: the selector or the query, and the
// label whose values are asked for.
func (d *dashboard) variableUses(t *testing.T) (uses []use) {
	t.Helper()
	for _, v := range d.Templating.List {
		if v.Type != "query" {
			continue
		}
		u := use{where: d.file + ": variable " + v.Name}
		if m := labelValues.FindStringSubmatch(v.Definition); m != nil {
			u.expr, u.legend = m[1], []string{m[2]}
		} else if q, l := queryResult.FindStringSubmatch(v.Definition), labelOf.FindStringSubmatch(v.Regex); q != nil && l != nil {
			u.expr, u.legend, u.target = q[1], []string{l[1]}, target{Instant: true}
		} else {
			t.Fatalf("%s: variable %s: %q is neither label_values(selector, label) nor query_result(query)", d.file, v.Name, v.Definition)
		}
		uses = append(uses, u)
	}
	return uses
}

type ruleFile struct {
	Groups []struct {
		Name     string
		Interval string
		Rules    []rule
	}
}

type rule struct {
	Record, Alert, Expr, For string
	KeepFiringFor            string `yaml:"keep_firing_for"`
	Labels, Annotations      map[string]string
}

func (r rule) name() string { return r.Record + r.Alert }

// readRules returns all rules. What is in them is not to be changed: they are read once.
func readRules(t *testing.T) (all []rule) {
	t.Helper()
	f, err := decodedRules()
	if err != nil {
		t.Fatal(err)
	}
	for _, g := range f.Groups {
		all = append(all, g.Rules...)
	}
	if len(all) == 0 {
		t.Fatal("no rules")
	}
	return all
}

var decodedRules = sync.OnceValues(func() (f ruleFile, err error) {
	err = decodeYAML(dashboards.Rules(), &f)
	return f, err
})

// decode reads YAML; a field that the type does not have is an error.
func decode(t *testing.T, text string, into any) {
	t.Helper()
	if err := decodeYAML(text, into); err != nil {
		t.Fatal(err)
	}
}

func decodeYAML(text string, into any) error {
	dec := yaml.NewDecoder(strings.NewReader(text))
	dec.KnownFields(true)
	return dec.Decode(into)
}

var templateLabel = regexp.MustCompile(`\$labels\.([a-zA-Z_]+)`)

func (r rule) use() use {
	u := use{where: "rule " + r.name(), expr: r.Expr}
	if level, _, ok := strings.Cut(r.Record, ":"); ok { // the labels that what is recorded has
		u.level = strings.Split(level, "_")
	}
	for _, text := range r.Annotations {
		for _, m := range templateLabel.FindAllStringSubmatch(text, -1) {
			u.legend = append(u.legend, m[1])
		}
	}
	return u
}
