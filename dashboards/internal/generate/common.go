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
	uidFlow      = "micro-broker-flow"
	uidServer    = "micro-broker-server"

	tag = "micro-broker" // dashboards with this tag link to each other
)

// Label matchers for what is selected in the dashboard variables.
const (
	ofProcess      = `job=~"$job", instance=~"$instance"`
	ofTopic        = ofProcess + `, topic=~"$topic"`
	ofSubscription = ofTopic + `, queue=~"${queue:pipe}"`
)

// noQueue is the choice of the subscriptions without a queue. Their label is empty, and
// Grafana drops an empty choice when it next refreshes. As a regular expression noQueue
// matches the empty text. It is no name of a queue, which cannot have blanks. The pipe
// of ofSubscription keeps Grafana from escaping it. Names of queues need no escaping.
const noQueue = "(no queue)?"

// showNoQueue gives the series without a queue this text instead of the empty one.
func showNoQueue(expr string) string {
	return fmt.Sprintf(`label_replace(%s, "queue", "%s", "queue", "")`, expr, noQueue)
}

// minStep is the minimum step of every query, a variable of the dashboard. Grafana
// makes $__rate_interval at least four times as long. Without a minimum step it takes
// the scrape interval of the data source, which is 15 s unless somebody has changed
// it. A rate over a minute is empty where Prometheus scrapes once a minute, as it does
// by default.
const minStep = "$scrape"

// perQueue are the labels that identify a queue.
const perQueue = "topic, queue"

// metric returns a selector for one of the broker's metrics.
func metric(name, matchers string) string {
	return fmt.Sprintf("micro_broker_%s{%s}", name, matchers)
}

func rate(name, matchers string) string {
	return fmt.Sprintf("rate(%s[$__rate_interval])", metric(name, matchers))
}

func increase(name, matchers, window string) string {
	return fmt.Sprintf("increase(%s[%s])", metric(name, matchers), window)
}

// aggregate applies an aggregation operator by these labels, or over all series if
// there are none.
func aggregate(op, by, expr string) string {
	if by == "" {
		return fmt.Sprintf("%s(%s)", op, expr)
	}
	return fmt.Sprintf("%s by (%s) (%s)", op, by, expr)
}

func sum(by, expr string) string { return aggregate("sum", by, expr) }

// ratio has no value where whole is zero. A plain division would yield NaN.
func ratio(part, whole string) string { return fmt.Sprintf("%s / (%s > 0)", part, whole) }

// handled is the rate of deliveries.
func handled(by string) string { return sum(by, rate("handled_total", ofSubscription)) }

// failures is the rate of deliveries whose handler returned an error or panicked. A
// RetryAfter is planned, and no failure. The metrics count a panic as a panic only, not
// also as an error.
func failures(by string) string {
	return sum(by, rate("handler_errors_total", ofSubscription)+" - "+rate("deferred_total", ofSubscription)+" + "+rate("handler_panics_total", ofSubscription))
}

// failureLevels are the colors of a share of failed deliveries.
func failureLevels() []step {
	return levels(above(0, "green"), above(.01, "orange"), above(.05, "red"))
}

// lagLevels are the colors of a delivery lag, in seconds.
func lagLevels() []step { return levels(above(0, "green"), above(10, "orange"), above(300, "red")) }

// quantile estimates a quantile from the classic buckets of a histogram, which
// every version of Prometheus supports. A Prometheus that scrapes native
// histograms must be configured to keep the classic ones too: see README.md.
func quantile(q float64, by, histogram, matchers string) string {
	labels := "le"
	if by != "" {
		labels += ", " + by
	}
	return fmt.Sprintf("histogram_quantile(%g, %s)", q, sum(labels, rate(histogram+"_bucket", matchers)))
}

// withoutNaN drops the NaN that a quantile yields when there were no observations.
func withoutNaN(expr string) string { return expr + " >= 0" }

// pending is the number of pending messages. All replicas of a queue share one
// consumer and report the same number, so the maximum is taken, not the sum.
func pending(by string) string { return aggregate("max", by, metric("pending", ofSubscription)) }

// quantiles are the queries of a latency chart. Only the first of them asks for
// exemplars, because all three would return the same ones. Grafana ignores the wish of
// a later one that names the same histogram.
func quantiles(histogram, matchers, by string) []target {
	line := func(q float64, legend string) target {
		if by != "" {
			legend += " " + labels(by)
		}
		return query(quantile(q, by, histogram, matchers), legend)
	}
	return []target{line(.5, "p50").withExemplars(), line(.95, "p95"), line(.99, "p99")}
}

// labels returns a legend that shows the labels: "{{topic}} / {{queue}}".
func labels(by string) string {
	var parts []string
	for l := range strings.SplitSeq(by, ", ") {
		parts = append(parts, "{{"+l+"}}")
	}
	return strings.Join(parts, " / ")
}

