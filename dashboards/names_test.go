package dashboards_test

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

// registry is what a scrape of a process brings: the label sets of each metric.
type registry map[string][]map[string]string

// target labels are added by the scrape.
func targetLabels() map[string]string {
	return map[string]string{"job": "shop", "instance": "127.0.0.1:2112"}
}

func readRegistry(t *testing.T, g prometheus.Gatherer) registry {
	t.Helper()
	families, err := g.Gather()
	if err != nil {
		t.Fatal(err)
	}
	r := registry{"up": {targetLabels()}}
	add := func(metric string, m *dto.Metric, more ...string) {
		labels := targetLabels()
		for _, l := range m.Label {
			labels[l.GetName()] = l.GetValue()
		}
		if len(more) > 0 {
			labels[more[0]] = more[1]
		}
		r[metric] = append(r[metric], labels)
	}
	for _, f := range families {
		for _, m := range f.Metric {
			if f.GetType() != dto.MetricType_HISTOGRAM {
				add(f.GetName(), m)
				continue
			}
			add(f.GetName()+"_sum", m)
			add(f.GetName()+"_count", m)
			for _, b := range m.Histogram.Bucket {
				add(f.GetName()+"_bucket", m, "le", strconv.FormatFloat(b.GetUpperBound(), 'g', -1, 64))
			}
			add(f.GetName()+"_bucket", m, "le", "+Inf")
		}
	}
	return r
}

func (r registry) labels(metric string) []string {
	names := map[string]bool{}
	for _, series := range r[metric] {
		for l := range series {
			names[l] = true
		}
	}
	return slices.Sorted(maps.Keys(names))
}

// environments are the labels that targets may have to tell environments apart. Texts of
// alerts look at them, and where targets have none they are empty.
var environments = []string{"namespace", "cluster", "env"}

// check finds metrics, labels and values that do not exist.
func (r registry) check(u use) (findings []string) {
	report := func(format string, args ...any) {
		findings = append(findings, u.where+": "+fmt.Sprintf(format, args...))
	}
	p, err := parse(u.expr)
	if err != nil {
		report("%v: %s", err, u.expr)
		return findings
	}
	var result []string // the labels that the expression has in the end
	for i, s := range p.selectors {
		names, err := s.names()
		if err != nil {
			report("%v", err)
			continue
		}
		for _, name := range names {
			if len(r[name]) == 0 {
				report("there is no metric %s", name)
				continue
			}
			own := r.labels(name)
			for _, m := range s.matchers {
				if m.label != "__name__" && !slices.Contains(own, m.label) {
					report("%s has no label %s", name, m.label)
					continue
				}
				for _, value := range u.expand(m.value) {
					if !r.matches(name, m, value) {
						report("%s: %s%s%q matches nothing", name, m.label, m.op, value)
					}
				}
			}
			left, err := s.labels(own)
			if err != nil {
				report("%v", err)
			}
			if i == 0 {
				result = left
			}
			for _, j := range p.on {
				if !j.joins(s) {
					continue
				}
				operand := selector{text: s.text, calls: s.calls[len(j.within):]}
				there, _ := operand.labels(own) // its errors are reported above
				for _, l := range j.labels {
					if !slices.Contains(there, l) {
						report("on(%s): %s has no such label there", l, s.text)
					}
				}
			}
			for _, l := range u.level {
				if strings.HasPrefix(name, "micro_broker_") && !slices.Contains(left, l) {
					report("the level %v: %s has no label %s there", u.level, s.text, l)
				}
			}
		}
	}
	for _, l := range u.legend {
		if !slices.Contains(result, l) && !slices.Contains(environments, l) {
			report("the label %q is not in the result of %s", l, u.expr)
		}
	}
	return findings
}

// expand replaces a variable of the dashboard's own by each of its values.
// Those that come from the metrics match by themselves: no values.
func (u use) expand(value string) []string {
	m := variableInText.FindStringSubmatch(value)
	if m == nil {
		return []string{value}
	}
	var all []string
	for _, v := range u.values[m[1]] {
		all = append(all, strings.ReplaceAll(value, m[0], v))
	}
	return all
}

func (r registry) matches(metric string, m matcher, value string) bool {
	if m.label == "__name__" {
		return true
	}
	if m.op == "=" || m.op == "!=" {
		value = regexp.QuoteMeta(value)
	}
	re, err := regexp.Compile("^(?:" + value + ")$")
	return err == nil && slices.ContainsFunc(r[metric], func(series map[string]string) bool {
		return re.MatchString(series[m.label]) != strings.HasPrefix(m.op, "!")
	})
}

