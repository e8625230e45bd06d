package main

import (
	"fmt"
	"strings"
)

const (
	uidOverview  = "micro-broker-overview"
	uidConsumer  = "micro-broker-consumer"
	uidPublisher = "micro-broker-publisher"
	uidSLO       = "micro-broker-slo"

	tag = "micro-broker" // the dashboards that have it link to each other
)

// The label matchers of the variables.
const (
	ofProcess      = `job=~"$job", instance=~"$instance"`
	ofTopic        = ofProcess + `, topic=~"$topic"`
	ofSubscription = ofTopic + `, queue=~"$queue"`
)

const perQueue = "topic, queue"

// metric returns a selector of one of the broker's metrics.
func metric(name, matchers string) string {
	return fmt.Sprintf("micro_broker_%s{%s}", name, matchers)
}

func rate(name, matchers string) string {
	return fmt.Sprintf("rate(%s[$__rate_interval])", metric(name, matchers))
}

func increase(name, matchers, window string) string {
	return fmt.Sprintf("increase(%s[%s])", metric(name, matchers), window)
}

// aggregate is op by the labels; without any, over everything.
func aggregate(op, by, expr string) string {
	if by == "" {
		return fmt.Sprintf("%s(%s)", op, expr)
	}
	return fmt.Sprintf("%s by (%s) (%s)", op, by, expr)
}

func sum(by, expr string) string { return aggregate("sum", by, expr) }

// ratio has no value, rather than 0/0, where there is nothing to divide by.
func ratio(part, whole string) string { return fmt.Sprintf("%s / (%s > 0)", part, whole) }

// handled counts deliveries; failures those of them whose handler returned an
// error or panicked. A panic is not also an error.
func handled(by string) string { return sum(by, rate("handled_total", ofSubscription)) }

func failures(by string) string {
	return sum(by, rate("handler_errors_total", ofSubscription)+" + "+rate("handler_panics_total", ofSubscription))
}

// quantile is estimated from the classic buckets: those that every Prometheus
// can have. One that scrapes native histograms has to be told so: README.md.
func quantile(q float64, by, histogram, matchers string) string {
	labels := "le"
	if by != "" {
		labels += ", " + by
	}
	return fmt.Sprintf("histogram_quantile(%g, %s)", q, sum(labels, rate(histogram+"_bucket", matchers)))
}

// number drops NaN, which a quantile is without observations.
func number(expr string) string { return expr + " >= 0" }

// pending is the same number from every replica that shares a queue's consumer,
// not a share of it: the replicas' numbers must not be added up.
func pending(by string) string { return aggregate("max", by, metric("pending", ofSubscription)) }

// quantiles are the lines of a latency chart. One of them brings the exemplars:
// the others would bring the same.
func quantiles(histogram, matchers, by string) []target {
	line := func(q float64, legend string) target {
		if by != "" {
			legend += " " + labels(by)
		}
		return query(quantile(q, by, histogram, matchers), legend)
	}
	return []target{line(.5, "p50"), line(.95, "p95"), line(.99, "p99").withExemplars()}
}

// labels is a legend of the labels: "{{topic}} / {{queue}}".
func labels(by string) string {
	var parts []string
	for l := range strings.SplitSeq(by, ", ") {
		parts = append(parts, "{{"+l+"}}")
	}
	return strings.Join(parts, " / ")
}

// variables are the same in all dashboards, so that links keep them. topics are
// the metrics whose topics there are to choose from.
func variables(topics string, hideQueue bool) []variable {
	queue := choice("queue", "Queue", "micro_broker_handled_total", ofTopic)
	// A subscription without a queue has an empty label, which .+ would exclude.
	queue.AllValue = ".*"
	queue.Description = "What was passed to broker.Queue. All includes subscriptions without one."
	if hideQueue {
		queue.Hide = 2
	}
	topic := choice("topic", "Topic", topics, ofProcess)
	topic.Description = "The topic published to; for subscriptions what was passed to Subscribe, wildcards included."
	return []variable{
		{Name: "datasource", Label: "Data source", Type: "datasource", Query: "prometheus", Options: []customOption{}},
		choice("job", "Job", "micro_broker_connected", ""),
		choice("instance", "Instance", "micro_broker_connected", `job=~"$job"`),
		topic,
		queue,
	}
}

// choice is a variable with the values of a label: several of them, or all.
func choice(label, title, metrics, matchers string) variable {
	selector := metrics
	if strings.Contains(metrics, "|") {
		selector, matchers = "", fmt.Sprintf(`__name__=~"%s", %s`, metrics, matchers)
	}
	if matchers != "" {
		selector += "{" + matchers + "}"
	}
	text := fmt.Sprintf("label_values(%s, %s)", selector, label)
	return variable{
		Name:       label,
		Label:      title,
		Type:       "query",
		Datasource: &prom,
		Query:      object{"qryType": 1, "query": text, "refId": "PrometheusVariableQueryEditor-VariableQuery"},
		Definition: text,
		Refresh:    2,
		Sort:       1,
		Multi:      true,
		IncludeAll: true,
		AllValue:   ".+",
		Current:    &current{Text: []string{"All"}, Value: []string{"$__all"}},
		Options:    []customOption{},
	}
}

// oneOf is a variable with one of a few values; the one marked is the default.
func oneOf(name, title, description string, selected int, options ...customOption) variable {
	var texts []string
	for i := range options {
		options[i].Selected = i == selected
		texts = append(texts, options[i].Text+" : "+options[i].Value)
	}
	return variable{
		Name:        name,
		Label:       title,
		Description: description,
		Type:        "custom",
		Query:       strings.Join(texts, ","),
		Current:     &current{Text: options[selected].Text, Value: options[selected].Value},
		Options:     options,
	}
}

func newDashboard(uid, title, description, from string, variables []variable, rows ...row) *dashboard {
	return &dashboard{
		UID:           uid,
		Title:         title,
		Description:   description,
		Tags:          []string{tag, "go-micro", "nats"},
		GraphTooltip:  1,
		Refresh:       "30s",
		Time:          timeRange{From: from, To: "now"},
		Timezone:      "browser",
		SchemaVersion: 39,
		Links: []link{{
			Title: "Broker dashboards", Type: "dashboards", Icon: "external link", Tooltip: "The other dashboards of the broker", Tags: []string{tag}, IncludeVars: true, KeepTime: true,
		}},
		Annotations: annotation{List: []annotationQuery{
			{
				Name: "Reconnects", Datasource: prom, Enable: true, IconColor: "orange",
				Expr:        sum("instance, broker", increase("reconnects_total", ofProcess, "$__rate_interval")) + " > 0",
				TitleFormat: "Connection restored",
				TextFormat:  "{{broker}} on {{instance}}",
			},
			{
				// The value is the time: one mark for each process, at its start.
				Name: "Restarts", Datasource: prom, Enable: true, IconColor: "purple",
				Expr: "max by (job, instance) (process_start_time_seconds{" + ofProcess + "}) * 1000" +
					" and on (job, instance) " + metric("connected", ofProcess),
				TitleFormat:     "Process started",
				TextFormat:      "{{job}} on {{instance}}",
				UseValueForTime: true,
			},
		}},
		Templating: templating{List: variables},
		Panels:     layOut(rows...),
	}
}