// variables are the same in all dashboards, so that links can pass them on. The
// topics to choose from are those of the metrics in topics, separated by |.
func variables(topics string, hideQueue bool) []variable {
	queue := choice("queue", "Queue", "", "")
	// Those of the time range, and those that have just begun.
	active := metric("active_subscriptions", ofTopic)
	active = "max_over_time(" + active + "[$__range:5m]) or " + active
	queue.ask("query_result(" + aggregate("count", "queue", showNoQueue(active)) + ")")
	queue.Regex = `/queue="([^"]+)"/`
	// Without a queue, the label of a subscription is empty, and .+ would exclude it.
	queue.AllValue = ".*"
	queue.Description = "The name passed to broker.Queue. All includes subscriptions without a queue."
	if hideQueue {
		queue.Hide = 2
	}
	topic := choice("topic", "Topic", topics, ofProcess)
	topic.Description = "The topic published to. For subscriptions, the topic passed to Subscribe, including wildcards."
	return []variable{
		{Name: "datasource", Label: "Data source", Type: "datasource", Query: "prometheus", Options: []customOption{}},
		choice("job", "Job", "micro_broker_connected", ""),
		choice("instance", "Instance", "micro_broker_connected", `job=~"$job"`),
		topic,
		queue,
		scrapeInterval(),
		filters(),
	}
}

// filters is for labels that the dashboards do not know, such as namespace or cluster.
// Grafana adds what is chosen here to every query of this data source.
func filters() variable {
	return variable{
		Name: "filters", Label: "Filters", Type: "adhoc", Datasource: &prom, Query: "", Options: []customOption{},
		Description: "Labels of your own, such as namespace or cluster: every number is then of what has these values. Without, services of several environments with the same job are added up.",
		Filters:     &[]object{},
	}
}

// scrapeInterval is the variable behind minStep. auto is one minute, and more if the
// time range is long: since Grafana 12.4 a minimum step is the step, and that of a
// minute would ask for 43,200 points in a month, which Prometheus refuses.
func scrapeInterval() variable {
	v := oneOf("scrape", "Scrape interval",
		"How often Prometheus scrapes the services. auto suits 15 s to 1 min, and rates are then over 4 minutes or more. Choose 15s or 30s to see more in short time ranges, and 2m where Prometheus scrapes that rarely.",
		0,
		customOption{Text: "auto", Value: "$__auto_interval_scrape"}, customOption{Text: "15s", Value: "15s"},
		customOption{Text: "30s", Value: "30s"}, customOption{Text: "1m", Value: "1m"}, customOption{Text: "2m", Value: "2m"})
	v.Type, v.Query = "interval", "15s,30s,1m,2m"
	v.Refresh, v.Auto, v.AutoCount, v.AutoMin = 2, true, 300, "1m"
	return v
}

// choice is a variable whose options are the values of a label. Several of them, or
// all, can be selected.
func choice(label, title, metrics, matchers string) variable {
	selector := metrics
	if strings.Contains(metrics, "|") {
		selector, matchers = "", fmt.Sprintf(`__name__=~"%s", %s`, metrics, matchers)
	}
	if matchers != "" {
		selector += "{" + matchers + "}"
	}
	v := variable{
		Name:       label,
		Label:      title,
		Type:       "query",
		Datasource: &prom,
		Refresh:    2,
		Sort:       1,
		Multi:      true,
		IncludeAll: true,
		AllValue:   ".+",
		Current:    &current{Text: []string{"All"}, Value: []string{"$__all"}},
		Options:    []customOption{},
	}
	v.ask(fmt.Sprintf("label_values(%s, %s)", selector, label))
	return v
}

// ask sets the query of a variable. Grafana calls the two kinds by these numbers.
func (v *variable) ask(query string) {
	kind := 1 // label values
	if strings.HasPrefix(query, "query_result") {
		kind = 3
	}
	v.Query = object{"qryType": kind, "query": query, "refId": "PrometheusVariableQueryEditor-VariableQuery"}
	v.Definition = query
}

// oneOf is a variable with a fixed list of options, of which exactly one is
// selected. The default is options[selected].
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
			Title: "Broker dashboards", Type: "dashboards", Icon: "external link", Tooltip: "The other broker dashboards", Tags: []string{tag}, IncludeVars: true, KeepTime: true,
		}},
		Annotations: annotation{List: []annotationQuery{
			{
				Name: "Reconnects", Datasource: prom, Enable: true, IconColor: "orange",
				Expr:        sum("instance, broker", increase("reconnects_total", ofProcess, "$__rate_interval")) + " > 0",
				TitleFormat: "Connection restored",
				TextFormat:  "{{broker}} on {{instance}}",
				Step:        minStep,
			},
			{
				// The value is a timestamp, so each process is marked at its start.
				Name: "Restarts", Datasource: prom, Enable: true, IconColor: "purple",
				Expr: "max by (job, instance) (process_start_time_seconds{" + ofProcess + "}) * 1000" +
					" and on (job, instance) " + metric("connected", ofProcess),
				TitleFormat:     "Process started",
				TextFormat:      "{{job}} on {{instance}}",
				UseValueForTime: true,
				Step:            minStep,
			},
		}},
		Templating: templating{List: variables},
		Panels:     layOut(rows...),
	}
}