// record adds what the recording rules make, in their order.
func (r registry) record(rules []rule) registry {
	all := maps.Clone(r)
	for _, rule := range rules {
		if rule.Record == "" {
			continue
		}
		p, err := parse(rule.Expr)
		if err != nil || len(p.selectors) == 0 {
			continue // check reports it
		}
		labels, _ := p.selectors[0].labels(all.labels(p.selectors[0].metric))
		series := map[string]string{}
		for _, l := range labels {
			series[l] = ""
		}
		all[rule.Record] = []map[string]string{series}
	}
	return all
}

// everything that names metrics.
func everything(t *testing.T) (uses []use, rules []rule) {
	t.Helper()
	for _, d := range readDashboards(t) {
		uses = append(uses, d.uses()...)
		uses = append(uses, d.variableUses(t)...)
	}
	rules = readRules(t)
	for _, r := range rules {
		uses = append(uses, r.use())
	}
	return uses, rules
}

// Every metric, label and value that a query, legend, variable or rule names
// exists in the registry of a live broker.
func TestNamesExist(t *testing.T) {
	t.Parallel()
	s := openShop(t)
	s.round(t)
	s.outage(t)
	live := readRegistry(t, s.reg)
	uses, rules := everything(t)
	checkAll := func(r registry) (findings []string) {
		r = r.record(rules)
		for _, u := range uses {
			findings = append(findings, r.check(u)...)
		}
		return findings
	}
	for _, f := range checkAll(live) {
		t.Error(f)
	}

	// The negative control: none of the metrics and labels could be renamed
	// without somebody noticing, and so each of them is on some dashboard.
	families, err := s.reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if !strings.HasPrefix(f.GetName(), "micro_broker_") {
			continue
		}
		renamed := maps.Clone(live)
		for metric := range live {
			if base, ok := strings.CutPrefix(metric, f.GetName()); ok && (base == "" || f.GetType() == dto.MetricType_HISTOGRAM) {
				delete(renamed, metric)
				renamed["renamed_"+metric] = live[metric]
			}
		}
		if len(checkAll(renamed)) == 0 {
			t.Errorf("nobody would notice that %s was renamed", f.GetName())
		}
		for _, l := range f.Metric[0].Label {
			renamed := maps.Clone(live)
			for metric := range live {
				if strings.HasPrefix(metric, f.GetName()) {
					renamed[metric] = renameLabel(live[metric], l.GetName())
				}
			}
			if len(checkAll(renamed)) == 0 {
				t.Errorf("nobody would notice that the label %s of %s was renamed", l.GetName(), f.GetName())
			}
		}
	}
}

func renameLabel(series []map[string]string, label string) (renamed []map[string]string) {
	for _, labels := range series {
		labels = maps.Clone(labels)
		labels["renamed_"+label] = labels[label]
		delete(labels, label)
		renamed = append(renamed, labels)
	}
	return renamed
}

// The checker finds what it is there for.
func TestCheckFinds(t *testing.T) {
	r := registry{
		"x_total":  {{"job": "shop", "topic": "a", "result": "ack"}},
		"y_bucket": {{"job": "shop", "le": "0.5"}, {"job": "shop", "le": "1"}},
	}
	for _, c := range []struct{ expr, legend, want string }{
		{`sum by (topic) (rate(x_total{job=~"$job"}[5m]))`, "topic", ""},
		{`histogram_quantile(0.5, sum by (le, job) (rate(y_bucket[5m])))`, "job", ""},
		{`y_bucket{le=~"1([.]0)?"}`, "", ""},
		{`sum by (topic) (rate(z_total[5m]))`, "", "no metric z_total"},
		{`{__name__=~"x_total|z_total"}`, "", "no metric z_total"},
		{`x_total{queue="a"}`, "", "no label queue"},
		{`x_total{result="done"}`, "", "matches nothing"},
		{`y_bucket{le="0.7"}`, "", "matches nothing"},
		{`sum by (queue) (x_total)`, "", "no such label"},
		{`sum by (topic) (sum by (result) (x_total))`, "", "no such label"},
		{`x_total and on (le) x_total`, "", "no such label"},
		{`count by (job) (label_replace(x_total, "le", "$1", "topic", "(.+)") and on (le) y_bucket)`, "job", ""},
		{`count by (job) (x_total and on (le) sum by (le) (y_bucket))`, "job", "no such label"},
		{`sum(x_total)`, "topic", "not in the result"},
		{`sum without (result) (rate(x_total[5m])) and ignoring (le) y_bucket`, "topic", ""},
		{`sum without (topic) (x_total)`, "topic", "not in the result"},
		{`histogram_quantile(0.5, sum by (le) (rate(y_bucket[5m])))`, "le", "not in the result"},
	} {
		u := use{expr: c.expr}
		if c.legend != "" {
			u.legend = []string{c.legend}
		}
		got := strings.Join(r.check(u), "; ")
		if c.want == "" && got != "" || !strings.Contains(got, c.want) {
			t.Errorf("%s: %q, want %q", c.expr, got, c.want)
		}
	}
}
