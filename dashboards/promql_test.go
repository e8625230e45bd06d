package dashboards_test

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"
)

// This file reads as much of PromQL as the checks need: which metrics, matchers
// and labels an expression names. What it does not know is an error: it is
// better extended than passed over.

// selector is one metric in an expression.
type selector struct {
	metric   string
	matchers []matcher
	text     string         // without the range
	rng      string         // of a range selector: "5m", "$__rate_interval"
	calls    []*aggregation // around it, from outside to inside
	right    int            // how many of them take their labels from the other side of a join
}

type matcher struct{ label, op, value string }

// aggregation is a function or an aggregation with its by-list, or the list of what it
// drops.
type aggregation struct {
	name    string
	by      []string
	without []string
	adds    string // the label that label_replace, label_join or count_values sets
}

var aggregators = []string{"sum", "min", "max", "count", "avg", "count_values"}

// labellers name the label that they set by their first text.
var labellers = []string{"label_replace", "label_join", "count_values"}

var functions = []string{
	"rate", "irate", "increase", "deriv", "histogram_quantile", "vector", "count_over_time",
	"min_over_time", "max_over_time", "last_over_time", "absent", "time", "clamp_min",
	"label_replace", "label_join", "changes", "avg_over_time", "round",
}

// promql is what an expression names.
type promql struct {
	selectors []selector
	on        []join
	variables []string
}

// join is on(...), with the calls around it.
type join struct {
	labels []string
	within []*aggregation
}

// joins reports whether the selector is an operand of the join.
func (j join) joins(s selector) bool {
	return len(s.calls) >= len(j.within) && slices.Equal(s.calls[:len(j.within)], j.within)
}

var token = regexp.MustCompile(`^(?:` +
	`\s+` +
	`|"(?:[^"\\]|\\.)*"` +
	`|\$\{?[a-zA-Z_]+(?::[a-z]+)?\}?` +
	`|[0-9][0-9a-zA-Z.]*` +
	`|[a-zA-Z_:][a-zA-Z0-9_:]*` +
	`|=~|!~|!=|==|>=|<=|[-+*/%^=<>(){}\[\],]` +
	`)`)

var variableInText = regexp.MustCompile(`\$\{?([a-zA-Z_]+)(?::[a-z]+)?\}?`)

func tokenize(expr string) ([]string, error) {
	var tokens []string
	for rest := expr; rest != ""; {
		t := token.FindString(rest)
		if t == "" {
			return nil, fmt.Errorf("cannot read %q", rest)
		}
		rest = rest[len(t):]
		if t = strings.TrimSpace(t); t != "" {
			tokens = append(tokens, t)
		}
	}
	return tokens, nil
}

func isName(t string) bool {
	return t != "" && (t[0] == '_' || t[0] == ':' || t[0] >= 'a' && t[0] <= 'z' || t[0] >= 'A' && t[0] <= 'Z')
}

// expressions are those that were read. Tests read the same ones hundreds of times.
var expressions sync.Map // by their text: func() (promql, error)

// parse reads an expression. What it returns is not to be changed.
func parse(expr string) (promql, error) {
	read, _ := expressions.LoadOrStore(expr, sync.OnceValues(func() (promql, error) { return readExpression(expr) }))
	return read.(func() (promql, error))()
}

func readExpression(expr string) (p promql, err error) {
	for _, m := range variableInText.FindAllStringSubmatch(expr, -1) {
		p.variables = append(p.variables, m[1])
	}
	tokens, err := tokenize(expr)
	if err != nil {
		return p, err
	}
	at := func(i int) string {
		if i < len(tokens) {
			return tokens[i]
		}
		return ""
	}
	// list reads "(a, b)" from i on.
	list := func(i int) (labels []string, next int, err error) {
		if at(i) != "(" {
			return nil, i, fmt.Errorf("want ( after %q", at(i-1))
		}
		for i++; at(i) != ")"; i++ {
			switch {
			case at(i) == ",":
			case isName(at(i)):
				labels = append(labels, at(i))
			default:
				return nil, i, fmt.Errorf("a label cannot be %q", at(i))
			}
		}
		return labels, i + 1, nil
	}
	var open []*aggregation
	var next aggregation
	for i := 0; i < len(tokens); {
		switch t := tokens[i]; {
		case t == "(":
			call := next
			open = append(open, &call)
			next = aggregation{}
			i++
		case t == ")":
			if len(open) == 0 {
				return p, fmt.Errorf("a ) too many")
			}
			open = open[:len(open)-1]
			i++
		case t == "by":
			if next.by, i, err = list(i + 1); err != nil {
				return p, err
			}
			if next.name == "" || at(i) != "(" {
				return p, fmt.Errorf("by belongs between the aggregation and its argument")
			}
		case t == "on":
			var labels []string
			if labels, i, err = list(i + 1); err != nil {
				return p, err
			}
			p.on = append(p.on, join{labels: labels, within: slices.Clone(open)})
		case t == "without":
			if next.without, i, err = list(i + 1); err != nil {
				return p, err
			}
			if next.name == "" || at(i) != "(" || len(next.without) == 0 {
				return p, fmt.Errorf("without belongs between the aggregation and its argument")
			}
		case t == "ignoring":
			if _, i, err = list(i + 1); err != nil {
				return p, err
			}
		case t == "group_right":
			return p, fmt.Errorf("%s is not known here", t)
		case t == "group_left":
			if _, i, err = list(i + 1); err != nil {
				return p, err
			}
		case t[0] == '"' && len(open) > 0 && slices.Contains(labellers, open[len(open)-1].name):
			if call := open[len(open)-1]; call.adds == "" {
				call.adds = strings.Trim(t, `"`)
			}
			i++
		case t == "and", t == "or", t == "unless", t == "bool":
			i++
		case t == "offset":
			i += 2
		case isName(t) && (at(i+1) == "(" || at(i+1) == "by" || at(i+1) == "without"):
			if !slices.Contains(aggregators, t) && !slices.Contains(functions, t) {
				return p, fmt.Errorf("%s is not a known function", t)
			}
			next = aggregation{name: t}
			i++
		case isName(t), t == "{":
			s := selector{calls: slices.Clone(open)}
			for _, j := range p.on {
				if j.joins(s) {
					s.right = max(s.right, len(j.within))
				}
			}
			if isName(t) {
				s.metric, s.text = t, t
				i++
			}
			if at(i) == "{" {
				if i, err = s.readMatchers(tokens, i); err != nil {
					return p, err
				}
			}
			if at(i) == "[" {
				for i++; at(i) != "]" && at(i) != ""; i++ {
					s.rng += at(i)
				}
				i++
			}
			p.selectors = append(p.selectors, s)
		default:
			i++
		}
	}
	if len(open) > 0 {
		return p, fmt.Errorf("a ( too many")
	}
	return p, nil
}

func (s *selector) readMatchers(tokens []string, i int) (int, error) {
	begin := i
	for i++; ; i++ {
		switch {
		case i+2 >= len(tokens):
			return i, fmt.Errorf("unfinished {")
		case tokens[i] == ",":
		case !isName(tokens[i]) || !strings.HasPrefix(tokens[i+2], `"`):
			return i, fmt.Errorf("no matcher: %s", strings.Join(tokens[i:i+3], ""))
		default:
			value := strings.ReplaceAll(strings.Trim(tokens[i+2], `"`), `\\`, `\`)
			s.matchers = append(s.matchers, matcher{tokens[i], tokens[i+1], value})
			i += 2
		}
		if at := i + 1; at < len(tokens) && tokens[at] == "}" {
			s.text += strings.Join(tokens[begin:at+1], "")
			return at + 1, nil
		}
	}
}

// within is the innermost function around the selector.
func (s *selector) within() string {
	if len(s.calls) == 0 {
		return ""
	}
	return s.calls[len(s.calls)-1].name
}

// names are the metrics that the selector means: one, unless it matches
// __name__ against a list.
func (s *selector) names() ([]string, error) {
	if s.metric != "" {
		return []string{s.metric}, nil
	}
	for _, m := range s.matchers {
		if m.label == "__name__" && m.op == "=~" && !strings.ContainsAny(m.value, `.*+?()[]\$`) {
			return strings.Split(m.value, "|"), nil
		}
	}
	return nil, fmt.Errorf("%s: no metric, and no list of them", s.text)
}

// labels are those that the result has of the selector's series, which have own.
func (s *selector) labels(own []string) ([]string, error) {
	for _, c := range slices.Backward(s.calls[s.right:]) {

		if c.adds != "" && !slices.Contains(own, c.adds) {
			own = append(slices.Clone(own), c.adds)
		}
		if !slices.Contains(aggregators, c.name) {
			if c.name == "histogram_quantile" {
				own = slices.DeleteFunc(slices.Clone(own), func(l string) bool { return l == "le" })
			}
			continue
		}
		if c.without != nil {
			own = slices.DeleteFunc(slices.Clone(own), func(l string) bool { return slices.Contains(c.without, l) })
			continue
		}
		for _, l := range c.by {
			if !slices.Contains(own, l) {
				return nil, fmt.Errorf("%s by %q: %s has no such label there", c.name, l, s.text)
			}
		}
		own = c.by
		if c.adds != "" {
			own = append(slices.Clone(own), c.adds)
		}
	}
	return own, nil
}
